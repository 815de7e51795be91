"""The ways into the evals: make a benchmark, score existing answers, compare two results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError, DataError, did_you_mean
from mmdpo.evals.base import Benchmark, Item, Metric, Result
from mmdpo.evals.comparing.paired import Difference, paired_difference
from mmdpo.evals.shared.lmms_logs import read_answers
from mmdpo.evals.stats import Counted, Interval
from mmdpo.registry import benchmarks

UNDEFINED = "undefined"
"""How the verdict begins where a model gives a metric nothing to divide by: the 0 that stands for it is no value."""


def make_benchmark(name: str, **options: Any) -> Benchmark:
    """A registered benchmark with its options.

    Raises:
        ConfigError: The name or an option is unknown, or an option has a value that it cannot have.
    """
    kind = benchmarks.get(name)
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"unknown option {option!r} of the benchmark {name!r}",
                why=did_you_mean(option, known),
                fix=f"{name} takes: {', '.join(known) or 'no options'}.",
            )
    benchmark: Benchmark = kind(**options)
    return benchmark


def score(benchmark: str, data: str | Path, answers: str | Path, **options: Any) -> Result:
    """Scores existing answers without a model.

    Args:
        benchmark: Registered name.
        data: The questions or annotations in the official form.
        answers: The answers in the official form, or a sample log of lmms-eval.
        options: The benchmark's own, such as ``parser`` or ``lineage``.

    Raises:
        ConfigError: As for `make_benchmark`.
        DataError: A file is not of its form, or the answers do not belong to the data.
    """
    made = make_benchmark(benchmark, **options)
    return made.score(made.samples(Path(data)), read_answers(made, Path(answers)))


def compare(before: Result, after: Result, *, level: float = 0.95, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Paired differences of two models on the answers that both gave.

    Args:
        before: The first model's result.
        after: The second model's, scored by the same rule.
        level: Coverage of the intervals.
        seed: Of the p-values' random swaps.

    Returns:
        Metric -> ``before`` and ``after`` (value, low, high, n as scored), ``difference`` (value, low, high, n, p,
        test, detectable, verdict), ``better`` (which direction is an improvement), and the metric's own words for a
        report.

    Raises:
        DataError: The results are of different benchmarks, rules or labels, or share fewer than two groups.
    """
    if (before.benchmark, before.rule) != (after.benchmark, after.rule):
        raise DataError(
            f"{before.benchmark} by {before.rule!r} cannot be compared with {after.benchmark} by {after.rule!r}",
            why="Two rules read the same answer differently.",
            fix="Score both models' answers by the same rule with mmdpo score.",
        )
    first, second = shared_items(before, after)
    columns = {column for item in first for column in item.counts}
    return {
        metric.name: compared(
            metric, first, second, before.metrics[metric.name], after.metrics[metric.name], level=level, seed=seed
        )
        for metric in make_benchmark(before.benchmark).metrics(columns)
    }


def compared(
    metric: Metric,
    first: Sequence[Counted],
    second: Sequence[Counted],
    before: Interval,
    after: Interval,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """One metric of two models: the entry of `compare`.

    Args:
        metric: What to compare.
        first: Items of the first model.
        second: Items of the second model, on the same images.
        before: The first model's value, as scored.
        after: The second model's.
        level: Coverage of the interval.
        seed: Of the p-value's random swaps.
    """
    gap = paired_difference(first, second, metric, level=level, seed=seed)
    both = {"A": before, "B": after}
    without = " and ".join(name for name, measured in both.items() if measured.n == 0)
    return {
        "before": before.to_json(),
        "after": after.to_json(),
        "difference": {**gap.to_json(), "verdict": f"{UNDEFINED} for {without}" if without else verdict(metric, gap)},
        "better": metric.better,
        **metric.told,
    }


def verdict(metric: Metric, gap: Difference) -> str:
    """What a difference means, in words: only an interval without 0 is called a difference."""
    if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
        return f"no difference shown (one of {gap.detectable:.3f} would be, four times in five)"
    rises = gap.value > 0
    if metric.better == "neither":
        return "higher" if rises else "lower"
    return "better" if rises == (metric.better == "higher") else "worse"


def shared_items(before: Result, after: Result) -> tuple[list[Item], list[Item]]:
    """The items of two results that are of the same answers, in one order.

    Raises:
        DataError: They have different labels or groups, or are of fewer than two groups.
    """
    by_id = {item.id: item for item in after.items}
    pairs = [(item, by_id[item.id]) for item in before.items if item.id in by_id]
    other = next((item.id for item, twin in pairs if item.label != twin.label or item.group != twin.group), None)
    if other is not None:
        raise DataError(
            f"the two results have different labels or media for {other!r}",
            why="They were scored on different data.",
            fix="Score both models' answers on the same data.",
        )
    if len({item.group for item, _ in pairs}) < 2:
        raise DataError(
            f"the two results share {len(pairs)} answers on fewer than two images or clips",
            why="A paired difference needs the same questions on several of them.",
            fix="Score both models on the same data.",
        )
    return [item for item, _ in pairs], [twin for _, twin in pairs]
