"""How far raters agree."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from data_builders.intervals import estimate_of_table
from data_builders.rating.pairing import Rating
from mmdpo.evals.stats import Metric, Table, divide

MAX_RATER_PAIRS = 45
MAX_RATERS = 1000
"""Pairs are looked for among the raters who gave most ratings: a crowd of ten thousand has fifty million pairs."""
_MIN_SHARED = 3

Floats = NDArray[np.float64]


class RatingArrays:
    """All ratings as flat arrays, caption by caption: 24 bytes each, however many there are.

    Attributes:
        values: [ratings] what was given.
        raters: [ratings] number of the rater in ``names``; -1 where the table names nobody.
        sizes: [captions] ratings of each caption.
        images: [captions] number of its image in ``image_names``.
    """

    def __init__(self) -> None:
        self.values, self.raters = array("d"), array("l")
        self.sizes, self.images = array("l"), array("l")
        self._names: dict[str, int] = {}
        self._image_names: dict[str, int] = {}

    @classmethod
    def of(cls, ratings: Iterable[Rating]) -> RatingArrays:
        """The ratings of some captions, in any order."""
        units: dict[tuple[str, ...], list[Rating]] = defaultdict(list)
        for rating in ratings:
            units[rating.media.identity, rating.prompt, rating.caption].append(rating)
        made = cls()
        for given in units.values():
            made.add(given)
        return made

    def add(self, given: Sequence[Rating]) -> None:
        """Takes all ratings of one caption."""
        for rating in given:
            self.values.append(rating.value)
            named = rating.rater_is_named
            self.raters.append(self._names.setdefault(rating.rater, len(self._names)) if named else -1)
        self.sizes.append(len(given))
        image = given[0].media.identity
        self.images.append(self._image_names.setdefault(image, len(self._image_names)))

    @property
    def names(self) -> list[str]:
        """The raters whom the table names."""
        return list(self._names)

    @property
    def image_names(self) -> list[str]:
        """The images."""
        return list(self._image_names)

    def shared(self) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Values and raters of the captions with two ratings or more, [ratings], and sizes and images of these."""
        sizes = np.frombuffer(self.sizes, np.int64) if self.sizes else np.zeros(0, np.int64)
        images = np.frombuffer(self.images, np.int64) if self.images else np.zeros(0, np.int64)
        values = np.frombuffer(self.values, np.float64) if self.values else np.zeros(0)
        raters = np.frombuffer(self.raters, np.int64) if self.raters else np.zeros(0, np.int64)
        several = sizes > 1
        kept = np.repeat(several, sizes)
        return values[kept], raters[kept], sizes[several], images[several]


def rater_means(ratings: Sequence[Rating] | RatingArrays) -> list[dict[str, Any]]:
    """Count, mean and standard deviation of the ratings of every rater whom the table names, most active first."""
    arrays = ratings if isinstance(ratings, RatingArrays) else RatingArrays.of(ratings)
    raters, values = np.array(arrays.raters, np.int64), np.array(arrays.values)
    values, raters = values[raters >= 0], raters[raters >= 0]
    order = np.argsort(raters, kind="stable")
    groups = np.split(values[order], np.cumsum(np.bincount(raters, minlength=len(arrays.names)))[:-1])
    named = sorted(zip(arrays.names, groups, strict=False), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"rater": rater, "n": len(given), "mean": float(np.mean(given)), "standard_deviation": float(np.std(given))}
        for rater, given in named
    ]


