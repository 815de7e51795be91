"""Media prepared once: the same prompts as without, the processor's work done once, and a bound on what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from core.oracle import film, picture, record, sound
from mmdpo.encoding.example import EncodedPrompt, Encoder
from mmdpo.encoding.prepared_media import PreparedMedia, media_of
from mmdpo.errors import DataError
from mmdpo.modalities.audio import AudioModality
from mmdpo.modalities.image import ImageModality
from mmdpo.modalities.video import VideoModality
from mmdpo.models.families import facts_of
from mmdpo.records import Media, Record
from tiny import CORE, FAMILIES, Tiny

ONE, WIDE, TALL = picture(1), picture(2, 40, 20), picture(3, 18, 37)
OTHERS = ("gemma4", "glm4v", "idefics2", "internvl", "llava_onevision", "mistral3", "mllama", "ovis2", "qwen2_vl")


def built(family: str) -> tuple[Tiny, Encoder]:
    tiny = FAMILIES[family]()
    return tiny, fresh(tiny)


def fresh(tiny: Tiny, root: Path | None = None) -> Encoder:
    return Encoder(tiny.processor, facts_of(tiny.model), tiny.stop_ids, root)


def turns(name: str, *parts: str) -> Record:
    """A prompt of two images and texts in a given order."""
    content: list[Any] = [{"type": "image"} if part == "image" else {"type": "text", "text": part} for part in parts]
    return Record(name, ({"role": "user", "content": content},), (), {"images": (ONE, WIDE)})


def assert_equal(found: EncodedPrompt, expected: EncodedPrompt) -> None:
    assert torch.equal(found.input_ids, expected.input_ids)
    for ours, theirs in ((found.fields, expected.fields), (found.extras, expected.extras)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for unit, other in zip(found.units, expected.units, strict=True):
        assert (unit.key, unit.items, unit.rows, unit.tokens) == (other.key, other.items, other.rows, other.tokens)
        assert all(torch.equal(unit.inputs[name], other.inputs[name]) for name in other.inputs)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # GLM-4V's processor
@pytest.mark.parametrize("family", [*CORE, *OTHERS])
def test_prompts_are_those_of_media_prepared_anew(family: str) -> None:
    """Also where images stand in other places, in another order, alone, or not at all."""
    tiny, encoder = built(family)
    records = [
        record("a", "What is it?", [], ONE),
        record("b", "Is there a dog in the park, please?", [], ONE),
        record("wide", "What is it?", [], WIDE),
        turns("beside", "image", "image", "Compare."),
        turns("apart", "image", "Then", "image", "Compare them."),
        record("turned", "Compare.", [], WIDE, ONE),
        record("c", "What is it?", [], ONE),
        record("text", "What is it?", []),
    ]
    for of in records:
        assert_equal(encoder.prompt(of), fresh(tiny).prompt(of))
    assert len(encoder.prepared) == 4


def counted(monkeypatch: pytest.MonkeyPatch, kind: Any) -> list[Media]:
    """Every item of a modality that is decoded."""
    seen: list[Media] = []
    plain = kind.load

    def load(self: Any, media: Media, root: Path | None) -> Any:
        seen.append(media)
        return plain(self, media, root)

    monkeypatch.setattr(kind, "load", load)
    return seen


@pytest.mark.parametrize("family", [*CORE, "internvl", "ovis2"])
def test_an_image_is_decoded_and_prepared_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, encoder = built(family)
    prepared: list[int] = []
    own = type(tiny.processor.image_processor)
    plain = own.preprocess

    def preprocess(self: Any, *args: Any, **kwargs: Any) -> Any:
        prepared.append(1)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(own, "preprocess", preprocess)
    decoded = counted(monkeypatch, ImageModality)
    for subject in ("dog", "cat", "bird", "car"):
        encoder.prompt(record(subject, f"Is there a {subject}?", [], WIDE))
    assert (len(decoded), len(prepared)) == (1, 1)
    assert "_process_images" not in vars(tiny.processor)  # what others hold stays as it was


def test_clips_and_films_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, kind, modality, item in (
        ("qwen2_audio", "audio", AudioModality, sound(1)),
        ("qwen2_vl", "video", VideoModality, film(1)),
    ):
        tiny, encoder = built(family)
        decoded = counted(monkeypatch, modality)
        records = [record(word, f"Is there a {word}?", [], item, kind=kind) for word in ("dog", "cat")]
        first, second = (encoder.prompt(of) for of in records)
        assert len(decoded) == 1
        assert_equal(first, fresh(tiny).prompt(records[0]))
        assert_equal(second, fresh(tiny).prompt(records[1]))


def test_other_variants_are_made_of_the_item_itself() -> None:
    tiny, encoder = built("llava")
    of = record("r", "What is it?", [], ONE)
    clean, blank = encoder.prompt(of), encoder.prompt(of, "blank")
    assert_equal(blank, fresh(tiny).prompt(of, "blank"))
    assert clean.units[0].key != blank.units[0].key
    assert_equal(encoder.prompt(of), clean)


def test_what_is_kept_has_a_limit_and_the_longest_unused_goes_first() -> None:
    _, encoder = built("llava")
    records = [record(str(n), "What is it?", [], picture(n, 24 + n, 24)) for n in range(4)]
    encoder.prompt(records[0])
    one = encoder.prepared.used
    assert one > 3 * 24 * 24  # the pixels of the photo, and what the encoder gets
    encoder.prepared = PreparedMedia(limit=int(2.5 * one))
    for n in (0, 1, 0, 2):
        encoder.prompt(records[n])
        assert encoder.prepared.used <= 2.5 * one
    kept = [encoder.prepared.get((None, media_of(of))).items for of in records]
    assert [items is not None for items in kept] == [True, False, True, False]
    encoder.prepared = PreparedMedia(limit=1)
    encoder.prompt(records[3])
    assert len(encoder.prepared) == 1  # the latest stays however large it is
    encoder.prompt(records[2])
    assert len(encoder.prepared) == 1


def test_a_damaged_image_is_refused_every_time(tmp_path: Path) -> None:
    tiny, _ = built("llava")
    encoder = fresh(tiny, tmp_path)
    of = record("r", "What is it?", [], Media(path="photo.png"))
    (tmp_path / "photo.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(DataError, match="not an image"):
            encoder.prompt(of)
    Image.new("RGB", (24, 24), "red").save(tmp_path / "photo.png")
    assert encoder.prompt(of).units[0].items == 1
