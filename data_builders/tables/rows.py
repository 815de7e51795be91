"""What a row of a table is, and a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_KINDS: Mapping[type, str] = {
    type(None): "nothing (null)",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
    bytes: "bytes",
}


class Row(NamedTuple):
    """One row of a table.

    Args:
        number: Its number, from 1; a header is not counted.
        cells: Values by column.
        problem: Why it could not be read; `cells` then holds what there was.
        text: Its line, where it could not be read and has one.
    """

    number: int
    cells: Mapping[str, Any]
    problem: str | None = None
    text: str | None = None

    @property
    def shown(self) -> Any:
        """What stood there, for the account of rows that could not be read."""
        return dict(self.cells) if self.text is None else self.text


class Table(Iterable[Row]):
    """A table that is read row by row, as often as it is iterated.

    Args:
        path: Its file.
        rows: Gives its rows from the first.
        columns: Its columns where the file says them before the rows, else None.
    """

    def __init__(self, path: Path, rows: Callable[[], Iterator[Row]], columns: Sequence[str] | None = None) -> None:
        self.path = path
        self.columns = columns
        self._rows = rows

    def __iter__(self) -> Iterator[Row]:
        return self._rows()


def object_row(number: int, value: Any) -> Row:
    """The row of a JSON value; one that is no object is unreadable."""
    if isinstance(value, dict):
        return Row(number, value)
    return Row(number, {}, f"{named_kind(value)}, not an object", json.dumps(value, ensure_ascii=False))


def named_kind(value: Any) -> str:
    """What people call the kind of a value: "a number", "a list"."""
    return next((name for kind, name in _KINDS.items() if isinstance(value, kind)), f"a {type(value).__name__}")
