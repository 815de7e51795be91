"""R-Bench, NOPE and CIEM: the official arithmetic over subsets, pairs, files."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.official_rules import score_command
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.pairs import Ciem, Nope
from mmdpo.evals.pope import PARSERS
from mmdpo.evals.rbench import RBench
from mmdpo.evals.runner import score

NAMES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
NASTY = [
    "yes",
    "no",
    "No.",
    "NO",
    "",
    "Not really",
    "Yes, not one but two",
    "n,o",
    "There isn't",
    "I am not sure",
    "да",
]


def official_numbers(said: dict[Any, str], labels: dict[Any, str], ids: list[Any]) -> list[float]:
    """The official script's arithmetic over some ids, written anew from its description."""
    cells = {"TP": 0, "TN": 0, "FP": 0, "FN": 0}
    for number in ids:
        if number in said:
            words = said[number].split(".")[0].replace(",", "").split(" ")
            yes = not ("No" in words or "not" in words or "no" in words)
            positive = "no" not in labels[number].lower()
            cells[("T" if yes == positive else "F") + ("P" if yes else "N")] += 1
    right, total = cells["TP"], sum(cells.values())
    precision = right / (right + cells["FP"] + 0.00001)
    recall = right / (right + cells["FN"] + 0.00001)
    f1 = 2 * precision * recall / (precision + recall + 0.00001)
    return [(right + cells["TN"]) / total, precision, recall, f1, (right + cells["FP"]) / total]


