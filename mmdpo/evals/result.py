"""The plain records of an evaluation: what is asked, what was said, how it was judged, what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.shared.files import read_json, read_rows
from mmdpo.evals.stats import Interval
from mmdpo.jsonfiles import write_json
from mmdpo.records import Record

METRICS_FILE = "metrics.json"
"""Written last: a folder without it holds an interrupted evaluation."""


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        id: Unique in its benchmark.
        prompt: What the model is asked.
        media: Modality -> paths.
        target: What a right answer is measured against.
        group: The resampling unit, normally the image.
        meta: Anything else that the benchmark needs to judge the answer.
        record: The question as a record, where a prompt and files do not say all of it. A candidate in it is scored
            in place of an answer.
    """

    id: str
    prompt: str
    media: Mapping[str, Sequence[str]]
    target: Any
    group: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    record: Record | None = None


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        sample_id: The sample it answers; None where the file gives only an order.
        text: The raw answer.
        question: The question as the answer file repeats it, if it does.
    """

    sample_id: str | None
    text: str
    question: str | None = None


@dataclass(frozen=True)
class Item:
    """One judged answer, for audit and for statistics.

    Attributes:
        id: Unique among the items; the sample's id, with ``#2`` and so on for further answers to the same sample.
        group: The resampling unit.
        raw: The answer as the model gave it.
        parsed: What the rule read in it; None if nothing.
        label: What it was measured against.
        correct: Whether it was right, where right and wrong exist.
        counts: What it adds to each sum.
        details: Anything else worth auditing; ``prompt`` and ``image`` where there are any.
    """

    id: str
    group: str
    raw: str
    parsed: Any
    label: Any
    correct: bool | None
    counts: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One flat object: the details stand beside the rest, and ``correct`` only where right and wrong exist."""
        fields = {name: value for name, value in vars(self).items() if name != "details"}
        if self.correct is None:
            del fields["correct"]
        return {**fields, **self.details}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Item:
        """Reads what `to_json` made."""
        own = {"id", "group", "raw", "parsed", "label", "correct", "counts"}
        named = {"correct": None} | {key: value for key, value in row.items() if key in own}
        return cls(**named, details={key: value for key, value in row.items() if key not in own})


@dataclass(frozen=True)
class Result:
    """Metrics with intervals, and the items they were computed from.

    Attributes:
        benchmark: Registered name.
        rule: Exactly which rule was used.
        n: Answers scored.
        unparsed: Answers in which the rule found nothing.
        flags: What the reader must know: missing answers, undefined metrics and so on.
        metrics: Name -> interval.
        items: The audit records.
        habits: How a model answered, whatever it was asked (`shared.habits`): name -> interval; empty where no
            model answered here.
    """

    benchmark: str
    rule: str
    n: int
    unparsed: int
    flags: Sequence[str]
    metrics: Mapping[str, Interval]
    items: Sequence[Item]
    habits: Mapping[str, Interval] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything but the items, in the form that ``mmdpo score`` prints."""
        return {
            "benchmark": self.benchmark,
            "rule": self.rule,
            "n": self.n,
            "unparsed": self.unparsed,
            "flags": list(self.flags),
            "metrics": {name: _told(value) for name, value in self.metrics.items()},
        }

    def summary(self) -> dict[str, Any]:
        """What ``metrics.json`` holds: what `to_json` gives and, where there are any, the habits."""
        habits = {name: _told(value) for name, value in self.habits.items()}
        return self.to_json() | ({"habits": habits} if habits else {})

    def save(self, folder: Path) -> None:
        """Writes ``items.jsonl`` and then ``metrics.json``, each whole or not at all; makes the folder if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        self.save_items(folder / "items.jsonl")
        write_json(folder / METRICS_FILE, self.summary())

    def save_items(self, path: Path) -> None:
        """Writes the items as JSON lines, all or nothing; pure ASCII, for answers may hold half a surrogate pair."""
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(json.dumps(item.to_json()) + "\n" for item in self.items), encoding="ascii")
        temporary.replace(path)

    @classmethod
    def load(cls, folder: Path) -> Result:
        """Reads what `save` wrote.

        Raises:
            DataError: The folder holds no result.
        """
        summary = read_json(folder / METRICS_FILE)
        rows = read_rows(folder / "items.jsonl")
        try:
            metrics, habits = (
                {name: Interval(**value) for name, value in named.items()}
                for named in (summary.pop("metrics"), summary.pop("habits", {}))
            )
            return cls(**summary, metrics=metrics, items=[Item.from_json(row) for row in rows], habits=habits)
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{str(folder)!r} holds no result of this version: {error}",
                why="Its metrics.json or items.jsonl has other fields than expected.",
                fix="Score the answers again.",
            ) from error


def _told(value: Interval) -> dict[str, Any]:
    """The four numbers, and a word where they are not fractions."""
    return value.to_json() | ({} if value.percent else {"percent": False})
