"""NOPE and CIEM: yes/no questions in the manner of POPE, and CIEM's in pairs.

Papers: Lovenia et al., "Negative Object Presence Evaluation (NOPE) to Measure Object Hallucination in Vision-Language
    Models" (arXiv:2310.05338); Hu et al., "CIEM: Contrastive Instruction Evaluation Method for Better Instruction
    Tuning" (arXiv:2309.02301).
Official code: none that can be had. Scored here are the re-releases on COCO val2017 (MM-Hallu/NOPE and MM-Hallu/CIEM
    on the Hugging Face hub, CC BY 4.0), which say "accuracy, precision, recall, f1, yes ratio" and no more. The
    original NOPE has other questions, whose right answer is a word such as "none", and is not scored here.
Rule here: that of POPE, with its parsers; yes is the positive class. `pair_accuracy` is the share of pairs (an object
    that is there, one that is not) with both answers right: saying yes to everything gives .5 in accuracy and 0 here.
Known quirks: those of the parser, see `mmdpo.evals.pope`.
Data: NOPE, rows ``{question_id, image_id, question, answer, split_type}``; CIEM, rows ``{pair_id, image_id,
    factual_question, factual_answer, contrastive_question, contrastive_answer}``, whose two questions have the ids
    ``PAIR/factual`` and ``PAIR/contrastive``, in this order; both as JSON lines or a JSON list.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Item, Metric, Sample
from mmdpo.evals.pope import KINDS, Pope
from mmdpo.evals.shared.files import read_rows
from mmdpo.evals.shared.joint import JointBenchmark
from mmdpo.evals.stats import ratio
from mmdpo.registry import benchmarks


@benchmarks.register("nope")
@dataclass(frozen=True)
class Nope(Pope):
    """Yes/no questions about single objects, absent ones chosen in three ways.

    Args:
        parser: How an answer is read, a name in `mmdpo.evals.pope.PARSERS`.
        media: What the questions are about, as the list of a record is called.
    """

    name = "nope"

    def samples(self, data: Path) -> list[Sample]:
        """The questions of a file, by kind where ``split_type`` names one."""
        samples = []
        for number, row in enumerate(read_rows(data), 1):
            kind = str(row.get("split_type") or "")
            if kind not in {"", *KINDS}:
                raise DataError(
                    f"question {number} of {str(data)!r} has the split_type {kind!r}",
                    why="The numbers are given for each way of choosing absent objects.",
                    fix=f"It is one of {', '.join(KINDS)}, or left out.",
                )
            question_id = str(number if row.get("question_id") is None else row["question_id"])
            samples.append(_sample(self.media, question_id, row, "question", "answer", {"kind": kind}, str(data)))
        return samples


@benchmarks.register("ciem")
@dataclass(frozen=True)
class Ciem(JointBenchmark, Pope):
    """Pairs of yes/no questions, about an object that is in the image and one that is not.

    Args:
        parser: How an answer is read, a name in `mmdpo.evals.pope.PARSERS`.
        media: What the questions are about, as the list of a record is called.
    """

    name = "ciem"

    def samples(self, data: Path) -> list[Sample]:
        """Both questions of every pair of a file."""
        return [sample for row in read_rows(data) for sample in self._pair(row, str(data))]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Reads yes or no and compares it with the label."""
        item = super().item(item_id, sample, answer)
        return Item(**{**vars(item), "details": {**item.details, "pair": sample.meta["pair"]}})

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """POPE's five numbers and pair_accuracy."""
        pairs = [ratio("pair_accuracy", "right_sets", "sets")] if "sets" in columns else []
        return super().metrics(columns) + pairs

    def set_of(self, item: Item) -> Hashable:
        """The pair."""
        return str(item.details["pair"])

    def _pair(self, row: Mapping[str, Any], origin: str) -> Iterator[Sample]:
        if row.get("pair_id") is None:
            raise DataError(
                f"an entry of {origin} has no pair_id; its keys are {sorted(row)}",
                why="Answers are matched by it.",
                fix="Give the rows of the release, each with a factual and a contrastive question.",
            )
        pair = str(row["pair_id"])
        for side in ("factual", "contrastive"):
            meta = {"kind": "", "pair": pair}
            yield _sample(self.media, f"{pair}/{side}", row, f"{side}_question", f"{side}_answer", meta, origin)


def _sample(
    media: str, sample_id: str, row: Mapping[str, Any], question: str, label: str, meta: Mapping[str, Any], origin: str
) -> Sample:
    text, truth = row.get(question), str(row.get(label)).strip().lower()
    file = row.get("image")
    if not isinstance(file, str) and isinstance(row.get("image_id"), int):
        file = f"{row['image_id']:012d}.jpg"  # the name of COCO val2017
    if not isinstance(text, str) or truth not in {"yes", "no"} or not isinstance(file, str):
        raise DataError(
            f"question {sample_id!r} of {origin} lacks {question}, {label} (yes or no) or an image: {str(row)[:200]}",
            why="It can be neither asked nor scored.",
            fix="Give the rows of the release; image_id is a whole number, or image the name of a file.",
        )
    return Sample(sample_id, text, {media: [file]}, truth, file, meta)
