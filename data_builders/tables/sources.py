"""What `data=` of a table builder may name: files, patterns, folders, tar shards, data sets of the hub; as tables.

ratings.csv  ratings.jsonl.gz          a file, as `read_table` reads it
ratings-*.csv  part-{00..07}.parquet   several, in the order of their names
shards-{0000..0003}.tar                WebDataset: the files of one stem are a row
folder                                 Parquet or JSON files of rows, or what `save_to_disk` left
hf:OWNER/NAME:SPLIT                    a data set of the hub, or a folder, through `datasets`; streamed
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from data_builders.importers.sources import open_source as open_folder
from data_builders.tables.reading import Format, Row, Table, read_table
from data_builders.tables.tar_rows import SUFFIXES as TAR_SUFFIXES
from data_builders.tables.tar_rows import tar_rows
from mmdpo.errors import ConfigError

HUB = "hf:"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_FILES = 100_000
_LONGEST_PATH = 4096


def open_source(
    spec: str | Path,
    *,
    kind: Format | None = None,
    rows: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> list[Table]:
    """The tables that a source names, in their order; their rows are read as they are asked for.

    Args:
        spec: The source, see above.
        kind: Format of its files, as for `read_table`.
        rows: Where the rows of JSON documents are, as for `read_table`.
        encoding: Of their text, as for `read_table`.
        delimiter: Of CSV files, as for `read_table`.

    Raises:
        ConfigError: There is nothing of that name, or the hub cannot be reached.
        DataError: A file as a whole cannot be read.
    """
    text = str(spec)
    if text.startswith(HUB):
        return [_hub_table(text)]
    path = Path(text)
    if path.is_dir():
        return [Table(path / table.name, table.rows) for table in open_folder(text, encoding=encoding).tables]
    tables = []
    for file in expand(text):
        if file.name.lower().endswith(TAR_SUFFIXES) and file.is_file():
            tables.append(Table(file, lambda file=file: tar_rows(file)))  # type: ignore[misc]
        else:
            tables.append(read_table(file, kind=kind, rows=rows, encoding=encoding, delimiter=delimiter))
    return tables


def in_one(tables: Iterable[Table]) -> Iterator[Row]:
    """The rows of several tables; their numbers go on from one to the next."""
    before = 0
    for table in tables:
        number = 0
        for row in table:
            number = row.number
            yield row._replace(number=before + number)
        before += number


def expand(spec: str) -> list[Path]:
    """The files of a name with `{0000..0003}` (numbers of equal width, each of which must be there), `*`, `?`, `[..]`.

    Raises:
        ConfigError: The pattern fits no file, or its numbers run backwards.
    """
    if Path(spec).exists():  # a name may well hold a bracket
        return [Path(spec)]
    found = _RANGE.search(spec)
    if found is not None:
        low, high = int(found[1]), int(found[2])
        if not 0 <= high - low < _MOST_FILES:
            raise ConfigError(
                f"{found[0]} in {spec!r} is no range of files",
                why=f"It counts from the first number to the last, over at most {_MOST_FILES:,}.",
                fix="Write it as in shards-{0000..0003}.tar",
            )
        width = len(found[1])
        names = (f"{spec[: found.start()]}{n:0{width}d}{spec[found.end() :]}" for n in range(low, high + 1))
        return [path for name in names for path in expand(name)]
    if glob.has_magic(spec):
        files = [Path(name) for name in sorted(glob.glob(spec, recursive=True)) if Path(name).is_file()]  # noqa: PTH207 # absolute ones too
        if not files:
            raise ConfigError(
                f"no file fits {spec!r}",
                why="It is what the records are made from.",
                fix="Check the pattern; it starts in the current folder. Quote it, so that the shell leaves it alone.",
            )
        return files
    return [Path(spec)]


def source_folder(spec: str | Path) -> Path:
    """The folder that the media of a source are relative to, unless another is given."""
    text = str(spec)
    if text.startswith(HUB):
        local = Path(text.removeprefix(HUB).split(":")[0])
        return local if local.is_dir() else Path()
    path = Path(text)
    if path.is_dir():
        return path
    while _RANGE.search(path.name) or glob.has_magic(path.name):
        path = path.parent
        if not (_RANGE.search(path.name) or glob.has_magic(path.name)):
            return path
    return path.parent


def state_of(config: BaseModel) -> dict[str, list[int]]:
    """Size and time of change of every file that a configuration names, so that a changed source is noticed."""
    state: dict[str, list[int]] = {}
    told = config.model_dump(exclude={"plugins"})  # code: it may be mended between two attempts
    for path in sorted(set(_files(told))):
        status = path.stat()
        state[str(path)] = [status.st_size, status.st_mtime_ns]
    return state


def _files(value: Any, key: str = "") -> Iterator[Path]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _files(item, str(name))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _files(item, key)
    elif isinstance(value, str | Path) and 0 < len(str(value)) < _LONGEST_PATH and "\0" not in str(value):
        yield from _named_files(str(value), is_source=key in ("data", "source"))


def _named_files(text: str, *, is_source: bool) -> Iterator[Path]:
    path = Path(text)
    try:
        if path.is_file():
            yield path
        elif is_source and path.is_dir():
            yield from (file for folder in (path, path / "data") for file in folder.glob("*.*") if file.is_file())
        elif is_source and not text.startswith(HUB):
            yield from (file for file in expand(text) if file.is_file())
    except (OSError, ConfigError):  # a text that is no path, or a pattern that the builder will complain of
        return


def _hub_table(spec: str) -> Table:
    """`hf:NAME`, `hf:NAME:SPLIT` or `hf:NAME:SPLIT:CONFIGURATION`."""
    from data_builders.importers.hub import hub_table, saved_table

    name, split, subset = _hub_parts(spec)
    folder = Path(name)
    if any((folder / file).is_file() for file in ("state.json", "dataset_dict.json")):
        return Table(folder, saved_table(folder, split).rows)
    return Table(Path(spec), hub_table(name, split, subset).rows)


def _hub_parts(spec: str) -> tuple[str, str, str | None]:
    parts: Sequence[str] = spec.removeprefix(HUB).split(":")
    if not parts[0] or len(parts) > 3:
        raise ConfigError(
            f"{spec!r} names no data set of the hub",
            why="It is what the records are made from.",
            fix="Write hf:OWNER/NAME, hf:OWNER/NAME:SPLIT or hf:OWNER/NAME:SPLIT:CONFIGURATION",
        )
    split = parts[1] if len(parts) > 1 and parts[1] else "train"
    return parts[0], split, parts[2] if len(parts) > 2 else None
