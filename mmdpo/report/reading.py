"""A run folder as the report needs it: read once, typed, with what is missing left empty rather than guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.jsonfiles import read_json, read_json_lines
from mmdpo.report.measures import Measure, measure
from mmdpo.run import RunFolder

_ID_KEYS = ("question_id", "id", "image_id", "entry_id")


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval and the number of items behind it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Difference:
    """A paired difference, after minus before.

    Args:
        value: The difference.
        low: Lower end of its 95% interval.
        high: Upper end.
        p: Two-sided p-value of no difference.
        detectable: The smallest true difference that the evaluation would show four times in five.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    detectable: float | None = None

    @property
    def sign(self) -> int:
        """-1 or +1 where the whole interval lies on one side of zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


@dataclass(frozen=True)
class Change:
    """One metric before and after training."""

    measure: Measure
    before: Estimate | None
    after: Estimate | None
    difference: Difference | None = None

    @property
    def outcome(self) -> str:
        """``better``, ``worse``, ``unclear`` (zero is in the interval), ``moved`` (no better direction) or ``none``."""
        if self.difference is None or self.difference.value is None or self.difference.low is None:
            return "none"
        sign = self.difference.sign
        if sign == 0:
            return "unclear"
        if self.measure.better is None:
            return "moved"
        return "better" if (sign > 0) == (self.measure.better == "higher") else "worse"


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark gave for one model; ``media`` are the names of the lists that its items are of."""

    name: str
    rule: str
    media: Sequence[str]
    n: int | None
    unparsed: int
    flags: Sequence[str]
    metrics: Mapping[str, Estimate]
    items: Sequence[Mapping[str, Any]]
    folder: Path


@dataclass(frozen=True)
class Run:
    """Everything a report says about one run.

    Args:
        training: Events of ``log.jsonl`` with a loss, by ascending step.
        validation: Events of ``log.jsonl`` with ``eval_`` keys, prefix removed, by ascending step.
        notices: What could not be read, in sentences.
    """

    path: Path
    name: str
    config: str
    manifest: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]]
    validation: Sequence[Mapping[str, Any]]
    before: Mapping[str, Benchmark]
    after: Mapping[str, Benchmark]
    changes: Sequence[Change]
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
    before, after = _read_stage(path / "base_eval"), _read_stage(path / "eval")
    comparison = read_json(path / "comparison.json") if (path / "comparison.json").is_file() else None
    config = path / "config.yaml"
    notices = []
    if log.unreadable:
        notices.append(f"{log.unreadable} line(s) of log.jsonl could not be read and are not in the curves.")
    if comparison is None and before and after:
        notices.append("There is no comparison.json, so no paired differences are shown; mmdpo compare makes it.")
    story = (comparison or {}).get("story") or []
    return Run(
        path=path,
        name=path.resolve().name,
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        manifest=manifest,
        training=_latest([event for event in log.rows if "loss" in event]),
        validation=_latest([_without_prefix(event) for event in log.rows if _is_validation(event)]),
        before=before,
        after=after,
        changes=_changes(comparison, before, after),
        story=[story] if isinstance(story, str) else [str(part) for part in story],
        notices=notices,
    )


def number(value: Any) -> float | None:
    """A number from JSON; None for nothing, NaN and infinities (written as strings) and what is no number."""
    if value is None or isinstance(value, bool):
        return None
    try:
        read = float(value)
    except (TypeError, ValueError):
        return None
    return read if math.isfinite(read) else None


