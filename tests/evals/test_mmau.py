"""MMAU: the official word rule against a plain restatement, lmms-eval's letters, files as they are found."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.official_rules import score_command
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.mmau import Mmau, official, write_answers
from mmdpo.evals.runner import score
from mmdpo.evals.shared.letters import lmms_eval_letter

ROWS = [
    {
        "id": f"q{number}",
        "audio_id": f"./clips/q{number}.wav",
        "question": "Who speaks?",
        "choices": ["Man", "Woman", "A young man", "3 4"],
        "answer": answer,
        "task": task,
        "difficulty": "easy",
        "sub-category": "Counting",
    }
    for number, (answer, task) in enumerate([("Man", "speech"), ("3 4", "music"), ("Woman", "speech")])
]


def official_script(text: str, answer: str, choices: list[str]) -> bool:
    """The script's function, written anew from its description, condition by condition."""

    def tokens(string: str) -> list[str]:
        return re.findall(r"\b\w+\b", string.lower())

    said = tokens(text)
    if len(said) == 0:
        return False
    for token in tokens(answer):
        if token not in said:
            return False
    return all(token in tokens(answer) or token not in said for choice in choices for token in tokens(choice))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Man", True),
        ("man.", True),
        ("MAN!", True),
        ("It is the man", True),
        ("no man", True),
        ("Not a man", False),  # "a" is a word of a wrong choice
        ("(A) Man", False),
        ("A", False),
        ("Woman", False),
        ("man, not woman", False),
        ("mankind", False),
        ("man_", False),  # the underscore is part of the word
        ("young man", False),
        ("человек man", True),
        ("", False),
        ("...", False),
    ],
)
def test_the_official_rule(text: str, right: bool) -> None:
    assert official(text, "Man", ROWS[0]["choices"]) is right
    assert official_script(text, "Man", ROWS[0]["choices"]) is right


def test_order_does_not_matter() -> None:
    assert official("4 3", "3 4", ["3 4", "5 6"])
    assert official("one two", "two one", ["one", "two one"])  # a choice inside the right one forbids nothing


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("The answer is (B) because A is wrong", "B"),
        ("A or B ", "B"),
        ("B or A or B", "B"),
        ("(A) or (B)", "A"),  # none between spaces: the first in the list of letters
        ("It is C, I think", None),
        ("Answer:C.Because", "C"),
        ("A man", "A"),
        ("b", None),
        ("Man", None),
        ("", None),
        ("E", None),
        *((f"dog{mark}B{mark}", None) for mark in ",.!?;:'"),
        *((f"{mark}B{mark}", "B") for mark in ",.!?;:'"),
        ("*B*", None),
    ],
)
def test_letters_of_lmms_eval(text: str, letter: str | None) -> None:
    assert lmms_eval_letter(text, "ABCD") == letter


def test_worked_numbers(write_json: Callable[..., Path]) -> None:
    answers = [{**ROWS[0], "model_output": "man"}, {**ROWS[1], "model_output": "3"}, {**ROWS[2], "model_output": "A"}]
    result = score("mmau", write_json("d.json", ROWS), write_json("a.json", answers))
    values = {name: (entry.value, entry.n) for name, entry in result.metrics.items()}
    assert values == {
        "accuracy": (1 / 3, 3),
        "accuracy/easy": (1 / 3, 3),
        "accuracy/music": (0.0, 1),
        "accuracy/speech": (0.5, 2),
    }
    assert [item.parsed for item in result.items] == [["Man"], None, None]
    assert (result.unparsed, result.flags) == (
        2,
        ["no_choice: 2 answers name no choice with all its words; each is wrong"],
    )


def test_letters_count_by_the_other_rule_and_are_shown_to_the_model(write_json: Callable[..., Path]) -> None:
    data = write_json("d.json", ROWS)
    answers = [{"id": f"q{number}", "model_prediction": text} for number, text in enumerate(["A.", "(D)", "no idea"])]
    result = score("mmau", data, write_json("a.json", answers), parser="lmms_eval")
    assert [item.correct for item in result.items] == [True, True, False]
    assert result.flags == ["no_letter: 1 answers are wrong for want of a letter; lmms-eval draws one at random"]
    assert "\nB. Woman\n" in Mmau(parser="lmms_eval").samples(data)[0].prompt
    assert "\nWoman\n" in Mmau().samples(data)[0].prompt


