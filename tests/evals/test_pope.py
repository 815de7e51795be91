"""POPE: every parser on nasty answers, the official numbers to the last digit, files as they are found in the wild."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.pope import KINDS, PARSERS, Pope
from mmdpo.evals.runner import score

NASTY = {
    # answer: (official, opera, lmms_eval, vlmevalkit); vcd depends on the label and is below
    "yes": (True, True, True, True),
    "no": (False, False, False, False),
    "Yes.": (True, True, None, True),
    "No.": (False, False, None, False),
    "No, there is no dog.": (False, False, None, False),
    "No,there is": (True, True, None, False),
    "NO": (True, False, False, False),
    "Nope": (True, True, None, None),
    "no!": (True, True, None, False),
    "No\n": (True, True, False, False),
    "None": (True, True, None, None),
    "": (True, True, None, None),
    "Not really": (True, True, None, None),
    "It is not.": (False, False, None, None),
    "There isn't": (True, False, None, None),
    "There isn't. no": (True, False, None, False),
    "yes, no": (False, False, None, None),
    "Yes, not only one but two": (False, False, None, True),
    "Mr. no": (True, False, None, False),
    "n,o": (False, False, None, None),
    "I am not sure": (False, False, None, None),
    "Yes. But no cat.": (True, False, None, None),
    " YES ": (True, True, True, True),
    "no way": (False, False, None, False),
    "Ｎo": (True, True, None, None),
    "да": (True, True, None, None),
    "yes " * 400: (True, True, None, True),
}


@pytest.mark.parametrize(("text", "expected"), NASTY.items())
def test_nasty_answers(text: str, expected: tuple[bool | None, ...]) -> None:
    names = ("official", "opera", "lmms_eval", "vlmevalkit")
    assert tuple(PARSERS[name](text, True) for name in names) == expected
    assert tuple(PARSERS[name](text, False) for name in names) == expected


@pytest.mark.parametrize(
    ("text", "right_if_yes", "right_if_no"),
    [("Yes", True, False), ("NO!", False, True), ("I know", False, True), ("", False, False), ("yes, no", True, True)],
)
def test_vcd_reads_by_the_label(text: str, right_if_yes: bool, right_if_no: bool) -> None:
    assert PARSERS["vcd"](text, True) is right_if_yes
    assert PARSERS["vcd"](text, False) is not right_if_no


@given(st.text())
def test_every_parser_reads_any_text(text: str) -> None:
    for parser in PARSERS.values():
        assert parser(text, True) in {True, False, None}


# -- the official numbers ---------------------------------------------------------------------------------------------


def official_numbers(texts: list[str], labels: list[str]) -> dict[str, float]:
    """The official script's arithmetic, written anew from its description."""
    said = []
    for text in texts:
        head = text[: text.find(".")] if "." in text else text
        parts = head.replace(",", "").split(" ")
        said.append("no" if "No" in parts or "not" in parts or "no" in parts else "yes")
    cells = Counter(zip(said, labels, strict=True))
    precision = float(cells["yes", "yes"]) / float(cells["yes", "yes"] + cells["yes", "no"])
    recall = float(cells["yes", "yes"]) / float(cells["yes", "yes"] + cells["no", "yes"])
    return {
        "accuracy": (cells["yes", "yes"] + cells["no", "no"]) / len(labels),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "yes_ratio": said.count("yes") / len(said),
    }


