"""How far raters agree."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from data_builders.intervals import Sums, estimate
from data_builders.pairing import Rating
from mmdpo.evals.stats import Metric, divide

MAX_RATER_PAIRS = 45
_MIN_SHARED = 3

Floats = NDArray[np.float64]


def rater_means(ratings: Sequence[Rating]) -> list[dict[str, Any]]:
    """Count, mean and standard deviation of the ratings of every rater whom the table names, most active first."""
    by_rater: dict[str, list[float]] = defaultdict(list)
    for rating in ratings:
        if not rating.rater_is_named:
            continue
        by_rater[rating.rater].append(rating.value)
    ranked = sorted(by_rater.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"rater": rater, "n": len(values), "mean": float(np.mean(values)), "standard_deviation": float(np.std(values))}
        for rater, values in ranked
    ]


def agreement(ratings: Sequence[Rating]) -> dict[str, Any]:
    """Agreement between the raters of the same captions.

    Returns:
        `alpha_interval` and `alpha_ordinal` (Krippendorff's alpha with its 95% interval over images), and
        `rater_pairs`, the quadratically weighted kappa and Spearman correlation of every two raters whom the
        table names and who share at least three captions (the 45 pairs that share most). A value that does not
        exist is None.
    """
    units: dict[tuple[str, ...], list[Rating]] = defaultdict(list)
    for rating in ratings:
        units[rating.media.identity, rating.prompt, rating.caption].append(rating)
    shared = [given for given in units.values() if len(given) > 1]
    values = [np.array([rating.value for rating in given]) for given in shared]
    images = [given[0].media.identity for given in shared]
    return {
        "captions_with_several_ratings": len(shared),
        "alpha_interval": alpha(values, images),
        "alpha_ordinal": alpha(_midranks(values), images),
        "rater_pairs": _rater_pairs(shared),
    }


def alpha(units: Sequence[Floats], images: Sequence[str]) -> dict[str, Any]:
    """Krippendorff's alpha for interval data, with its 95% interval over images.

    alpha = 1 - D_observed / D_expected: the mean squared difference of two ratings of the same caption over that of
    any two ratings (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"). Both are functions of a few sums
    over captions. Given mid-ranks in place of ratings it is alpha for ordinal data, whose metric is the squared
    difference of mid-ranks.

    Args:
        units: The ratings of each caption, two or more.
        images: The picture of each caption, the unit of resampling.
    """
    items = [
        Sums(
            image,
            {"n": len(v), "total": v.sum(), "squares": (v**2).sum(), "within": _spread(v) / (len(v) - 1)},
        )
        for v, image in zip(units, images, strict=True)
    ]
    result = estimate(items, _ALPHA)
    if result["high"] is not None:
        result["high"] = min(1.0, result["high"])  # no data can give more
    return result


def weighted_kappa(first: Floats, second: Floats) -> float | None:
    """Cohen's kappa of two raters with quadratic weights; None when neither ever varies."""
    observed = float(np.mean((first - second) ** 2))
    expected = float(first.var() + second.var() + (first.mean() - second.mean()) ** 2)
    return None if expected == 0 else 1 - observed / expected


def _spread(values: Floats) -> float:
    """Sum of (x_i - x_j)^2 over ordered pairs."""
    return float(2 * (len(values) * (values**2).sum() - values.sum() ** 2))


def _alpha_of(sums: Mapping[str, Floats]) -> Floats:
    n, total, squares = sums["n"], sums["total"], sums["squares"]
    # D_observed / D_expected = (within / n) / (2 (n squares - total^2) / (n (n - 1)))
    return 1 - divide((n - 1) * sums["within"], 2 * (n * squares - total**2))


_ALPHA = Metric("alpha", _alpha_of, lambda sums: sums["n"], bounds=(-math.inf, math.inf))


def _midranks(units: Sequence[Floats]) -> list[Floats]:
    if not units:
        return []
    ranks = stats.rankdata(np.concatenate(units))
    return np.split(ranks, np.cumsum([len(values) for values in units])[:-1])


def _rater_pairs(shared: Sequence[Sequence[Rating]]) -> list[dict[str, Any]]:
    both: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for given in shared:
        named = [rating for rating in given if rating.rater_is_named]
        for first, second in combinations(sorted(named, key=lambda rating: rating.rater), 2):
            both[first.rater, second.rater].append((first.value, second.value))
    largest = sorted(both.items(), key=lambda item: (-len(item[1]), item[0]))[:MAX_RATER_PAIRS]
    rows = []
    for (first_rater, second_rater), values in largest:
        if len(values) < _MIN_SHARED:
            continue
        first_values, second_values = np.array(values).T
        rows.append(
            {
                "raters": [first_rater, second_rater],
                "n": len(values),
                "weighted_kappa": weighted_kappa(first_values, second_values),
                "spearman": _spearman(first_values, second_values),
            }
        )
    return rows


def _spearman(first: Floats, second: Floats) -> float | None:
    if not (first.std() and second.std()):
        return None
    return float(stats.spearmanr(first, second).statistic)
