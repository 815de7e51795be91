"""Where rows come from: files, folders, data sets of `datasets`. What kind of source it is; its tables, row by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_builders.importers.row_files import SUFFIXES, read_rows, suffix_of
from data_builders.tables.reading import Row
from mmdpo.errors import ConfigError, DataError, did_you_mean
from mmdpo.jsonfiles import read_json
from mmdpo.records.staging import INFO_FILE

Layout = Literal["rows", "dataset_info", "meta"]
"""Rows alone; a LLaMA-Factory folder with `dataset_info.json`; an InternVL folder with `meta.json`."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "EXPORT.json", "set_aside.jsonl")
_LOCATIONS = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


@dataclass(frozen=True)
class Table:
    """Rows that belong together.

    Args:
        name: How people call it: the name of its file.
        rows: Gives its rows from the first on, each time it is called.
        info: What the source says of them.
    """

    name: str
    rows: Callable[[], Iterator[Row]]
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """What `data=` leads to.

    Args:
        tables: Its tables, in the order in which they are read.
        layout: What kind of source it is.
        folder: Folder that media paths are relative to unless another is given; None where there is none.
        notes: What a person should know: files that are not read, and, once they were, those of another length.
    """

    tables: Sequence[Table]
    layout: Layout = "rows"
    folder: Path | None = None
    notes: Sequence[str] = ()


def open_source(
    data: str,
    *,
    split: str = "train",
    subset: str | None = None,
    root: Path | None = None,
    encoding: str | None = None,
) -> Source:
    """Finds the tables of a file, a folder, a saved data set, or a data set of the hub.

    Args:
        data: Path, or OWNER/NAME on the hub where there is no such path.
        split: Which split, where there are several.
        subset: Which entry of `dataset_info.json` or `meta.json`, or which configuration on the hub.
        root: Media root, below which `meta.json` may name its files too.
        encoding: Of the text of its files; by default UTF-8, or UTF-16 where they begin like it.

    Raises:
        ConfigError: There is nothing, or several things of which one must be named.
        DataError: What is there cannot be read.
    """
    path = Path(data)
    if path.is_file():
        return _beside_info(path, subset, encoding)
    if path.is_dir():
        return _folder(path, split, subset, root, encoding)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", data) and not path.suffix:
        from data_builders.importers.hub import hub_table

        return Source([hub_table(data, split, subset)])
    raise ConfigError(
        f"there is no file, folder or hub data set {data!r}",
        why="It is what the records are made from.",
        fix="Give data=PATH, relative to the current folder, or data=OWNER/NAME of the hub.",
    )


def _folder(path: Path, split: str, subset: str | None, root: Path | None, encoding: str | None) -> Source:
    if (path / INFO_FILE).is_file() and "schema_version" in read_json(path / INFO_FILE):
        raise ConfigError(
            f"{str(path)!r} is a data set of records already",
            why="Read as a format of another toolkit it would lose its scores, spans and hashes.",
            fix=f"Use it as it is: data.path={path} in a run, mmdpo show {path}, mmdpo export {path} FORMAT.",
        )
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        from data_builders.importers.hub import saved_table

        return Source([saved_table(path, split)], folder=path)
    if _llamafactory_entries(path):
        return _listed(path, subset, encoding)
    if _mixture(path / "meta.json"):
        return _mixed(path, subset, root, encoding)
    return _loose(path, split, encoding)


def _llamafactory_entries(folder: Path) -> dict[str, Any]:
    """The entries of a `dataset_info.json` as LLaMA-Factory has them; `datasets` uses the name for something else."""
    path = folder / "dataset_info.json"
    entries = read_json(path) if path.is_file() else {}
    known = {key: entry for key, entry in entries.items() if isinstance(entry, dict) and entry.keys() & {*_LOCATIONS}}
    return known if len(known) == len(entries) else {}


def _listed(folder: Path, subset: str | None, encoding: str | None) -> Source:
    entries = _llamafactory_entries(folder)
    useful = [name for name, entry in entries.items() if entry.get("ranking") or "kto_tag" in entry.get("columns", {})]
    name = subset or (useful[0] if len(useful) == 1 else next(iter(entries)) if len(entries) == 1 else None)
    if name is None or name not in entries:
        raise ConfigError(
            f"{str(folder / 'dataset_info.json')!r} has "
            + (f"no entry {name!r}" if name else f"{len(entries)} entries"),
            why=did_you_mean(name, entries) if name else f"With preferences or labels: {', '.join(useful) or 'none'}.",
            fix="Name one of them: subset=NAME",
        )
    entry = entries[name]
    if "file_name" not in entry:
        raise ConfigError(
            f"the entry {name!r} of {str(folder / 'dataset_info.json')!r} is no file",
            why=f"It leads to {next(entry[key] for key in _LOCATIONS if key in entry)!r}.",
            fix="Import it from there: data=OWNER/NAME of the hub, or data=PATH of a downloaded copy.",
        )
    file = _within(folder, entry["file_name"], folder / "dataset_info.json")
    return Source([_table(file, encoding, {"entry": name, **entry})], "dataset_info", folder)