def test_another_letter_is_wrong_and_equal_choices_are_one(write_json: Callable[..., Path]) -> None:
    row = {**ROWS[0], "choices": ["Man", "Woman", " man", "Dog"]}
    data = write_json("d.json", [{**row, "id": name} for name in "abcd"])
    answers = write_json("a.json", [{"id": name, "model_output": name.upper()} for name in "abcd"])
    result = score("mmau", data, answers, parser="lmms_eval")
    assert [item.correct for item in result.items] == [True, False, True, False]


def test_a_choice_without_words_is_right_for_any_words_that_no_wrong_choice_has() -> None:
    for text, right in (("", False), ("?", False), ("plus", True), ("minus", False)):
        assert official(text, "+", ["+", "minus"]) is right
        assert official_script(text, "+", ["+", "minus"]) is right


def test_a_letter_beyond_the_choices_is_wrong(write_json: Callable[..., Path]) -> None:
    data = write_json("d.json", [{**ROWS[0], "choices": ["Man", "Woman"]}])
    result = score("mmau", data, write_json("a.json", [{"id": "q0", "model_output": "D"}]), parser="lmms_eval")
    assert (result.items[0].parsed, result.items[0].correct) == (None, False)


def test_entries_without_output_are_passed_over_and_never_score_the_right_answer(
    write_json: Callable[..., Path],
) -> None:
    data = write_json("d.json", ROWS)
    result = score("mmau", data, write_json("a.json", [{**ROWS[2], "model_output": "Woman"}, *ROWS[:2]]))
    assert (result.n, result.metrics["accuracy"].value) == (1, 1.0)
    assert [flag.split(" ")[:2] for flag in result.flags] == [["missing_answers:", "2"]]
    with pytest.raises(DataError, match="no answers"):
        score("mmau", data, data)


def test_answers_in_another_order_twice_unknown_or_empty(write_lines: Callable[..., Path], tmp_path: Path) -> None:
    data = write_lines("d.jsonl", ROWS)
    rows = [("q2", "woman"), ("q0", None), ("q0", "man"), ("zz", "man"), ("q1", "3 4 " * 5000)]
    answers = write_lines("a.jsonl", [{"id": name, "model_output": text} for name, text in rows])
    result = score("mmau", data, answers)
    assert result.metrics["accuracy"].value == pytest.approx(2 / 3)
    assert [flag.split(":")[0] for flag in result.flags] == [
        "unknown_ids",
        "duplicate_answers",
        "empty_answers",
        "no_choice",
    ]
    (tmp_path / "bad.jsonl").write_bytes('{"id": "q0", "model_output": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        score("mmau", data, tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    "change",
    [{"choices": "Man"}, {"answer": "Child"}, {"id": 3}, {"choices": ["Man", 1]}, {"question": None}],
)
def test_wrong_data(write_json: Callable[..., Path], change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="question 1 of"):
        Mmau().samples(write_json("d.json", [{**ROWS[0], **change}]))


def test_wrong_parser() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'official'"):
        Mmau(parser="oficial")


def test_real_questions_against_the_restated_rule(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    path, generator = real_data("mmau/mmau-test-mini.json"), random.Random(1)
    rows = json.loads(path.read_text())
    benchmark = Mmau()
    samples = benchmark.samples(path)
    assert (len(samples), len({sample.group for sample in samples})) == (1000, 1000)
    said = {}
    for row in rows:
        wordy = [f"It is {row['answer']}.", f"{row['answer']}, not {generator.choice(row['choices'])}", "A", "None", ""]
        said[row["id"]] = generator.choice([row["answer"], row["answer"].upper(), *row["choices"], *wordy])
    expected = {row["id"]: official_script(said[row["id"]], row["answer"], row["choices"]) for row in rows}
    given = benchmark.answers([{"id": name, "model_output": text} for name, text in said.items()])
    write_answers(samples, given, tmp_path / "official.json")
    printed = score_command("mmau", "--data", path, "--answers", tmp_path / "official.json")
    assert printed["metrics"]["accuracy"]["value"] == sum(expected.values()) / 1000
    for task in ("sound", "music", "speech"):
        right = [expected[row["id"]] for row in rows if row["task"] == task]
        assert printed["metrics"][f"accuracy/{task}"]["value"] == pytest.approx(sum(right) / len(right), abs=1e-12)
    assert 0.3 < sum(expected.values()) / 1000 < 0.7
    always = score("mmau", path, _always(tmp_path, rows, "Yes"))
    assert always.metrics["accuracy"].value < 0.05


def _always(folder: Path, rows: list[dict[str, Any]], text: str) -> Path:
    path = folder / "always.json"
    path.write_text(json.dumps([{**row, "model_output": text} for row in rows]))
    return path
