"""Why a row does not become a record, or a record not a row."""

from __future__ import annotations

from typing import Any


class Unusable(Exception):
    """One row, value or record that is set aside.

    Args:
        reason: Short stable name, as docs/formats.md lists them.
        message: The same for people.
        value: What stood there.
        column: Where it stood, when only one value is set aside.
    """

    def __init__(self, reason: str, message: str = "", value: Any = None, *, column: str | None = None) -> None:
        super().__init__(reason, message)
        self.reason, self.message, self.value, self.column = reason, message, value, column
