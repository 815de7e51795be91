"""What the benchmarks with ten human answers to a question share: the soft score, prompts, items, metrics."""

from __future__ import annotations

import functools
import operator
from abc import abstractmethod
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Sample
from mmdpo.evals.shared.files import read_json
from mmdpo.evals.shared.options import check_file_name, file_name
from mmdpo.evals.stats import ratio

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""What LLaVA and most models since put behind a question; without it they answer in sentences, which never match."""


def consensus(said: str, references: Sequence[str], identities: Sequence[Hashable] | None = None) -> float:
    """The accuracy of an answer among human answers (Antol et al. 2015, section 5).

    Each human answer is left out in turn; the answer scores min(1, matches among the others / 3); the mean counts. With
    ten references, 1, 2, 3 and 4 matches give .3, .6, .9 and 1.

    Args:
        said: The answer, in the form in which it is compared.
        references: The human answers in that form, one or more.
        identities: What else each human answer's record holds. Records that are equal in all are left out together, as
            the official code does; None means that no two are equal.
    """
    matches = tuple(reference == said for reference in references)
    if identities is None or not any(matches):
        return _leave_one_out(matches)
    scores = []
    for mine in zip(references, identities, strict=True):
        others = zip(references, identities, strict=True)
        found = sum(match for match, other in zip(matches, others, strict=True) if other != mine)
        scores.append(min(1.0, found / 3))
    return functools.reduce(operator.add, scores) / len(scores)


@functools.cache
def _leave_one_out(matches: tuple[bool, ...]) -> float:
    total = sum(matches)
    # Added one by one in the records' order: the last digit depends on it.
    return functools.reduce(operator.add, (min(1.0, (total - match) / 3) for match in matches)) / len(matches)


@dataclass(frozen=True)
class ConsensusBenchmark(Benchmark):
    """Questions with several human answers each.

    A sample's ``target`` is its human answers as written, its ``meta["kind"]`` the type of answer or None.

    Args:
        suffix: What is put behind every question when a model is asked.
        image_name: File name of an image, made from its ``{id}``, such as ``COCO_val2014_{id:0>12}.jpg``; None takes
            what the data say.
    """

    suffix: str = SHORT_ANSWER
    image_name: str | None = None
    role = "capability"

    def __post_init__(self) -> None:
        check_file_name("image_name", self.image_name)

    @abstractmethod
    def judged(self, sample: Sample, text: str) -> tuple[str, float]:
        """An answer in the form in which it is compared, and its score."""

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The answers in some rows; a question that they repeat is one with or without the suffix."""
        return [
            answer
            if answer.question is None or self.suffix in answer.question
            else replace(answer, question=answer.question + self.suffix)
            for answer in super().answers(rows, origin)
        ]

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Scores one answer."""
        said, score = self.judged(sample, answer.text)
        counts, kind = {"questions": 1.0, "score": score}, sample.meta.get("kind")
        if kind is not None:
            counts |= {f"questions/{kind}": 1.0, f"score/{kind}": score}
        return Item(
            id=item_id,
            group=sample.group,
            raw=answer.text,
            parsed=said or None,
            label=list(sample.target),
            correct=None,
            counts=counts,
            details={"prompt": sample.prompt, "image": sample.media["images"][0], "score": score},
        )

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """Accuracy, over all questions and for each type of answer."""
        kinds = sorted(column.partition("/")[2] for column in columns if column.startswith("questions/"))
        return [
            ratio(f"accuracy{kind}", f"score{kind}", f"questions{kind}")
            for kind in ("", *(f"/{kind}" for kind in kinds))
        ]

    def sample(
        self, row_id: Any, question: str, image: Any, references: Sequence[str], meta: Mapping[str, Any], file: str
    ) -> Sample:
        """One sample; ``file`` is the image's name as the data have it. Without a question there is no prompt."""
        name = file_name(self.image_name, image, file)
        prompt = question + self.suffix if question else ""
        return Sample(self.sample_id(row_id), prompt, {"images": [name]}, references, str(image), meta)


def human_answers(entries: Any, origin: str, key: str = "answer") -> tuple[str, ...]:
    """The texts of a question's human answers, which are strings or records with the text under ``key``.

    Raises:
        DataError: They are no list of these, or an empty one.
    """
    listed = entries if isinstance(entries, list) else []
    found = [entry.get(key) if isinstance(entry, dict) else entry for entry in listed]
    texts = tuple(text for text in found if isinstance(text, str))
    if not texts or len(texts) < len(found):
        raise DataError(
            f"{origin} has no list of human answers: {str(entries)[:80]}",
            why="An answer is scored by how many people gave it.",
            fix='Give the annotations of a split with answers; they look like {"question_id": 1, "answers": [...]}.',
        )
    return texts


def question_texts(path: str | Path | None) -> dict[str, str]:
    """Question id -> text, from an official file ``{"questions": [{"question_id", "question"}]}``; empty for None.

    Raises:
        DataError: The file is not of that form.
    """
    if path is None:
        return {}
    content = read_json(Path(path))
    found = content.get("questions") if isinstance(content, dict) else None
    rows = found if isinstance(found, list) else []
    if not rows or not all(isinstance(row, dict) and {"question_id", "question"} <= set(row) for row in rows):
        raise DataError(
            f"{str(path)!r} is no file of questions",
            why="The annotations do not hold what the model is asked.",
            fix='The official file looks like {"questions": [{"question_id": 1, "image_id": 2, "question": "..."}]}.',
        )
    return {str(row["question_id"]): str(row["question"]) for row in rows}
