"""Two models on the same images: differences, p-values, and what size of difference could have been seen.

The limits of a difference are made of those of the two metrics and of how the two go together over the images ("method
of variance estimates recovery", Zou and Donner 2008, Statist. Med. 27:1693; for one yes or no per image Newcombe 1998,
Statist. Med. 17:2635). So they are as lopsided near 0 and 1 as the metrics' own. The p-value is McNemar's exact one for
one yes or no per image, otherwise that of swapping the two models' answers image by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from mmdpo.evals.comparing.testing import mcnemar, swap_test
from mmdpo.evals.estimates import NO_VARIATION, Array, influences, jackknife
from mmdpo.evals.stats import Counted, Interval, Metric, Table, interval, one_answer_each


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference, second minus first.

    Attributes:
        p_value: Of no difference, two-sided.
        detectable: The smallest true difference that this many images show four times in five.
        test: What the p-value is from.
    """

    p_value: float
    detectable: float
    test: str = "swaps"

    def to_json(self) -> dict[str, Any]:
        """What there is to know by name."""
        return {**super().to_json(), "p": self.p_value, "test": self.test, "detectable": self.detectable}


def paired_difference(
    items_a: Iterable[Counted],
    items_b: Iterable[Counted],
    metric: Metric,
    *,
    level: float = 0.95,
    permutations: int = 9999,
    seed: int = 0,
) -> Difference:
    """How much a metric differs between two models on the same images: second minus first.

    An undefined metric stands for its lower bound, as in `interval`.

    Args:
        items_a: Items of the first model.
        items_b: Items of the second model, on the same images.
        metric: What to compare.
        level: Coverage of the interval.
        permutations: Random swaps for the p-value; its smallest possible value is ``1 / (permutations + 1)``.
        seed: Of the swaps.

    Raises:
        ValueError: The two models were not asked about the same images, or there are fewer than two.
    """
    a, b = aligned(items_a, items_b)
    value = paired_value(metric, a.columns)
    width = len(a.columns)
    counted = [metric.count(table.sums(table.values)) != 0 for table in (a, b)]
    groups = int(np.count_nonzero(counted[0] | counted[1])) or len(a.groups)  # images that the metric is about
    estimate = jackknife(
        np.concatenate([a.values, b.values], axis=1),
        lambda stacked: value(stacked[..., width:]) - value(stacked[..., :width]),
    )
    half = estimate.half_width(level, groups, metric.scale)
    low, high = estimate.value - half, estimate.value + half
    reach = metric.bounds[1] - metric.bounds[0]
    if estimate.error >= NO_VARIATION and math.isfinite(reach):
        # Without the repairs for few hits: two limits that are both on the safe side would add up to too much.
        limits = [interval(table, metric, level=level, repaired=False) for table in (a, b)]
        low, high = _recovered(limits, _correlation(influences(a.values, value), influences(b.values, value)))
    p_value, test = _test(a, b, metric, value, permutations, seed)
    return Difference(
        value=estimate.value,
        low=max(-reach, low),
        high=min(reach, high),
        n=len(a.groups),
        percent=metric.percent,
        p_value=p_value,
        detectable=minimum_detectable_difference(half / estimate.quantile(level), estimate.freedom, level=level),
        test=test,
    )


def minimum_detectable_difference(error: float, freedom: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that a test at ``1 - level`` finds with the given power.

    Args:
        error: Standard error of the difference.
        freedom: Its degrees of freedom.
        level: Coverage of the interval that the test inverts.
        power: Share of repetitions in which the difference is found.
    """
    quantile = scipy.stats.t.ppf(0.5 + level / 2, freedom)
    return float(quantile + scipy.stats.norm.ppf(power)) * error


def aligned(items_a: Iterable[Counted], items_b: Iterable[Counted]) -> tuple[Table, Table]:
    """The tables of two models with the same images in the same order, and the same columns.

    Raises:
        ValueError: The images are not the same, or there are fewer than two.
    """
    first, second = Table.of(items_a), Table.of(items_b)
    if set(first.groups) != set(second.groups) or len(first.groups) < 2:
        raise ValueError("a paired difference needs two or more images, the same for both models")
    columns = sorted({*first.columns, *second.columns})
    return _arrange(first, first.groups, columns), _arrange(second, first.groups, columns)


def paired_value(metric: Metric, columns: list[str]) -> Callable[[Array], Array]:
    """A metric as a function of sums [..., columns]; its lower bound where it is undefined."""

    def value(sums: Array) -> Array:
        named = {column: sums[..., index] for index, column in enumerate(columns)}
        return np.nan_to_num(metric.value(named), nan=metric.bounds[0])

    return value


def _arrange(table: Table, groups: list[str], columns: list[str]) -> Table:
    """The table with rows and columns in the given order; absent columns are 0."""
    values = np.zeros((len(groups), len(columns)))
    row_of = {group: row for row, group in enumerate(table.groups)}
    rows = [row_of[group] for group in groups]
    for index, column in enumerate(columns):
        if column in table.columns:
            values[:, index] = table.values[rows, table.columns.index(column)]
    return Table(groups, columns, values)


def _recovered(both: list[Interval], correlation: float) -> tuple[float, float]:
    """Limits of b - a from both metrics' own limits (Zou and Donner 2008)."""
    a, b = both
    assert a.low is not None and a.high is not None and b.low is not None and b.high is not None

    def reach(of_b: float, of_a: float) -> float:
        return math.sqrt(max(0.0, of_b**2 - 2 * correlation * of_b * of_a + of_a**2))

    gap = b.value - a.value
    return gap - reach(b.value - b.low, a.high - a.value), gap + reach(b.high - b.value, a.value - a.low)


def _correlation(a: Array, b: Array) -> float:
    """Of two metrics, from what each image does to them; 0 where one does not vary."""
    scale = math.sqrt(float((a**2).sum()) * float((b**2).sum()))
    return float((a * b).sum()) / scale if scale > NO_VARIATION**2 else 0.0


def _test(
    a: Table, b: Table, metric: Metric, value: Callable[[Array], Array], permutations: int, seed: int
) -> tuple[float, str]:
    """The p-value, and what it is from."""
    asked_a, asked_b = (metric.count(table.sums(table.values)) for table in (a, b))
    if np.array_equal(asked_a, asked_b) and one_answer_each(a, metric) and one_answer_each(b, metric):
        gap = value(b.values) - value(a.values)
        return mcnemar(int((gap > 0).sum()), int((gap < 0).sum())), "McNemar, exact"
    p_value, exact = swap_test(a.values, b.values, value, permutations=permutations, seed=seed)
    return p_value, "all swaps" if exact else f"{permutations} swaps"
