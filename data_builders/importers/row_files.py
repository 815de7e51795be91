"""Files of rows, one row at a time; also those of one large JSON list, which is decoded while it is read."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO, cast

from data_builders.tables.reading import read_table
from data_builders.tables.rows import Row, object_row
from data_builders.tables.text_files import require_encoding
from mmdpo.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
MAX_ITEM = 256 * 2**20
"""Longest item of a list, in characters: a quarter of a gibibyte."""

_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"
_BETWEEN = re.compile(r"[ \t\r\n,]*")


def suffix_of(path: Path) -> str | None:
    """The suffix of a file of rows, with `.gz` if it ends so; None for other files."""
    name = path.name.lower()
    known = (*SUFFIXES, *(f"{suffix}.gz" for suffix in SUFFIXES if suffix != ".parquet"))
    found = next((suffix for suffix in known if name.endswith(suffix)), None)
    return None if found is None else path.name[-len(found) :]


def read_rows(path: Path, encoding: str | None = None) -> Iterator[Row]:
    """The rows of a file.

    A `.json` file may hold a list of objects, or one object a line. A row that cannot be read is given with its
    problem where the next one can still be found.

    Args:
        path: The file.
        encoding: Of its text; by default UTF-8, or UTF-16 where it begins like it.

    Raises:
        ConfigError: There is no such encoding.
        DataError: The file as a whole cannot be read.
    """
    suffix = (suffix_of(path) or "").lower()
    if encoding is not None:
        require_encoding(encoding)
    if suffix.startswith(".json") and not suffix.startswith(".jsonl"):
        try:
            with _text(path, encoding) as text:
                if _first_character(text) == "[":
                    yield from _list_rows(text)
                    return
        except (OSError, EOFError, zlib.error, UnicodeError, _BrokenError) as error:  # archive, encoding, JSON
            raise DataError(
                f"{str(path)!r} cannot be read: {error}",
                why="Behind such a place no row can be trusted.",
                fix="Repair the file or copy it again; JSON lines, one object a line, are read past a broken one.",
            ) from error
    yield from read_table(path, kind="parquet" if suffix == ".parquet" else "jsonl", encoding=encoding)


class _BrokenError(Exception):
    """No later row can be told from the next one."""


def _text(path: Path, named: str | None) -> TextIO:
    """A file as text. Bytes that are no UTF-8 become half surrogates, so that their rows are set aside alone."""
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    raw = cast("IO[bytes]", gzip.open(path, "rb") if zipped else path.open("rb"))  # noqa: SIM115 # closed as text
    encoding = named or json.detect_encoding(raw.read(4))
    raw.seek(0)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="\n")


def _first_character(text: TextIO) -> str:
    while (character := text.read(1)).isspace():
        pass
    return character


def _list_rows(text: TextIO) -> Iterator[Row]:
    """The items of a list whose opening bracket has been read."""
    decoder, number, at_end, wanted = json.JSONDecoder(), 0, False, _CHUNK
    buffer, place = "", 0
    while True:
        place = cast("re.Match[str]", _BETWEEN.match(buffer, place)).end()
        if buffer.startswith("]", place):
            return
        try:
            value, end = decoder.raw_decode(buffer, place)
            if end == len(buffer) and not at_end:  # a number may go on behind what was read so far
                raise ValueError("cut off")
        except RecursionError as error:
            raise _BrokenError(f"item {number + 1} is nested too deeply") from error
        except ValueError as error:
            if at_end or len(buffer) - place > MAX_ITEM:
                raise _BrokenError(f"item {number + 1} of its list is no JSON, or cut off") from error
            more = text.read(wanted)
            buffer, place = buffer[place:] + more, 0
            at_end, wanted = not more, 2 * wanted  # an item of many chunks is not decoded anew for each of them
            continue
        number, place, wanted = number + 1, end, _CHUNK
        yield object_row(number, value)
