"""Two models' captions where both cover as much: who hallucinates less, and not merely says less? See `coverage`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Item, Result
from mmdpo.evals.comparing.paired import paired_difference
from mmdpo.evals.coverage import Kind, Target, depth_counts, fixed_metrics
from mmdpo.evals.runner import verdict
from mmdpo.evals.stats import Table, interval

SHARE = 0.95
"""By default both are read to this share of what the one that covers less covers: a level that it reaches on any draw
of images, not on these alone."""


def compare_at_equal_coverage(
    before: Result,
    after: Result,
    kind: Kind = "recall",
    level: float | None = None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Paired differences of CHAIR's rates where both models' captions cover as much.

    Args:
        before: The first model's result, of `chair` or `audio_captions`.
        after: The second model's, on the same images, by the same rule.
        kind: What is held equal: ``recall``, or ``objects``, the mentions per caption.
        level: The coverage; by default `SHARE` of the lower of the two models' own.
        seed: Of the p-values' random swaps.

    Returns:
        ``kind``, ``level``, and ``metrics``: name -> ``before`` and ``after`` with intervals, ``difference`` with its
        interval, p-value and ``verdict``, and ``better``, as `mmdpo.evals.runner.compare` has them.

    Raises:
        ConfigError: The level cannot be a coverage.
        DataError: The results are not of captions by one rule, share fewer than two images, or do not cover as much.
    """
    first, second = _shared(before, after)
    reached = min(_coverage(kind, items) for items in (first, second))
    target = Target.read(kind, SHARE * reached if level is None else level)
    if reached < target.level:
        raise DataError(
            f"one of the models has a coverage ({kind}) of {reached:.3f} only, below {target.level:g}",
            why="Captions can be read less far, but not further than they go.",
            fix=f"Take a level up to {reached:.3f}.",
        )
    metrics = {}
    for metric in fixed_metrics(target):
        gap = paired_difference(first, second, metric, seed=seed)
        metrics[metric.name] = {
            "before": interval(Table.of(first), metric).to_json(),
            "after": interval(Table.of(second), metric).to_json(),
            "difference": {**gap.to_json(), "verdict": verdict(metric, gap)},
            "better": metric.better,
            **metric.told,
        }
    return {"kind": kind, "level": target.level, "metrics": metrics}


def _shared(before: Result, after: Result) -> tuple[list[Item], list[Item]]:
    """The items of the captions that both gave, with the sums of every reading depth."""
    if (before.benchmark, before.rule) != (after.benchmark, after.rule):
        raise DataError(
            f"{before.benchmark} by {before.rule!r} cannot be compared with {after.benchmark} by {after.rule!r}",
            why="Two rules find different objects in the same caption.",
            fix="Score both models' captions by the same rule with mmdpo score.",
        )
    twins = {item.id: item for item in after.items}
    pairs = [(item, twins[item.id]) for item in before.items if item.id in twins]
    lists = all(isinstance(item.label, list) and "captions" in item.counts for pair in pairs for item in pair)
    if not lists or any(item.label != twin.label for item, twin in pairs) or len({item.group for item, _ in pairs}) < 2:
        raise DataError(
            f"the two results of {before.benchmark} share {len(pairs)} captions that cannot be compared",
            why="Coverage is held equal over captions of the same images, two or more, with the same objects in them.",
            fix="Score both models with chair or audio_captions on the same data.",
        )
    return [_with_depths(item) for item, _ in pairs], [_with_depths(twin) for _, twin in pairs]


def _with_depths(item: Item) -> Item:
    return replace(item, counts={**item.counts, **depth_counts(item.parsed or [], item.label)})


def _coverage(kind: Kind, items: list[Item]) -> float:
    sums: Mapping[str, Any] = Table.of(items).sums()
    part, whole = (sums["found"], sums["present"]) if kind == "recall" else (sums["mentions"], sums["captions"])
    return float(part / whole) if whole else 0.0