@pytest.fixture
def rbench(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> tuple[Path, Path, dict[int, str]]:
    """400 questions on 100 images, five subsets of ids, answers with gaps."""
    generator = random.Random(3)
    rows = [
        {
            "question_id": number,
            "image": f"{number // 4}.jpg",
            "text": f"Is thing {number} on it?",
            "label": generator.choice(["Yes", "no", "yes", "NO", "unknown"]),
        }
        for number in range(400)
    ]
    for subset in range(1, 6):
        write_json(f"image_ids_{subset}.json", [*generator.sample(range(400), 120), 7, 7])
    said = {row["question_id"]: generator.choice([*NASTY, row["label"]]) for row in rows if row["question_id"] % 9}
    answers = write_lines("a.jsonl", [{"question_id": number, "text": text} for number, text in said.items()])
    return write_json("q.json", rows), answers, said


def test_the_official_numbers_over_all_questions(rbench: tuple[Path, Path, dict[int, str]]) -> None:
    data, answers, said = rbench
    labels = {row["question_id"]: row["label"] for row in json.loads(data.read_text())}
    result = score("rbench", data, answers)
    expected = official_numbers(said, labels, list(labels))
    assert [result.metrics[name].value for name in NAMES] == expected
    assert (result.rule, result.n) == ("official; all questions", len(said))


def test_the_official_means_over_the_subsets(rbench: tuple[Path, Path, dict[int, str]]) -> None:
    data, answers, said = rbench
    labels = {row["question_id"]: row["label"] for row in json.loads(data.read_text())}
    pattern = data.parent / "image_ids_holder.json"
    printed = score_command("rbench", "--data", data, "--answers", answers, "--subsets", pattern)
    ids = [json.loads((data.parent / f"image_ids_{n}.json").read_text()) for n in range(1, 6)]
    means = np.mean([official_numbers(said, labels, subset) for subset in ids], axis=0)
    assert [printed["metrics"][name]["value"] for name in NAMES] == pytest.approx(list(means), abs=1e-15)
    assert (printed["benchmark"], printed["rule"]) == ("rbench", "official; mean of 5 subsets")
    outside = len(set(said) - {number for subset in ids for number in subset})
    assert f"outside_subsets: {outside} answers are in no subset; they enter no metric" in printed["flags"]
    assert not any(flag.startswith("subsets_without_answers") for flag in printed["flags"])


def test_one_subset_without_answers(rbench: tuple[Path, Path, dict[int, str]], write_json: Callable[..., Path]) -> None:
    data, answers, _ = rbench
    write_json("image_ids_5.json", [0, 9, 18])  # these have no answers
    result = score("rbench", data, answers, subsets=data.parent / "image_ids_holder.json")
    assert any("only 4 of 5 subsets have answers" in flag for flag in result.flags)
    assert 0 < result.metrics["accuracy"].value < 1


@pytest.mark.parametrize(("text", "f1"), [("no", 0.0), ("yes", 0.0)])
def test_models_that_always_say_the_same(
    write_json: Callable[..., Path], write_lines: Callable[..., Path], text: str, f1: float
) -> None:
    label = "yes" if text == "no" else "no"
    rows = [{"question_id": n, "image": f"{n}.jpg", "text": "Is it?", "label": label} for n in range(3)]
    answers = write_lines("a.jsonl", [{"question_id": n, "text": text} for n in range(3)])
    result = score("rbench", write_json("q.json", rows), answers)
    assert (result.metrics["accuracy"].value, result.metrics["f1"].value) == (0.0, f1)
    assert result.metrics["yes_ratio"].value == float(text == "yes")
    assert all(metric.low < metric.high for metric in result.metrics.values())


def test_what_a_reader_is_told(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    rows = [{"question_id": n, "image": f"{n}.jpg", "text": "Is it on it?", "label": "No"} for n in range(2)]
    bench = RBench()
    samples = bench.samples(write_json("q.json", rows))
    assert all(bench.asks_yes_no(sample) for sample in samples)
    # The text counts where a line holds both, as in the official script.
    result = bench.score(samples, bench.read_answers(write_lines("a.jsonl", [{"text": "no", "answer": "yes"}] * 2)))
    assert result.flags == []
    first = result.items[0].to_json()
    assert (first["prompt"], first["image"], first["parsed"], first["label"]) == ("Is it on it?", "0.jpg", "no", "no")
    columns = {column for item in result.items for column in item.counts}
    assert {metric.name: metric.better for metric in bench.metrics(columns)} == {
        **dict.fromkeys(NAMES[:4], "higher"),
        "yes_ratio": "neither",
    }


def test_the_parsers_of_others(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    """VLMEvalKit takes what is neither yes nor no as no in recall; lmms-eval leaves it out."""
    rows = [{"question_id": n, "image": f"{n}.jpg", "text": "Is it?", "label": "yes"} for n in range(2)]
    data = write_json("q.json", rows)
    answers = write_lines("a.jsonl", [{"question_id": n, "text": said} for n, said in enumerate(["yes", "maybe"])])
    recall = {parser: score("rbench", data, answers, parser=parser).metrics["recall"].value for parser in PARSERS}
    assert recall["vlmevalkit"] == pytest.approx(1 / 2.00001)
    assert recall["lmms_eval"] == pytest.approx(1 / 1.00001)


def test_questions_from_the_web_have_types(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    kinds = ["illusion", "illusion", "counterfactual"]
    rows = [{"question_id": n, "image": "a", "text": "?", "label": "yes", "type": kind} for n, kind in enumerate(kinds)]
    answers = write_lines("a.jsonl", [{"question_id": n, "text": said} for n, said in enumerate(["yes", "no", "yes"])])
    metrics = score("rbench", write_json("q.json", rows), answers).metrics
    assert metrics["accuracy/illusion"].value == 0.5
    assert metrics["accuracy/counterfactual"].value == 1.0
    assert metrics["accuracy"].value == pytest.approx(2 / 3)


def test_rbench_input_that_is_none(write_json: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"question 1 of .* lacks label"):
        RBench().samples(write_json("q.json", [{"question_id": 1, "text": "Is it?", "image": "a.jpg"}]))
    with pytest.raises(ConfigError, match="has no 'holder' in it"):
        RBench(subsets="ids_1.json")
    with pytest.raises(ConfigError, match="unknown parser 'mme'"):
        RBench(parser="mme")
    row = {"question_id": 1, "text": "Is it?", "image": "a.jpg", "label": "yes"}
    for change in ({"question_id": None}, {"type": ["illusion"]}):
        with pytest.raises(DataError, match=r"question 1 of .* lacks a question_id, or its type is no text"):
            RBench().samples(write_json("q.json", [row | change]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({}, "is no list of question ids"),
        ([], "is no list of question ids"),
        ([None], "is no list of question ids"),
        ([1.5], "is no list of question ids"),
        ([7, 8], "holds none of the questions' ids"),
    ],
)
def test_subsets_that_are_none(write_json: Callable[..., Path], ids: Any, message: str) -> None:
    data = write_json("q.json", [{"question_id": 1, "text": "Is it?", "image": "a.jpg", "label": "yes"}])
    write_json("ids_1.json", ids)
    with pytest.raises(DataError, match=message):
        RBench(subsets=data.parent / "ids_holder.json").samples(data)


def test_ids_in_subsets_may_be_strings(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    data = write_json("q.json", [{"question_id": 1, "text": "Is it?", "image": "a.jpg", "label": "yes"}])
    for number in range(1, 6):
        write_json(f"ids_{number}.json", ["1", "2"])
    answers = write_lines("a.jsonl", [{"question_id": "1", "text": "yes"}])
    metrics = score("rbench", data, answers, subsets=data.parent / "ids_holder.json").metrics
    assert (metrics["accuracy"].value, metrics["accuracy"].n) == (1.0, 5)


# -- NOPE and CIEM ----------------------------------------------------------------------------------------------------


def pair(number: int, image: int) -> dict[str, Any]:
    return {
        "pair_id": f"p{number}",
        "image_id": image,
        "factual_question": "Is there a dog in the image?",
        "factual_answer": "Yes",
        "contrastive_question": "Is there a cat in the image?",
        "contrastive_answer": "No",
    }


@pytest.fixture
def pairs(write_lines: Callable[..., Path]) -> Path:
    return write_lines("pairs.jsonl", [pair(n, 100 + n // 2) for n in range(4)])


@pytest.mark.parametrize(
    ("said", "accuracy", "pair_accuracy"),
    [
        (["yes", "no"] * 4, 1.0, 1.0),
        (["yes", "yes"] * 4, 0.5, 0.0),
        (["no", "no"] * 4, 0.5, 0.0),
        (["Yes.", "No.", "yes", "Nope", "yes", "no", "", "no"], 7 / 8, 0.75),
    ],
)
def test_pairs_are_right_if_both_answers_are(
    pairs: Path, write_lines: Callable[..., Path], said: list[str], accuracy: float, pair_accuracy: float
) -> None:
    printed = score_command("ciem", "--data", pairs, "--answers", write_lines("a.jsonl", [{"answer": t} for t in said]))
    assert list(printed["metrics"]) == [*NAMES, "pair_accuracy"]
    assert printed["metrics"]["accuracy"]["value"] == accuracy
    assert (printed["metrics"]["pair_accuracy"]["value"], printed["metrics"]["pair_accuracy"]["n"]) == (
        pair_accuracy,
        4,
    )


def test_pairs_without_one_answer_are_set_aside(pairs: Path, write_lines: Callable[..., Path]) -> None:
    rows = [("p1/contrastive", "no"), ("p0/factual", "yes"), ("p1/factual", "yes"), ("p9/factual", "yes")]
    result = score("ciem", pairs, write_lines("a.jsonl", [{"question_id": n, "answer": t} for n, t in rows]))
    assert (result.metrics["pair_accuracy"].value, result.metrics["pair_accuracy"].n) == (1.0, 1)
    assert [flag.split(":")[0] for flag in result.flags] == ["unknown_ids", "missing_answers", "incomplete_sets"]
    sample = Ciem().samples(pairs)[2]
    assert (sample.id, sample.media["images"], sample.target) == ("p1/factual", ["000000000100.jpg"], "yes")


def test_no_complete_pair_gives_no_pair_accuracy(pairs: Path, write_lines: Callable[..., Path]) -> None:
    result = score("ciem", pairs, write_lines("a.jsonl", [{"question_id": "p0/factual", "answer": "yes"}]))
    assert list(result.metrics) == list(NAMES)


def test_nope_is_scored_by_kind(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    kinds = ["random", "popular", "adversarial"]
    rows = [
        {"question_id": f"q{n}", "image_id": 5, "question": "Is it?", "answer": answer, "split_type": kind, "label": 1}
        for n, (kind, answer) in enumerate((kind, answer) for kind in kinds for answer in ("Yes", "No"))
    ]
    answers = write_lines("a.jsonl", [{"question_id": f"q{n}", "answer": "yes"} for n in range(6)])
    result = score("nope", write_json("q.json", rows), answers)
    assert {result.metrics[f"{kind}_f1"].value for kind in kinds} == {2 / 3}
    assert result.metrics["mean_f1"].value == pytest.approx(2 / 3)
    assert result.benchmark == "nope"
    plain = [{key: value for key, value in row.items() if key != "split_type"} for row in rows]
    assert list(score("nope", write_json("p.json", plain), answers).metrics) == list(NAMES)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (Nope, {"question_id": "1", "image_id": 5, "question": "Is it?", "answer": "none"}, "question '1' of .* lacks"),
        (Nope, {"question": "Is it?", "answer": "no", "image_id": 1, "split_type": "hard"}, "split_type 'hard'"),
        (Nope, {"question": "Is it?", "answer": "no", "image_id": "five"}, "or an image"),
        (Ciem, {"image_id": 5}, "has no pair_id"),
        (Ciem, {**pair(1, 1), "contrastive_answer": None}, "question 'p1/contrastive' of .* lacks"),
    ],
)
def test_rows_that_are_none(write_lines: Callable[..., Path], kind: type, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        kind().samples(write_lines("q.jsonl", [row]))
