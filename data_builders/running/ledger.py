"""The account of every row that was read: used, or set aside with a reason."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mmdpo.errors import DataError
from mmdpo.jsonfiles import read_json_lines

_LONGEST_VALUE = 500
_READ, _USED = 1, 2


@dataclass(frozen=True)
class SetAside:
    """One value that was not used.

    Args:
        reason: Short stable name, as docs/data.md lists them.
        row: Number of the row in the source, from 1.
        column: Which column, when only one value of a row was set aside.
        value: What stood there.
        message: The same for people.
    """

    reason: str
    row: int
    column: str | None = None
    value: Any = None
    message: str = ""


class Ledger:
    """The account of every row that was read: used, or set aside with a reason.

    A row that holds several ratings is used when one of them is; those of its values that are not are listed too. What
    is set aside is written at once, so that a million rows need six bytes each here.

    Args:
        sound_reasons: Reasons that say nothing bad of a row (there was merely no use for it); `--strict` allows them.
        path: File that gets one JSON object for each thing set aside; without one they are kept here.
    """

    def __init__(self, sound_reasons: Sequence[str] = (), path: Path | None = None) -> None:
        self.sound_reasons = frozenset(sound_reasons)
        self._path = path
        self._file: TextIO | None = None if path is None else path.open("w", encoding="utf-8")
        self._kept: list[SetAside] = []
        self._flags = bytearray()
        self._reasons: dict[str, int] = {}
        self._rows, self._codes = array("q"), array("H")
        self._first_bad: SetAside | None = None
        self._first_messages: dict[str, str] = {}

    def read(self, row: int) -> None:
        """Notes that a row was read."""
        self._flag(row, _READ)

    def use(self, row: int) -> None:
        """Notes that something of a row is in the records."""
        self._flag(row, _USED)

    def withdraw(self, row: int) -> None:
        """Notes that nothing of a row is in the records after all; why has been noted by `set_aside`."""
        self._flags[row] &= ~_USED

    def set_aside(
        self, reason: str, row: int, value: Any = None, *, column: str | None = None, message: str = ""
    ) -> None:
        """Notes that a row, or one value of it, is not used."""
        entry = SetAside(reason, row, column, _printable(value), str(_printable(message)))
        self._rows.append(row)
        self._codes.append(self._reasons.setdefault(reason, len(self._reasons)))
        if reason not in self.sound_reasons:
            self._first_bad = self._first_bad or entry
        if entry.message:
            self._first_messages.setdefault(reason, f" The first {reason} is row {entry.row}: {entry.message}.")
        if self._file is None:
            self._kept.append(entry)
        else:
            self._file.write(json.dumps(vars(entry), ensure_ascii=False) + "\n")

    @property
    def entries(self) -> list[SetAside]:
        """Everything that was set aside, in its order."""
        if self._path is None:
            return list(self._kept)
        self.flush()
        return read_entries(self._path)

    @property
    def first_message(self) -> str:
        """The first explanation of the most frequent reason, as a sentence with a space before it; empty without."""
        names = list(self._reasons)
        frequent = [names[code] for code, _ in Counter(self._codes).most_common()]
        return next((self._first_messages[name] for name in frequent if name in self._first_messages), "")

    def flush(self) -> None:
        """Sees to it that everything set aside so far is in the file."""
        if self._file is not None and not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def account(self) -> dict[str, Any]:
        """The balance: rows by what became of them.

        Returns:
            `rows` (read, used, set_aside), `set_aside` (rows by reason, adding up to rows.set_aside) and
            `set_aside_values` (single values set aside from rows that are used, by reason).

        Raises:
            AssertionError: A row that was read is neither used nor set aside: a defect of the builder.
        """
        names = list(self._reasons)
        firsts: dict[int, str] = {}
        values: Counter[str] = Counter()
        for row, code in zip(self._rows, self._codes, strict=True):
            if row == 0 or self._has(row, _USED):  # 0: of a record that does not say which rows it is from
                values[names[code]] += 1
            else:
                firsts.setdefault(row, names[code])
        read = used = 0
        lost = []
        for row, flags in enumerate(self._flags):
            read += bool(flags & _READ)
            used += bool(flags & _USED)
            if flags == _READ and row not in firsts:
                lost.append(row)
        if lost:
            raise AssertionError(f"rows neither used nor set aside: {lost[:10]}")
        return {
            "rows": {"read": read, "used": used, "set_aside": len(firsts)},
            "set_aside": dict(Counter(firsts[row] for row in sorted(firsts)).most_common()),
            "set_aside_values": dict(values.most_common()),
        }

    def require_clean(self) -> None:
        """Refuses bad rows, for `--strict`.

        Raises:
            DataError: Something was set aside for another reason than a sound one.
        """
        if self._first_bad is None:
            return
        names = list(self._reasons)
        bad = Counter(names[code] for code in self._codes if names[code] not in self.sound_reasons)
        kinds = ", ".join(f"{count} {reason}" for reason, count in bad.most_common())
        first = self._first_bad
        raise DataError(
            f"the table has bad rows: {kinds}",
            why=f"The first is row {first.row}: {first.reason} {first.value!r}. With --strict nothing may be bad.",
            fix="Correct them, or build without --strict to set them aside and count them.",
        )

    def _flag(self, row: int, flag: int) -> None:
        if row >= len(self._flags):
            self._flags.extend(bytes(max(row + 1 - len(self._flags), len(self._flags), 1024)))
        self._flags[row] |= flag

    def _has(self, row: int, flag: int) -> bool:
        return row < len(self._flags) and bool(self._flags[row] & flag)


def read_entries(path: Path) -> list[SetAside]:
    """What a ledger wrote."""
    return [SetAside(**row) for row in read_json_lines(path).rows]


def _printable(value: Any) -> Any:
    """The value as a log can hold it: finite numbers as they are, all else as short text that is valid Unicode."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and value - value == 0):
        return value
    return str(value)[:_LONGEST_VALUE].encode("utf-8", "backslashreplace").decode("utf-8")
