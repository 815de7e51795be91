"""Raters who disagree with everybody else, from the single ratings that the builder `ratings` keeps in `meta`."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np

from data_builders.intervals import Sums, estimate
from data_builders.quality.findings import finding, listed
from data_builders.quality.sample import Sample, plain, unit_of
from mmdpo.evals.stats import Metric, divide
from mmdpo.evals.stats import Sums as TotalsOf

MOST = 200
"""Raters that are looked at: those with most ratings."""
FEWEST = 10
"""Captions that a rater must share with others."""
_NOBODY = re.compile(r" of row \d+$")
"""The builder's name for a rating whose rater the table does not name: a place, no person."""


def disagreeing_raters(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Of every named rater the correlation with the mean of the others, over the answers that several people rated.

    Flagged are raters whose whole interval lies below 0, or below half the median of all raters. Answers that are in
    no record are not seen, so all correlations are higher than over all ratings; between raters they compare.
    """
    given = _ratings(sample)
    if not given:
        rated = any(len(values) > 1 for record in sample.records for values in _lists(record.meta.get("ratings")))
        message = "No rater is named, so nobody can be compared with the others."
        return None, [finding("disagreeing_raters", None, message)] if rated else []
    shared: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    for group, ratings in given:
        total = sum(value for _, value in ratings)
        for rater, value in ratings:
            shared[rater].append((group, value, (total - value) / (len(ratings) - 1)))
    raters = sorted(shared, key=lambda rater: (-len(shared[rater]), rater))[:MOST]
    rows = [_row(rater, shared[rater]) for rater in raters if len(shared[rater]) >= FEWEST]
    known = [row for row in rows if row["correlation"]["value"] is not None]
    if len(known) < 2:
        message = f"Fewer than two raters share {FEWEST} answers with others."
        return None, [finding("disagreeing_raters", None, message)]
    median = float(np.median([row["correlation"]["value"] for row in known]))
    for row in rows:
        high = row["correlation"]["high"]
        row["flagged"] = high is not None and high < max(0.0, median / 2)
    flagged = [row["rater"] for row in rows if row["flagged"]]
    strict, mild = (pick(known, key=lambda row: row["shift"]) for pick in (min, max))
    message = (
        f"{len(known)} raters are compared with the mean of the others; the median correlation is {median:.2f}. "
        + (
            f"{listed(flagged)} disagree{'s' if len(flagged) == 1 else ''} with everybody else. "
            if flagged
            else "Nobody stands against all others. "
        )
        + f"Lowest ratings: {strict['rater']} ({strict['shift']:+.2f} against the others); highest: {mild['rater']} "
        f"({mild['shift']:+.2f})."
    )
    numbers = {"median": median, "n": len(rows), "flagged": flagged, "by_rater": rows}
    return numbers, [finding("disagreeing_raters", len(flagged) / len(known), message, n=len(known))]


def _ratings(sample: Sample) -> list[tuple[str, list[tuple[str, float]]]]:
    """Of every distinct answer that several named people rated: its media group, and who gave what."""
    found: dict[tuple[str, str], tuple[str, list[tuple[str, float]]]] = {}
    for group, record in zip(sample.groups, sample.records, strict=True):
        ratings, raters = record.meta.get("ratings"), record.meta.get("raters")
        if not isinstance(ratings, list) or not isinstance(raters, list):
            continue
        if not len(ratings) == len(raters) == len(record.candidates):
            continue
        unit = unit_of(record)
        for candidate, values, names in zip(record.candidates, ratings, raters, strict=True):
            named = [
                (str(name), float(value))
                for name, value in zip(names, values, strict=False)
                if not _NOBODY.search(str(name))
            ]
            if len(named) > 1:
                found.setdefault((unit, plain(candidate.text)), (group, named))
    return list(found.values())


def _row(rater: str, shared: list[tuple[str, float, float]]) -> dict[str, Any]:
    items = [Sums(group, {"n": 1, "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}) for group, x, y in shared]
    shift = float(np.mean([x - y for _, x, y in shared]))
    return {"rater": rater, "correlation": estimate(items, _CORRELATION), "shift": shift, "n": len(shared)}


def _pearson(sums: TotalsOf) -> np.ndarray:
    n = sums["n"]
    spread = (n * sums["xx"] - sums["x"] ** 2) * (n * sums["yy"] - sums["y"] ** 2)
    return divide(n * sums["xy"] - sums["x"] * sums["y"], np.sqrt(np.where(spread > 1e-9, spread, 0.0)))


_CORRELATION = Metric("correlation", _pearson, lambda sums: sums["n"], bounds=(-1.0, 1.0))


def _lists(value: Any) -> list[list[Any]]:
    return [part for part in value if isinstance(part, list)] if isinstance(value, list) else []
