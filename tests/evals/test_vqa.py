"""VQA v2: the official numbers to the last digit, the rule's quirks by name, bad input, official files."""

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import official_rules as oracle
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Answer
from mmdpo.evals.runner import compare, score
from mmdpo.evals.shared import vqa_text
from mmdpo.evals.shared.consensus import SHORT_ANSWER, consensus
from mmdpo.evals.vqa import Vqa, official_report, write_official_answers


def records(*answers: str) -> list[dict[str, Any]]:
    return [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(answers, 1)]


def question(number: int, *answers: str, image: int = 0, kind: str = "other") -> dict[str, Any]:
    return {
        "question_id": number,
        "image_id": image or number,
        "question_type": "what is",
        "answer_type": kind,
        "answers": records(*answers),
    }


@pytest.fixture
def scored(write_json: Callable[..., Path]) -> Callable[..., float]:
    """The accuracy of one answer among ten."""

    def run(said: str, *answers: str, **options: Any) -> float:
        data = write_json("one.json", {"annotations": [question(1, *answers)]})
        rows = write_json("said.json", [{"question_id": 1, "answer": said}])
        return score("vqa", data, rows, **options).metrics["accuracy"].value

    return run


# -- the official numbers ---------------------------------------------------------------------------------------------


def disturbed(generator: random.Random, answer: str) -> str:
    """A human answer as it is, or as a model might garble it."""
    garbled = [
        "{}.",
        " {}\n",
        "the {}",
        "",
        "{}s",
        "{}, {}",
        '"{}"',
        "dont\t{}",
        ". " * 40 + "{}",
        "{} - 1,000",
        "{}?!",
    ]
    replaced = [(" ", "-"), ("'", ""), ("2", "two"), ("1", "\uff11")]
    said = [pattern.replace("{}", answer) for pattern in garbled]
    said += [answer.upper(), *(answer.replace(old, new) for old, new in replaced)]
    return generator.choice([*[answer] * 5, *said])


@pytest.mark.parametrize(
    ("split", "size"),
    [
        ("test", 2962),
        pytest.param("valid", 8977, marks=pytest.mark.slow),
        pytest.param("train", 48061, marks=pytest.mark.slow),
    ],
)
def test_real_annotations_give_the_official_numbers_to_the_last_digit(
    real_data: Callable[[str], Path], write_json: Callable[..., Path], split: str, size: int
) -> None:
    data = real_data(f"vqav2_subset/vqa_annotatons_{split}.json.gz")
    rows = json.loads(gzip.decompress(data.read_bytes()))["annotations"]
    generator = random.Random(size)
    said = {row["question_id"]: disturbed(generator, generator.choice(row["answers"])["answer"]) for row in rows}
    order = generator.sample(rows, len(rows))
    answers = write_json(
        "a.json", [{"question_id": row["question_id"], "answer": said[row["question_id"]]} for row in order]
    )

    expected = {row["question_id"]: oracle.vqa_accuracy(row["answers"], said[row["question_id"]]) for row in rows}
    by_type: dict[str, dict[str, list[float]]] = {"question_type": defaultdict(list), "answer_type": defaultdict(list)}
    for row in rows:
        for key, table in by_type.items():
            table[row[key]].append(expected[row["question_id"]])

    benchmark = Vqa()
    samples = benchmark.samples(data)
    result = benchmark.score(samples, benchmark.read_answers(answers))
    assert len(samples) == result.n == size
    assert {int(item.id): item.details["score"] for item in result.items} == expected
    assert result.metrics["accuracy"].value == pytest.approx(oracle.added(list(expected.values())) / size, abs=1e-12)
    for kind, values in by_type["answer_type"].items():
        found = result.metrics[f"accuracy/{kind.replace('/', '_')}"]
        assert (found.value, found.n) == (pytest.approx(oracle.added(values) / len(values), abs=1e-12), len(values))
    assert official_report(result, samples)["accuracy"] == {
        "overall": oracle.percent(list(expected.values())),
        "perQuestionType": {kind: oracle.percent(values) for kind, values in by_type["question_type"].items()},
        "perAnswerType": {kind: oracle.percent(values) for kind, values in by_type["answer_type"].items()},
    }

    always = [oracle.vqa_accuracy(row["answers"], said[row["question_id"]], always=True) for row in rows]
    harness = Vqa(rule="always_normalise").score(samples, benchmark.read_answers(answers)).metrics["accuracy"].value
    assert harness == pytest.approx(oracle.added(always) / size, abs=1e-12)
    assert harness > result.metrics["accuracy"].value


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_worked_scores(matches: int, expected: float) -> None:
    references = ["cat"] * matches + [f"dog {number}" for number in range(10 - matches)]
    assert consensus("cat", references) == pytest.approx(expected, abs=1e-15)
    assert consensus("cat", references, list(range(10))) == consensus("cat", references)


