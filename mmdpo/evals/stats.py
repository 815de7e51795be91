"""Metrics as functions of sums over images, and their intervals, whose resampling unit is the image.

Questions about one image, and objects named in one caption, stand or fall together, so the image (the *group* of an
item) is what is drawn at random. Every metric here is a function of sums over groups: accuracy is
``correct / questions``, CHAIR_i is ``hallucinated / mentions``. One table of sums per group therefore serves all.

* **Intervals**: one yes or no per image has Wilson's interval. Otherwise the delete-one-image jackknife gives the
  standard error, and Wilson's form turns it into limits, with the effective sample size ``value (1 - value) / se**2``
  and the quantile of t with the degrees of freedom that the images' influence leaves; both with the repairs for few
  hits of `mmdpo.evals.estimates.rate_limits`. A metric without bounds has value +- t * se.
* **No variation** (a rate of 0 or 1): half-width ``q**2 / (n + q**2)`` of the metric's range, what Wilson's interval
  gives at 0 and 1 for n images, so that no interval has width 0.
* **Differences**: `comparing.paired`; p-values: `comparing.testing`; the bootstrap: `bootstrap`.

Measured coverage: ``docs/statistics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from mmdpo.evals.estimates import NO_VARIATION, Array, Estimate, jackknife, rate_limits

__all__ = ["Array", "Better", "Counted", "Interval", "Metric", "Role", "Sums", "Table", "divide", "interval", "ratio"]

Sums = Mapping[str, Array]
Better = Literal["higher", "lower", "neither"]
Role = Literal["hallucination", "coverage", "capability", "other"]


class Counted(Protocol):
    """What the tables need of an item: the image it belongs to and what it adds to each sum."""

    @property
    def group(self) -> str:
        """The resampling unit, normally the image."""

    @property
    def counts(self) -> Mapping[str, float]:
        """Name of a sum -> what this item adds to it."""


@dataclass(frozen=True)
class Interval:
    """A value with its confidence limits.

    Attributes:
        value: The metric.
        low: Lower limit; None where one image is all there is and the metric has no bound.
        high: Upper limit; None likewise.
        n: What the value is a share of: questions, mentions, captions.
        percent: Whether it is a fraction, which people read as percent, and not a score on another scale.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    percent: bool = field(default=True, kw_only=True)

    def to_json(self) -> dict[str, Any]:
        """The four numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True)
class Metric:
    """A number made of sums over images.

    Attributes:
        name: As it stands in the result.
        value: From sums (arrays of one shape) to values of that shape; NaN where the denominator is 0.
        count: From sums to the denominator.
        bounds: The values that are possible.
        better: Which direction is an improvement.
        label: Its name in a report; by default its name in words.
        meaning: What is counted, in half a sentence, for a report.
        role: What it is evidence of: a report reads ``hallucination`` and ``coverage`` together, and shows beside them
            what became of ``capability``.
    """

    name: str
    value: Callable[[Sums], Array]
    count: Callable[[Sums], Array]
    bounds: tuple[float, float] = (0.0, 1.0)
    better: Better = "higher"
    label: str = ""
    meaning: str = ""
    role: Role | None = None

    @property
    def percent(self) -> bool:
        """Whether its values are fractions."""
        return self.bounds[1] <= 1.0

    @property
    def scale(self) -> float:
        """Its range; 1 for a metric without bounds."""
        width = self.bounds[1] - self.bounds[0]
        return width if math.isfinite(width) else 1.0

    @property
    def told(self) -> dict[str, Any]:
        """What a report needs to write it in words, as far as it is said."""
        said = {"label": self.label, "meaning": self.meaning, "role": self.role}
        return {"percent": self.percent, **{key: value for key, value in said.items() if value}}


def divide(numerator: Array, denominator: Array) -> Array:
    """Elementwise quotient, NaN where the denominator is 0."""
    known = denominator != 0
    return np.where(known, numerator / np.where(known, denominator, 1.0), np.nan)


def ratio(
    name: str,
    numerator: str,
    *denominator: str,
    bounds: tuple[float, float] = (0.0, 1.0),
    better: Better = "higher",
    label: str = "",
    meaning: str = "",
    role: Role | None = None,
) -> Metric:
    """The metric ``sum of numerator / sum of the denominator columns``."""

    def count(sums: Sums) -> Array:
        return np.asarray(sum(sums[column] for column in denominator), dtype=np.float64)

    return Metric(name, lambda sums: divide(sums[numerator], count(sums)), count, bounds, better, label, meaning, role)


class Table:
    """Sums per group.

    Args:
        groups: Names of the groups.
        columns: Names of the sums.
        values: Array [groups, columns].
    """

    def __init__(self, groups: Sequence[str], columns: Sequence[str], values: Array) -> None:
        self.groups, self.columns, self.values = list(groups), list(columns), values

    @classmethod
    def of(cls, items: Iterable[Counted]) -> Table:
        """The table of some items; a column that an item lacks counts 0 for it."""
        items = list(items)
        columns = {column: index for index, column in enumerate(sorted({c for item in items for c in item.counts}))}
        groups: dict[str, int] = {}
        values = np.zeros((len({item.group for item in items}), len(columns)))
        for item in items:
            row = groups.setdefault(item.group, len(groups))
            for column, amount in item.counts.items():
                values[row, columns[column]] += amount
        return cls(list(groups), list(columns), values)

    def sums(self, values: Array | None = None) -> dict[str, Array]:
        """Column -> array, of the totals or of other sums [..., columns]."""
        values = self.values.sum(0) if values is None else values
        return {column: values[..., index] for index, column in enumerate(self.columns)}


def interval(table: Table, metric: Metric, *, level: float = 0.95, repaired: bool = True) -> Interval:
    """A metric with its confidence interval.

    A metric without a denominator is reported as the lower bound, n = 0, with all possible values as interval.

    Args:
        table: Sums per image.
        metric: What to compute.
        level: Coverage.
        repaired: Whether with the repairs of `rate_limits` for few hits.
    """
    sums = table.sums()
    n = round(float(metric.count(sums)))
    low, high = metric.bounds
    value = float(metric.value(sums))
    known_high = high if math.isfinite(high) else None
    if math.isnan(value):
        return Interval(low, low, known_high, 0, percent=metric.percent)
    groups = int(np.count_nonzero(metric.count(table.sums(table.values))))
    if groups < 2:
        return Interval(value, low, known_high, n, percent=metric.percent)
    if one_answer_each(table, metric):
        # The rate gives its own error, and nothing is left for t to make up for.
        estimate = Estimate(value, math.sqrt((value - low) * (high - value) / n), math.inf, groups)
    else:
        estimate = jackknife(table.values, lambda values: metric.value(table.sums(values)))
    if estimate.error < NO_VARIATION or not math.isfinite(high - low):
        half = estimate.half_width(level, groups, metric.scale)
        return Interval(value, max(low, value - half), min(high, value + half), n, percent=metric.percent)
    limits = rate_limits(estimate, groups, metric.bounds, level, repaired=repaired)
    return Interval(value, *limits, n, percent=metric.percent)


def one_answer_each(table: Table, metric: Metric) -> bool:
    """Whether a metric is the mean of one yes or no per image."""
    counts = metric.count(table.sums(table.values))
    groups = int(np.count_nonzero(counts))
    if groups == 0 or round(float(counts.sum())) != groups or not math.isfinite(metric.bounds[1] - metric.bounds[0]):
        return False
    each = metric.value(table.sums(table.values))[counts != 0]
    whole = float(metric.value(table.sums()))
    return bool(np.isin(each, metric.bounds).all()) and math.isclose(whole, each.mean(), abs_tol=1e-12)
