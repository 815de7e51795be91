"""What `mmdpo build vqa` is told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from data_builders.tables.config import ColumnsModel, TableConfig
from mmdpo.evals.shared.consensus import SHORT_ANSWER
from mmdpo.evals.shared.options import check_file_name


class VqaColumns(ColumnsModel):
    """Which column holds what. `answer_type` and `question_type` are used where a row has them.

    Args:
        image: Id, path or name of the picture, or an object with its bytes.
        question_id: Tells questions apart; null where there is none.
        question: What was asked; not needed where `questions` has the texts.
        answers: The human answers: a list of texts, or of objects with `answer`.
        answer_type: `yes/no`, `number` or `other`; without it the right answer tells.
        question_type: Wrong answers are right ones to questions of the same type; without it, of the same first words.
    """

    image: str = "image_id"
    question_id: str | None = "question_id"
    question: str = "question"
    answers: str = "answers"
    answer_type: str = "answer_type"
    question_type: str = "question_type"


class VqaConfig(TableConfig):
    """Configuration of `mmdpo build vqa`; docs/data.md explains each key.

    Args:
        form: Whose form the data have: it says how answers are compared and where the rows are.
        questions: Files with the texts of the questions, where the annotations do not have them.
        image_name: File name of an image, made from its `{id}`, as for the benchmarks.
        prompt: What is asked; `{question}` stands for the question.
        min_accuracy: Smallest accuracy of the right answer by the official rule.
        min_agreement: Smallest share of the people who gave it.
        max_wrong_accuracy: Largest accuracy of an answer that still counts as wrong.
        minority: Probability that the wrong answer is what somebody said against the others.
        balance_yes_no: Leave out questions until as many have the answer yes as no.
    """

    form: Literal["vqa", "okvqa", "textvqa"] = "vqa"
    questions: Path | tuple[Path, ...] = ()
    columns: VqaColumns = VqaColumns()
    image_name: str | None = None
    prompt: str = "{question}" + SHORT_ANSWER
    min_accuracy: float = Field(1.0, gt=0.0, le=1.0)
    min_agreement: float = Field(0.5, ge=0.0, le=1.0)
    max_wrong_accuracy: float = Field(0.3, ge=0.0, lt=1.0)
    minority: float = Field(0.0, ge=0.0, le=1.0)
    balance_yes_no: bool = True

    @field_validator("prompt")
    @classmethod
    def _holds_the_question(cls, value: str) -> str:
        if "{question}" not in value:
            raise ValueError("has no place for the {question}")
        return value

    @field_validator("image_name")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        check_file_name("image_name", value)
        return value