@pytest.mark.parametrize(
    ("folder", "sizes"),
    [
        ("coco", (3000, 3000, 3000)),
        pytest.param("older_version_OPERA", (2910, 3000, 3000), marks=pytest.mark.slow),
        pytest.param("repope", (2774, 2727, 2684), marks=pytest.mark.slow),
    ],
)
def test_real_questions_give_the_official_numbers_to_the_last_digit(
    real_data: Callable[[str], Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
    folder: str,
    sizes: tuple[int, ...],
) -> None:
    data, generator, expected = real_data(f"pope/{folder}"), random.Random(2), {}
    for kind, size in zip(KINDS, sizes, strict=True):
        (path,) = data.glob(f"*_{kind}.json")
        questions = [json.loads(line) for line in path.read_text().splitlines()]
        texts = [generator.choice([*NASTY, question["label"]]) for question in questions]
        assert len(questions) == size
        write_lines(
            f"answers/{kind}.jsonl",
            [{"question": q["text"], "answer": text} for q, text in zip(questions, texts, strict=True)],
        )
        numbers = official_numbers(texts, [question["label"] for question in questions])
        expected |= {f"{kind}_{name}": value for name, value in numbers.items()}
        alone = score("pope", path, shuffled_by_id(write_lines, kind, questions, texts))
        assert {name: entry.value for name, entry in alone.metrics.items()} == numbers
    result = score("pope", data, tmp_path / "answers")
    assert {name: result.metrics[name].value for name in expected} == expected
    assert result.n == sum(sizes)
    assert result.metrics["mean_f1"].value == pytest.approx(sum(expected[f"{kind}_f1"] for kind in KINDS) / 3)
    assert len({item.group for item in result.items}) == 500


def shuffled_by_id(
    write_lines: Callable[..., Path], kind: str, questions: list[dict[str, Any]], texts: list[str]
) -> Path:
    """The answers by id, in another order, in LLaVA's form."""
    rows = [{"question_id": q["question_id"], "text": text} for q, text in zip(questions, texts, strict=True)]
    random.Random(1).shuffle(rows)
    return write_lines(f"by_id/{kind}.jsonl", rows)


def test_other_question_files_are_read(real_data: Callable[[str], Path]) -> None:
    assert len(Pope().samples(real_data("pope/seem/gqa"))) == 9000
    assert {sample.target for sample in Pope().samples(real_data("pope/POPEv2_annotations.json"))} == {"yes", "no"}


# -- worked counts ----------------------------------------------------------------------------------------------------


@pytest.fixture
def questions(write_lines: Callable[..., Path]) -> Path:
    """Five questions on three images: labels yes no yes no no."""
    labels = ["yes", "no", "yes", "no", "no"]
    return write_lines(
        "questions.json",
        [
            {"question_id": 10 + i, "image": f"{i // 2}.jpg", "text": f"Is there a thing {i}?", "label": label}
            for i, label in enumerate(labels)
        ],
    )


def values(result: Any) -> dict[str, float]:
    return {name: round(entry.value, 6) for name, entry in result.metrics.items()}


@pytest.mark.parametrize(
    ("parser", "expected", "unparsed"),
    [
        # yes/yes, maybe/no, "No."/yes, "NO"/no, no/no
        ("official", {"accuracy": 0.4, "precision": 0.333333, "recall": 0.5, "f1": 0.4, "yes_ratio": 0.6}, 0),
        ("opera", {"accuracy": 0.6, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.4}, 0),
        ("vcd", {"accuracy": 0.6, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.4}, 0),
        # "maybe" and "No." are read as neither: wrong, but in neither precision nor recall.
        ("lmms_eval", {"accuracy": 0.6, "precision": 1.0, "recall": 1.0, "f1": 1.0, "yes_ratio": 0.2}, 2),
        # Here only "maybe" is neither.
        ("vlmevalkit", {"accuracy": 0.6, "precision": 1.0, "recall": 0.5, "f1": 0.666667, "yes_ratio": 0.2}, 1),
    ],
)
def test_worked_counts(
    questions: Path, write_lines: Callable[..., Path], parser: str, expected: dict[str, float], unparsed: int
) -> None:
    answers = write_lines("a.jsonl", [{"answer": text} for text in ("yes", "maybe", "No.", "NO", "no")])
    result = score("pope", questions, answers, parser=parser)
    assert values(result) == expected
    assert (result.rule, result.n, result.unparsed) == (parser, 5, unparsed)


def test_vlmevalkit_takes_an_unknown_answer_to_a_yes_for_a_missed_one(
    questions: Path, write_lines: Callable[..., Path]
) -> None:
    answers = write_lines("a.jsonl", [{"answer": text} for text in ("yes", "no", "maybe", "no", "no")])
    assert score("pope", questions, answers, parser="vlmevalkit").metrics["recall"].value == 0.5
    assert score("pope", questions, answers, parser="lmms_eval").metrics["recall"].value == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", {"accuracy": 0.6, "precision": 0.0, "recall": 0.0, "f1": 0.0, "yes_ratio": 0.0}),
        ("yes", {"accuracy": 0.4, "precision": 0.4, "recall": 1.0, "f1": 0.571429, "yes_ratio": 1.0}),
    ],
)
def test_models_that_always_say_the_same(
    questions: Path, write_lines: Callable[..., Path], text: str, expected: dict[str, float]
) -> None:
    result = score("pope", questions, write_lines("a.jsonl", [{"answer": text}] * 5))
    assert values(result) == expected
    assert all(entry.low < entry.high for entry in result.metrics.values())
    flags = [flag.split(":")[0] for flag in result.flags]
    assert flags == (["precision_undefined", "f1_degenerate"] if text == "no" else [])


