"""Intervals for rows that go together in more than one way: by their media, and by answers that recur."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_builders.intervals import estimate_of_table
from data_builders.quality.sample import plain, words_of
from mmdpo.evals.stats import Metric, Table

RECURRING = 5
"""Answers of fewer words ("yes", "a red car") are given to other media by nature."""

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def text_numbers(sides: Sequence[Sequence[str]]) -> Places:
    """[n, answers] one number for each different text, -1 for those of fewer than five words."""
    numbers: dict[str, int] = {}
    return np.array(
        [
            [numbers.setdefault(plain(text), len(numbers)) if not recurs_by_nature(text) else -1 for text in side]
            for side in sides
        ],
        np.int64,
    )


def recurs_by_nature(text: str) -> bool:
    """Whether an answer is so short that others give it, too."""
    return len(words_of(text)) < RECURRING


def units_of(groups: Sequence[str], texts: Places) -> list[Places]:
    """The ways in which rows go together: by media group, and by each answer's text.

    Args:
        groups: [n] media group of each row.
        texts: [n, answers] of `text_numbers`; an answer that recurs by nature goes with its row alone.
    """
    own = int(texts.max(initial=-1)) + 1 + np.arange(len(texts))
    media = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    return [media, *(np.where(column < 0, own, column) for column in texts.T)]


def crossed_estimate(
    columns: Mapping[str, Floats], units: Sequence[Places], metric: Metric, *, wider: float = 1.0
) -> dict[str, Any]:
    """``{"value", "low", "high", "n"}`` of a metric of sums over rows, with its 95% interval.

    Errors of rows of the same media go together, and so do those of rows with the same answer: the squared half-widths
    over each are added, and that of single rows, which is in each, is taken off (Cameron, Gelbach and Miller 2011,
    "Robust inference with multiway clustering"). It is never narrower than the interval over media alone.

    Args:
        columns: [n] each, what a row adds to each sum.
        units: [n] each, of `units_of`; the first is the media's.
        metric: The metric.
        wider: A factor of the interval.
    """

    def over(rows: Places) -> dict[str, Any]:
        names, place = np.unique(rows, return_inverse=True)
        sums = [np.bincount(place, weights=column, minlength=len(names)) for column in columns.values()]
        return estimate_of_table(Table([str(name) for name in names], list(columns), np.stack(sums, axis=1)), metric)

    n = len(units[0])
    found, *others = (over(rows) for rows in units if rows is units[0] or len(np.unique(rows)) < n)
    alone = over(np.arange(n)) if others else found
    for side, sign, bound, limit in (("low", -1, max, metric.bounds[0]), ("high", 1, min, metric.bounds[1])):
        if found[side] is None:
            continue
        half, single, *more = (_half(one, side, limit) for one in (found, alone, *others))
        together = math.sqrt(half**2 + max(0.0, sum(one**2 - single**2 for one in more)))
        found[side] = bound(limit, found["value"] + sign * wider * together)
    return found


def _half(estimate: Mapping[str, Any], side: str, limit: float) -> float:
    """Distance of one end of the interval; all that is possible where a single unit has none."""
    end = limit if estimate[side] is None else float(estimate[side])
    return abs(end - float(estimate["value"]))
