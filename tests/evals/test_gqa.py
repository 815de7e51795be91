"""GQA: exact match and the harnesses' looser ones, files, kinds of questions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.official_rules import score_command
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Answer
from mmdpo.evals.gqa import RULES, Gqa, write_official_answers
from mmdpo.evals.runner import score


def entry(answer: str, structural: str, image: str = "n1", **more: Any) -> dict[str, Any]:
    types = {"structural": structural, "semantic": "obj"}
    return {"imageId": image, "question": "Is it?", "answer": answer, "isBalanced": True, "types": types, **more}


@pytest.fixture
def data(write_json: Callable[..., Path]) -> Path:
    table = {
        "01": entry("yes", "verify"),
        "02": entry("no", "logical"),
        "03": entry("t-shirt", "query", "n2"),
        "04": entry("left", "choose", "n3"),
        "05": entry("red", "query", "n3", isBalanced=False),
    }
    return write_json("q.json", table)


@pytest.mark.parametrize(
    ("said", "official", "lmms_eval", "vlmevalkit"),
    [
        ("yes", True, True, True),
        ("Yes", False, True, True),
        ("yes.", False, True, False),
        (" yes\n", False, True, True),
        ("yes, it is", False, False, False),
        ("Not really", False, False, False),
        ("", False, False, False),
        ("the yes", False, False, False),
        ("y-e-s", False, True, False),
        ("yes\u3002", False, False, False),
    ],
)
def test_nasty_answers(said: str, official: bool, lmms_eval: bool, vlmevalkit: bool) -> None:
    right = {name: write(said) == write("yes") for name, write in RULES.items()}
    assert right == {"official": official, "lmms_eval": lmms_eval, "vlmevalkit": vlmevalkit}


@pytest.mark.parametrize(("rule", "accuracy"), [("official", 0.5), ("lmms_eval", 1.0), ("vlmevalkit", 0.75)])
def test_worked_counts(data: Path, write_json: Callable[..., Path], rule: str, accuracy: float) -> None:
    said = {"01": "yes", "02": "No", "03": "tshirt", "04": "left", "05": "red"}
    rows = [{"questionId": key, "prediction": text} for key, text in reversed(said.items())]
    printed = score_command("gqa", "--data", data, "--answers", write_json("a.json", rows), "--rule", rule)
    values = {name: metric["value"] for name, metric in printed["metrics"].items()}
    assert values["accuracy"] == accuracy
    assert values["accuracy/open"] == values["accuracy/query"] == float(rule == "lmms_eval")
    assert values["accuracy/verify"] == values["accuracy/choose"] == 1.0
    assert values["accuracy/binary"] == pytest.approx(2 / 3 if rule == "official" else 1.0)
    assert (printed["n"], printed["metrics"]["accuracy"]["n"]) == (5, 4)
    assert printed["flags"] == ["unbalanced: 1 answers are to unbalanced questions; they enter no metric"]


def test_the_copy_in_the_repository_calls_the_types_type(write_json: Callable[..., Path]) -> None:
    row = entry("yes", "verify")
    row["type"] = row.pop("types")
    bare = {key: row[key] for key in ("imageId", "question", "answer")}
    first, second = Gqa().samples(write_json("q.json", {"1": row, "2": bare}))
    assert first.meta["kinds"] == ["binary", "verify"]
    assert (second.meta["kinds"], second.meta["balanced"]) == ([], True)
    assert first.media == {"images": ["n1.jpg"]}


def test_only_unbalanced_questions_give_no_metric(write_json: Callable[..., Path]) -> None:
    data = write_json("q.json", {"1": entry("yes", "verify", isBalanced=False)})
    result = score("gqa", data, write_json("a.json", [{"questionId": "1", "prediction": "yes"}]))
    assert result.metrics == {}
    assert result.flags[0].startswith("unbalanced: 1 ")


def test_official_answers_are_written_and_read(tmp_path: Path) -> None:
    answers = [Answer("007", "a\u2028b"), Answer("08", "no")]
    write_official_answers(answers, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())[0] == {"questionId": "007", "prediction": "a\u2028b"}
    assert Gqa().read_answers(tmp_path / "a.json") == answers


def test_other_keys_and_what_is_kept_for_audit(data: Path, write_json: Callable[..., Path]) -> None:
    rows = [
        {"question_id": "01", "answer": "yes"},
        {"id": "03", "text": ""},
        {"questionId": "04", "prediction": "left"},
    ]
    result = score("gqa", data, write_json("a.json", rows))
    assert [item.parsed for item in result.items] == ["yes", None, "left"]
    assert (result.unparsed, result.metrics["accuracy"].value) == (1, 2 / 3)
    assert result.items[1].details == {
        "prompt": "Is it?\nAnswer the question using a single word or phrase.",
        "image": "n2.jpg",
    }
    assert [flag.split(":")[0] for flag in result.flags] == ["missing_answers", "empty_answers"]


@pytest.mark.parametrize("content", [[], [1], {}, {"1": {"imageId": "n", "question": "Is it?"}}, {"1": "yes"}])
def test_files_that_are_none(write_json: Callable[..., Path], content: Any) -> None:
    with pytest.raises(DataError, match=r"is no table of questions|lacks imageId, question or answer"):
        Gqa().samples(write_json("q.json", content))


def test_unknown_rule() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'lmms_eval'"):
        Gqa(rule="lmms-eval")
