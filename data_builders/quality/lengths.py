"""Length bias, margins of the scores, and how good the chosen answers are by themselves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from data_builders.intervals import Sums, estimate
from data_builders.quality.crossed import crossed_estimate, text_numbers, units_of
from data_builders.quality.findings import finding, share
from data_builders.quality.sample import Comparison, Sample
from mmdpo.evals.stats import ratio

_BINS = 10
_LONGER_IS_CHOSEN = ratio("longer_is_chosen", "longer", "unequal")
_DIFFERENCE = ratio("difference", "difference", "pairs", bounds=(-math.inf, math.inf))
_POOR = ratio("poor", "poor", "pairs")


def length_bias(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """How often the longer answer is the chosen one, in words; a rater who likes length pulls it above one half."""
    if not sample.comparisons:
        return None, []
    sides = [(one.better.text, one.worse.text) for one in sample.comparisons]
    units = units_of([one.group for one in sample.comparisons], text_numbers(sides))
    counted = np.array([[float(len(text.split())) for text in side] for side in sides])
    difference = counted[:, 0] - counted[:, 1]
    columns = {"pairs": np.ones(len(sides)), "difference": difference}
    columns |= {"longer": (difference > 0).astype(float), "unequal": (difference != 0).astype(float)}
    chosen, rejected = counted.mean(axis=0).tolist()
    longer = crossed_estimate(columns, units, _LONGER_IS_CHOSEN)
    numbers = {
        "unit": "words",
        "chosen_mean": chosen,
        "rejected_mean": rejected,
        "difference": crossed_estimate(columns, units, _DIFFERENCE),
        "longer_is_chosen": longer,
        "equal_length": int((difference == 0).sum()),
    }
    message = (
        f"Where the two answers differ in length, the longer one is chosen in {share(longer)}; 50% is no bias. "
        f"Chosen answers have {chosen:.1f} words on average, rejected ones {rejected:.1f}."
    )
    if longer["value"] is None:
        message = "All compared answers are equally long."
    return numbers, [finding("length_bias", longer, message)]


def margins(sample: Sample) -> dict[str, Any] | None:
    """The distances of the scores, of the comparisons that have scores."""
    found = [gap for one in sample.comparisons if (gap := margin_of(one)) is not None]
    if not found:
        return None
    counts, edges = np.histogram(found, bins=_BINS, range=(0.0, max(found) or 1.0))
    return {
        "n": len(found),
        "mean": float(np.mean(found)),
        "median": float(np.median(found)),
        "ties": sum(margin == 0 for margin in found),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def margin_of(one: Comparison) -> float | None:
    """The distance of two scores; None without them."""
    if one.better.score is None or one.worse.score is None:
        return None
    return abs(one.better.score - one.worse.score)


def chosen_level(sample: Sample, scale: tuple[float, float] | None) -> tuple[dict[str, Any] | None, list[Any]]:
    """How often even the chosen answer is rated in the worse half of the scale: better than the other, but not good.

    Args:
        sample: The records.
        scale: Lowest and highest rating that could be given; a data set alone does not say it.
    """
    rated = [one for one in sample.comparisons if one.better.score is not None]
    if scale is None or not rated:
        return None, []
    middle = sum(scale) / 2
    items = [Sums(one.group, {"pairs": 1, "poor": float(_is_poor(one, middle))}) for one in rated]
    poor = estimate(items, _POOR)
    worst = float(np.mean([one.worse.score == scale[0 if one.record.higher_is_better else 1] for one in rated]))
    message = (
        f"In {share(poor)} of the pairs even the chosen answer is rated in the worse half of the scale "
        f"({scale[0]:g} to {scale[1]:g}): it is the lesser evil, and training raises its likelihood all the same. "
        f"The rejected answer has the worst rating there is in {100 * worst:.0f}%."
    )
    mean = float(np.mean([one.better.score for one in rated if one.better.score is not None]))
    others = [one.worse.score for one in rated if one.worse.score is not None]
    numbers = {
        "scale": list(scale),
        "middle": middle,
        "chosen_mean": mean,
        "rejected_mean": float(np.mean(others)) if others else None,
        "chosen_below_middle": poor,
        "rejected_worst": worst,
    }
    return numbers, [finding("chosen_level", poor, message)]


def _is_poor(one: Comparison, middle: float) -> bool:
    score = one.better.score
    return score is not None and (score < middle if one.record.higher_is_better else score > middle)
