"""When training stops early, and which checkpoint is the best: rules over metrics of small evaluations. No model.

An evaluation is *better* if its metric is better than the best one so far, and than before training, by more than
``min_delta``, while no metric of ``keep`` is worse than before training by more than its tolerance. So a model that
hallucinates less because it says less is never called better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mmdpo.errors import ConfigError, DataError, did_you_mean
from mmdpo.evals.base import Benchmark, Interval, Item
from mmdpo.evals.stats import Better
from mmdpo.sections import StopSection

ROUNDING = 1e-12
"""Differences as small as this are none: 0.60 - 0.02 is not 0.58 in binary."""

Known = Mapping[str, Mapping[str, Better]]
"""Benchmark -> metric -> which direction is an improvement."""


class Which(NamedTuple):
    """A metric of a benchmark, by its own name there."""

    benchmark: str
    metric: str

    @property
    def name(self) -> str:
        """As it stands in ``comparison.json``."""
        return self.metric if self.metric.startswith(self.benchmark) else f"{self.benchmark}_{self.metric}"


Values = Mapping[Which, Interval]
"""What one evaluation found."""


@dataclass(frozen=True)
class StopRule:
    """The ``stop:`` section, its names resolved.

    Args:
        metric: What must become better.
        better: In which direction.
        keep: Metrics that must not become worse -> by how much they may, and which direction is better.
        patience: Evaluations without a better one after which training stops.
        min_delta: By how much better is better.
    """

    metric: Which
    better: Better
    keep: Mapping[Which, tuple[float, Better]]
    patience: int
    min_delta: float


@dataclass(frozen=True)
class Standing:
    """Where a run stands after an evaluation.

    Args:
        step: Of this evaluation.
        value: The metric at it; None where it is undefined.
        lost: What of ``keep`` it has lost, in words.
        before: The metric before training.
        best: The best one; before training where there is no better evaluation.
        best_step: Its step; 0 before training.
        waited: Evaluations since then.
    """

    step: int
    value: float | None
    lost: Sequence[str]
    before: float
    best: float
    best_step: int
    waited: int


def directions(benchmark: Benchmark, items: Sequence[Item]) -> dict[str, Better]:
    """The metrics of some judged answers, and in which direction each is better."""
    return {metric.name: metric.better for metric in benchmark.metrics({name for one in items for name in one.counts})}


def resolved(name: str, known: Known, at_home: str = "") -> Which:
    """The metric that a name means: ``BENCH/METRIC``, as in ``comparison.json``, or its own name in one benchmark.

    Args:
        name: The name.
        known: All metrics.
        at_home: Benchmark whose own names come before those of the others.

    Raises:
        ConfigError: There is none, or there are several.
    """
    every = [Which(benchmark, metric) for benchmark, metrics in known.items() for metric in metrics]
    found = [which for which in every if name in (f"{which.benchmark}/{which.metric}", which.name)]
    found = found or [which for which in every if which == (at_home, name)]
    found = found or [which for which in every if which.metric == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{name!r} is a metric of {' and of '.join(which.benchmark for which in found)}",
            why="It is not known which one is meant.",
            fix=f"Write {' or '.join(f'{which.benchmark}/{which.metric}' for which in found)}.",
        )
    spelled = {spelling for which in every for spelling in (which.name, which.metric)}
    raise ConfigError(
        f"{name!r} is no metric of {' or '.join(known)}",
        why=did_you_mean(name, spelled),
        fix="Name a metric as mmdpo compare prints it.",
    )


def stop_rule(section: StopSection, known: Known) -> StopRule:
    """The ``stop:`` section over some metrics.

    Raises:
        ConfigError: A name is unknown.
    """
    metric = resolved(section.metric, known)
    kept = {resolved(name, known, metric.benchmark): tolerance for name, tolerance in section.keep.items()}
    return StopRule(
        metric,
        known[metric.benchmark][metric.metric],
        {which: (tolerance, known[which.benchmark][which.metric]) for which, tolerance in kept.items()},
        section.patience,
        section.min_delta,
    )


def standing(rule: StopRule, evaluations: Mapping[int, Values]) -> Standing:
    """Where a run stands.

    Args:
        rule: The rule.
        evaluations: Step -> what was found; those of the rule's benchmark, step 0 among them.

    Raises:
        DataError: A metric of the rule is undefined before training.
    """
    before = {which: _defined(which, evaluations[0]) for which in (rule.metric, *rule.keep)}
    first = before[rule.metric]
    found = Standing(0, first, (), before=first, best=first, best_step=0, waited=0)
    for step in sorted(set(evaluations) - {0}):
        measured = evaluations[step][rule.metric]
        value = measured.value if measured.n else None
        lost = list(_lost(rule, before, evaluations[step]))
        improved = value is not None and _gain(found.best, value, rule.better) > rule.min_delta + ROUNDING
        best, best_step, waited = found.best, found.best_step, found.waited + 1
        if improved and not lost and value is not None:
            best, best_step, waited = value, step, 0
        found = Standing(step, value, lost, first, best, best_step, waited)
    return found


def _defined(which: Which, values: Values) -> float:
    if values[which].n == 0:
        raise DataError(
            f"{which.name} is undefined before training: the model's answers give it nothing to divide by",
            why="There is nothing that an evaluation could be better than.",
            fix="Choose another metric, or let the evaluations while training be larger (every_limit).",
        )
    return values[which].value


def _gain(before: float, after: float, better: Better) -> float:
    """By how much a value is better than another; of a metric that is neither, by how much it is nearer."""
    if better == "neither":
        return -abs(after - before)
    return after - before if better == "higher" else before - after


def _lost(rule: StopRule, before: Mapping[Which, float], values: Values) -> Iterator[str]:
    """Metrics of ``keep`` that are worse than before training by more than their tolerance."""
    for which, (tolerance, better) in rule.keep.items():
        measured, first = values[which], before[which]
        if measured.n == 0:
            yield f"{which.name} is undefined"
        elif -_gain(first, measured.value, better) > tolerance + ROUNDING:
            yield f"{which.name} is {measured.value:.4f}, more than {tolerance:g} from {first:.4f} before training"


def told(rule: StopRule, now: Standing) -> str:
    """Where a run stands, in words."""
    name = rule.metric.name
    if now.best_step:
        best = f"the best is {now.best:.4f} at step {now.best_step}"
    else:
        best = "no evaluation was better than that" if now.step else "nothing is trained yet"
    newest = f", {'undefined' if now.value is None else f'{now.value:.4f}'} at step {now.step}" if now.step else ""
    lost = f"; step {now.step} does not count, because {' and '.join(now.lost)}" if now.lost else ""
    return f"{name} was {now.before:.4f} before training{newest}; {best}{lost}"