def test_items_can_be_audited(questions: Path, write_lines: Callable[..., Path]) -> None:
    result = score("pope", questions, write_lines("a.jsonl", [{"answer": "No, it is not."}] * 5))
    first = result.items[0].to_json()
    assert {key: first[key] for key in ("id", "group", "raw", "parsed", "label", "correct", "prompt", "image")} == {
        "id": "10",
        "group": "0.jpg",
        "raw": "No, it is not.",
        "parsed": "no",
        "label": "yes",
        "correct": False,
        "prompt": "Is there a thing 0?",
        "image": "0.jpg",
    }


def test_which_direction_is_better() -> None:
    assert Pope().yes_no
    columns = [f"{kind}_questions" for kind in KINDS]
    assert {metric.name: metric.better for metric in Pope().metrics(["questions"])} == {
        **dict.fromkeys(("accuracy", "precision", "recall", "f1"), "higher"),
        "yes_ratio": "neither",
    }
    names = [metric.name for metric in Pope().metrics(columns)]
    assert names[:5] == [f"random_{name}" for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")]
    assert names[-2:] == ["mean_accuracy", "mean_f1"]
    assert len(names) == 17


# -- matching and bad input -------------------------------------------------------------------------------------------


def test_other_order_missing_duplicate_and_unknown_ids(questions: Path, write_lines: Callable[..., Path]) -> None:
    rows = [(14, "no"), (10, "yes"), (10, "no"), (99, "yes"), (12, "yes"), (11, "")]
    result = score("pope", questions, write_lines("a.jsonl", [{"question_id": i, "answer": a} for i, a in rows]))
    assert result.n == 4
    assert result.metrics["accuracy"].value == 0.75
    assert [flag.split(" ")[:2] for flag in result.flags] == [
        ["unknown_ids:", "1"],
        ["duplicate_answers:", "1"],
        ["missing_answers:", "1"],
        ["empty_answers:", "1"],
        ["yes_by_default:", "1"],
    ]


def test_another_question_in_the_answer_is_flagged(questions: Path, write_lines: Callable[..., Path]) -> None:
    rows = [{"question": f"Is there a thing {i}? Answer yes or no.", "answer": "no"} for i in (0, 1, 3, 2, 4)]
    flags = score("pope", questions, write_lines("a.jsonl", rows)).flags
    assert any(flag.startswith("other_question_text: 2 ") for flag in flags)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"answer": "no"}] * 4, "4 answers without ids for 5 samples"),
        ([{"answer": "no"}] * 6, "6 answers without ids for 5 samples"),
        ([{"question_id": 10, "answer": "no"}, {"answer": "no"}], "1 of 2 entries"),
        ([{"question_id": 1, "answer": "no"}], "none of the 1 answers"),
        ([{"question_id": 10, "response": "no"}], "has no text under 'answer' or 'text'"),
        ([{"question_id": 10, "answer": ["no"]}], "has no text"),
        ([], "is empty"),
    ],
)
def test_answers_that_cannot_be_matched(
    questions: Path, write_lines: Callable[..., Path], rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        score("pope", questions, write_lines("a.jsonl", rows))


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a.jpg", "text": "Is there a dog?", "label": "maybe"},
        {"image": "a.jpg", "text": "Is there a dog?"},
        {"text": "Is there a dog?", "label": "yes"},
        {"image": "a.jpg", "label": "yes"},
        {"image": "", "text": "Is there a dog?", "label": "yes"},
        {"image": "a.jpg", "text": " ", "label": "yes"},
        {"image": "a.jpg", "text": "Is there a dog?", "label": True},
    ],
)
def test_questions_that_are_none(write_lines: Callable[..., Path], row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="question 1 of"):
        Pope().samples(write_lines("q.json", [row]))


