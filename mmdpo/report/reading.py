"""A run folder as the report needs it: read once, typed, with what is missing left empty rather than guessed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdpo.evals.comparing.conclusion import LEVEL
from mmdpo.evals.comparing.testing import CORRECTIONS
from mmdpo.jsonfiles import read_json, read_json_lines
from mmdpo.report.evaluated import Benchmark, Estimate, estimate_of, mapping_of, number, read_stage
from mmdpo.report.measures import Measure, in_words, measure
from mmdpo.run import RunFolder

COMPARISON = Path("comparison.json")


@dataclass(frozen=True)
class Difference:
    """A paired difference, after minus before.

    Args:
        value: The difference.
        low: Lower end of its 95% interval.
        high: Upper end.
        p: Two-sided p-value of no difference.
        detectable: The smallest true difference that the evaluation would show four times in five.
        p_adjusted: The p-value corrected for the number of comparisons, where it was.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    detectable: float | None = None
    p_adjusted: float | None = None

    @property
    def sign(self) -> int:
        """-1 or +1 where the whole interval lies on one side of zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


@dataclass(frozen=True)
class Change:
    """One metric before and after training; ``level`` is what a corrected p-value must stay below."""

    measure: Measure
    before: Estimate | None
    after: Estimate | None
    difference: Difference | None = None
    level: float = LEVEL

    @property
    def unconfirmed(self) -> bool:
        """The interval leaves out zero, but the p-value does not stand after the correction for many comparisons."""
        difference = self.difference
        if difference is None or difference.sign == 0 or difference.p_adjusted is None:
            return False
        return difference.p_adjusted >= self.level

    @property
    def fell_behind(self) -> bool:
        """The whole interval lies on the worse side of zero, whether or not that stands among many comparisons."""
        if self.difference is None or self.measure.better is None or self.undefined:
            return False
        return self.difference.sign == (-1 if self.measure.better == "higher" else 1)

    @property
    def undefined(self) -> bool:
        """One model gave the metric nothing to divide by, so that the value that stands there is none."""
        return any(estimate is not None and estimate.n == 0 for estimate in (self.before, self.after))

    @property
    def outcome(self) -> str:
        """What the difference shows.

        Returns:
            ``better``, ``worse``, ``moved`` (no better direction), ``unclear`` (zero is in the interval, or the change
            is `unconfirmed`) or ``none``.
        """
        if self.difference is None or self.difference.value is None or self.difference.low is None or self.undefined:
            return "none"
        sign = self.difference.sign
        if sign == 0 or self.unconfirmed:
            return "unclear"
        if self.measure.better is None:
            return "moved"
        return "better" if (sign > 0) == (self.measure.better == "higher") else "worse"


@dataclass(frozen=True)
class Correction:
    """How p-values were corrected for their number.

    Args:
        words: For running text, such as "Holm's correction".
        comparisons: How many were corrected together.
    """

    words: str
    comparisons: int


@dataclass(frozen=True)
class Run:
    """Everything a report says about one run.

    Args:
        training: Events of ``log.jsonl`` with a loss, by ascending step.
        validation: Events of ``log.jsonl`` with ``eval_`` keys, prefix removed, by ascending step.
        evaluations: Events of ``log.jsonl`` with ``eval/`` keys (benchmarks during training), prefix removed.
        habits: What answers are like, whatever they answer: their length, refusals.
        correction: Of the p-values; None where there is none.
        notices: What could not be read, in sentences.
    """

    path: Path
    name: str
    config: str
    manifest: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]]
    validation: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    before: Mapping[str, Benchmark]
    after: Mapping[str, Benchmark]
    changes: Sequence[Change]
    habits: Sequence[Change]
    correction: Correction | None
    story: Sequence[str]
    notices: Sequence[str]

    @property
    def media(self) -> set[str]:
        """Names of the lists of media that it was evaluated on."""
        stages = (self.before, self.after)
        return {plural for stage in stages for benchmark in stage.values() for plural in benchmark.media}


def read_run(path: Path) -> Run:
    """Reads a run folder.

    Raises:
        ConfigError: The folder holds no run.
        DataError: One of its files is broken.
    """
    manifest = RunFolder.open(path).manifest
    log = read_json_lines(path / "log.jsonl")
    before, after = read_stage(path / "base_eval"), read_stage(path / "eval")
    comparison = read_json(path / "comparison.json") if (path / "comparison.json").is_file() else None
    config = path / "config.yaml"
    notices = []
    if log.unreadable:
        notices.append(f"{log.unreadable} line(s) of log.jsonl could not be read and are not in the curves.")
    if comparison is None and before and after:
        notices.append("There is no comparison.json, so no paired differences are shown; mmdpo compare makes it.")
    notices += [
        f"{benchmark.unreadable} line(s) of {stage}/{name}/items.jsonl could not be read; their answers are not shown."
        for stage, found in (("base_eval", before), ("eval", after))
        for name, benchmark in found.items()
        if benchmark.unreadable
    ]
    told = comparison or {}
    story = told.get("story") or []
    level = number(mapping_of(told.get("correction") or {}, COMPARISON).get("level"))
    return Run(
        path=path,
        name=path.resolve().name,
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        manifest=manifest,
        training=_latest([event for event in log.rows if "loss" in event]),
        validation=_latest(_prefixed(log.rows, "eval_")),
        evaluations=_latest(_prefixed(log.rows, "eval/")),
        before=before,
        after=after,
        changes=_measured(before, after) if comparison is None else _changes(told.get("metrics"), level),
        habits=_habits(told, level, after),
        correction=_correction(told),
        story=[story] if isinstance(story, str) else [str(part) for part in story],
        notices=notices,
    )


def series(events: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one key, where both are finite numbers."""
    pairs = [(number(event.get("step")), number(event.get(key))) for event in events]
    known = [(step, value) for step, value in pairs if step is not None and value is not None]
    return [step for step, _ in known], [value for _, value in known]