def _beside_info(path: Path, subset: str | None, encoding: str | None) -> Source:
    """A file, with what a `dataset_info.json` beside it says of it."""
    named = [
        name
        for name, entry in _llamafactory_entries(path.parent).items()
        if entry.get("file_name") == path.name and subset in (None, name)
    ]
    if len(named) > 1:
        raise ConfigError(
            f"{str(path.parent / 'dataset_info.json')!r} has {len(named)} entries for {path.name!r}",
            why=f"They may name its columns differently: {', '.join(named)}.",
            fix="Name one of them: subset=NAME",
        )
    if named:
        return _listed(path.parent, named[0], encoding)
    if path.name == "meta.json" and _mixture(path):
        return _mixed(path.parent, subset, None, encoding)
    return Source([_table(path, encoding)], folder=path.parent)


def _mixture(path: Path) -> dict[str, Any]:
    """The entries of InternVL's `meta.json`."""
    entries = read_json(path) if path.is_file() else {}
    told = [isinstance(entry, dict) and isinstance(entry.get("annotation"), str) for entry in entries.values()]
    return entries if told and all(told) else {}


def _mixed(folder: Path, subset: str | None, root: Path | None, encoding: str | None) -> Source:
    entries = _mixture(folder / "meta.json")
    if subset is not None and subset not in entries:
        raise ConfigError(
            f"{str(folder / 'meta.json')!r} has no entry {subset!r}",
            why=did_you_mean(subset, entries),
            fix="Name one of them, or leave subset= out to read all.",
        )
    base = root or folder
    chosen = entries if subset is None else {subset: entries[subset]}
    notes: list[str] = []
    tables = [
        _counted(
            _table(_within(base, entry["annotation"], folder / "meta.json"), encoding, {"entry": name, **entry}), notes
        )
        for name, entry in chosen.items()
    ]
    return Source(tables, "meta", base, notes)


def _counted(table: Table, notes: list[str]) -> Table:
    """The table, with a note when it has been read and has not as many rows as `meta.json` says: one was cut off."""
    told = table.info.get("length")

    def rows() -> Iterator[Row]:
        number = 0
        for row in table.rows():
            number += 1
            yield row
        note = f"{table.name} has {number} rows, and meta.json says {told}"
        if isinstance(told, int) and told != number and note not in notes:
            notes.append(note)

    return Table(table.name, rows, table.info)


def _within(folder: Path, name: Any, told: Path) -> Path:
    """A file that a source names itself, which must lie in its folder.

    Raises:
        ConfigError: It does not, or is not there.
    """
    file = (folder / str(name)).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        raise ConfigError(
            f"{str(told)!r} names {str(name)!r}, which is no file in {str(folder)!r}",
            why="What is read must lie in the folder that was given: a data set could name any file of this machine.",
            fix="Copy it there; or say media_root=FOLDER if the paths of meta.json start in another folder.",
        )
    return file


def _loose(path: Path, split: str, encoding: str | None) -> Source:
    """A folder of files of rows, in parts or by split, as data sets lie on the hub."""
    files = sorted(file for folder in (path, path / "data") for file in _row_files(folder))
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_SHARD.sub("", file.name.removesuffix(suffix_of(file) or "")), []).append(file)
    chosen = next(iter(groups)) if len(groups) == 1 else split
    if chosen not in groups:
        names = ", ".join(f"{file.relative_to(path)}" for file in files)
        raise ConfigError(
            f"the folder {str(path)!r} has {f'no split {split!r}' if files else 'no file of rows'}",
            why=f"Files there: {names}."
            if files
            else f"Files of rows end in {', '.join(SUFFIXES)}, JSON also with .gz.",
            fix="Give one of the files: data=FILE" if files else "Give the file or folder: data=PATH",
        )
    others = [str(file.relative_to(path)) for name, group in groups.items() if name != chosen for file in group]
    notes = [f"not read, because split={split}: {', '.join(others)}"] if others else []
    return Source([_table(file, encoding) for file in groups[chosen]], folder=path, notes=notes)


def _row_files(folder: Path) -> list[Path]:
    files = [file for file in folder.glob("*.*") if suffix_of(file) and file.is_file()]
    return [file for file in files if file.name not in _NOT_ROWS]


def _table(file: Path, encoding: str | None, info: Mapping[str, Any] | None = None) -> Table:
    if suffix_of(file) is None:
        raise DataError(
            f"{file.name!r} is no file of rows that is read here",
            why=f"Read are {', '.join(SUFFIXES)}, JSON also with .gz.",
            fix="Convert it, for instance to JSON lines.",
        )
    return Table(file.name, lambda: read_rows(file, encoding), info or {})