def test_halves_are_rounded_away_from_zero_as_in_python_2(write_json: Callable[..., Path]) -> None:
    # 0.9 of 80 is 1.125 %, which a binary number holds exactly; Python 3 rounds it to 1.12.
    # One question is answered as three people did, the others as nobody did.
    rows = [question(number, *"xxxbcdefgh") for number in range(80)]
    answers = [Answer(str(number), "zebra" if number else "x") for number in range(80)]
    samples = Vqa().samples(write_json("d.json", {"annotations": rows}))
    report = official_report(Vqa().score(samples, answers), samples)
    assert report["accuracy"]["overall"] == 1.13
    assert report["evalQA"]["0"] == 90.0


# -- quirks by name ---------------------------------------------------------------------------------------------------

TEN_YES = ("yes",) * 10
NINE_YES = ("no", *["yes"] * 9)


@pytest.mark.parametrize(
    ("said", "answers", "official", "always"),
    [
        ("Yes", TEN_YES, 0.0, 1.0),
        ("yes.", TEN_YES, 0.0, 1.0),
        (" yes\n", TEN_YES, 1.0, 1.0),
        ("Yes", NINE_YES, 1.0, 1.0),
        ("yes, it is", NINE_YES, 0.0, 0.0),
        ("No.", NINE_YES, 0.3, 0.3),
        ("Not really", NINE_YES, 0.0, 0.0),
        ("yes, no", NINE_YES, 0.0, 0.0),
        ("", NINE_YES, 0.0, 0.0),
        ("", ("", *["yes"] * 9), 0.3, 0.3),
        ("the", ("a", "an", *["yes"] * 8), 0.6, 0.6),
        ("None", ("0", "zero", "none", "0.", *["1"] * 6), 1.0, 1.0),
        ("two", TEN_YES[:1] + ("2",) * 9, 1.0, 1.0),
        ("3.5", ("3.5", "35", *["3"] * 8), 0.3, 0.3),
        ("dont", ("don't", "dont", *["x"] * 8), 0.6, 0.6),
        ("somebody'd", ("somebodyd", *["x"] * 9), 0.3, 0.3),
        ("1,000", ("1000", *["x"] * 9), 0.3, 0.3),
        ("black,white", ("black white", "blackwhite", *["x"] * 8), 0.3, 0.3),
        ("black, white", ("black white", "blackwhite", *["x"] * 8), 0.3, 0.3),
        ("men's", ("men's", "mens", *["x"] * 8), 0.3, 0.3),
        ("men\u2019s", ("men's", *["x"] * 9), 0.0, 0.0),
        ("\u00c9cole", ("\u00e9cole", *["x"] * 9), 0.3, 0.3),
        ("2:50", ("2:50", *["x"] * 9), 0.3, 0.3),
        ("yes " * 500, NINE_YES, 0.0, 0.0),
        ("hot\ndog", ("hot dog",) * 10, 1.0, 1.0),
        ("hot\tdog", ("hot dog",) * 10, 1.0, 1.0),
        ("hot  dog", ("hot dog",) * 10, 0.0, 1.0),
        ("hot dogs", ("hot dog", *["hot dogs"] * 9), 1.0, 1.0),
    ],
)
def test_nasty_answers(
    scored: Callable[..., float], said: str, answers: tuple[str, ...], official: float, always: float
) -> None:
    assert scored(said, *answers) == pytest.approx(official, abs=1e-12)
    assert scored(said, *answers, rule="always_normalise") == pytest.approx(always, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".." * 20, "." * 8),
        ("1,000 tv/radio", "1000 tvradio"),
        ("tv/radio", "tv radio"),
        ("t-shirt - red", "tshirt red"),
        ("3.5.", "3.5"),
        (".5", ".5"),
        ("$5 #1 50% a&b: *", "$5 #1 50% a&b: *"),
        ("couldnt've", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("'ow'sat", "'ow's'at"),
        ("Im ill", "im ill"),
        ("let's", "let's"),
        ("\u0663,\u0664/x", "\u0663 \u0664 x"),
        ("5.\u0664", "5\u0664"),
    ],
)
def test_the_official_form(text: str, expected: str) -> None:
    assert vqa_text.official(text) == expected


