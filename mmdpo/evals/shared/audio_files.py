"""The forms of files that audio benchmarks and votes come in: CSV, JSON rows, JSON objects of clips and prompts."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.shared.files import read_rows, read_text


def read_any_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header (named ``.csv`` or ``.csv.gz``), of JSON lines or of a JSON list.

    Raises:
        DataError: The file is not of its form, or holds no row.
    """
    if not is_csv(path):
        return read_rows(path)
    numbered = _cells(path)
    header, rows = (numbered[0][1], numbered[1:]) if numbered else ([], [])
    if not rows:
        raise DataError(f"{str(path)!r} is empty", why="There is nothing to score.", fix="Check the path.")
    again = sorted(name for name, count in Counter(header).items() if count > 1)
    if again:
        raise DataError(
            f"{str(path)!r} has several columns called {', '.join(again)}",
            why="It is not known which of them counts.",
            fix="Give every column a name of its own.",
        )
    ragged = next(((number, cells) for number, cells in rows if len(cells) != len(header)), None)
    if ragged is not None:
        raise DataError(
            f"line {ragged[0]} of {str(path)!r} has {len(ragged[1])} fields, the header {len(header)}",
            why="A comma without quotation marks around its text moves every field after it.",
            fix="Write it with a CSV writer, which quotes such texts.",
        )
    return [dict(zip(header, cells, strict=True)) for _, cells in rows]


def is_csv(path: Path) -> bool:
    """Whether a file's name says that it is CSV, gzipped or not."""
    return ".csv" in [suffix.lower() for suffix in path.suffixes[-2:]]


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """The cells of each line that is not blank, with the line's number (its last, where a cell has several)."""
    text = read_text(path)
    longest = csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # an answer can be as long as the file
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(
            f"{str(path)!r} is not CSV: {error}",
            why="An answer with an open quotation mark would swallow the answers after it.",
            fix='Write it with a CSV writer, or as JSON lines: {"entry_id": 0, "response": "..."}.',
        ) from error
    finally:
        csv.field_size_limit(longest)


def nested_rows(path: Path) -> dict[str, dict[str, Any]] | None:
    """The content of a JSON file ``{clip: {prompt: {...}}}``; None if the file is of another form.

    Raises:
        DataError: The file cannot be read.
    """
    text = read_text(path)
    if not text.lstrip().startswith("{"):
        return None
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None  # JSON lines, or no JSON at all, of which the reader of rows tells
    nested = content and all(
        isinstance(prompts, Mapping) and prompts and all(isinstance(entry, Mapping) for entry in prompts.values())
        for prompts in content.values()
    )
    return content if nested else None
