"""Two models on the same images: differences, p-values, and what size of difference could have been seen.

The p-value is from swapping the two models' answers image by image: if they do not differ, either could have given
either. For one yes/no item per image this is McNemar's exact test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from mmdpo.evals.stats import Array, Counted, Interval, Metric, Table, jackknife

_CELLS_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference, second minus first.

    Attributes:
        p_value: Of no difference, two-sided, from swapping the two models' answers image by image.
        detectable: The smallest true difference that this many images show four times in five.
    """

    p_value: float
    detectable: float

    def to_json(self) -> dict[str, float | int | None]:
        """The numbers by name."""
        return super().to_json() | {"p": self.p_value, "detectable": self.detectable}


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
    first, second = Table.of(items_a), Table.of(items_b)
    if set(first.groups) != set(second.groups) or len(first.groups) < 2:
        raise ValueError("a paired difference needs two or more images, the same for both models")
    columns = sorted({*first.columns, *second.columns})
    a, b = _arrange(first, first.groups, columns), _arrange(second, first.groups, columns)

    def value(sums: Array) -> Array:
        # An undefined metric stands for its lower bound, as in `interval`.
        named = {column: sums[..., index] for index, column in enumerate(columns)}
        return np.nan_to_num(metric.value(named), nan=metric.bounds[0])

    def difference(stacked: Array) -> Array:
        return value(stacked[..., len(columns) :]) - value(stacked[..., : len(columns)])

    groups = len(first.groups)
    estimate = jackknife(np.concatenate([a, b], axis=1), difference)
    half = estimate.half_width(level, groups)
    reach = metric.bounds[1] - metric.bounds[0]
    return Difference(
        value=estimate.value,
        low=max(-reach, estimate.value - half),
        high=min(reach, estimate.value + half),
        n=groups,
        p_value=_swap_p_value(a, b, value, permutations, seed),
        detectable=minimum_detectable_difference(half / estimate.quantile(level), estimate.freedom, level=level),
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


def _arrange(table: Table, groups: Sequence[str], columns: Sequence[str]) -> Array:
    """The table's values with rows and columns in the given order; absent columns are 0."""
    values = np.zeros((len(groups), len(columns)))
    row_of = {group: row for row, group in enumerate(table.groups)}
    rows = [row_of[group] for group in groups]
    for index, column in enumerate(columns):
        if column in table.columns:
            values[:, index] = table.values[rows, table.columns.index(column)]
    return values


def _swap_p_value(a: Array, b: Array, value: Callable[[Array], Array], permutations: int, seed: int) -> float:
    total_a, total_b = a.sum(0), b.sum(0)
    # The tolerance counts differences that are equal but for rounding as at least as large.
    observed = abs(float(value(total_b) - value(total_a))) - 1e-12
    generator = np.random.default_rng(seed)
    as_large, left = 0, permutations
    while left:
        draws = min(left, max(1, _CELLS_AT_ONCE // len(a)))
        moved = generator.integers(0, 2, (draws, len(a))).astype(np.float64) @ (b - a)
        as_large += int((np.abs(value(total_b - moved) - value(total_a + moved)) >= observed).sum())
        left -= draws
    return (1 + as_large) / (permutations + 1)