def test_every_number_word_up_to_ten_is_a_digit() -> None:
    words = "None zero one two three four five six seven eight nine ten eleven"
    assert vqa_text.official(words) == "0 0 1 2 3 4 5 6 7 8 9 10 eleven"
    assert vqa_text.harness(words) == vqa_text.eval_ai(words) == vqa_text.official(words)


@pytest.mark.parametrize("mark", ';/[]"{}()=+\\_-><@`,?!')
def test_a_mark_is_a_space_inside_a_word_and_nothing_beside_a_space(mark: str) -> None:
    assert vqa_text.official(f"tv{mark}set") == "tv set"
    assert vqa_text.official(f"tv{mark}set {mark}") == "tvset"
    assert vqa_text.official(f"tv{mark}set 1,000") == "tvset 1000"


@pytest.mark.parametrize("mark", ":'$%&#*~|^\u2019\u3001\uff0c")
def test_other_marks_stay(mark: str) -> None:
    assert vqa_text.official(f"tv{mark}set {mark}") == f"tv{mark}set {mark}"


def test_harnesses_know_digits_of_other_scripts() -> None:
    assert vqa_text.harness("\u0663,\u0664/x") == "\u0663\u0664x"
    assert vqa_text.harness("5.\u0664") == "5.\u0664"
    assert vqa_text.harness("1,,000/x") == "1000x"
    assert vqa_text.official("1,,000/x") == "1 000 x"


def test_the_table_of_contractions_is_the_official_one_without_entries_that_do_nothing() -> None:
    # 120 entries there: four keys have a capital and never match, two stand for themselves.
    assert len(vqa_text.CONTRACTIONS) == 114
    assert not {"let's", "she's", "shes", "hell", "well", "ill", "id", "were"} & set(vqa_text.CONTRACTIONS)


@given(st.text(alphabet="aA1 9.,;/-!?'\"$:()\t\nthe\u0663\u00a0\u2019", max_size=20))
def test_any_text_is_written_as_the_description_says(text: str) -> None:
    western = text.replace("\u0663", "x")
    assert vqa_text.official(western) == oracle.digits_and_articles(oracle.punctuation(oracle.trimmed(western)))
    assert vqa_text.eval_ai(text) == oracle.eval_ai(text)


def test_equal_records_are_left_out_together(write_json: Callable[..., Path]) -> None:
    # Without ids all four "cat" are one record: each "cat" sees no other, each "dog" sees four.
    row = question(1, "x")
    row["answers"] = [{"answer": answer} for answer in ["cat"] * 4 + ["dog"] * 6]
    data = write_json("d.json", {"annotations": [row]})
    result = score("vqa", data, write_json("a.json", [{"question_id": 1, "answer": "cat"}]))
    assert result.metrics["accuracy"].value == pytest.approx(0.6)
    assert result.metrics["accuracy"].value == oracle.vqa_accuracy(row["answers"], "cat")


# -- files and bad input ----------------------------------------------------------------------------------------------


