"""TextVQA and OK-VQA: the EvalAI rule, its quirks, stemming, files."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals import official_rules as oracle
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.okvqa import OkVqa, learned_stems
from mmdpo.evals.runner import score
from mmdpo.evals.shared import vqa_text
from mmdpo.evals.textvqa import TextVqa

# -- TextVQA ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_questions_give_the_official_numbers_to_the_last_digit(
    real_data: Callable[[str], Path], write_json: Callable[..., Path]
) -> None:
    data = real_data("textvqa/TextVQA_0.5.1_val.json")
    rows = json.loads(data.read_text())["data"]
    generator = random.Random(1)
    garbled = ["{}", "{}", "{}.", "{}?", "{}'s", "the {}", "{},{}", "", "1,000 {}", "no", "\t{}\n", "{} - x"]
    said = [generator.choice(garbled).replace("{}", generator.choice(row["answers"])) for row in rows]
    pairs = list(zip([row["question_id"] for row in rows], said, strict=True))
    answers = write_json("a.json", [{"question_id": n, "answer": text} for n, text in generator.sample(pairs, 5000)])
    result = score("textvqa", data, answers)
    expected = [oracle.eval_ai_accuracy(row["answers"], text) for row, text in zip(rows, said, strict=True)]
    found = {item.id: item.details["score"] for item in result.items}
    assert [found[str(row["question_id"])] for row in rows] == expected
    assert result.metrics["accuracy"].value == pytest.approx(sum(expected) / 5000, abs=1e-12)
    assert (result.rule, result.n, list(result.metrics)) == ("eval_ai", 5000, ["accuracy"])


def ten(*answers: str) -> list[str]:
    return [*answers, *(f"other {number}" for number in range(10 - len(answers)))]


@pytest.mark.parametrize(
    ("said", "answers", "expected"),
    [
        ("black,white", ten("blackwhite"), 0.3),
        ("black,white", ten("black white"), 0.0),
        ("black, white?", ten("black white"), 0.3),
        ("1,000", ten("1000"), 0.3),
        ("men's", ten("men 's", "mens"), 0.3),
        ("Yes.", ["yes"] * 10, 1.0),
        ("No.", ten("no", "NO!", "no?", "no,"), 1.0),
        ("not really", ["no"] * 10, 0.0),
        ("", ten("", "?", "the"), 0.9),
        ("Zürich", ten("zürich"), 0.3),
        ("dont", ten("don't"), 0.3),
        ("coca-cola", ten("coca cola", "cocacola"), 0.3),
        ("MEN'S", ten("men's", "Men 'S", "mens"), 0.6),
        ("hot\ndogs", ten("hot dogs", "hot\tdogs", "hotdogs"), 0.6),
        ("what? 3,5", ten("what 35"), 0.3),
        ("3 . 5 ...", ten("3 5"), 0.3),
    ],
)
def test_nasty_answers(write_json: Callable[..., Path], said: str, answers: list[str], expected: float) -> None:
    data = write_json("d.json", [{"question_id": 1, "answers": answers}])
    printed = oracle.score_command(
        "textvqa", "--data", data, "--answers", write_json("a.json", [{"question_id": 1, "answer": said}])
    )
    assert printed["metrics"]["accuracy"]["value"] == pytest.approx(expected, abs=1e-12)
    assert oracle.eval_ai_accuracy(answers, said) == pytest.approx(expected, abs=1e-12)


def test_a_clitic_is_a_word_of_its_own_whatever_its_capitals() -> None:
    assert vqa_text.eval_ai(" Men'S hats? ") == "men 's hats"


def test_questions_without_the_id_of_an_image_stand_for_themselves(write_json: Callable[..., Path]) -> None:
    rows = [{"question_id": n, "image_id": None, "answers": ten("x")} for n in (1, 2)]
    assert [sample.group for sample in TextVqa().samples(write_json("d.json", rows))] == ["1", "2"]


def test_three_forms_of_the_data(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    row = {"question_id": 7, "image_id": "0a", "question": "what brand is it?", "answers": ten("x")}
    forms = [
        write_json("official.json", {"dataset_name": "textvqa", "data": [row]}),
        write_json("list.json", [row]),
        write_lines("lines.jsonl", [row, {**row, "question_id": 8}]),
        write_lines("line.jsonl", [row]),
    ]
    first = [TextVqa().samples(path)[0] for path in forms]
    assert all(sample == first[0] for sample in first)
    assert first[0].prompt == "what brand is it?\nAnswer the question using a single word or phrase."
    assert (first[0].media, first[0].group) == ({"images": ["0a.jpg"]}, "0a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"answers": ten("x")}], "question 1 of .* has no question_id"),
        ([{"question_id": None, "answers": ten("x")}], "question 1 of .* has no question_id"),
        ([{"question_id": 1, "answers": ["x"] * 9}], "has 9 human answers"),
        ([{"question_id": 1}], "has no list of human answers: None"),
        ({"data": []}, "holds no questions under 'data'"),
        ([], "is empty"),
    ],
)
def test_files_that_are_none(write_json: Callable[..., Path], content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TextVqa().samples(write_json("d.json", content))


# -- OK-VQA -----------------------------------------------------------------------------------------------------------


def five(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    """Five people's raw and stemmed answers, each twice as in the data."""
    doubled = [pair for pair in pairs for _ in range(2)]
    return [{"raw_answer": raw, "answer": stem, "answer_id": n} for n, (raw, stem) in enumerate(doubled, 1)]


