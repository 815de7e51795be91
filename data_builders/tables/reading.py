"""Tables of any common kind, row by row: CSV, TSV, JSON lines, JSON with nested rows, Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from data_builders.tables.rows import Row, Table, named_kind, object_row
from data_builders.tables.text_files import TextFile
from mmdpo.errors import ConfigError, DataError, did_you_mean

__all__ = ["Format", "Row", "Table", "matches", "named_kind", "read_table", "require_columns"]

Format = Literal["csv", "tsv", "jsonl", "json", "parquet"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
_DELIMITERS = (";", "\t", "|")  # what spreadsheets write in place of a comma
_PARQUET_BATCH = 1000  # rows
_PARQUET_BYTES = 16 * 2**20  # of a batch; rows may hold pictures
_PARQUET_BUFFER = 1 << 20  # bytes that are read ahead of a column; without it a whole row group is
csv.field_size_limit(1 << 24)  # a field of 16 MiB: the default refuses long answers, no limit lets a lost quote eat all


def read_table(
    path: Path,
    *,
    kind: Format | None = None,
    rows: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Table:
    """Opens a table; its rows are read as they are asked for, and a JSON document at once.

    Args:
        path: The file; with `.gz` after its name it is compressed.
        kind: Its format; by default what its suffix says.
        rows: Where the rows of a JSON document are: keys joined by dots, `*` for every item of a list or value of an
            object. `image.*` is the list under "image"; `*.human_judgement.*` the lists of all entries. By default
            the document itself is the list.
        encoding: Of its text; by default UTF-8, or UTF-16 where the file begins like it. Bytes that are no text in it
            make their row a bad one.
        delimiter: What stands between the cells of a CSV file; by default a comma.

    Raises:
        ConfigError: The file is missing, its format or encoding is not known, or `rows` leads nowhere.
        DataError: The file as a whole cannot be read.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no table {str(path)!r}",
            why="It is what the records are made from.",
            fix="Give the path with data=FILE; it is relative to the current folder.",
        )
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    kind = kind or _SUFFIXES.get(suffix.lower())
    if kind is None:
        raise ConfigError(
            f"the format of {path.name!r} is not known from its suffix {suffix!r}",
            why=f"Known are {', '.join(_SUFFIXES)}.",
            fix="Say it: format=csv (or tsv, jsonl, json, parquet).",
        )
    if rows is not None and kind != "json":
        raise ConfigError(f"rows={rows!r} is only for JSON documents, not for {kind}", fix="Leave it out.")
    if kind == "parquet":
        return Table(path, lambda: _parquet_rows(path), _parquet_columns(path))
    text = TextFile(path, encoding)
    if kind == "json":
        found = list(_json_rows(path, text, rows))
        return Table(path, lambda: iter(found))
    if kind == "jsonl":
        return Table(path, lambda: _json_line_rows(text))
    between = delimiter or ("\t" if kind == "tsv" else ",")
    return Table(path, lambda: _delimited_rows(text, between), _header(text, between))


def matches(row: Row, where: Mapping[str, Any]) -> bool:
    """Whether every column named has the value, or one of the values, that is asked for (compared as text)."""
    for column, wanted in where.items():
        allowed = wanted if isinstance(wanted, list | tuple) else [wanted]
        if str(row.cells.get(column)) not in {str(value) for value in allowed}:
            return False
    return True


def require_columns(table: Table, columns: Iterable[tuple[str, str]]) -> None:
    """Refuses a table that lacks columns.

    Args:
        table: The table. Where its file does not say its columns, its rows are read until all are found.
        columns: (setting, column) pairs: which setting asks for which column.

    Raises:
        ConfigError: It names every missing column, the setting, and near names.
    """
    wanted = list(columns)
    known: set[str] = set(table.columns or ())
    empty = False
    if table.columns is None:
        left, empty = {column for _, column in wanted}, True
        for row in table:
            if row.problem is not None:  # each is set aside with its own reason
                continue
            empty = False
            known.update(row.cells)
            if left <= known:
                break
    missing = [(setting, column) for setting, column in wanted if column not in known]
    if missing and not empty:
        raise ConfigError(
            f"the table {str(table.path)!r} has no column "
            + ", ".join(f"{column!r} ({setting})" for setting, column in missing),
            why=" ".join(dict.fromkeys(did_you_mean(column, known) for _, column in missing)),
            fix=_hint(known)
            + "Name the columns: "
            + ", ".join(f"{setting}=..." for setting, _ in missing)
            + " (null where the table has none and the setting may be left out).",
        )


