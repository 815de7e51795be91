"""MMHal-Bench: ratings in replies, the official arithmetic, a judge, and the forms that files have."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Result
from mmdpo.evals.mmhal import REVIEW, MMHal, rating_of_reply, write_answers
from mmdpo.evals.runner import compare, score

TEMPLATE = "mmhal/mmhal-bench_answer_template.json"
TYPES = ["attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other"]


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Rating: 6, very informative", 6),
        ("It is so.\n- **Rating: 3**", 3),
        ("RATING: 0", 0),
        ("rating: 2 ... I repeat, rating: 2", 2),
        ("Rating: 10", 1),
        ("Rating:3", None),
        ("Rating 3", None),
        ("Rating: 7", None),
        ("Rating: ３", None),
        ("Rating: 4 or Rating: 5", None),
        ("Rating: three", None),
        ("", None),
    ],
)
def test_ratings(reply: str, rating: int | None) -> None:
    assert rating_of_reply(reply) == rating


def official_script(replies: list[str]) -> dict[str, float]:
    """The official scripts' arithmetic, written anew from its description: types by the order of the questions."""
    scores = []
    for reply in replies:
        hits = [s for s in range(7) if reply.lower().count(f"rating: {s}")]
        scores.append(hits[0] if len(hits) == 1 else 0)
    informative = [s - 3 if s >= 3 else s for s in scores]
    each = {f"score/{name}": sum(scores[i::8]) / len(scores[i::8]) for i, name in enumerate(TYPES)}
    return {
        "score": sum(scores) / len(scores),
        "hallucination_rate": sum(s < 3 for s in scores) / len(scores),
        "informativeness": sum(informative) / len(informative) / 3,
        **each,
    }


@pytest.mark.parametrize("form", ["strings", "completions", "rows"])
def test_the_official_numbers(real_data: Callable[[str], Path], write_json: Callable[..., Path], form: str) -> None:
    data, generator = real_data(TEMPLATE), random.Random(5)
    replies = [generator.choice([*(f"So. Rating: {s}." for s in range(7)), "Rating:4", ""]) for _ in range(96)]
    entries: list[Any] = replies
    if form == "completions":
        entries = [{"model": "gpt-4", "choices": [{"message": {"content": reply}}]} for reply in replies]
    if form == "rows":
        template = json.loads(data.read_text())
        entries = [{**row, "model_answer": "A.", REVIEW: reply} for row, reply in zip(template, replies, strict=True)]
        generator.shuffle(entries)
    result = score("mmhal", data, write_json("replies.json", entries))
    expected = official_script(replies)
    assert {name: entry.value for name, entry in result.metrics.items()} == pytest.approx(expected, abs=1e-12)
    assert {result.metrics[f"score/{name}"].n for name in TYPES} == {12}
    lost = sum("Rating: " not in reply for reply in replies)
    assert (result.n, result.unparsed) == (96, lost)
    assert f"no_single_rating: {lost} replies hold no rating or several; each counts as 0" in result.flags
    assert 0 <= result.metrics["score"].low < result.metrics["score"].value < result.metrics["score"].high <= 6


def test_the_real_template_is_read_completely(real_data: Callable[[str], Path]) -> None:
    samples = MMHal().samples(real_data(TEMPLATE))
    assert len(samples) == len({sample.group for sample in samples}) == 96
    assert samples[0].media == {"images": ["7206072054_c53d53b97d_o.jpg"]}
    assert samples[1].meta["objects"] == "Door, Building"
    assert MMHal(image_name="{id}.jpg").samples(real_data(TEMPLATE))[0].media == {"images": ["df62a56fdc1bb12b.jpg"]}


# -- worked counts ----------------------------------------------------------------------------------------------------

ROWS = [
    {
        "question_type": kind,
        "question_topic": "outdoor",
        "image_id": f"id{number}",
        "image_src": f"https://example.org/{number}.jpg",
        "image_content": ["Dog", "Tree {answer}"],
        "question": f"What is {number}?",
        "gt_answer": f"It is {number}.",
        "model_answer": "",
    }
    for number, kind in enumerate(["attribute", "adversarial", "attribute", "other"])
]


@pytest.fixture
def data(write_json: Callable[..., Path]) -> Path:
    return write_json("template.json", ROWS)


def values(result: Result) -> dict[str, float]:
    return {name: round(entry.value, 4) for name, entry in result.metrics.items()}