def _prefixed(events: Sequence[Mapping[str, Any]], prefix: str) -> list[dict[str, Any]]:
    """Step and values of the events with keys that begin so, without that beginning."""
    return [
        {"step": event.get("step")}
        | {key.removeprefix(prefix): value for key, value in event.items() if key.startswith(prefix)}
        for event in events
        if any(key.startswith(prefix) for key in event)
    ]


def _latest(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Drops what a resume from an earlier checkpoint did again."""
    kept: list[Mapping[str, Any]] = []
    for event in events:
        step = number(event.get("step"))
        if step is None:
            continue
        while kept and (number(kept[-1].get("step")) or 0.0) >= step:
            kept.pop()
        kept.append(event)
    return kept


def _measured(before: Mapping[str, Benchmark], after: Mapping[str, Benchmark]) -> list[Change]:
    """The metrics of evaluations that nobody compared."""
    return [
        Change(
            measure(name if name.startswith(key) or "/" in name else f"{key}_{name}"),
            before[key].metrics.get(name) if key in before else None,
            estimate,
        )
        for key, benchmark in after.items()
        for name, estimate in benchmark.metrics.items()
    ]


def _changes(metrics: Any, level: float | None) -> list[Change]:
    changes = []
    for name, entry in mapping_of(metrics, COMPARISON).items():
        entry = mapping_of(entry, COMPARISON)
        difference = mapping_of(entry.get("difference") or {}, COMPARISON)
        changes.append(
            Change(
                measure(name, entry),
                estimate_of(entry["before"], COMPARISON) if entry.get("before") else None,
                estimate_of(entry["after"], COMPARISON) if entry.get("after") else None,
                _difference(difference) if difference else None,
                LEVEL if level is None else level,
            )
        )
    return changes


def _habits(comparison: Mapping[str, Any], level: float | None, benchmarks: Iterable[str]) -> list[Change]:
    """The habits of each benchmark's answers; whose they are stands before their name in words."""
    changes = []
    for change in _changes(comparison.get("habits") or {}, level):
        owners = [name for name in benchmarks if change.measure.name.startswith(f"{name}_")]
        label = f"{in_words(max(owners, key=len))}: {change.measure.label}" if owners else change.measure.label
        changes.append(replace(change, measure=replace(change.measure, label=label)))
    return changes


def _difference(entry: Mapping[str, Any]) -> Difference:
    value, low, high, detectable, p_adjusted = (
        number(entry.get(key)) for key in ("value", "low", "high", "detectable", "p_adjusted")
    )
    return Difference(value, low, high, number(entry.get("p", entry.get("p_value"))), detectable, p_adjusted)


def _correction(comparison: Mapping[str, Any]) -> Correction | None:
    told = mapping_of(comparison.get("correction") or {}, COMPARISON)
    method, comparisons = str(told.get("method", "none")), number(told.get("comparisons"))
    if method == "none" or comparisons is None:
        return None
    return Correction(CORRECTIONS.get(method, method), int(comparisons))