def _hint(columns: set[str]) -> str:
    """What to say where a header has one column, which looks like several."""
    alone = next(iter(columns)) if len(columns) == 1 else ""
    found = next((mark for mark in _DELIMITERS if mark in alone), None)
    told = {"\t": "format=tsv", None: ""}.get(found, f"delimiter='{found}'")
    return f"If the cells of this table are not separated by commas, say {told}. " if told else ""


def _header(text: TextFile, delimiter: str) -> list[str] | None:
    """The columns of a delimited file; None where it is empty."""
    with (
        text.reading() as lines,
        _naming_place(text.path, csv.reader(lines, delimiter=delimiter, strict=True)) as reader,
    ):
        header = next(reader, None)
    return None if header is None else _distinct(header, text.path)


def _distinct(columns: list[str], path: Path) -> list[str]:
    repeated = {name for name in columns if columns.count(name) > 1}
    if repeated:
        raise DataError(
            f"the table {str(path)!r} has two columns {min(repeated)!r}",
            why="Which of them is meant cannot be known.",
            fix="Rename one of them.",
        )
    return columns


def _delimited_rows(text: TextFile, delimiter: str) -> Iterator[Row]:
    with (
        text.reading() as lines,
        _naming_place(text.path, csv.reader(lines, delimiter=delimiter, strict=True)) as reader,
    ):
        header: list[str] = next(reader, [])
        number = 0
        for cells in reader:
            if not cells:  # an empty line
                continue
            number += 1
            is_whole = len(cells) == len(header)
            problem = None if is_whole else f"{len(cells)} cells under {len(header)} columns"
            line = None if is_whole else delimiter.join(cells)
            yield Row(number, dict(zip(header, cells, strict=False)), problem, line)


@contextmanager
def _naming_place(path: Path, reader: Any) -> Iterator[Any]:
    """Errors of the reader say where in the file they are."""
    try:
        yield reader
    except csv.Error as error:
        raise DataError(
            f"the table {str(path)!r} cannot be read near line {reader.line_num}: {error}",
            why="After a broken quote no later row can be told from another.",
            fix="Check the quotes of that line, or say format=tsv for a table with tabs.",
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where it has a key twice: which value is meant cannot be known."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _told(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _json_line_rows(text: TextFile) -> Iterator[Row]:
    with text.reading() as file:
        lines = (line for line in file if line.strip())
        for number, line in enumerate(lines, start=1):
            try:
                value = json.loads(line, object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                yield Row(number, {}, f"no JSON: {_told(error)}", line.strip())
                continue
            yield object_row(number, value)


def _json_rows(path: Path, text: TextFile, rows: str | None) -> Iterator[Row]:
    try:
        with text.reading() as file:
            document = json.load(file, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{str(path)!r} is no JSON: {_told(error)}",
            why="A document with one broken place cannot be read at all.",
            fix="Repair it; if it holds one object per line, say format=jsonl.",
        ) from error
    pattern = rows or "*"
    found = list(_descend(document, pattern.split(".")))
    if not found or (rows is None and not isinstance(document, list)):
        shape = sorted(document)[:8] if isinstance(document, dict) else f"a list of {len(document)}"
        raise ConfigError(
            f"rows={rows!r} finds no rows in {str(path)!r}" if rows else f"{str(path)!r} is not a list of rows",
            why=f"At the top it holds: {shape}.",
            fix='Say where the rows are, for instance rows="KEY.*" for the list under KEY.',
        )
    for number, value in enumerate(found, start=1):
        yield object_row(number, value)


def _descend(value: Any, keys: list[str]) -> Iterator[Any]:
    if not keys:
        yield value
        return
    if keys[0] == "*":
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    else:
        children = [value[keys[0]]] if isinstance(value, dict) and keys[0] in value else ()
    for child in children:
        yield from _descend(child, keys[1:])


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow.parquet

    with _reading_parquet(path):
        return _distinct(list(pyarrow.parquet.read_schema(path).names), path)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    with _reading_parquet(path):
        number = 0
        file = pyarrow.parquet.ParquetFile(path, buffer_size=_PARQUET_BUFFER)
        for group in range(file.num_row_groups):
            told = file.metadata.row_group(group)
            rows = _PARQUET_BYTES * told.num_rows // max(1, told.total_byte_size)
            for batch in file.iter_batches(batch_size=max(1, min(_PARQUET_BATCH, rows)), row_groups=[group]):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(number, value)


@contextmanager
def _reading_parquet(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as Parquet: {error}",
            why="The file is damaged, or is something else.",
            fix="Check how it was written.",
        ) from error
