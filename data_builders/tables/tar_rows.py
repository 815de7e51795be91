"""Rows of WebDataset shards: tar archives in which the files of one stem are a row. Nothing is unpacked to disk."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_builders.importers.media_cells import MAX_BYTES
from data_builders.tables.reading import Row
from data_builders.tables.rows import named_kind
from mmdpo.errors import DataError

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_TEXTS = ("txt", "text", "caption", "cls")
_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
_SOUNDS = ("wav", "flac", "mp3", "ogg", "opus")


def tar_rows(path: Path) -> Iterator[Row]:
    """One row for each stem: `0007.json`, `0007.txt` and `0007.jpg` are one.

    Cells are the keys of the JSON object, and one for each other file, called as its suffix: texts as they are, all
    else as `{"bytes", "path"}`. The first picture is also the cell `image`, the first sound `audio`; `__key__` is the
    stem. A row with a link, a path that leaves the archive, a file that is too large or a stem that came before has a
    problem.

    Raises:
        DataError: The archive is damaged or cut off.
    """
    number, key, seen = 0, None, set[str]()
    cells: dict[str, Any] = {}
    problem: str | None = None
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isdir():
                    continue
                stem, dot, suffix = _parts(member.name)
                if stem != key:
                    if key is not None:
                        number += 1
                        yield _row(number, cells, problem)
                    key, cells = stem, {"__key__": stem}
                    problem = (
                        f"{stem!r} came before: the files of one stem must stand together" if stem in seen else None
                    )
                    seen.add(stem)
                unsafe = _unsafe(member)
                if unsafe or not dot:
                    problem = problem or unsafe or f"{member.name!r} has no suffix"
                    continue
                file = archive.extractfile(member)
                data = b"" if file is None else file.read()
                problem = _add(cells, suffix, member.name, data) or problem
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"the archive {str(path)!r} cannot be read behind row {number}: {error}",
            why="Behind such a place no row can be trusted.",
            fix="Copy or download it again.",
        ) from error
    if key is not None:
        yield _row(number + 1, cells, problem)


def _parts(name: str) -> tuple[str, str, str]:
    """Stem, dot and suffix: the suffix begins at the first dot behind the folder."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", dot, suffix.lower()


def _unsafe(member: tarfile.TarInfo) -> str | None:
    if not member.isreg():
        return f"{member.name!r} is a link or a device, no file"
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        return f"{member.name!r} leads out of the archive"
    if member.size > MAX_BYTES:
        return f"{member.name!r} holds {member.size} bytes, more than {MAX_BYTES}"
    return None


def _add(cells: dict[str, Any], suffix: str, name: str, data: bytes) -> str | None:
    """Puts a file into its row; what is wrong with it."""
    if suffix == "json":
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            return f"{name!r} is no JSON: {str(error)[:200]}"
        if not isinstance(value, dict):
            return f"{name!r} holds {named_kind(value)}, not an object"
        for column, cell in value.items():
            cells.setdefault(column, cell)
    elif suffix.rpartition(".")[2] in _TEXTS:
        cells[suffix] = data.decode("utf-8", "surrogateescape")
    else:
        item = {"bytes": data, "path": name}
        cells[suffix] = item
        kind = suffix.rpartition(".")[2]
        field = "image" if kind in _IMAGES else "audio" if kind in _SOUNDS else None
        if field is not None and not _is_bytes(cells.get(field)):
            cells[field] = item
    return None


def _is_bytes(cell: Any) -> bool:
    return isinstance(cell, dict) and "bytes" in cell


def _row(number: int, cells: dict[str, Any], problem: str | None) -> Row:
    return Row(number, {key: cell for key, cell in cells.items() if problem is None or not _is_bytes(cell)}, problem)
