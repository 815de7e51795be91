"""Numbers with their 95% interval over media groups, in the form of every JSON file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmdpo.evals.stats import Metric, Table, interval


class Sums(NamedTuple):
    """What one pair or caption adds to each sum, and the group (the image or clip) that it is resampled with."""

    group: str
    counts: Mapping[str, float]


def estimate(items: Sequence[Sums], metric: Metric) -> dict[str, Any]:
    """`{"value", "low", "high", "n"}` of a metric; None where the number does not exist."""
    return dict(_NOTHING) if not items else estimate_of_table(Table.of(items), metric)


def estimate_of_table(table: Table, metric: Metric) -> dict[str, Any]:
    """The same from sums over groups."""
    if not len(table.groups):
        return dict(_NOTHING)
    if not math.isfinite(float(metric.value(table.sums()))):
        return {"value": None, "low": None, "high": None, "n": round(float(metric.count(table.sums())))}
    result = interval(table, metric).to_json()
    return {key: value if value is not None and math.isfinite(value) else None for key, value in result.items()}


_NOTHING = {"value": None, "low": None, "high": None, "n": 0}