def agreement(ratings: Sequence[Rating] | RatingArrays) -> dict[str, Any]:
    """Agreement between the raters of the same captions.

    Returns:
        `alpha_interval` and `alpha_ordinal` (Krippendorff's alpha with its 95% interval over images), `kappa`
        (Fleiss' kappa, where every caption has as many ratings), and `rater_pairs`, the quadratically weighted kappa
        and Spearman correlation of every two raters whom the table names and who share at least three captions (the 45
        pairs that share most). A value that does not exist is None.
    """
    arrays = ratings if isinstance(ratings, RatingArrays) else RatingArrays.of(ratings)
    values, raters, sizes, images = arrays.shared()
    ranks = stats.rankdata(values) if len(values) else values
    return {
        "captions_with_several_ratings": len(sizes),
        "alpha_interval": _alpha(values, sizes, images),
        "alpha_ordinal": _alpha(ranks, sizes, images),
        "kappa": fleiss_kappa(values, sizes, images),
        "rater_pairs": _rater_pairs(values, raters, sizes, arrays.names),
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
    numbers = {image: number for number, image in enumerate(dict.fromkeys(images))}
    places = np.array([numbers[image] for image in images], np.int64)
    values = np.concatenate(units) if units else np.zeros(0)
    return _alpha(values, np.array([len(unit) for unit in units], np.int64), places)


def _alpha(values: Floats, sizes: NDArray[np.int64], images: NDArray[np.int64]) -> dict[str, Any]:
    if len(sizes):
        values = values - values.mean()  # differences alone count, and sums of squares stay exact
    total, squares = _by_caption(values, sizes), _by_caption(values**2, sizes)
    # the sum of (x_i - x_j)^2 over ordered pairs of a caption, each caption weighted by 1 / (m - 1)
    within = 2 * (sizes * squares - total**2) / (sizes - 1)
    result = estimate_of_table(
        _by_image({"n": sizes, "total": total, "squares": squares, "within": within}, images), _ALPHA
    )
    if result["high"] is not None:
        result["high"] = min(1.0, result["high"])  # no data can give more
    return result


def fleiss_kappa(values: Floats, sizes: NDArray[np.int64], images: NDArray[np.int64]) -> dict[str, Any] | None:
    """Fleiss' kappa with its 95% interval over images; None where captions have different numbers of ratings.

    kappa = (P - P_e) / (1 - P_e), with P the mean share of agreeing pairs of a caption and P_e the sum of the squared
    shares of the categories (Fleiss 1971, "Measuring nominal scale agreement among many raters"). Every different value
    is a category; more than 20 are no categories any more.

    Args:
        values: [ratings] caption by caption.
        sizes: [captions] ratings of each.
        images: [captions] the picture of each.
    """
    categories, codes = np.unique(values, return_inverse=True)
    if not len(sizes) or len(set(sizes.tolist())) > 1 or len(categories) > _MAX_CATEGORIES:
        return None
    m = int(sizes[0])
    counts = np.zeros((len(sizes), len(categories)))
    np.add.at(counts, (np.repeat(np.arange(len(sizes)), sizes), codes), 1.0)
    agreeing = ((counts**2).sum(1) - m) / (m * (m - 1))
    columns = {f"category {place}": counts[:, place] for place in range(len(categories))}
    table = _by_image({"captions": np.ones(len(sizes)), "agreeing": agreeing, **columns}, images)

    def value(sums: Mapping[str, Floats]) -> Floats:
        shares = [divide(sums[name], m * sums["captions"]) ** 2 for name in columns]
        expected = np.sum(shares, axis=0)
        return divide(divide(sums["agreeing"], sums["captions"]) - expected, 1 - expected)

    return estimate_of_table(table, Metric("kappa", value, lambda sums: sums["captions"], bounds=(-1.0, 1.0)))


def weighted_kappa(first: Floats, second: Floats) -> float | None:
    """Cohen's kappa of two raters with quadratic weights; None when neither ever varies."""
    observed = float(np.mean((first - second) ** 2))
    expected = float(first.var() + second.var() + (first.mean() - second.mean()) ** 2)
    return None if expected == 0 else 1 - observed / expected


_MAX_CATEGORIES = 20


def _by_caption(values: Floats, sizes: NDArray[np.int64]) -> Floats:
    """[captions] the sum of each caption's values."""
    if not len(sizes):
        return np.zeros(0)
    return np.add.reduceat(values, np.concatenate([[0], np.cumsum(sizes)[:-1]]))


def _by_image(columns: Mapping[str, Any], images: NDArray[np.int64]) -> Table:
    """Sums over captions as sums over images."""
    count = int(images.max()) + 1 if len(images) else 0
    columns_of_images = [np.bincount(images, weights=values, minlength=count) for values in columns.values()]
    sums: Floats = np.stack(columns_of_images, axis=1).astype(np.float64)
    seen = np.bincount(images, minlength=count) > 0
    names = [str(number) for number in np.flatnonzero(seen)]
    return Table(names, list(columns), sums[seen])


def _alpha_of(sums: Mapping[str, Floats]) -> Floats:
    n, total, squares = sums["n"], sums["total"], sums["squares"]
    # D_observed / D_expected = (within / n) / (2 (n squares - total^2) / (n (n - 1)))
    return 1 - divide((n - 1) * sums["within"], 2 * (n * squares - total**2))


_ALPHA = Metric("alpha", _alpha_of, lambda sums: sums["n"], bounds=(-math.inf, math.inf))


def _rater_pairs(
    values: Floats, raters: NDArray[np.int64], sizes: NDArray[np.int64], names: Sequence[str]
) -> list[dict[str, Any]]:
    counts = np.bincount(raters[raters >= 0], minlength=len(names))
    active = set(np.argsort(-counts, kind="stable")[:MAX_RATERS].tolist())
    captions = []  # (rater, value) of each caption by the raters' names, so that a pair is always named one way
    start = 0
    for size in sizes.tolist():
        rated = zip(raters[start : start + size].tolist(), values[start : start + size].tolist(), strict=True)
        named = [(names[rater], value) for rater, value in rated if rater in active]
        captions.append(sorted(named, key=lambda item: item[0]))
        start += size
    together = Counter((a, b) for given in captions for (a, _), (b, _) in combinations(given, 2))
    largest = sorted(together.items(), key=lambda item: (-item[1], item[0]))[:MAX_RATER_PAIRS]
    both: dict[tuple[str, str], list[tuple[float, float]]] = {pair: [] for pair, n in largest if n >= _MIN_SHARED}
    for given in captions:
        for (a, x), (b, y) in combinations(given, 2):
            if (a, b) in both:
                both[a, b].append((x, y))
    return [_pair_row(pair, np.array(shared)) for pair, shared in both.items()]


def _pair_row(pair: tuple[str, str], shared: Floats) -> dict[str, Any]:
    first, second = shared.T
    kappa, correlation = weighted_kappa(first, second), _spearman(first, second)
    return {"raters": list(pair), "n": len(shared), "weighted_kappa": kappa, "spearman": correlation}


def _spearman(first: Floats, second: Floats) -> float | None:
    if not (first.std() and second.std()):
        return None
    return float(stats.spearmanr(first, second).statistic)
