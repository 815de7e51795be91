"""The bootstrap over images: another way to intervals, slower, and a check on those of `mmdpo.evals.stats`.

With few images, or few hits, it covers less than it claims (``docs/statistics.md``), and a rate of 0 or 1 has an
interval of width 0; so results carry the other intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import scipy.stats

from mmdpo.evals.comparing.paired import aligned, paired_value
from mmdpo.evals.estimates import Array, influences
from mmdpo.evals.stats import Counted, Interval, Metric, Table

Method = Literal["bca", "percentile"]


def bootstrap_interval(
    table: Table,
    metric: Metric,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    method: Method = "percentile",
) -> Interval:
    """A metric with its bootstrap interval.

    Args:
        table: Sums per image.
        metric: What to compute.
        level: Coverage.
        draws: Bootstrap samples.
        seed: Of the draws.
        method: ``percentile``, or ``bca``, which corrects bias and skewness (Efron 1987, JASA 82:171).
    """
    sums = table.sums()
    low, high = _limits(table.values, lambda values: metric.value(table.sums(values)), level, draws, seed, method)
    n = round(float(metric.count(sums)))
    return Interval(float(metric.value(sums)), low, high, n, percent=metric.percent)


def bootstrap_difference(
    items_a: Iterable[Counted],
    items_b: Iterable[Counted],
    metric: Metric,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    method: Method = "percentile",
) -> Interval:
    """The paired bootstrap: second model minus first, both from the same drawn images.

    Args:
        items_a: Items of the first model.
        items_b: Items of the second model, on the same images.
        metric: What to compare.
        level: Coverage.
        draws: Bootstrap samples.
        seed: Of the draws.
        method: As for `bootstrap_interval`.

    Raises:
        ValueError: The two models were not asked about the same images, or there are fewer than two.
    """
    a, b = aligned(items_a, items_b)
    value = paired_value(metric, a.columns)
    width = len(a.columns)

    def difference(stacked: Array) -> Array:
        return value(stacked[..., width:]) - value(stacked[..., :width])

    stacked = np.concatenate([a.values, b.values], axis=1)
    low, high = _limits(stacked, difference, level, draws, seed, method)
    return Interval(float(difference(stacked.sum(0))), low, high, len(stacked), percent=metric.percent)


def _limits(
    values: Array, statistic: Callable[[Array], Array], level: float, draws: int, seed: int, method: Method
) -> tuple[float, float]:
    groups = len(values)
    weights = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), draws)
    drawn = statistic(weights @ values)
    drawn = drawn[~np.isnan(drawn)]
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        # Draws equal to the value count half, so that a statistic with few possible values is not called biased.
        value = float(statistic(values.sum(0)))
        below = np.mean(drawn < value - 1e-12) + np.mean(np.abs(drawn - value) <= 1e-12) / 2
        bias = scipy.stats.norm.ppf(np.clip(below, 1 / (draws + 1), draws / (draws + 1)))
        pull = -influences(values, statistic)  # leaving out an image moves the other way than adding one
        spread = float((pull**2).sum()) ** 1.5
        acceleration = float((pull**3).sum()) / (6 * spread) if spread > 0 else 0.0
        shifted = bias + scipy.stats.norm.ppf(tails)
        tails = scipy.stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(drawn, tails)
    return float(low), float(high)
