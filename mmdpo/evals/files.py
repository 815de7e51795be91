"""Reading the files that benchmarks and answers come in: JSON, JSON lines, either of them gzipped."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError

MAX_BYTES = 2_000_000_000
"""Largest file, in bytes after decompression, that is read."""


def read_text(path: Path) -> str:
    """The text of a file; ``.gz`` is unpacked, a byte-order mark is honoured.

    Raises:
        DataError: The file is absent, too large, not gzip although named so, or in an unknown encoding.
    """
    if not path.is_file():
        raise DataError(
            f"there is no file {str(path)!r}",
            why="Without it nothing can be scored.",
            fix="Check the path; a folder is taken only where the benchmark's documentation says so.",
        )
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{str(path)!r} is not a complete gzip file: {error}",
            why="Its name ends in .gz, so it is unpacked before it is read.",
            fix="Download or pack it again.",
        ) from error
    if len(content) > MAX_BYTES:
        raise DataError(
            f"{str(path)!r} holds more than {MAX_BYTES:,} bytes",
            why="A small compressed file can unpack to one that fills the memory.",
            fix="Split the file, or check that it is what you think it is.",
        )
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{str(path)!r} is not UTF-8 text: {error.reason} at byte {error.start}",
            why="Guessing an encoding could change answers without a sign.",
            fix="Save the file as UTF-8.",
        ) from error


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


def _parse(text: str, path: Path, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        place = f"line {line} of {str(path)!r}" if line else repr(str(path))
        raise DataError(
            f"{place} is not JSON: {error}",
            why="A half-written last line is what an interrupted run leaves; skipping it would lose an answer.",
            fix="Repair or remove that line; the file must be JSON, or JSON lines with one object per line.",
        ) from error
