"""Lengths from image headers are those of encoded prompts, and the same records are kept and set aside."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.oracle import picture, record
from mmdpo.encoding import lengths as lengths_module
from mmdpo.encoding.example import Encoder
from mmdpo.encoding.lengths import PROOFS, PromptLengths, sizes_ahead
from mmdpo.objectives import make_objective
from mmdpo.records import Media, Record
from mmdpo.training.screening import Screening, screen
from tiny import CORE
from training.common import encoder_of, loaded_model

OBJECTIVE = make_objective({"dpo": {}})
ANSWERS = ["A cat is here.", "Two dogs on a table."]
SIZES = [(24, 24), (48, 24), (24, 60), (30, 34), (64, 48), (96, 40), (31, 77), (50, 50), (40, 41), (36, 30), (44, 33)]


def turned(width: int, height: int) -> Media:
    """A photo whose header says that it lies on its side."""
    image = Image.effect_noise((width, height), 60).convert("RGB")
    exif = image.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    return Media(data=file.getvalue())


def mixed() -> list[Record]:
    """Photos of many sizes, one and two in a prompt, good and bad ones, and prompts without any."""
    found = [
        record(f"one-{n}", "What is here?" if n % 2 else "Say what you see, please.", ANSWERS, picture(n, *size))
        for n, size in enumerate(SIZES)
    ]
    found += [
        record(f"two-{n}", "What is here?", ANSWERS, picture(n, *SIZES[n]), picture(9, *SIZES[-n])) for n in range(6)
    ]
    half = (picture(3, 40, 40).data or b"")[:150]
    found += [
        record("turned", "What is here?", ANSWERS, turned(60, 30)),
        record("none", "What is here?", ANSWERS),
        record("small", "What is here?", ANSWERS, picture(1, 1, 1)),
        record("oblong", "What is here?", ANSWERS, picture(1, 900, 3)),
        record("half", "What is here?", ANSWERS, Media(data=half)),
        record("text", "What is here?", ANSWERS, Media(data=b"no picture at all")),
        record("absent", "What is here?", ANSWERS, Media(path="absent.png")),
        record("control", "What is <image> here?", ANSWERS, picture(1, 40, 40)),
        record("long", "cat " * 60, ANSWERS, picture(1, 40, 40)),
    ]
    return found


def encoded(records: list[Record], encoder: Encoder, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Screening:
    """What comes of encoding every prompt."""
    with monkeypatch.context() as patch:
        patch.setattr("mmdpo.encoding.lengths.PromptLengths._from_sizes", lambda *_: None)
        found = screen(records, encoder, OBJECTIVE, **options)
    assert set(found.measured) == {"encoded"}
    return found


@pytest.mark.parametrize("family", CORE)
def test_every_family_keeps_and_sets_aside_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(loaded_model(family, lora=None))
    records = mixed()
    every = encoded(records, encoder, monkeypatch, max_length=10**6)
    limit = sorted(every.lengths)[-4]  # some photos make their prompts too long
    for most in (10**6, limit):
        expected, found = encoded(records, encoder, monkeypatch, max_length=most), None
        found = screen(records, encoder, OBJECTIVE, max_length=most)
        assert found.kept == expected.kept
        assert found.set_aside == expected.set_aside
        assert (found.lengths, found.packed) == (expected.lengths, expected.packed)
    assert "half" in {entry.id for entry in every.set_aside}
    assert every.packed == [  # a packed row is the prompt and both answers
        length - max(answers) + sum(answers)
        for place, length in zip(every.kept, every.lengths, strict=True)
        for answers in [[len(encoder.answer(records[place], c).ids) for c in records[place].candidates]]
    ]


@pytest.mark.parametrize(("family", "how"), [("llava", "count"), ("qwen2_5_vl", "count"), ("idefics3", "count")])
def test_most_prompts_are_not_encoded(family: str, how: str) -> None:
    encoder = encoder_of(loaded_model(family, lora=None))
    records = [record(f"r{n}", "What is here?", ANSWERS, picture(n, 40 + n % 5, 40 + n % 7)) for n in range(60)]
    found = screen(records, encoder, OBJECTIVE, max_length=10**6)
    assert len(found.kept) == 60
    assert found.measured["encoded"] == PROOFS
    assert found.measured[how] >= 40, found.measured


def test_a_count_that_is_wrong_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It agrees for the first sizes, and for larger pictures no more."""
    encoder = encoder_of(loaded_model("qwen2_5_vl", lora=None))
    records = [record(f"r{n}", "What is here?", ANSWERS, picture(n, 40 + 4 * n, 40 + 4 * n)) for n in range(12)]
    expected = encoded(records, encoder, monkeypatch, max_length=10**6)
    told = lengths_module._told

    def wrong(processor: Any, sizes: Any) -> int | None:
        return (told(processor, sizes) or 0) + (7 if sizes[0][0] > 64 else 0)

    monkeypatch.setattr(lengths_module, "_told", wrong)
    found = screen(records, encoder, OBJECTIVE, max_length=10**6)
    assert found.lengths == expected.lengths
    assert found.measured["count"] == 0 and found.measured["size"] > 0


def test_lengths_that_do_not_follow_from_sizes_are_all_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(loaded_model("llava", lora=None))
    records = [record(f"r{n}", "What is here?", ANSWERS, picture(n, 40, 40)) for n in range(6)]
    expected = encoded(records, encoder, monkeypatch)
    monkeypatch.setattr(PromptLengths, "_tried", lambda *_: 1)
    found = screen(records, encoder, OBJECTIVE)
    assert found.lengths == expected.lengths
    assert found.measured == {"encoded": 6}


def test_pictures_are_decoded_in_order_whoever_is_first(tmp_path: Path) -> None:
    encoder = encoder_of(loaded_model("llava", lora=None))
    records = [
        record(f"r{n}", "What?", ANSWERS, *[picture(n, 8 + n, 300 - n) for _ in range(n % 3)]) for n in range(200)
    ]
    clip = replace(records[1], id="clip", media={"audios": (Media(path="x.wav"),)})
    for given, (one, sizes) in zip([*records, clip], sizes_ahead([*records, clip], encoder), strict=True):
        assert one is given
        n = -1 if one.id == "clip" else int(one.id[1:])
        assert sizes == (((8 + n, 300 - n),) * (n % 3) or None if n >= 0 else None)


def test_a_turned_photo_counts_as_it_is_shown() -> None:
    encoder = encoder_of(loaded_model("qwen2_5_vl", lora=None))
    ((_, sizes),) = sizes_ahead([record("a", "What?", ANSWERS, turned(90, 30))], encoder)
    assert sizes == ((30, 90),)
    assert np.asarray(Image.open(io.BytesIO(turned(90, 30).data or b""))).shape[:2] == (30, 90)
