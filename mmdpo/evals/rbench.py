"""R-Bench: yes/no questions about relations between objects ("Is the dog on the sofa?").

Paper: Wu et al., "Evaluating and Analyzing Relationship Hallucinations in Large Vision-Language Models", ICML 2024
    (arXiv:2406.16449).
Official code: github.com/mrwu-mac/R-Bench (eval.py), Apache-2.0; the data on images of nocaps are on Google Drive.
Official rule: the parser of POPE's own script; a label that contains "no" is no, any other yes. Precision, recall and
    f1 have 0.00001 added to their denominators. Every number is the mean over five random subsets of the questions,
    whose ids are in files of their own (``subsets``); the paper's "Image (All)" is over all questions. The questions
    on images from the web have a ``type`` (counterfactual, illusion) and one accuracy for each.
Known quirks: as for POPE; besides, the label "unknown" counts as no, and a model that is right everywhere has an f1
    below 1. Questions without an answer are passed over; of two answers to one question the last counts there, the
    first here.
Data: JSON ``[{question_id, image, text, label}]``, or JSON lines.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.errors import ConfigError, DataError, did_you_mean
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Sample
from mmdpo.evals.files import read_json, read_rows
from mmdpo.evals.pope import PARSERS
from mmdpo.evals.stats import Array, Sums, divide, ratio
from mmdpo.registry import benchmarks

SUBSETS = 5
_ADDED = 0.00001
_NAMES = ("accuracy", "precision", "recall", "f1", "yes_ratio")


@benchmarks.register("rbench")
@dataclass(frozen=True)
class RBench(Benchmark):
    """Yes/no questions about relations.

    Args:
        parser: How an answer is read, a name in `mmdpo.evals.pope.PARSERS`.
        subsets: Path of the files of ids with ``holder`` where the number 1 to 5 stands, as the official script takes
            it (``image-level_ids_holder.json``); None gives the numbers over all questions.
    """

    parser: str = "official"
    subsets: str | Path | None = None
    name = "rbench"
    yes_no = True
    text_keys = ("text", "answer")

    def __post_init__(self) -> None:
        if self.parser not in PARSERS:
            raise ConfigError(
                f"unknown parser {self.parser!r} for rbench",
                why=did_you_mean(self.parser, PARSERS),
                fix="The default, official, is the rule of the authors' own script.",
            )
        if self.subsets is not None and "holder" not in str(self.subsets):
            raise ConfigError(
                f"subsets {str(self.subsets)!r} has no 'holder' in it",
                why=f"The number of each of the {SUBSETS} files of ids takes its place.",
                fix="Write, for instance, --subsets data/image-level_ids_holder.json",
            )

    @property
    def rule(self) -> str:
        """The parser, and what the numbers are over."""
        return f"{self.parser}; {'all questions' if self.subsets is None else f'mean of {SUBSETS} subsets'}"

    def samples(self, data: Path) -> list[Sample]:
        """The questions of a file."""
        member = self._membership()
        return [self._sample(row, number, member, str(data)) for number, row in enumerate(read_rows(data), 1)]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Reads yes or no and compares it with the label."""
        label = sample.target == "yes"
        said = PARSERS[self.parser](answer.text, label)
        counts = {
            "questions": 1.0,
            "correct": float(said is label),
            "yes": float(said is True),
            "true_yes": float(label and said is True),
            "false_yes": float(not label and said is True),
            "false_no": float(label and said is False),
        }
        kind = sample.meta["kind"]
        # A question whose id stands twice in a subset counts twice, as in the official script.
        named = {
            f"{part}/{column}": times * amount
            for part, times in sample.meta["parts"].items()
            for column, amount in counts.items()
        }
        if kind is not None:
            named |= {f"type/{kind}/questions": 1.0, f"type/{kind}/correct": counts["correct"]}
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed={True: "yes", False: "no", None: None}[said],
            label=sample.target,
            correct=said is label,
            counts=named,
            details={"prompt": sample.prompt, "image": sample.media["images"][0]},
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """The five numbers, each the mean over the subsets where there are any; accuracy for each type of question."""
        parts = sorted(column.removesuffix("/questions") for column in columns if column.endswith("/questions"))
        kinds = [part for part in parts if part.startswith("type/")]
        means = [part for part in parts if part not in kinds]
        return [
            *(_mean(name, means) for name in _NAMES if means),
            *(ratio(f"accuracy/{kind[5:]}", f"{kind}/correct", f"{kind}/questions") for kind in kinds),
        ]

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts answers that no subset holds, and names what a subset without questions does."""
        outside = sum(not item.counts for item in items)
        answered = {column.split("/")[0] for item in items for column in item.counts if column[0] == "s"}
        notes = [f"outside_subsets: {outside} answers are in no subset; they enter no metric"] if outside else []
        if self.subsets is not None and len(answered) < SUBSETS:
            notes.append(
                f"subsets_without_answers: only {len(answered)} of {SUBSETS} subsets have answers; the means are over "
                "those; the official script divides by zero here"
            )
        return notes

    def _membership(self) -> Mapping[str, Mapping[str, int]] | None:
        """Question id -> names of its subsets and how often it stands there; None where there are none."""
        if self.subsets is None:
            return None
        member: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for number in range(1, SUBSETS + 1):
            path = Path(str(self.subsets).replace("holder", str(number)))
            ids = read_json(path)
            if not isinstance(ids, list) or not ids:
                raise DataError(
                    f"{str(path)!r} is no list of question ids",
                    why="It says which questions are in the subset.",
                    fix="Use the official files, such as image-level_ids_1.json.",
                )
            for question_id in ids:
                member[str(question_id)][f"subset{number}"] += 1
        return member

    def _sample(self, row: Any, number: int, member: Mapping[str, Mapping[str, int]] | None, origin: str) -> Sample:
        texts = [row.get(name) for name in ("text", "image", "label")]
        if "question_id" not in row or not all(isinstance(text, str) and text for text in texts):
            raise DataError(
                f"question {number} of {origin} lacks question_id, text, image or label: {str(row)[:200]}",
                why="It can be neither asked nor scored.",
                fix='A question looks like {"question_id": 1, "image": "a.jpg", "text": "...", "label": "yes"}.',
            )
        text, image, label = (str(value) for value in texts)
        question_id = str(row["question_id"])
        parts: Mapping[str, int] = {"all": 1} if member is None else member.get(question_id, {})
        target = "no" if "no" in label.lower() else "yes"
        return Sample(question_id, text, {"images": [image]}, target, image, {"parts": parts, "kind": row.get("type")})


def _mean(name: str, parts: Sequence[str]) -> Metric:
    def value(sums: Sums) -> Array:
        return np.asarray(sum(_value(name, part, sums) for part in parts) / len(parts))

    def count(sums: Sums) -> Array:
        return np.asarray(sum(sums[f"{part}/questions"] for part in parts))

    return Metric(name, value, count, better="neither" if name == "yes_ratio" else "higher")


def _value(name: str, part: str, sums: Sums) -> Array:
    """One of the five numbers over one subset, in the official order of operations."""
    asked, right = sums[f"{part}/questions"], sums[f"{part}/true_yes"]
    if name in {"accuracy", "yes_ratio"}:
        return divide(sums[f"{part}/{'correct' if name == 'accuracy' else 'yes'}"], asked)
    precision = right / (right + sums[f"{part}/false_yes"] + _ADDED)
    recall = right / (right + sums[f"{part}/false_no"] + _ADDED)
    harmonic = 2 * precision * recall / (precision + recall + _ADDED)
    chosen = {"precision": precision, "recall": recall, "f1": harmonic}[name]
    return np.where(asked > 0, chosen, np.nan)
