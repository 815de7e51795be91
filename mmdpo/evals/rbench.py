"""R-Bench: yes/no questions about relations between objects ("Is the dog on the sofa?").

Paper: Wu et al., "Evaluating and Analyzing Relationship Hallucinations in Large Vision-Language Models", ICML 2024
    (arXiv:2406.16449).
Official code: github.com/mrwu-mac/R-Bench (eval.py), Apache-2.0; the data are on Google Drive, on photos of Open Images
    (CC BY 2.0) and, for the questions of types, from the web.
Official rule: the parser of POPE's own script; a label that contains "no" is no, any other yes. Precision, recall and
    f1 have 0.00001 added to their denominators. Every number is the mean over five random subsets of the questions,
    whose ids are in files of their own (``subsets``); the paper's "Image (All)" is over all questions. The questions
    on images from the web have a ``type`` (counterfactual, illusion) and one accuracy for each.
Known quirks: as for POPE; besides, the label "unknown" counts as no, and a model that is right everywhere has an f1
    below 1. Questions without an answer are passed over; of two answers to one question the last counts there, the
    first here.
Left out: ``eval_box``, which looks for the first letter of a label in the answer.
Data: JSON ``[{question_id, image, text, label}]``, or JSON lines.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Sample
from mmdpo.evals.pope import FORM, PARSERS, SAID, tally
from mmdpo.evals.shared.files import read_json, read_rows, required_texts
from mmdpo.evals.shared.options import check_choice
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
        fix = "The default, official, is the rule of the authors' own script."
        check_choice(self.name, "parser", self.parser, PARSERS, fix)
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
        rows = read_rows(data)
        member = self._membership({str(row.get("question_id")) for row in rows})
        return [self._sample(row, f"question {n} of {str(data)!r}", member) for n, row in enumerate(rows, 1)]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Reads yes or no and compares it with the label."""
        label = sample.target == "yes"
        said, counts = tally(self.parser, answer.text, label)
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
            parsed=SAID[said],
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

    def _membership(self, asked: Set[str]) -> Mapping[str, Mapping[str, int]] | None:
        """Question id -> names of its subsets and how often it stands there; None where there are none."""
        if self.subsets is None:
            return None
        member: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for number in range(1, SUBSETS + 1):
            path = Path(str(self.subsets).replace("holder", str(number)))
            ids = read_json(path)
            if not isinstance(ids, list) or not ids or not all(type(each) in (int, str) for each in ids):
                raise DataError(
                    f"{str(path)!r} is no list of question ids",
                    why="It says which questions are in the subset.",
                    fix="Use the official files, such as image-level_ids_1.json.",
                )
            if asked.isdisjoint(map(str, ids)):
                raise DataError(
                    f"{str(path)!r} holds none of the questions' ids (it begins with {ids[0]!r})",
                    why="The subset is of another question file: no number could be computed over it.",
                    fix="Give the files of ids that belong to these questions, such as image-level_ids_holder.json.",
                )
            for question_id in ids:
                member[str(question_id)][f"subset{number}"] += 1
        return member

    def _sample(self, row: Mapping[str, Any], place: str, member: Mapping[str, Mapping[str, int]] | None) -> Sample:
        texts = required_texts(row, {name: (name,) for name in ("text", "image", "label")}, place, fix=FORM)
        kind, question_id = row.get("type"), row.get("question_id")
        if question_id is None or not isinstance(kind, str | None):
            raise DataError(
                f"{place} lacks a question_id, or its type is no text: {str(row)[:200]}",
                why="Answers and subsets are matched by the id, and there is a number for each type.",
                fix=FORM,
            )
        parts: Mapping[str, int] = {"all": 1} if member is None else member.get(str(question_id), {})
        target, image = "no" if "no" in texts["label"].lower() else "yes", texts["image"]
        meta = {"parts": parts, "kind": kind}
        return Sample(str(question_id), texts["text"], {"images": [image]}, target, image, meta)


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