def test_worked_counts(data: Path, write_json: Callable[..., Path]) -> None:
    replies = ["Rating: 5", "Rating: 2", "Rating: 3", "I refuse."]
    result = score("mmhal", data, write_json("r.json", replies))
    assert values(result) == {
        "score": 2.5,
        "hallucination_rate": 0.5,
        "informativeness": round(4 / 12, 4),
        "score/adversarial": 2.0,
        "score/attribute": 4.0,
        "score/other": 0.0,
    }
    assert result.flags == ["no_single_rating: 1 replies hold no rating or several; each counts as 0"]
    assert (result.items[0].parsed, result.items[3].parsed, result.items[0].details["kind"]) == (5, None, "attribute")


def test_a_judge_sees_everything_and_is_asked_once(data: Path, write_json: Callable[..., Path], tmp_path: Path) -> None:
    asked: list[str] = []

    def judge(prompt: str) -> str:
        asked.append(prompt)
        return "Rating: 6" if "right {question}" in prompt else "Rating: 1"

    rows = [{**row, "model_answer": "right {question}" if n else "{"} for n, row in enumerate(ROWS)]
    result = score("mmhal", data, write_json("r.json", rows), judge=judge)
    assert values(result)["score"] == 19 / 4
    assert len(asked) == 4
    assert all(part in asked[1] for part in ("Dog, Tree {answer}", "What is 1?", "It is 1.", "right {question}"))
    assert result.items[1].details["reply"] == "Rating: 6"
    own = tmp_path / "prompt.txt"
    own.write_text("{objects}/{question}/{reference}/{answer}")
    again = score("mmhal", data, write_json("s.json", rows), judge=judge, judge_prompt=str(own))
    assert asked[-1] == "Dog, Tree {answer}/What is 3?/It is 3./right {question}"
    assert again.rule == "one rating; judge with prompt.txt"
    own.write_text("{answer} {question}")
    with pytest.raises(ConfigError, match="has no place for objects, reference"):
        score("mmhal", data, write_json("t.json", rows), judge=judge, judge_prompt=str(own))


@pytest.mark.parametrize("reply", ["Rating: 0", "Rating: 6", "", "rating: 3 " * 2000])
def test_judges_that_always_say_the_same(data: Path, write_json: Callable[..., Path], reply: str) -> None:
    result = score("mmhal", data, write_json("r.json", [reply] * 4))
    for name, entry in result.metrics.items():
        assert 0 <= entry.low <= entry.value <= entry.high <= (6 if name.startswith("score") else 1)
        assert entry.low < entry.high
    assert values(result)["hallucination_rate"] == float(reply in ("Rating: 0", ""))


# -- files ------------------------------------------------------------------------------------------------------------


def test_answers_without_a_judge_cannot_be_rated(data: Path, write_lines: Callable[..., Path]) -> None:
    answers = write_lines("a.jsonl", [{"image_id": row["image_id"], "text": "A dog."} for row in ROWS])
    with pytest.raises(DataError, match="4 of 4 answers have no verdict under 'gpt4_review', and there is no judge"):
        score("mmhal", data, answers)
    assert values(score("mmhal", data, answers, judge=lambda prompt: "Rating: 4"))["score"] == 4.0


