"""Rated records that a model cannot score are set aside whole, counted and listed; the others keep their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.oracle import picture, record
from mmdpo.answering.text_scores import candidate_scores
from mmdpo.encoding.example import Encoder
from mmdpo.errors import DataError
from mmdpo.models.families import facts_of
from mmdpo.policy import encode_once
from mmdpo.preferences.scored import evaluate_preferences
from mmdpo.records import Candidate, Media, Record, Records, user_message
from tiny import FAMILIES

LONG = "a dog and a cat on a mat " * 200


def rated(name: str, photo: str, *texts: str) -> Record:
    prompt = (user_message("Describe the image.", images=1),)
    return Record(name, prompt, tuple(map(Candidate, texts)), {"images": (Media(photo),)}, higher_is_better=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(3):
        Image.new("RGB", (64, 64), (60 * number, 90, 120)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    return tmp_path


def test_a_running_evaluation_sets_aside_what_cannot_be_scored(photos: Path, tmp_path: Path) -> None:
    good = [rated(str(n), f"{n}.png", "A star on a lake.", "A boat.") for n in range(3)]
    bad = [rated("long", "0.png", LONG, "A boat."), rated("broken", "broken.png", "A star.", "A boat.")]
    alone = evaluate_preferences("playground", Records(good, photos), tmp_path / "good", reference="playground")
    mixed = Records([bad[0], *good[:2], bad[1], good[2]], photos)
    found = evaluate_preferences("playground", mixed, tmp_path / "mixed", reference="playground", batch_size=2)
    listed = (tmp_path / "mixed/eval/preferences/set_aside.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = {row["id"]: row["reason"] for row in map(json.loads, listed)}
    assert list(reasons) == ["long", "broken"]
    assert reasons["long"].endswith("tokens, the model's limit is 512") and "broken.png" in reasons["broken"]
    for stage in ("eval", "base_eval"):
        assert [item.id for item in found[stage].items] == ["0", "1", "2"]
        for one, other in zip(found[stage].items, alone[stage].items, strict=True):
            assert one.parsed["likelihood"] == pytest.approx(other.parsed["likelihood"], abs=1e-4)
        assert any(flag.startswith("unfit: 2 records cannot be scored") for flag in found[stage].flags)
    assert not (tmp_path / "good/eval/preferences/set_aside.jsonl").exists()


def test_where_nothing_can_be_scored_that_is_said(photos: Path, tmp_path: Path) -> None:
    records = Records([rated("long", "0.png", LONG, "A boat."), rated("longer", "1.png", "A star.", LONG)], photos)
    with pytest.raises(DataError, match=r"none of the 2 rated records can be scored \(first: 'long': \d+ tokens, the"):
        evaluate_preferences("playground", records, tmp_path / "out")


@torch.no_grad()
def test_an_answer_that_just_fits_is_scored() -> None:
    """The limit is that of the longest plain row, whatever its neighbours add to the packed one."""
    tiny = FAMILIES["llava"]()
    facts = facts_of(tiny.model)
    encode_once(tiny.model, facts)
    encoder, limit = Encoder(tiny.processor, facts, tiny.stop_ids), facts.max_positions
    assert limit is not None
    asked = record("asked", "Describe the image.", ["cat"], picture(1))
    one_word = len(encoder.prompt(asked).input_ids) + len(encoder.answer(asked, asked.candidates[0]).ids)
    texts = ["cat" + " cat" * (limit - one_word + more) for more in (0, 1)]  # a token each
    records = [record(text[-9:], "Describe the image.", [text, "A dog."], picture(1)) for text in texts]
    found = candidate_scores(tiny.model, tiny.processor, records)
    assert [len(scores) for scores in found.scores] == [2, 0]
    assert found.scores[0][0].tokens == limit - len(encoder.prompt(asked).input_ids)
    assert found.unfit == {1: f"{limit + 1} tokens, the model's limit is {limit}"}
