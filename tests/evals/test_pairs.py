"""NOPE and CIEM on odd models and odd files; their worked counts stand in ``test_rbench.py``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.pairs import Ciem, Nope
from mmdpo.evals.runner import score

QUESTION = {"question_id": "q1", "image_id": 5, "question": "Is there a dog?", "answer": " Yes "}
PAIR = {
    "pair_id": 7,
    "image": "photo.jpg",
    "image_id": 5,
    "factual_question": "Is there a dog?",
    "factual_answer": "yes",
    "contrastive_question": "Is there a cat?",
    "contrastive_answer": "NO",
}


def test_labels_and_images_as_they_are_found(write_lines: Callable[..., Path]) -> None:
    bare = {key: value for key, value in QUESTION.items() if key != "question_id"}
    rows = [QUESTION, {**bare, "image": "photo.jpg", "question_id": "q2", "split_type": None}]
    first, second = Nope().samples(write_lines("q.jsonl", rows))
    assert (first.target, first.media, first.group) == ("yes", {"images": ["000000000005.jpg"]}, "000000000005.jpg")
    assert second.media == {"images": ["photo.jpg"]}
    unnamed = [bare, {**bare, "question_id": None}, {**bare, "question_id": 0}]
    assert [sample.id for sample in Nope().samples(write_lines("p.jsonl", unnamed))] == ["1", "2", "0"]
    factual, contrastive = Ciem(media="photos").samples(write_lines("c.jsonl", [PAIR]))
    assert (factual.id, factual.target, factual.media) == ("7/factual", "yes", {"photos": ["photo.jpg"]})
    assert (contrastive.id, contrastive.target, contrastive.prompt) == ("7/contrastive", "no", "Is there a cat?")


@pytest.mark.parametrize(
    ("said", "flags"),
    [
        ("yes", []),
        ("no", ["precision_undefined", "f1_degenerate"]),
        ("", ["empty_answers", "yes_by_default"]),
        ("la la la " * 3000, ["yes_by_default"]),
    ],
)
def test_models_that_always_say_the_same(write_lines: Callable[..., Path], said: str, flags: list[str]) -> None:
    data = write_lines("c.jsonl", [{**PAIR, "pair_id": n} for n in range(3)])
    rows = [{"question_id": f"{n}/{side}", "answer": said} for n in range(3) for side in ("factual", "contrastive")]
    result = score("ciem", data, write_lines("a.jsonl", rows))
    assert (result.metrics["accuracy"].value, result.metrics["pair_accuracy"].value) == (0.5, 0.0)
    assert [flag.split(":")[0] for flag in result.flags] == flags


def test_the_parser_can_be_another(write_lines: Callable[..., Path]) -> None:
    data = write_lines("c.jsonl", [PAIR])
    rows = [{"question_id": "7/factual", "answer": "Yes!"}, {"question_id": "7/contrastive", "answer": "Nope, no"}]
    strict, loose = (
        score("ciem", data, write_lines("a.jsonl", rows), parser=name) for name in ("lmms_eval", "official")
    )
    assert (strict.metrics["pair_accuracy"].value, strict.unparsed) == (0.0, 2)
    assert (loose.metrics["pair_accuracy"].value, loose.rule) == (1.0, "official")
    with pytest.raises(ConfigError, match="unknown parser 'mme' for ciem"):
        Ciem(parser="mme")


@pytest.mark.parametrize("change", [{"question": None}, {"question": 3}, {"answer": "none"}, {"image_id": "5"}])
def test_rows_that_can_be_neither_asked_nor_scored(write_lines: Callable[..., Path], change: Mapping[str, Any]) -> None:
    with pytest.raises(DataError, match="has no pair_id"):
        Ciem().samples(write_lines("c.jsonl", [{**PAIR, "pair_id": None}]))
    with pytest.raises(DataError, match=r"question 'q1' of .* lacks"):
        Nope().samples(write_lines("q.jsonl", [{**QUESTION, **change}]))
