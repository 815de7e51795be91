"""Intervals and paired comparisons whose resampling unit is the image.

Questions about one image, and objects named in one caption, stand or fall together, so the image (the *group* of an
item) is what is drawn at random. Every metric here is a function of sums over groups: accuracy is
``correct / questions``, CHAIR_i is ``hallucinated / mentions``. One table of sums per group therefore serves all.

* **Intervals**: one yes or no per image has Wilson's interval. Otherwise the delete-one-image jackknife gives the
  standard error, and Wilson's form turns it into limits, with the effective sample size ``value (1 - value) / se**2``
  and the quantile of t with the degrees of freedom that the images' influence leaves. Measured coverage, also of the
  bootstrap's: ``docs/evals.md``.
* **Differences** (`mmdpo.evals.paired`): value +- t * se, with the jackknife of the difference itself.
* **No variation** (a rate of 0 or 1, or equal answers everywhere): half-width ``q**2 / (n + q**2)``, what Wilson's
  interval gives at 0 and 1 for n images, so that no interval has width 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import scipy.stats

Array = npt.NDArray[np.float64]
Sums = Mapping[str, Array]
Better = Literal["higher", "lower", "neither"]
Role = Literal["hallucination", "coverage", "other"]

_NO_VARIATION = 1e-12
_LEAST_FREEDOM = 10
"""Below this the fourth moment of so few images says less than it costs; chosen by simulated coverage."""


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
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, float | int | None]:
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
        role: What it is evidence of: a report reads ``hallucination`` and ``coverage`` together.
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
    def told(self) -> dict[str, Any]:
        """What a report needs to write it in words, as far as it is said."""
        said = {"label": self.label, "meaning": self.meaning, "role": self.role}
        return {"percent": self.bounds[1] <= 1.0, **{key: value for key, value in said.items() if value}}


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


def interval(table: Table, metric: Metric, *, level: float = 0.95) -> Interval:
    """A metric with its confidence interval.

    A metric without a denominator is reported as the lower bound, n = 0, with all possible values as interval.

    Args:
        table: Sums per image.
        metric: What to compute.
        level: Coverage.
    """
    sums = table.sums()
    n = round(float(metric.count(sums)))
    low, high = metric.bounds
    value = float(metric.value(sums))
    if math.isnan(value):
        return Interval(low, low, high if math.isfinite(high) else None, 0)
    counts = metric.count(table.sums(table.values))
    groups = int(np.count_nonzero(counts))
    if groups < 2:
        return Interval(value, low, high if math.isfinite(high) else None, n)
    each = metric.value(table.sums(table.values))[counts != 0]
    single = n == groups and math.isfinite(high) and bool(np.isin(each, metric.bounds).all())
    if single and math.isclose(value, each.mean(), abs_tol=1e-12):
        # One yes or no per image: the rate gives its own error, and nothing is left for t to make up for.
        estimate = Estimate(value, math.sqrt((value - low) * (high - value) / n), math.inf)
    else:
        estimate = jackknife(table.values, lambda values: metric.value(table.sums(values)))
    if estimate.error < _NO_VARIATION or not math.isfinite(high):
        half = estimate.half_width(level, groups)
        return Interval(value, max(low, value - half), min(high, value + half), n)
    return Interval(value, *wilson(value, estimate.error, estimate.quantile(level), metric.bounds), n)


def wilson(
    value: float, error: float, quantile: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Wilson's limits for a rate with a known standard error (Wilson 1927, with the effective sample size).

    Args:
        value: The rate.
        error: Its standard error, above 0.
        quantile: Of the normal or t distribution.
        bounds: The values that are possible.

    Returns:
        Lower and upper limit.
    """
    low, width = bounds[0], bounds[1] - bounds[0]
    rate, error = (value - low) / width, error / width
    # The guard serves a rate of exactly 0 or 1 whose error is not 0, as functions other than a ratio can have.
    size = max(rate * (1 - rate) / error**2, 1.0)
    squared = quantile**2
    centre = (rate + squared / (2 * size)) / (1 + squared / size)
    half = quantile / (1 + squared / size) * math.sqrt(rate * (1 - rate) / size + squared / (4 * size**2))
    return low + width * max(0.0, min(rate, centre - half)), low + width * min(1.0, max(rate, centre + half))


def bootstrap_interval(
    table: Table, metric: Metric, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """The percentile bootstrap over images: a check on `interval`, whose coverage is nearer to what it claims.

    Args:
        table: Sums per image.
        metric: What to compute.
        level: Coverage.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    sums = table.sums()
    groups = len(table.groups)
    weights = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), draws)
    values = metric.value(table.sums(weights @ table.values))
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Interval(float(metric.value(sums)), float(low), float(high), round(float(metric.count(sums))))


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error.

    Attributes:
        value: The statistic.
        error: Its standard error.
        freedom: Degrees of freedom behind the error; infinite where it is not itself estimated.
    """

    value: float
    error: float
    freedom: float

    def quantile(self, level: float) -> float:
        """The two-sided quantile of Student's t."""
        return float(scipy.stats.t.ppf(0.5 + level / 2, self.freedom))

    def half_width(self, level: float, groups: int) -> float:
        """Half the width of a t interval, or what ``groups`` equal images leave open where nothing varies."""
        quantile = self.quantile(level)
        return quantile * self.error if self.error >= _NO_VARIATION else quantile**2 / (groups + quantile**2)


def jackknife(values: Array, statistic: Callable[[Array], Array]) -> Estimate:
    """The delete-one-group jackknife.

    The degrees of freedom are those that the deviations' fourth moment gives (Satterthwaite 1946): where a few images
    carry all the variation, as with rare hallucinations, the error is that of a few, not of all. For normal deviations
    it is the number of groups.

    Args:
        values: Sums per group [groups, columns].
        statistic: From sums [..., columns] to values [...].
    """
    total, groups = values.sum(0), len(values)
    value = float(statistic(total))
    without = statistic(total - values)
    without = np.where(np.isnan(without), value, without)  # the group that held the whole denominator
    squares = (without - without.mean()) ** 2
    error = math.sqrt((groups - 1) / groups * float(squares.sum()))
    if error < _NO_VARIATION:
        return Estimate(value, error, groups - 1)
    shares = squares / squares.sum()
    excess = float((shares**2).sum()) - 1 / groups
    return Estimate(value, error, min(groups - 1, max(_LEAST_FREEDOM, 2 / max(excess, 1e-12))))
