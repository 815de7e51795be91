"""How well numbers order answers as people rated them: pair accuracy, Kendall's tau-b, NDCG, the best answer.

Every number of one list of candidates is here; `mmdpo.evals.preferences` sums them over images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mmdpo.evals.stats import Array, Metric, Sums, ratio

MEASURES: Mapping[str, tuple[str, str, tuple[float, float], str]] = {
    "pair_accuracy": ("right", "pairs", (0.0, 1.0), "pairs put in the order that people gave them, ties one half"),
    "kendall_tau": ("tau", "lists", (-1.0, 1.0), "Kendall's tau-b between score and rating, mean over the lists"),
    "ndcg": ("ndcg", "lists", (0.0, 1.0), "discounted gain of the order over that of the best order"),
    "top1": ("top1", "lists", (0.0, 1.0), "lists whose best-scored answer is one of the best-rated"),
}
"""Name of a measure -> its sum, what it is a share of, its range, what it means."""


def agreement(scores: Sequence[float], ratings: Sequence[float]) -> dict[str, float]:
    """What one list of candidates adds to each sum.

    Args:
        scores: [K] any numbers, more is better.
        ratings: [K] what people gave, more is better.

    Returns:
        ``pairs`` of different ratings and the ``right`` ones among them, equal scores one half; ``lists``, 1 where any
        two ratings differ, with ``tau``, ``ndcg`` and ``top1``; zeros for a list whose ratings are all equal.
    """
    score, rating = np.asarray(scores, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    margins, gaps = pair_margins(score, rating)
    if not len(gaps):
        return dict.fromkeys(("pairs", "right", "lists", "tau", "ndcg", "top1"), 0.0)
    best = score == score.max()
    return {
        "pairs": float(len(gaps)),
        "right": float(right(margins).sum()),
        "lists": 1.0,
        "tau": kendall_tau(score, rating),
        "ndcg": ndcg(score, rating),
        "top1": float((rating[best] == rating.max()).mean()),
    }


def pair_margins(scores: npt.ArrayLike, ratings: npt.ArrayLike) -> tuple[Array, Array]:
    """Every pair of different ratings: score of the better minus score of the worse, and the same of the ratings.

    Args:
        scores: [K].
        ratings: [K], more is better.
    """
    score, rating = np.asarray(scores, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    better, worse = np.nonzero(rating[:, None] > rating[None, :])
    return score[better] - score[worse], rating[better] - rating[worse]


def right(margins: Array) -> Array:
    """1 where the better answer has the larger score, one half for a tie."""
    return (np.sign(margins) + 1) / 2


def kendall_tau(scores: Array, ratings: Array) -> float:
    """Kendall's tau-b (Kendall 1945, Biometrika 33:239); 0 where all scores are equal: they show no order."""
    first, second = np.triu_indices(len(scores), 1)
    a, b = np.sign(scores[first] - scores[second]), np.sign(ratings[first] - ratings[second])
    untied = float(np.abs(a).sum() * np.abs(b).sum())
    return float((a * b).sum()) / math.sqrt(untied) if untied else 0.0


def ndcg(scores: Array, ratings: Array) -> float:
    """Normalised discounted cumulative gain (Jarvelin and Kekalainen 2002, ACM TOIS 20:422), over the whole list.

    The gain of an answer is its rating, with the list's lowest as 0 and its highest as 1, so that ratings of any scale
    can be used; equally scored answers share the mean of their gains, what a random order of them gives on average
    (McSherry and Najork 2008).

    Args:
        scores: [K].
        ratings: [K], not all equal.
    """
    gains = (ratings - ratings.min()) / (ratings.max() - ratings.min())
    return _discounted(scores, gains) / _discounted(gains, gains)


def _discounted(scores: Array, gains: Array) -> float:
    _, place, size = np.unique(-scores, return_inverse=True, return_counts=True)
    shared = (np.bincount(place, gains) / size)[np.sort(place)]
    return float((shared / np.log2(np.arange(len(gains)) + 2)).sum())


def measures(source: str) -> list[Metric]:
    """The metrics of one source of scores, from sums named ``SOURCE_right`` and so on."""
    return [
        ratio(f"{source}_{name}", f"{source}_{total}", f"{source}_{of}", bounds=bounds, meaning=meaning)
        for name, (total, of, bounds, meaning) in MEASURES.items()
    ]


def gain(source: str, baseline: str) -> Metric:
    """By how much one source orders more pairs rightly than another, on the same pairs."""
    first, second = measures(source)[0], measures(baseline)[0]

    def value(sums: Sums) -> Array:
        return first.value(sums) - second.value(sums)

    name = f"{source}_over_{baseline}"
    meaning = f"pair accuracy of {source} minus that of {baseline}"
    return Metric(name, value, first.count, (-1.0, 1.0), meaning=meaning)
