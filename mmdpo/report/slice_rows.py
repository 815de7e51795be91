"""What a slice of the failures is: rows with a rate and its interval for each model, those with most failures first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mmdpo.evals.stats import Interval, Table, interval, ratio

ROWS = 12
"""Slices that are shown of each kind."""
FEW = 20
"""Below so many answers a slice is marked: one of them then moves its rate by more than five points."""

Key = TypeVar("Key", str, tuple[str, str])
_RATE = ratio("rate", "failed", "asked")


@dataclass(frozen=True)
class SliceRow:
    """One slice of the items.

    Attributes:
        label: What its items have in common.
        rates: Share that failed, with its interval, one of each model; None where a model was not asked.
        overall: Of a slice that is part of a larger one, the same over the larger one.
        share: Share of all failures, those of all models together; None where slices overlap.
    """

    label: str
    rates: Sequence[Interval | None]
    overall: Sequence[Interval | None] = ()
    share: float | None = None

    @property
    def few(self) -> bool:
        """Whether a rate is of so few answers that one of them moves it far."""
        return any(rate is not None and rate.n < FEW for rate in self.rates)


@dataclass(frozen=True)
class Slice:
    """The slices of one benchmark by one property.

    Attributes:
        name: For files, such as ``chair_object``.
        benchmark: Which benchmark.
        title: By what.
        meaning: What a rate is of, in half a sentence.
        columns: The models, the one before training first.
        rows: At most `ROWS`.
        found: How many slices, or pairs, there were to choose from.
        remark: What else a reader must know.
        without: What it means that there is no row.
    """

    name: str
    benchmark: str
    title: str
    meaning: str
    columns: Sequence[str]
    rows: Sequence[SliceRow]
    found: int
    remark: str = ""
    without: str = ""

    @property
    def tells(self) -> bool:
        """Whether any slice is of enough answers to tell something."""
        return not all(row.few for row in self.rows)


@dataclass(frozen=True)
class _Count:
    """What one answer adds to the sums of a slice."""

    group: str
    counts: Mapping[str, float]


def rate(outcomes: Iterable[tuple[str, float]]) -> Interval | None:
    """Share of failures, the image being the unit; None without any answer.

    Args:
        outcomes: Image, and how far the answer failed (0 to 1), of each answer.
    """
    counts = [_Count(group, {"failed": float(failed), "asked": 1.0}) for group, failed in outcomes]
    return interval(Table.of(counts), _RATE) if counts else None


def largest(amounts: Mapping[Key, float]) -> list[tuple[Key, float]]:
    """The `ROWS` largest amounts, alike ones by name."""
    return sorted(amounts.items(), key=lambda entry: (-entry[1], entry[0]))[:ROWS]
