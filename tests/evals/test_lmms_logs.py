"""Sample logs of lmms-eval, in the forms that its versions have written, scored by our rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.errors import DataError, MMDPOError
from mmdpo.evals.runner import score

QUESTIONS = [
    {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {thing} in the image?", "label": label}
    for n, (thing, label) in enumerate([("dog", "yes"), ("cat", "no"), ("car", "yes")], 1)
]
SUFFIX = "\nAnswer the question using a single word or phrase."


def logged(number: int, text: Any, *, noted: bool = True, **further: Any) -> dict[str, Any]:
    """A row as the tracker writes it: without the question, with what the task's scoring made of the answer."""
    question = QUESTIONS[number]
    said = {"question_id": str(question["question_id"]), "score": 1.0, "prediction": "yes", "ground_truth": "yes"}
    metrics: Mapping[str, Any] = {"pope_accuracy": said, "pope_f1_score": said} if noted else {"exact_match": 1.0}
    return {
        "doc_id": number,
        "target": question["label"],
        "filtered_resps": text,
        "doc_hash": "ab",
        **metrics,
        "input": question["text"] + SUFFIX,
        **further,
    }


@pytest.fixture
def data(write_lines: Callable[..., Path]) -> Path:
    return write_lines("questions.jsonl", QUESTIONS)


@pytest.mark.parametrize("form", ["list", "flat", "nested", "with resps and doc"])
@pytest.mark.parametrize("noted", [True, False])
def test_the_forms_of_all_versions(form: str, noted: bool, data: Path, write_lines: Callable[..., Path]) -> None:
    """By id where the task notes it, else by the order of the data set; the file's own order means nothing."""
    rows = []
    for number, text in enumerate(["Yes.", "No", "Yes it is"]):
        answer: Any = {"flat": text, "nested": [[text]]}.get(form, [text])
        further = {"resps": [[f"<think>no</think>{text}"]], "doc": {"answer": "no"}} if form.startswith("with") else {}
        rows.append(logged(number, answer, noted=noted, **further))
    result = score("pope", data, write_lines("samples_pope_adv.jsonl", rows[::-1]))
    assert sorted((item.id, item.raw, item.parsed) for item in result.items) == [
        ("1", "Yes.", "yes"),
        ("2", "No", "no"),
        ("3", "Yes it is", "yes"),
    ]
    assert (result.metrics["accuracy"].value, result.flags) == (1.0, [])
    strict = score("pope", data, write_lines("samples_pope_adv.jsonl", rows), parser="lmms_eval")
    assert strict.metrics["accuracy"].value == pytest.approx(1 / 3)  # "No" alone is one of the words


def test_the_command_takes_it(data: Path, write_lines: Callable[..., Path]) -> None:
    log = write_lines("20260101_000000_samples_pope_adv.jsonl", [logged(n, ["yes"]) for n in range(3)])
    told = CliRunner().invoke(app, ["score", "pope", "--data", str(data), "--answers", str(log)])
    assert told.exit_code == 0, told.exception
    assert json.loads(told.stdout)["metrics"]["recall"]["value"] == 1.0


def test_keys_are_those_of_the_benchmark(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    data = write_json("objects.json", {"COCO_val2014_000000000001.jpg": ["dog"]})
    row = logged(0, ["A dog and a cat."]) | {"coco_cap_chair_i": {"image_id": "COCO_val2014_000000000001.jpg"}}
    result = score("chair", data, write_lines("samples_chair.jsonl", [row]))
    assert result.metrics["chair_i"].value == 0.5


def test_answers_to_other_questions_are_counted(data: Path, write_lines: Callable[..., Path]) -> None:
    rows = [logged(n, ["yes"], input="What is it?") for n in range(3)]
    result = score("pope", data, write_lines("log.jsonl", rows))
    assert result.flags[0].startswith("other_question_text: 3")


def test_a_part_of_the_samples_without_ids_is_refused(data: Path, write_lines: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="2 answers without ids for 3 samples"):
        score("pope", data, write_lines("log.jsonl", [logged(n, ["yes"], noted=False) for n in range(2)]))
    assert score("pope", data, write_lines("log.jsonl", [logged(n, ["yes"]) for n in range(2)])).n == 2


@pytest.mark.parametrize("text", [["yes", "no"], [], None, [["a"], ["b"]], 1.0])
def test_samples_without_one_written_answer(data: Path, write_lines: Callable[..., Path], text: Any) -> None:
    with pytest.raises(DataError, match=r"sample 0 of .* has not one written answer"):
        score("pope", data, write_lines("log.jsonl", [logged(0, text)]))


def test_parts_that_number_their_questions_anew(data: Path, write_lines: Callable[..., Path]) -> None:
    rows = [logged(n % 3, ["yes"]) | {"doc_id": n} for n in range(5)]
    with pytest.raises(DataError, match="has the id '1' 2 times") as caught:
        score("pope", data, write_lines("log.jsonl", rows))
    assert "pope_adv" in caught.value.fix


@pytest.mark.parametrize("row", [{"doc_id": 0, "target": "yes"}, {"doc_id": "x", "filtered_resps": ["yes"]}])
def test_what_is_no_such_log_is_read_as_before(
    data: Path, write_lines: Callable[..., Path], row: dict[str, Any]
) -> None:
    with pytest.raises(MMDPOError, match="has no text under 'answer' or 'text'"):
        score("pope", data, write_lines("log.jsonl", [row]))
