"""The forms of files that audio benchmarks come in: CSV, JSON rows, and JSON objects of clips and prompts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.files import read_rows, read_text


def read_any_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header (named ``.csv`` or ``.csv.gz``), of JSON lines or of a JSON list.

    Raises:
        DataError: The file is not of its form, or holds no row.
    """
    if ".csv" not in path.suffixes[-2:]:
        return read_rows(path)
    try:
        lines = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise DataError(
            f"{str(path)!r} is not CSV: {error}",
            why="An answer with an open quotation mark would swallow the answers after it.",
            fix='Write it with a CSV writer, or as JSON lines: {"entry_id": 0, "response": "..."}.',
        ) from error
    header, rows = (lines[0], [line for line in lines[1:] if line]) if lines else ([], [])
    if not rows:
        raise DataError(f"{str(path)!r} is empty", why="There is nothing to score.", fix="Check the path.")
    ragged = next((number for number, line in enumerate(rows, 2) if len(line) != len(header)), None)
    if ragged is not None:
        raise DataError(
            f"line {ragged} of {str(path)!r} has {len(rows[ragged - 2])} fields, the header {len(header)}",
            why="A comma without quotation marks around its text moves every field after it.",
            fix="Write it with a CSV writer, which quotes such texts.",
        )
    return [dict(zip(header, line, strict=True)) for line in rows]


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