@pytest.fixture
def okvqa(write_json: Callable[..., Path]) -> Path:
    races = five(("racing", "race"), ("Motor races", "motor race"), *[("sport", "sport")] * 3)
    horses = five(("riding horses", "ride hors"), ("horses", "hors"), *[("polo", "polo")] * 3)
    rows = [{"question_id": n, "image_id": n, "answers": entries} for n, entries in enumerate((races, horses), 1)]
    return write_json("ok.json", {"annotations": rows})


@pytest.mark.parametrize(
    ("said", "options", "expected"),
    [
        # One person's answer stands twice, so it scores .6; three people's scores 1.
        (["race", "polo"], {}, (0.6, 1.0)),
        (["racing", "horses"], {}, (0.0, 0.0)),
        (["racing", "Riding horses."], {"stemming": "data"}, (0.6, 0.6)),
        (["motor racing", "the horses"], {"stemming": "data"}, (0.6, 0.6)),
        (["races", "riding a horse"], {"stemming": "data"}, (0.6, 0.0)),
        (["racing", "polo"], {"stem": lambda text: text.replace("racing", "race")}, (0.6, 1.0)),
        (["", "Not really"], {}, (0.0, 0.0)),
    ],
)
def test_okvqa(
    okvqa: Path, write_json: Callable[..., Path], said: list[str], options: dict[str, Any], expected: tuple[float, ...]
) -> None:
    answers = write_json("a.json", [{"question_id": n, "answer": text} for n, text in enumerate(said, 1)])
    result = score("okvqa", okvqa, answers, **options)
    assert tuple(item.details["score"] for item in result.items) == pytest.approx(expected, abs=1e-12)
    rows = json.loads(okvqa.read_text())["annotations"]
    if not options:
        references = [[entry["answer"] for entry in row["answers"]] for row in rows]
        assert [item.details["score"] for item in result.items] == [
            oracle.eval_ai_accuracy(answers, text) for answers, text in zip(references, said, strict=True)
        ]


def test_stems_are_learned_word_by_word_and_by_majority() -> None:
    rows = [
        {"answers": five(("racing", "race"), ("racing", "race"), ("racing", "rac"), ("dog", "dog"), ("x b", "c"))},
    ]
    assert learned_stems(rows) == {"racing": "race"}


def test_the_rule_says_which_stemming_was_used(okvqa: Path, write_json: Callable[..., Path]) -> None:
    answers = write_json("a.json", [{"question_id": 1, "answer": "race"}])
    printed = oracle.score_command("okvqa", "--data", okvqa, "--answers", answers, "--stemming", "data")
    assert printed["rule"] == "eval_ai; stemming data"
    assert printed["flags"] == ["missing_answers: 1 of 2 samples have no answer; set aside"]
    assert OkVqa(stem=str.lower).rule == "eval_ai; stemming given function"
    assert OkVqa().rule == "eval_ai; stemming none"


def test_okvqa_images_and_questions(okvqa: Path, write_json: Callable[..., Path]) -> None:
    questions = write_json("q.json", {"questions": [{"question_id": 1, "question": "What sport?"}]})
    sample = OkVqa(questions=questions, suffix=" Be short.").samples(okvqa)[0]
    assert (sample.prompt, sample.media["images"]) == ("What sport? Be short.", ["COCO_val2014_000000000001.jpg"])


def test_okvqa_options_that_are_none() -> None:
    with pytest.raises(ConfigError, match="unknown stemming 'porter'"):
        OkVqa(stemming="porter")
    with pytest.raises(ConfigError, match="with a function"):
        OkVqa(stemming="data", stem=str.lower)
    with pytest.raises(ConfigError, match="stem 'porter' of okvqa is no function"):
        OkVqa(stem="porter")  # type: ignore[arg-type]
