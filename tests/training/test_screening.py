"""Every record is trained on or set aside with its reason; none is lost and none is cut."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.oracle import picture, record
from mmdpo.config import parse_config
from mmdpo.encoding.example import Encoder
from mmdpo.errors import DataError
from mmdpo.objectives import make_objective
from mmdpo.records import Candidate, Media, Record
from mmdpo.runs.training import train
from mmdpo.training.screening import Screening, screen
from tiny import CORE
from training.common import encoder_of, loaded_model, pairs, run_settings, saved_inputs

OBJECTIVE = make_objective({"dpo": {}})
PHOTO = picture(1)
QUESTION, ANSWERS = "What is here?", ["A cat.", "Two dogs here."]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return encoder_of(loaded_model("llava"))


def with_prompt(prompt: Any) -> Record:
    return replace(record("a", QUESTION, ANSWERS, PHOTO), prompt=prompt)


TEXT = {"type": "text", "text": QUESTION}


def rated_by(*scores: float) -> Record:
    candidates = tuple(Candidate(text, score=score) for text, score in zip(ANSWERS, scores, strict=True))
    return replace(record("a", QUESTION, ANSWERS, PHOTO), candidates=candidates, higher_is_better=True)


BAD: dict[str, tuple[str, Record]] = {
    "a prompt longer than the positions": ("too_long", record("a", "cat " * 600, ANSWERS, PHOTO)),
    "an answer longer than the positions": ("too_long", record("a", QUESTION, ["cat " * 600, "No."], PHOTO)),
    "a placeholder in the question": ("control_token", record("a", "What is <image> here?", ANSWERS, PHOTO)),
    "more media than places": ("placeholder_mismatch", with_prompt(({"role": "user", "content": [TEXT]},))),
    "more places than media": (
        "placeholder_mismatch",
        with_prompt(({"role": "user", "content": [{"type": "image"}, {"type": "image"}, TEXT]},)),
    ),
    "places for another modality": (
        "placeholder_mismatch",
        with_prompt(({"role": "user", "content": [{"type": "audio"}, TEXT]},)),
    ),
    "a file that is not there": ("missing_media", record("a", QUESTION, ANSWERS, Media(path="absent.png"))),
    "a file outside of the root": ("outside_root", record("a", QUESTION, ANSWERS, Media(path="../../etc/hosts"))),
    "text in place of a picture": ("not_an_image", record("a", QUESTION, ANSWERS, Media(data=b"no picture at all"))),
    "half a picture": ("truncated_image", record("a", QUESTION, ANSWERS, Media(data=(PHOTO.data or b"")[:200]))),
    "equal answers": ("equal_answers", record("a", QUESTION, ["A cat.", "A cat."], PHOTO)),
    "answers that differ in white space only": ("equal_answers", record("a", QUESTION, ["A cat.", "A cat. "], PHOTO)),
    "candidates that nobody ranked": (
        "not_ranked",
        replace(record("a", QUESTION, ANSWERS, PHOTO), meta={"scored": False}),
    ),
    "an empty answer": ("empty_answer", record("a", QUESTION, ["A cat.", ""], PHOTO)),
    "white space as an answer": ("empty_answer", record("a", QUESTION, [" \n ", "A cat."], PHOTO)),
    "an infinite score": ("bad_score", rated_by(math.inf, 1.0)),
    "a score that is no number": ("bad_score", rated_by(1.0, math.nan)),
    "one candidate": ("missing_candidates", record("a", QUESTION, ["A cat."], PHOTO)),
}


def screened(encoder: Encoder, records: Sequence[Record], **options: Any) -> Screening:
    result = screen(records, encoder, OBJECTIVE, **options)
    places = sorted([*result.kept, *(entry.index for entry in result.set_aside)])
    assert places == list(range(len(records))), "a record is lost"
    assert len(result.lengths) == len(result.media) == len(result.kept)
    assert sum(result.reasons().values()) == len(result.set_aside)
    return result


@pytest.mark.parametrize(("reason", "bad"), BAD.values(), ids=list(BAD))
def test_a_bad_record_is_set_aside_with_its_reason(encoder: Encoder, reason: str, bad: Record, tmp_path: Path) -> None:
    rooted = Encoder(encoder.processor, encoder.facts, encoder.eos_ids, tmp_path)
    good = pairs(2)
    result = screened(rooted, [good[0], bad, good[1]])
    assert result.kept == [0, 2]
    assert [(entry.index, entry.id, entry.reason) for entry in result.set_aside] == [(1, "a", reason)]
    assert result.set_aside[0].message


@pytest.mark.parametrize(
    ("values", "higher_is_better", "reason"),
    [
        ((5.0, 1.0), True, ""),
        ((1.0, 5.0), False, ""),
        ((5.0, 3.0, 3.0), True, ""),
        ((1.0, 5.0), True, "wrong_order"),
        ((5.0, 1.0), False, "wrong_order"),
        ((3.0, 3.0), True, "wrong_order"),
        ((1.0, 2.0, 9.0), True, "wrong_order"),
        ((5.0, 1.0, 9.0), True, "wrong_order"),
        ((5.0, 1.0), None, "missing_direction"),
    ],
)
@pytest.mark.parametrize("ranked", [False, True])
def test_chosen_and_rejected_agree_with_their_ratings(
    encoder: Encoder, values: tuple[float, ...], higher_is_better: bool | None, reason: str, ranked: bool
) -> None:
    candidates = tuple(
        Candidate(f"{n} cats.", **{"rank": int(value)} if ranked else {"score": value})
        for n, value in enumerate(values)
    )
    rated = replace(record("a", QUESTION, ANSWERS), candidates=candidates, higher_is_better=higher_is_better)
    result = screened(encoder, [*pairs(1), rated])
    assert result.reasons() == ({reason: 1} if reason else {})
    if values == (3.0, 3.0):  # they do stand best first
        assert "the first two candidates are equally good" in result.set_aside[0].message


@pytest.mark.parametrize(
    ("labels", "reason"),
    [((True, False), ""), ((False, False), ""), ((None, True), ""), ((False, True), "wrong_order")],
)
def test_chosen_and_rejected_agree_with_their_labels(
    encoder: Encoder, labels: tuple[bool | None, ...], reason: str
) -> None:
    candidates = tuple(Candidate(text, label=label) for text, label in zip(ANSWERS, labels, strict=True))
    labelled = replace(record("a", QUESTION, ANSWERS), candidates=candidates)
    assert screened(encoder, [*pairs(1), labelled]).reasons() == ({reason: 1} if reason else {})
    taken = screen([*pairs(1), labelled], encoder, make_objective("apo_zero_unpaired"))
    assert taken.kept == [0, 1], "a loss that reads labels takes them in any order"


def test_a_loss_over_longer_lists_takes_them_in_any_order(encoder: Encoder) -> None:
    candidates = tuple(Candidate(f"{n} cats.", score=float(n)) for n in range(3))
    rated = replace(record("a", QUESTION, ANSWERS), candidates=candidates, higher_is_better=True)
    assert screen([rated], encoder, make_objective("plackett_luce")).kept == [0]


def test_everything_good_is_kept(encoder: Encoder) -> None:
    assert screened(encoder, pairs(8)).kept == list(range(8))


@pytest.mark.parametrize("family", CORE)
@pytest.mark.parametrize("text", ["</s>", "<image>", "<|im_end|>", "<|vision_start|>", "<end_of_turn>"])
def test_no_text_becomes_a_control_token(family: str, text: str) -> None:
    """Kept with the text as text, or set aside: in a question and in an answer."""
    encoder = encoder_of(loaded_model(family, lora=None))
    records = [
        record("question", f"What is {text} here?", ANSWERS, PHOTO),
        record("answer", QUESTION, [f"A cat {text} here.", "No."], PHOTO),
    ]
    control = {*encoder.eos_ids, *encoder.tokenizer.all_special_ids, *encoder.facts.media_token_ids.values()}
    result = screened(encoder, records)
    assert {entry.reason for entry in result.set_aside} <= {"control_token"}
    clean = [record("question", "What is here?", ANSWERS, PHOTO)]
    usual = sum(int(token) in control for token in encoder.prompt(clean[0]).input_ids)
    for place in result.kept:
        prompt = encoder.prompt(records[place]).input_ids
        assert sum(int(token) in control for token in prompt) == usual
        answer = encoder.answer(records[place], records[place].candidates[0]).ids.tolist()
        assert not control & set(answer[:-1])


def test_the_limit_counts_prompt_and_longest_answer(encoder: Encoder) -> None:
    records = pairs(1)
    (length,) = screened(encoder, records).lengths
    prompt = encoder.prompt(records[0]).input_ids
    answers = [encoder.answer(records[0], candidate).ids for candidate in records[0].candidates]
    assert length == len(prompt) + max(len(answer) for answer in answers)
    assert screened(encoder, records, max_length=length).kept == [0]
    (entry,) = screened(encoder, records, max_length=length - 1).set_aside
    assert entry.reason == "too_long"
    assert str(length) in entry.message
    assert str(length - 1) in entry.message


def test_the_probes_are_the_longest_the_richest_and_one_without_media(encoder: Encoder) -> None:
    records = [
        record("plain", "Hi.", ANSWERS),
        record("long", "Is there a cat? " * 9, ANSWERS, PHOTO),
        record("two", "Hi.", ANSWERS, PHOTO, picture(2)),
        record("short", "Hi.", ANSWERS, PHOTO),
    ]
    assert screened(encoder, records).probes() == [0, 1, 2]


def test_a_run_lists_what_it_set_aside(tmp_path: Path) -> None:
    bad = record("bad", "cat " * 600, ANSWERS, PHOTO)
    inputs = saved_inputs(tmp_path, [*pairs(3), bad])
    run = train(parse_config(run_settings(inputs, train={"max_steps": 1})), tmp_path / "run")
    (line,) = [json.loads(line) for line in (run / "set_aside.jsonl").read_text().splitlines()]
    assert (line["id"], line["reason"]) == ("bad", "too_long")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["counts"]["train"] == 3
    assert manifest["set_aside"] == {"too_long": 1}


def test_a_run_with_nothing_left_says_why(tmp_path: Path) -> None:
    inputs = saved_inputs(tmp_path, [record("a", "cat " * 600, ANSWERS, PHOTO)])
    with pytest.raises(DataError, match=r"none of the 1 records .*too_long"):
        train(parse_config(run_settings(inputs)), tmp_path / "run")