@pytest.fixture
def data(write_json: Callable[..., Path]) -> Path:
    """Four questions on two images, one of each type of answer and one more."""
    kinds = ["yes/no", "number", "other", "other"]
    rows = [question(10 + n, *"pppppqqqrs", image=n // 2 + 1, kind=kind) for n, kind in enumerate(kinds)]
    return write_json("d.json", {"data_subtype": "val2014", "annotations": rows})


def test_the_command_line(data: Path, write_json: Callable[..., Path]) -> None:
    answers = write_json("a.json", [{"question_id": n, "answer": said} for n, said in enumerate("pqrs", 10)])
    printed = oracle.score_command("vqa", "--data", data, "--answers", answers, "--rule", "always_normalise")
    assert (printed["benchmark"], printed["rule"], printed["n"]) == ("vqa", "always_normalise", 4)
    assert list(printed["metrics"]) == ["accuracy", "accuracy/number", "accuracy/other", "accuracy/yes_no"]
    values = {name: round(metric["value"], 6) for name, metric in printed["metrics"].items()}
    assert values == {"accuracy": 0.625, "accuracy/number": 0.9, "accuracy/other": 0.3, "accuracy/yes_no": 1.0}


def test_other_order_missing_duplicate_unknown_and_empty(data: Path, write_json: Callable[..., Path]) -> None:
    rows = [(12, "r"), (10, "p"), (10, "s"), (99, "p"), (11, None)]
    result = score("vqa", data, write_json("a.json", [{"question_id": n, "answer": said} for n, said in rows]))
    assert (result.n, result.unparsed) == (3, 1)
    assert [flag.split(" ")[:2] for flag in result.flags] == [
        ["unknown_ids:", "1"],
        ["duplicate_answers:", "1"],
        ["missing_answers:", "1"],
        ["empty_answers:", "1"],
    ]
    with pytest.raises(DataError, match="1 of 4 questions have no answer"):
        official_report(result, Vqa().samples(data))


def test_models_that_always_say_the_same(data: Path, write_json: Callable[..., Path]) -> None:
    for said, expected in (("zebra", 0.0), ("p", 1.0)):
        result = score("vqa", data, write_json("a.json", [{"question_id": n, "answer": said} for n in range(10, 14)]))
        assert {metric.value for metric in result.metrics.values()} == {expected}
        assert all(metric.low < metric.high for metric in result.metrics.values())


def test_two_models_are_compared_by_the_same_rule(data: Path, write_json: Callable[..., Path]) -> None:
    said = [[{"question_id": n, "answer": answer} for n in range(10, 14)] for answer in "qp"]
    first, second = (score("vqa", data, write_json(f"{n}.json", rows)) for n, rows in enumerate(said))
    gap = compare(first, second)["accuracy/other"]["difference"]
    assert (gap["value"], gap["n"]) == (pytest.approx(0.1), 2)
    other = score("vqa", data, write_json("0.json", said[0]), rule="always_normalise")
    with pytest.raises(DataError, match="cannot be compared"):
        compare(first, other)


def test_prompts_and_images(data: Path, write_json: Callable[..., Path]) -> None:
    questions = write_json("q.json", {"questions": [{"question_id": 10, "image_id": 1, "question": "What is it?"}]})
    first, second = Vqa(questions=questions).samples(data)[:2]
    assert first.prompt == "What is it?" + SHORT_ANSWER
    assert second.prompt == ""
    assert first.media == {"images": ["COCO_val2014_000000000001.jpg"]}
    assert Vqa(image_name="{id}.png").samples(data)[0].media == {"images": ["1.png"]}
    asked = Vqa(questions=questions, suffix="").samples(data)[0]
    assert asked.prompt == "What is it?"


def test_a_question_repeated_in_the_answers_may_lack_the_suffix(data: Path, write_json: Callable[..., Path]) -> None:
    questions = write_json(
        "q.json", {"questions": [{"question_id": n, "question": f"What is {n}?"} for n in range(10, 14)]}
    )
    rows = [{"question_id": n, "question": f"What is {n}?", "answer": "p"} for n in range(10, 13)]
    rows.append({"question_id": 13, "question": "What is 12?", "answer": "p"})
    flags = score("vqa", data, write_json("a.json", rows), questions=questions).flags
    assert [flag.split(" ")[:2] for flag in flags] == [["other_question_text:", "1"]]


def test_official_answers_are_written_and_read(tmp_path: Path) -> None:
    answers = [Answer("540769000", "a\u2028b"), Answer("2", ""), Answer("3", "half a pair: \ud83d")]
    write_official_answers(answers, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())[0] == {"question_id": 540769000, "answer": "a\u2028b"}
    assert Vqa().read_answers(tmp_path / "a.json") == answers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is no file of annotations"),
        ({"annotations": []}, "is no file of annotations"),
        ({"questions": [{"question_id": 1}]}, "is no file of annotations"),
        ({"annotations": [{"question_id": 1, "answers": []}]}, "is no file of annotations"),
        ({"annotations": [{**question(1), "answers": []}]}, "question 1 of .* has no list of human answers"),
        ({"annotations": [{**question(1), "answers": [{"answer": 2}]}]}, "has no list of human answers"),
        ({"annotations": [question(1, "x"), {**question(2, "x"), "image_id": None}]}, "annotations: entry 2 is "),
        ({"annotations": [{**question(1, "x"), "image_id": [1]}]}, "annotations: entry 1 is "),
        ({"annotations": [{**question(1, "x"), "question_id": None}]}, "annotations: entry 1 is "),
        ({"annotations": ["x"]}, "annotations: entry 1 is x"),
    ],
)
def test_files_that_are_none(write_json: Callable[..., Path], content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Vqa().samples(write_json("d.json", content))


def test_numbers_as_answers_and_files_of_no_questions_are_refused(data: Path, write_json: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="has no text under 'answer'"):
        score("vqa", data, write_json("a.json", [{"question_id": 10, "answer": 2}]))
    with pytest.raises(DataError, match="is no file of questions"):
        Vqa(questions=data).samples(data)


def test_options_that_are_none() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'official'"):
        Vqa(rule="oficial")
    with pytest.raises(ConfigError, match="is no pattern"):
        Vqa(image_name="{name}.jpg")