def test_other_order_missing_duplicate_and_unknown_ids(data: Path, write_json: Callable[..., Path]) -> None:
    rows = [{**row, REVIEW: f"Rating: {n}"} for n, row in enumerate(ROWS)]
    extra = [{**rows[3], REVIEW: "Rating: 6"}, {**rows[0], "image_id": "other"}]
    result = score("mmhal", data, write_json("r.json", [*rows[:0:-1], *extra]))
    assert (result.n, values(result)["score"]) == (3, 2.0)
    assert [flag.split(" ")[:2] for flag in result.flags[:3]] == [
        ["unknown_ids:", "1"],
        ["duplicate_answers:", "1"],
        ["missing_answers:", "1"],
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["Rating: 3"] * 3, "3 answers without ids for 4 samples"),
        (["Rating: 3", {"image_id": "id0", REVIEW: "Rating: 3"}], "entry 1 of .* is str"),
        ([{"choices": []}] * 4, "has no text under"),
        ([{"image_id": "id0", "model_answer": 3}], "has no text under"),
        ([7], "entry 1 of .* is int"),
        ([{"image_id": "id0", REVIEW: 3}], "entry 1 of .*: '3' under 'gpt4_review' is no code or reply"),
        ([], "is empty"),
    ],
)
def test_files_that_are_none(data: Path, write_json: Callable[..., Path], entries: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score("mmhal", data, write_json("r.json", entries))


@pytest.mark.parametrize("key", ["image_id", "question", "gt_answer", "image_content", "question_type"])
def test_questions_that_are_none(write_json: Callable[..., Path], key: str) -> None:
    with pytest.raises(DataError, match="question 1 of"):
        MMHal().samples(write_json("q.json", [{name: value for name, value in ROWS[0].items() if name != key}]))


@pytest.mark.parametrize(
    "change", [{"image_content": [None]}, {"image_content": "Dog"}, {"image_src": 5}, {"question": ""}]
)
def test_questions_with_values_of_another_kind(write_json: Callable[..., Path], change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="question 1 of"):
        MMHal().samples(write_json("q.json", [ROWS[0] | change]))


def test_an_image_without_a_url_is_known_by_its_id(write_json: Callable[..., Path]) -> None:
    row = {key: value for key, value in ROWS[0].items() if key != "image_src"}
    assert MMHal().samples(write_json("q.json", [row]))[0].media == {"images": ["id0"]}


def test_a_judge_that_returns_no_text(data: Path, write_json: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="the judge of mmhal returned 3, no text"):
        score("mmhal", data, write_json("r.json", [{**row, "model_answer": "A."} for row in ROWS]), judge=lambda _: 3)


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="is no pattern"):
        MMHal(image_name="{ids}.jpg")
    with pytest.raises(ConfigError, match="has no place for the id"):
        MMHal(image_name="a.jpg")
    with pytest.raises(ConfigError, match="judge 'gpt-4' of mmhal is no function"):
        MMHal(judge="gpt-4")  # type: ignore[arg-type]


def test_the_official_form_is_written_and_read(data: Path, tmp_path: Path) -> None:
    bench = MMHal(judge=lambda prompt: f"Rating: {len(prompt) % 7}")
    samples = bench.samples(data)
    generated = [{"image_id": s.id, "prompt": s.prompt, "model_answer": "a" * n} for n, s in enumerate(samples)]
    first = bench.score(samples, bench.answers(generated))
    write_answers(samples, bench.answers(generated), tmp_path / "official.json")
    written = json.loads((tmp_path / "official.json").read_text())
    assert written == [{**row, "model_answer": "a" * n} for n, row in enumerate(ROWS)]
    assert bench.score(samples, bench.read_answers(tmp_path / "official.json")) == first


@pytest.mark.parametrize(("id_key", "text_key"), [("id", "answer"), ("image_id", "text"), ("id", "model_answer")])
def test_answers_under_other_keys(data: Path, write_lines: Callable[..., Path], id_key: str, text_key: str) -> None:
    rows = [{id_key: row["image_id"], text_key: "A dog."} for row in ROWS[::-1]]
    result = score("mmhal", data, write_lines("a.jsonl", rows), judge=lambda prompt: "Rating: 4")
    assert [item.id for item in result.items] == ["id3", "id2", "id1", "id0"]
    assert {item.raw for item in result.items} == {"A dog."}


def test_what_a_reader_is_told(data: Path, write_json: Callable[..., Path]) -> None:
    result = score("mmhal", data, write_json("r.json", ["Rating: 5"] * 4))
    first = result.items[0].to_json()
    assert (first["prompt"], first["image"], first["reply"]) == ("What is 0?", "0.jpg", "Rating: 5")
    metrics = {metric.name: (metric.better, metric.percent) for metric in MMHal().metrics(["other_rating"])}
    assert metrics == {
        "score": ("higher", False),
        "hallucination_rate": ("lower", True),
        "informativeness": ("higher", True),
        "score/other": ("higher", False),
    }


def test_two_models_are_compared(data: Path, write_json: Callable[..., Path]) -> None:
    before = score("mmhal", data, write_json("a.json", ["Rating: 1"] * 4))
    after = score("mmhal", data, write_json("b.json", ["Rating: 4"] * 4))
    entry = compare(before, after)["score"]
    assert (entry["difference"]["value"], entry["percent"]) == (3.0, False)


def test_the_command(data: Path, write_json: Callable[..., Path], tmp_path: Path) -> None:
    answers = write_json("r.json", ["Rating: 5", "Rating: 2", "Rating: 3", "Rating: 6"])
    out = tmp_path / "out" / "metrics.json"
    words = ["score", "mmhal", "--data", str(data), "--answers", str(answers), "--out", str(out)]
    printed = CliRunner().invoke(app, words)
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout)["metrics"]["score"]["value"] == 4.0
    assert Result.load(out.parent).items[3].parsed == 6
