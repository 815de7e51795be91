"""Reading the files that benchmarks and answers come in: JSON, JSON lines, either of them gzipped."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError

MAX_BYTES = 2_000_000_000
"""Largest file, in bytes after decompression, that is read."""

_MARKED = ((b"\xff\xfe\x00\x00", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
"""Byte-order marks and their encodings, longer ones first; that of UTF-8 is optional."""

UNUSABLE = "It can be neither asked nor scored."
"""What is wrong with a question that lacks a text."""


def read_text(path: Path) -> str:
    """The text of a file; ``.gz`` is unpacked, a byte-order mark is honoured.

    Raises:
        DataError: The file is absent or unreadable, too large, not gzip although named so, or in an unknown encoding.
    """
    content = _bytes(path)
    encoding = next((name for mark, name in _MARKED if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{str(path)!r} is not {encoding.removesuffix('-sig').upper()} text: {error.reason} at byte {error.start}",
            why="Guessing an encoding could change answers without a sign.",
            fix="Save the file as UTF-8.",
        ) from error
    if "\0" in text:
        raise DataError(
            f"{str(path)!r} is not UTF-8 text: it holds zero bytes, the first at character {text.index(chr(0)) + 1}",
            why="It is a binary file, or UTF-16 without the mark at its start that would say so.",
            fix="Save the file as UTF-8.",
        )
    return text


def _bytes(path: Path) -> bytes:
    """The content of a file, unpacked."""
    try:
        if not path.is_file():
            raise DataError(
                f"{str(path)!r} is a folder" if path.is_dir() else f"there is no file {str(path)!r}",
                why="Without it nothing can be scored.",
                fix="Check the path; a folder is taken only where the benchmark's documentation says so.",
            )
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{str(path)!r} is not a complete gzip file: {error}",
            why="Its name ends in .gz, so it is unpacked before it is read.",
            fix="Download or pack it again.",
        ) from error
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be read: {error.strerror or error}",
            why="Without it nothing can be scored.",
            fix="Check the path and its permissions.",
        ) from error
    if len(content) > MAX_BYTES:
        raise DataError(
            f"{str(path)!r} holds more than {MAX_BYTES:,} bytes",
            why="A small compressed file can unpack to one that fills the memory.",
            fix="Split the file, or check that it is what you think it is.",
        )
    return content


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        DataError: The file cannot be read or is not JSON.
    """
    return _parse(read_text(path), path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects in a JSON-lines file, or in a JSON file that holds one list of them.

    Raises:
        DataError: A line is not a JSON object (the line is named), or the file holds none.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows = _parse(text, path)
    else:
        # Not splitlines: it also splits at U+2028 and the like, which answers may hold.
        rows = [_parse(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(
                f"entry {number} of {str(path)!r} is {type(row).__name__}, not an object",
                why='Every entry must be an object such as {"question_id": 1, "answer": "yes"}.',
                fix="Write one JSON object per line, or one list of objects.",
            )
    if not rows:
        raise DataError(f"{str(path)!r} is empty", why="There is nothing to score.", fix="Check the path.")
    return list(rows)


def required_texts(
    row: Mapping[str, Any], wanted: Mapping[str, Sequence[str]], place: str, *, fix: str, why: str = UNUSABLE
) -> dict[str, str]:
    """The texts that a row of a data file must have.

    Args:
        row: An entry of the file.
        wanted: Name -> keys under which the text can stand; the first that the row has counts.
        place: Where the row stands, for the error: "question 3 of 'pope.json'".
        fix: What the file should look like.
        why: What an entry without them leads to.

    Returns:
        Name -> text.

    Raises:
        DataError: A text is absent, empty or no text.
    """
    found = {name: next((row[key] for key in keys if key in row), None) for name, keys in wanted.items()}
    lacking = [name for name, text in found.items() if not isinstance(text, str) or not text.strip()]
    if lacking:
        raise DataError(f"{place} lacks {', '.join(lacking)}: {str(dict(row))[:200]}", why=why, fix=fix)
    return {name: str(text) for name, text in found.items()}


def write_text(path: Path, text: str) -> None:
    """Writes a file as UTF-8, all or nothing; half a surrogate pair, which UTF-8 does not hold, becomes "?"."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="replace", newline="")
    temporary.replace(path)


def _parse(text: str, path: Path, line: int | None = None) -> Any:
    place = f"line {line} of {str(path)!r}" if line else repr(str(path))
    if not text.strip():
        raise DataError(f"{place} is empty", why="There is nothing to score.", fix="Check the path.")
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{place} is not JSON: {error}",
            why="A half-written last line is what an interrupted run leaves; skipping it would lose an answer.",
            fix="Repair or remove that line; the file must be JSON, or JSON lines with one object per line.",
        ) from error


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose keys must differ: of two equal ones Python's reader would lose the first without a sign."""
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        again = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise ValueError(f"an object has the key {again!r} twice")
    return table
