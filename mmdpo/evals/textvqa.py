"""TextVQA: questions that can only be answered by reading text in the image.

Paper: Singh et al., "Towards VQA Models That Can Read", CVPR 2019 (arXiv:1904.08920).
Official code: mmf/utils/m4c_evaluators.py in github.com/facebookresearch/mmf, BSD-3-Clause; lmms-eval's is the same.
    The data (v0.5.1) are CC BY 4.0, their photos from Open Images.
Official rule: answers are always rewritten (`vqa_text.eval_ai`), also where all ten human answers are the same; each
    human answer is left out in turn and the answer scores min(1, matches among the others / 3).
Known quirks: every comma is deleted without a space ("black,white" is "blackwhite", "1,000" is "1000"); "'s" becomes a
    word of its own, so "men's" and "mens" differ; the evaluator takes nothing but ten human answers to a question.
Data: JSON ``[{question_id, answers}]``, or the official file, which has that list under ``data``. The test split has
    no answers and can only be scored by the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Sample
from mmdpo.evals.shared import vqa_text
from mmdpo.evals.shared.consensus import ConsensusBenchmark, consensus, human_answers
from mmdpo.evals.shared.files import read_json, read_rows, read_text
from mmdpo.registry import benchmarks

HUMANS = 10


@benchmarks.register("textvqa")
@dataclass(frozen=True)
class TextVqa(ConsensusBenchmark):
    """Open questions about text in images, with ten human answers."""

    name = "textvqa"

    @property
    def rule(self) -> str:
        """The one rule there is."""
        return "eval_ai"

    def samples(self, data: Path) -> list[Sample]:
        """The questions of the official file, of a JSON list or of JSON lines."""
        return [self._sample(row, number, str(data)) for number, row in enumerate(_rows(data), 1)]

    def judged(self, sample: Sample, text: str) -> tuple[str, float]:
        """An answer in the form in which it is compared, and its score."""
        said = vqa_text.eval_ai(text)
        return said, consensus(said, [vqa_text.eval_ai(reference) for reference in sample.target])

    def _sample(self, row: Any, number: int, origin: str) -> Sample:
        if not isinstance(row, dict) or row.get("question_id") is None:
            raise DataError(
                f"question {number} of {origin} has no question_id",
                why="Answers are matched by it.",
                fix='A question looks like {"question_id": 1, "image_id": "0a1b", "question": "?", "answers": [...]}.',
            )
        references = human_answers(row.get("answers"), f"question {row['question_id']} of {origin}")
        if len(references) != HUMANS:
            raise DataError(
                f"question {row['question_id']} of {origin} has {len(references)} human answers",
                why=f"The score is defined for {HUMANS}; the official evaluator stops at any other number.",
                fix="Use the official file.",
            )
        # Without an image's id every question stands for itself.
        image = row["question_id"] if row.get("image_id") is None else row["image_id"]
        return self.sample(row["question_id"], str(row.get("question") or ""), image, references, {}, f"{image}.jpg")


def _rows(path: Path) -> list[Any]:
    if not read_text(path).lstrip().startswith("{"):
        return list(read_rows(path))
    try:
        content = read_json(path)
    except DataError:
        return list(read_rows(path))  # JSON lines
    rows = content.get("data", [content])
    if not isinstance(rows, list) or not rows:
        raise DataError(
            f"{str(path)!r} holds no questions under 'data'",
            why="There is nothing to score.",
            fix='The official file looks like {"dataset_name": "textvqa", "data": [{"question_id": 1, ...}]}.',
        )
    return rows
