"""JSON files, read and written so that nothing is half there and nothing is lost.

Values that JSON has no number for (NaN, infinities) are written as the strings ``"nan"``, ``"inf"`` and ``"-inf"``,
which every JSON reader accepts and ``float()`` reads back.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmdpo.errors import DataError


class JsonLines(NamedTuple):
    """Rows of a JSON-lines file, and how many lines could not be read (a process killed while writing leaves one)."""

    rows: list[dict[str, Any]]
    unreadable: int


def read_json(path: Path) -> dict[str, Any]:
    """Reads one JSON object.

    Raises:
        DataError: The file is missing, no JSON, or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {str(path)!r}: {error}",
            why="What it should hold is needed and cannot be guessed.",
            fix="Restore the file, or make it again with the command that wrote it.",
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"{str(path)!r} holds a JSON {type(value).__name__}, not an object",
            why="Its values are looked up by name.",
            fix="Make it again with the command that wrote it.",
        )
    return value


def read_json_lines(path: Path) -> JsonLines:
    """Reads a JSON-lines file; a missing file is an empty one, and lines that are no JSON object are counted."""
    rows: list[dict[str, Any]] = []
    unreadable = 0
    if not path.is_file():
        return JsonLines(rows, unreadable)
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in filter(str.strip, file):
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if isinstance(value, dict):
                rows.append(value)
            else:
                unreadable += 1
    return JsonLines(rows, unreadable)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader, or a crash, never meets half a file."""
    _write_atomically(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line, all or nothing."""
    _write_atomically(path, "".join(_compact(row) for row in rows))


def append_json_line(path: Path, row: Mapping[str, Any]) -> None:
    """Appends one JSON object; the line has left this process when the call returns.

    Half a line that a killed process left is ended first, so that it does not swallow this one.
    """
    line = _compact(row).encode()
    end_last_line(path)
    with path.open("ab") as file:
        file.write(line)


def end_last_line(path: Path) -> int:
    """Ends half a line that a killed process left at the end of a file; makes the file if needed.

    Returns:
        Its length in bytes: where the next line begins.
    """
    with path.open("ab+") as file:
        length = file.seek(0, os.SEEK_END)
        if length:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                length += file.write(b"\n")
    return length


def cut_json_lines(path: Path, keep: Callable[[Mapping[str, Any]], bool]) -> int:
    """Leaves the whole lines of a file that are to be kept, all or nothing.

    Returns:
        How many were taken out, with those that could not be read.
    """
    rows, unreadable = read_json_lines(path)
    kept = [row for row in rows if keep(row)]
    cut = len(rows) - len(kept) + unreadable
    if cut:
        write_json_lines(path, kept)
    return cut


def plain(value: Any) -> Any:
    """The value as JSON can hold it: dataclasses, paths, NumPy and torch scalars, NaN and infinities included."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value, key=str)]
    if hasattr(value, "tolist"):  # NumPy and torch, without importing either
        return plain(value.tolist())
    return str(value)


def _compact(row: Mapping[str, Any]) -> str:
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