def test_repeated_question_ids_cannot_be_matched_by_id(write_lines: Callable[..., Path]) -> None:
    row = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}
    data = write_lines("q.json", [row, row])
    with pytest.raises(DataError, match="id '1' more than once"):
        score("pope", data, write_lines("a.jsonl", [{"question_id": 1, "answer": "yes"}]))
    assert score("pope", data, write_lines("b.jsonl", [{"answer": "yes"}] * 2)).n == 2


def test_a_folder_needs_one_file_of_each_kind(tmp_path: Path, write_lines: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="has no JSON file"):
        Pope().samples(tmp_path)
    row = {"image": "a.jpg", "text": "Is there a dog?", "label": "yes"}
    write_lines("a_random.json", [row])
    write_lines("b_random.json", [row])
    with pytest.raises(DataError, match="several files of the kind 'random'"):
        Pope().samples(tmp_path)


@pytest.fixture
def folders(write_lines: Callable[..., Path], tmp_path: Path) -> tuple[Path, Callable[..., Path]]:
    """Questions of two kinds, two each, and what writes a folder of answers."""
    for kind in ("popular", "adversarial"):
        rows = [{"question_id": n, "image": f"{n}.jpg", "text": f"{kind} {n}?", "label": "yes"} for n in range(2)]
        write_lines(f"questions/{kind}.jsonl", rows)

    def answers(**rows: list[dict[str, Any]]) -> Path:
        for kind, entries in rows.items():
            write_lines(f"answers/{kind}.jsonl", entries)
        return tmp_path / "answers"

    return tmp_path / "questions", answers


def test_answers_of_one_kind_are_not_scored_by_order_against_another(
    folders: tuple[Path, Callable[..., Path]],
) -> None:
    data, answers = folders
    said = [{"answer": "yes"}] * 2
    with pytest.raises(DataError, match="answers without ids to questions of other kinds"):
        score("pope", data, answers(random=said, popular=said))


def test_files_with_and_without_ids_are_not_mixed(folders: tuple[Path, Callable[..., Path]]) -> None:
    data, answers = folders
    said = [{"question_id": n, "answer": "yes"} for n in range(2)]
    with pytest.raises(DataError, match=r"some files of .* have ids and others none"):
        score("pope", data, answers(popular=[{"answer": "yes"}] * 2, adversarial=said))


def test_a_missing_kind_is_counted(folders: tuple[Path, Callable[..., Path]]) -> None:
    data, answers = folders
    result = score("pope", data, answers(adversarial=[{"question_id": n, "answer": "yes"} for n in (1, 0)]))
    assert (result.n, result.metrics["adversarial_accuracy"].value) == (2, 1.0)
    assert result.flags[0].startswith("missing_answers: 2 of 4")
    assert "popular_accuracy" not in result.metrics


def test_packed_files_in_a_folder_and_questions_without_ids(tmp_path: Path) -> None:
    rows = [{"question_id": None, "image": "a.jpg", "text": f"{n}?", "label": "no"} for n in range(2)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "random.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert [sample.id for sample in Pope().samples(tmp_path)] == ["random/1", "random/2"]


def test_unknown_parser() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'official'"):
        Pope(parser="oficial")
