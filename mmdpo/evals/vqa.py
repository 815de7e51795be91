"""VQA v2: open questions about images, scored by how many of ten people gave the answer.

Papers: Antol et al., "VQA: Visual Question Answering", ICCV 2015 (arXiv:1505.00468); Goyal et al., "Making the V in
    VQA Matter", CVPR 2017 (arXiv:1612.00837).
Official code: github.com/GT-Vision-Lab/VQA, BSD-2-Clause, Python 2; the data on COCO images are CC BY 4.0.
Official rule: where the ten human answers are not all the same, they and the answer are rewritten
    (`vqa_text.official`); then each human answer is left out in turn and the answer scores min(1, matches among the
    others / 3).
Other rule: `always_normalise`, that of lmms-eval and VLMEvalKit, rewrites also where all ten are the same.
Known quirks: against ten "yes" the official rule takes neither "Yes" nor "yes."; a dot that no digit follows is
    deleted, but only 32 of them; "somebody'd" loses its apostrophe; records of human answers that are equal in every
    field are left out together. The official script wants exactly one answer to each question of the file, prints
    percent, and rounds halves away from zero: `official_report` gives what it prints.
Data: the annotations ``{"annotations": [...]}``; the texts of the questions, which only `mmdpo eval` needs, are in the
    official file of questions (``questions``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Result, Sample
from mmdpo.evals.shared import vqa_text
from mmdpo.evals.shared.consensus import ConsensusBenchmark, consensus, human_answers, question_texts
from mmdpo.evals.shared.files import read_json, write_text
from mmdpo.evals.shared.options import check_choice
from mmdpo.registry import benchmarks

RULES = ("official", "always_normalise")


@benchmarks.register("vqa")
@dataclass(frozen=True)
class Vqa(ConsensusBenchmark):
    """Open questions with ten human answers.

    Args:
        suffix: What is put behind every question when a model is asked.
        image_name: File name of an image, made from its ``{id}``, such as ``COCO_val2014_{id:0>12}.jpg``; None takes
            the subset that the annotations name.
        rule: ``official`` or ``always_normalise``.
        questions: The official file of questions; needed only to let a model answer.
    """

    rule: str = "official"
    questions: str | Path | None = None
    name = "vqa"

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = "The default, official, is that of the official script; harnesses use always_normalise."
        check_choice(self.name, "rule", self.rule, RULES, fix)

    def samples(self, data: Path) -> list[Sample]:
        """The questions of a file of annotations."""
        content = read_annotations(data)
        texts = question_texts(self.questions)
        subset = content.get("data_subtype")
        return [self._sample(row, texts, subset, str(data)) for row in content["annotations"]]

    def judged(self, sample: Sample, text: str) -> tuple[str, float]:
        """An answer in the form in which it is compared, and its score."""
        references: list[str] = sample.meta["trimmed"]
        write: Callable[[str], str]
        if self.rule == "always_normalise":
            write = vqa_text.harness
        elif sample.meta["unanimous"]:
            write = vqa_text.trimmed
        else:
            write = vqa_text.official
        said = write(text)
        return said, consensus(said, [write(reference) for reference in references], sample.meta["identities"])

    def _sample(self, row: Any, texts: Mapping[str, str], subset: Any, origin: str) -> Sample:
        entries = row["answers"]
        references = human_answers(entries, f"question {row['question_id']} of {origin}")
        written = [vqa_text.trimmed(reference) for reference in references]
        image, kind = row["image_id"], row.get("answer_type")
        meta = {
            "kind": str(kind).replace("/", "_") if kind else None,
            "question_type": row.get("question_type"),
            "answer_type": kind,
            "trimmed": written,
            "unanimous": len(set(written)) == 1,
            "identities": _identities(entries),
        }
        question = str(row.get("question") or texts.get(str(row["question_id"]), ""))
        file = f"COCO_{subset}_{image:0>12}.jpg" if subset else str(image)
        return self.sample(row["question_id"], question, image, references, meta, file)


def read_annotations(path: Path) -> Any:
    """A file of annotations in the form of VQA and OK-VQA.

    Raises:
        DataError: It is not of that form.
    """
    content = read_json(path)
    rows = content.get("annotations") if isinstance(content, dict) else None
    rows = rows if isinstance(rows, list) and rows else [None]
    wrong = next((number for number, row in enumerate(rows, 1) if not _is_annotation(row)), None)
    if wrong is not None:
        raise DataError(
            f"{str(path)!r} is no file of annotations: entry {wrong} is {str(rows[wrong - 1])[:120]}",
            why="Every question needs an id, an image's id and human answers.",
            fix='The official file looks like {"annotations": [{"question_id": 1, "image_id": 2, "answers": [...]}]}.',
        )
    return content


def _is_annotation(row: Any) -> bool:
    ids = ("question_id", "image_id")
    return isinstance(row, dict) and "answers" in row and all(isinstance(row.get(key), int | str) for key in ids)


def official_report(result: Result, samples: Sequence[Sample]) -> dict[str, Any]:
    """What the official script writes: percent with two decimals, in its form.

    Args:
        result: Of answers to all samples.
        samples: The data, in the file's order: the last digit can depend on the order of addition.

    Returns:
        ``accuracy`` (``overall``, ``perQuestionType``, ``perAnswerType``) and ``evalQA`` (question id -> accuracy).

    Raises:
        DataError: A question has no answer; the official script refuses that.
    """
    scores = {item.id: float(item.details["score"]) for item in result.items}
    missing = sum(sample.id not in scores for sample in samples)
    if missing:
        raise DataError(
            f"{missing} of {len(samples)} questions have no answer",
            why="The official script stops unless the answers cover exactly the annotations.",
            fix="Answer all questions, or use the metrics of the result, which are over those that are answered.",
        )
    types: dict[str, dict[str, list[float]]] = {"question_type": {}, "answer_type": {}}
    for sample in samples:
        for name, table in types.items():
            table.setdefault(sample.meta[name], []).append(scores[sample.id])
    return {
        "accuracy": {
            "overall": _percent_of_all([scores[sample.id] for sample in samples]),
            "perQuestionType": {kind: _percent_of_all(values) for kind, values in types["question_type"].items()},
            "perAnswerType": {kind: _percent_of_all(values) for kind, values in types["answer_type"].items()},
        },
        "evalQA": {sample.id: _rounded(100 * scores[sample.id]) for sample in samples},
    }


def write_official_answers(answers: Sequence[Answer], path: Path) -> None:
    """Writes answers as the official scripts and EvalAI's servers take them: ``[{"question_id", "answer"}]``."""
    rows = [{"question_id": _number(answer.sample_id), "answer": answer.text} for answer in answers]
    write_text(path, json.dumps(rows))


def _number(sample_id: str | None) -> int | str | None:
    return int(sample_id) if sample_id is not None and sample_id.isdecimal() else sample_id


def _identities(entries: Sequence[Any]) -> list[Hashable] | None:
    """What else the records of the human answers hold; None where their ids tell them all apart."""
    if not all(isinstance(entry, dict) for entry in entries):
        return None
    numbers = {str(entry.get("answer_id")) for entry in entries}
    if len(numbers) == len(entries):
        return None
    return [
        json.dumps({key: value for key, value in entry.items() if key != "answer"}, sort_keys=True) for entry in entries
    ]


def _percent_of_all(scores: Sequence[float]) -> float:
    total = 0.0
    for score in scores:  # one by one, as Python 2 adds; sum() compensates rounding in newer versions
        total += score
    return _rounded(100 * total / len(scores))


def _rounded(value: float) -> float:
    """Two decimals, halves away from zero as in Python 2."""
    return float(Decimal(value).quantize(Decimal("0.01"), ROUND_HALF_UP))
