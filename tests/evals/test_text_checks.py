"""Text checks: the questions that ship, how answers are read, and what the numbers are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Sample
from mmdpo.evals.runner import make_benchmark
from mmdpo.evals.shared.vqa_text import official
from mmdpo.evals.text_checks import TextChecks, bare, first_named, read_checks

OWN = Path("own")
NUMBERS = {"plus": "+", "minus": "-", "times": "*", "divided by": "//"}


def shipped(kind: str = "") -> list[Sample]:
    return [sample for sample in TextChecks().samples(OWN) if sample.id.startswith(kind)]


def judged(answers: dict[str, str]) -> Any:
    return TextChecks().score(shipped(), [Answer(name, text) for name, text in answers.items()])


def correct(sample: Sample, text: str) -> bool | None:
    return TextChecks().item(sample.id, sample, Answer(sample.id, text)).correct


def test_the_questions_that_ship() -> None:
    samples = shipped()
    kinds = {sample.meta["kind"] for sample in samples}
    assert len(samples) == 120 and len({sample.prompt for sample in samples}) == 120
    assert kinds == {"arithmetic", "copying", "format", "knowledge", "order", "translation", "words"}
    assert {sample.meta["kind"] for sample in samples[:7]} == kinds  # by turns: a limit keeps all kinds
    asked = [sample.target for sample in samples if sample.meta["yes_no"]]
    assert asked.count(("yes",)) == asked.count(("no",)) == 6


@pytest.mark.parametrize("sample", shipped(), ids=lambda sample: sample.id)
def test_every_question_can_be_answered_and_not_by_repeating_it(sample: Sample) -> None:
    assert all(correct(sample, text) for text in sample.target)
    assert not any(correct(sample, text) for text in sample.meta["reject"])
    assert not correct(sample, sample.prompt)
    assert not correct(sample, "") and not correct(sample, "I do not know.")


def test_sums_are_what_python_makes_of_them() -> None:
    found = 0
    for sample in shipped("arithmetic"):
        asked = re.match(r"What is (\d+) (plus|minus|times|divided by) (\d+)\?", sample.prompt)
        if asked:
            found += 1
            assert str(eval(asked[1] + NUMBERS[asked[2]] + asked[3])) == sample.target[0]
        if len(sample.target[0]) < 2:
            assert official(sample.target[1]) == sample.target[0]  # the word is the digit's
    assert found == 11


@pytest.mark.parametrize(
    ("text", "choices", "named"),
    [
        ("12", ["12"], "12"),
        ("The answer is 12.", ["12"], "12"),
        ("112", ["12"], None),
        ("1,200 in all", ["1200"], "1200"),
        ("**Paris**!", ["Paris"], "paris"),
        ("Parisian", ["Paris"], None),
        ("It is forty-two", ["42", "forty two"], "forty two"),
        ("No, not yes", ["yes", "no"], "no"),
        ("Not really", ["yes", "no"], None),
        ("An elephant is heavier than a mouse", ["elephant", "mouse"], "elephant"),
        ("A mouse is lighter than an elephant", ["elephant", "mouse"], "mouse"),
        ("buon giorno a tutti", ["buongiorno", "buon giorno"], "buon giorno"),
        ("ＴＵＥＳＤＡＹ", ["Tuesday"], "tuesday"),
        ("it’s o'clock", ["it's"], "it's"),
        ("", ["yes"], None),
        ("forty two", ["forty", "forty two"], "forty two"),
    ],
)
def test_the_first_named_answer_counts(text: str, choices: list[str], named: str | None) -> None:
    assert first_named(text, choices) == named


@pytest.mark.parametrize(
    ("text", "kept"),
    [(' "HELLO" \n', "HELLO"), ("**HELLO**", "HELLO"), ("HELLO.", "HELLO"), ("Hello", "Hello"), ("“a b”.", "a b")],
)
def test_a_form_is_taken_letter_by_letter(text: str, kept: str) -> None:
    assert bare(text) == kept


def test_the_numbers() -> None:
    result = judged(
        {
            "arithmetic/01": "7 plus 5 is 12",
            "arithmetic/02": "41",
            "knowledge/13": "Yes.",
            "knowledge/16": "Yes, it is",
            "format/01": "hello",
            "order/01": "I'm sorry, but I can't help with that.",
            "order/02": "",
        }
    )
    values = {name: (one.value, one.n) for name, one in result.metrics.items()}
    assert values["accuracy"] == (2 / 7, 7)
    assert values["accuracy/arithmetic"] == (0.5, 2)
    assert values["accuracy/knowledge"] == (0.5, 2)
    assert (values["accuracy/format"], values["accuracy/order"]) == ((0.0, 1), (0.0, 2))
    assert values["yes_ratio"] == (1.0, 2)
    assert values["words_per_answer"] == ((5 + 1 + 1 + 3 + 1 + 8 + 0) / 7, 7)
    assert values["refusal_rate"] == (1 / 7, 7)
    assert values["empty_rate"] == (1 / 7, 7)
    assert "accuracy/copying" not in values
    assert result.unparsed == 3  # another number, the refusal, nothing
    assert any(flag.startswith("missing_answers: 113 of 120") for flag in result.flags)


def test_questions_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    questions = [
        '{ask: "Is it so?", accept: [yes]}',
        '{ask: "How many?", accept: [12, 12.5]}',
        '{ask: "Yes or no or maybe?", accept: [no], reject: [maybe]}',
    ]
    listed = "".join(f"    - {question}\n" for question in questions)
    path.write_text(f"mine:\n  suffix: Briefly.\n  questions:\n{listed}", encoding="utf-8")
    first, second, third = TextChecks().samples(path)
    assert (first.id, first.prompt, first.target) == ("mine/01", "Is it so? Briefly.", ("yes",))
    assert first.meta["yes_no"] and first.meta["reject"] == ["no"]
    assert second.target == ("12", "12.5") and not second.meta["yes_no"]
    assert third.meta["reject"] == ["maybe"]
    assert correct(second, "12.5 of them") and not correct(third, "maybe, no")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mine: {questions: [{ask: A, accept: []}]}", "accept"),
        ("mine: {questions: [{ask: A, accept: [b], expect: c}]}", "expect"),
        ("Mine: {questions: [{ask: A, accept: [b]}]}", "Mine"),
        ("mine: {questions: []}", "questions"),
        ("mine: {match: loosely, questions: [{ask: A, accept: [b]}]}", "match"),
        ("{}", "holds no kind"),
        ("mine: [", "not YAML"),
    ],
)
def test_a_file_of_another_form_is_told(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_checks(tmp_path / "mine.yaml")


def test_scoring_needs_no_model(tmp_path: Path) -> None:
    rows = [{"question_id": sample.id, "answer": sample.target[0]} for sample in shipped()]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["score", "text_checks", "--data", "own", "--answers", str(tmp_path / "answers.jsonl")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    told = json.loads(done.stdout)
    assert set(told) == {"benchmark", "rule", "n", "unparsed", "flags", "metrics"}
    assert told["metrics"]["accuracy"]["value"] == 1.0 and told["metrics"]["yes_ratio"]["value"] == 0.5
    assert told["flags"] == []


def test_only_its_yes_no_questions_can_be_read_from_logits() -> None:
    benchmark = make_benchmark("text_checks")
    asked = {sample.id for sample in shipped() if benchmark.asks_yes_no(sample)}
    assert len(asked) == 12 and asked <= {sample.id for sample in shipped() if set(sample.target) <= {"yes", "no"}}
