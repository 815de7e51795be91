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
    if not items:
        return {"value": None, "low": None, "high": None, "n": 0}
    table = Table.of(items)
    if not math.isfinite(float(metric.value(table.sums()))):
        return {"value": None, "low": None, "high": None, "n": round(float(metric.count(table.sums())))}
    result = interval(table, metric).to_json()
    return {key: value if value is not None and math.isfinite(value) else None for key, value in result.items()}