def series(events: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one key, where both are finite numbers."""
    pairs = [(number(event.get("step")), number(event.get(key))) for event in events]
    known = [(step, value) for step, value in pairs if step is not None and value is not None]
    return [step for step, _ in known], [value for _, value in known]


def _is_validation(event: Mapping[str, Any]) -> bool:
    return any(key.startswith("eval_") for key in event)


def _without_prefix(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("eval_"): value for key, value in event.items()}


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


def _read_stage(folder: Path) -> dict[str, Benchmark]:
    if not folder.is_dir():
        return {}
    return {
        entry.name: _read_benchmark(entry) for entry in sorted(folder.iterdir()) if (entry / "metrics.json").is_file()
    }


def _read_benchmark(folder: Path) -> Benchmark:
    written, items = read_json(folder / "metrics.json"), read_items(folder)
    return Benchmark(
        name=str(written.get("benchmark", folder.name)),
        rule=str(written.get("rule", "")),
        media=sorted({plural for item in items for plural in item["media"]}),
        n=_count(written.get("n")),
        unparsed=_count(written.get("unparsed")) or 0,
        flags=[str(flag) for flag in written.get("flags") or ()],
        metrics={
            name: _estimate(value, folder / "metrics.json")
            for name, value in _mapping(written.get("metrics"), folder / "metrics.json").items()
        },
        items=items,
        folder=folder,
    )


def read_items(folder: Path) -> list[dict[str, Any]]:
    """The judged items of a benchmark, each with its details, its prompt and its media on one level.

    What was asked and shown stands in ``answers.jsonl``, the folder of the media in ``generation.json``; both may be
    absent where existing answers were scored. Then ``image`` counts, where an item has it.

    Returns:
        Items with ``media`` (paths by the name of their list) and ``media_root`` beside what was written.
    """
    asked = {}
    for row in read_json_lines(folder / "answers.jsonl").rows:
        key = next((row[name] for name in _ID_KEYS if row.get(name) is not None), None)
        asked[str(key)] = row
    generation = read_json(folder / "generation.json") if (folder / "generation.json").is_file() else {}
    items = []
    for item in read_json_lines(folder / "items.jsonl").rows:
        details = item.get("details")
        question = asked.get(str(item.get("id")), {})
        read = {"prompt": question.get("prompt"), **(details if isinstance(details, Mapping) else {}), **item}
        own = {"images": [read["image"]]} if read.get("image") else {}
        media = {plural: paths for plural, paths in (question.get("media") or own).items() if paths}
        items.append({**read, "media": media, "media_root": generation.get("media_root")})
    return items


def _changes(
    comparison: Mapping[str, Any] | None, before: Mapping[str, Benchmark], after: Mapping[str, Benchmark]
) -> list[Change]:
    if comparison is None:
        return [
            Change(
                measure(name if name.startswith(key) or "/" in name else f"{key}_{name}"),
                before[key].metrics.get(name) if key in before else None,
                estimate,
            )
            for key, benchmark in after.items()
            for name, estimate in benchmark.metrics.items()
        ]
    source = Path("comparison.json")
    changes = []
    for name, entry in _mapping(comparison.get("metrics"), source).items():
        entry = _mapping(entry, source)
        difference = _mapping(entry.get("difference") or {}, source)
        changes.append(
            Change(
                measure(name, entry),
                _estimate(entry["before"], source) if entry.get("before") else None,
                _estimate(entry["after"], source) if entry.get("after") else None,
                _difference(difference) if difference else None,
            )
        )
    return changes


def _difference(entry: Mapping[str, Any]) -> Difference:
    value, low, high, detectable = (number(entry.get(key)) for key in ("value", "low", "high", "detectable"))
    return Difference(value, low, high, number(entry.get("p", entry.get("p_value"))), detectable)


def _estimate(value: Any, source: Path) -> Estimate:
    entry = _mapping(value, source)
    low, high = number(entry.get("low")), number(entry.get("high"))
    return Estimate(number(entry.get("value")), low, high, _count(entry.get("n")))


def _count(value: Any) -> int | None:
    read = number(value)
    return None if read is None else int(read)


def _mapping(value: Any, source: Path) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise DataError(
        f"{str(source)!r} holds {value!r} where an object of named values belongs",
        why="Its numbers cannot be told apart.",
        fix="Make the file again with mmdpo eval or mmdpo compare.",
    )
