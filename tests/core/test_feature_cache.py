"""A warm cache changes no bit of scores and gradients, and spares the encoder: in every family, copy and pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.oracle import Setup, picture, record, setup, sound
from core.test_features import build, counted
from mmdpo.answering.yes_no import YesNoReader
from mmdpo.collate import Batch, Collator
from mmdpo.encoding.example import Encoder
from mmdpo.feature_caching import answers_from, cached_as
from mmdpo.features.cache import FeatureCache, Place
from mmdpo.features.files import FeatureFiles
from mmdpo.generate import GenerationSettings, generate
from mmdpo.models.load import Trainable
from mmdpo.parity import to_model
from mmdpo.policy import prepare
from mmdpo.records import Record
from mmdpo.scoring import score
from mmdpo.views import View
from tiny import CORE, FAMILIES

GB = 2**30
CLIPS_OF = ((1, 0.6), (2, 1.1), (1, 0.6))
"""Seed and seconds of sounds."""
FIRST, WIDE = picture(1), picture(2, 40, 20)
RECORDS = [
    record("a", "What is it?", ["A cat.", "Two dogs."], FIRST),
    record("b", "Compare.", ["Same.", "Not the same."], FIRST, WIDE),
    record("c", "And in words?", ["One.", "Two."]),
]
ALL: Sequence[tuple[str, Trainable]] = [(name, "llm") for name in (*CORE, "qwen3_vl", "ovis2", "mllama")]
TOWERS: Sequence[tuple[str, Trainable]] = [
    (name, "llm+projector") for name in ("llava", "llava_next", "gemma3", "idefics3", "mistral3")
]
"""Families whose projector stands outside of the tower (that of Qwen's lies inside)."""


def with_cache(built: Setup, files: Path | None = None, **options: Any) -> FeatureCache:
    cache = FeatureCache(GB, None if files is None else FeatureFiles(files, GB), **options)
    store = built.tiny.model.mmdpo_scoring.features
    place: Place = store.frozen
    store.cached = cached_as(cache, built.tiny.model, built.tiny.processor, place)
    return cache


def records_of(name: str) -> list[Record]:
    if name == "mllama":
        return [RECORDS[0], record("d", "Which?", ["This.", "That one."], WIDE)]
    return RECORDS


def step(model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores and gradients of one optimizer step."""
    model.zero_grad(set_to_none=True)
    model.mmdpo_scoring.features.clear()
    scores = score(model, batch)
    (scores * torch.linspace(0.5, 1.5, scores.numel()).view_as(scores)).sum().backward()
    return scores.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found: Any, expected: Any) -> None:
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys() and found[1]
    for name, gradient in expected[1].items():
        assert torch.equal(found[1][name], gradient), name


@pytest.mark.parametrize(("name", "trainable"), [*ALL, *TOWERS], ids=lambda value: str(value))
def test_scores_and_gradients_are_bit_equal_and_the_encoder_rests(
    name: str, trainable: Trainable, tmp_path: Path
) -> None:
    """From memory in the second epoch; from disk in another process, and by the copy that is the reference."""
    built = build(name, trainable)
    model = built.tiny.model
    batch = built.collator(list(enumerate(records_of(name))))
    plain = step(model, batch)
    cache = with_cache(built, tmp_path)
    assert_same(step(model, batch), plain)
    with counted(model) as seen:
        assert_same(step(model, batch), plain)
        assert seen == []
        reference = copy.deepcopy(model)
        reference.mmdpo_scoring.features.clear()
        with torch.no_grad():
            assert torch.equal(score(reference, batch), plain[0])
        assert seen == []
    assert cache.hits and len(list(tmp_path.glob("*/*/*.safetensors"))) == len(cache)

    other = build(name, trainable)
    with_cache(other, tmp_path)
    with counted(other.tiny.model) as seen:
        assert_same(step(other.tiny.model, batch), plain)
        assert seen == []


@pytest.mark.parametrize(("name", "trainable"), [("qwen2_audio", "llm"), ("qwen2_audio", "llm+projector")])
def test_clips(name: str, trainable: Trainable, tmp_path: Path) -> None:
    tiny = FAMILIES[name]()
    loaded = prepare(tiny.model, tiny.processor, trainable=trainable, lora=None)
    built = setup(tiny, candidates=2)
    clips = [record(f"{n}", "What is heard?", ["A cat.", "Two dogs."], sound(n, s), kind="audio") for n, s in CLIPS_OF]
    batch = built.collator(list(enumerate(clips)))
    calls: list[int] = []
    tower = tiny.model.model.audio_tower
    tower.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    plain = step(loaded.model, batch)
    with_cache(built, tmp_path)
    assert_same(step(loaded.model, batch), plain)
    done = len(calls)
    assert done >= 2
    assert_same(step(loaded.model, batch), plain)
    assert len(calls) == done


def test_only_what_is_read_of_a_tower_is_kept(tmp_path: Path) -> None:
    """LLaVA's projector reads one of the tower's hidden states: nothing of the others, nor of the last one."""
    built = build("llava", "llm+projector")
    cache = with_cache(built, tmp_path)
    step(built.tiny.model, built.collator([(0, RECORDS[0])]))
    (blank, clean) = sorted(cache._kept.values(), key=lambda packed: packed.bytes)
    assert clean.bytes == 10 * 32 * 4 == blank.bytes  # 9 patches and the class token, width 32, float32


@pytest.mark.parametrize(("name", "trainable"), [("llava", "llm"), ("llava", "llm+projector"), ("idefics3", "llm")])
def test_known_and_new_items_in_one_batch(name: str, trainable: Trainable) -> None:
    built = build(name, trainable)
    model = built.tiny.model
    later = [record("new", "Compare.", ["Same.", "Not the same."], picture(7), FIRST, picture(8)), *RECORDS]
    batch = built.collator(list(enumerate(later)))
    plain = step(model, batch)
    with_cache(built)
    step(model, built.collator(list(enumerate(RECORDS[:2]))))
    mixed = step(model, batch)
    torch.testing.assert_close(mixed[0], plain[0], rtol=1e-6, atol=1e-6)
    for gradient, expected in zip(mixed[1].values(), plain[1].values(), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


# --- precision ------------------------------------------------------------------------------------------------------


def test_features_keep_the_precision_in_which_they_were_computed() -> None:
    built = setup(FAMILIES["llava"](dtype=torch.bfloat16), candidates=2)
    built.tiny.model.requires_grad_(False)
    built.tiny.model.model.language_model.requires_grad_(True)
    built = setup(built.tiny, candidates=2)
    cache = with_cache(built)
    batch = to_model(built.collator(list(enumerate(RECORDS))), built.tiny.model)
    plain = step(built.tiny.model, batch)
    assert_same(step(built.tiny.model, batch), plain)
    assert {v.dtype for packed in cache._kept.values() for v in packed.tensors.values()} == {torch.bfloat16}


def test_narrow_storage_rounds_the_first_use_too() -> None:
    """So that an epoch with a cold cache is no other than one with a warm one."""
    built = build("llava", "llm")
    batch = built.collator(list(enumerate(RECORDS)))
    exact = step(built.tiny.model, batch)
    wide = with_cache(built)
    step(built.tiny.model, batch)
    narrow = with_cache(built, dtype=torch.bfloat16)
    cold, warm = step(built.tiny.model, batch), step(built.tiny.model, batch)
    assert_same(warm, cold)
    assert not torch.equal(cold[0], exact[0])
    torch.testing.assert_close(cold[0], exact[0], rtol=0.02, atol=0.1)
    assert narrow.used * 2 == wide.used


def test_autocast_is_an_ingredient_of_an_item() -> None:
    built = build("llava", "llm")
    batch = built.collator(list(enumerate(RECORDS)))
    cache = with_cache(built)
    step(built.tiny.model, batch)
    known = len(cache)
    with torch.autocast("cpu", dtype=torch.bfloat16), counted(built.tiny.model) as seen:
        step(built.tiny.model, batch)
    assert seen and len(cache) == 2 * known


# --- what does not come back ----------------------------------------------------------------------------------------


def test_fresh_variants_fill_neither_memory_nor_disk(tmp_path: Path) -> None:
    tiny = FAMILIES["llava"]()
    loaded = prepare(tiny.model, tiny.processor, trainable="llm", lora=None)
    built = setup(tiny)
    cache = with_cache(built, tmp_path)
    encoder = Encoder(tiny.processor, loaded.facts, loaded.eos_ids, fresh=True)
    collate = Collator(encoder, [View(0), View(0, "diffusion:300")])
    keys = set()
    for encoder.epoch in range(3):
        batch = collate([(0, RECORDS[0])])
        keys |= set(batch["media"]["image"]["keys"])
        step(loaded.model, batch)
    assert len(keys) == 1 + 3  # the image, and its three draws
    assert len(cache) == len(list(tmp_path.glob("*/*/*.safetensors"))) == 1


# --- a model that answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_answers_from_a_cache(name: str) -> None:
    """Written and read off the logits, on a model of which everything would train: it does not while it answers."""
    tiny = FAMILIES[name]()
    built = setup(tiny)
    settings = GenerationSettings(max_new_tokens=4)
    questions = [record(f"q{n}", f"Is there a {what}?", [], FIRST) for n, what in enumerate(("cat", "dog"))]
    written = generate(tiny.model, built.encoder, questions, settings)
    reader = YesNoReader(tiny.model, built.encoder)
    read = reader.read(questions)
    cache = FeatureCache(GB)
    with counted(tiny.model) as seen:
        for again in (False, True):
            with answers_from(cache, tiny.model, tiny.processor):
                assert generate(tiny.model, built.encoder, questions, settings) == written
                assert reader.read(questions) == read
            assert len(seen) == 1, again
    assert tiny.model.mmdpo_scoring.features.cached is None
    assert tiny.model.mmdpo_scoring.features.frozen == "none"


def test_a_model_that_trains_its_projector_answers_with_what_its_tower_gave() -> None:
    """In the middle of a run: the projector of the moment, behind the tower's output of the first epoch."""
    built = build("llava", "llm+projector")
    model, settings = built.tiny.model, GenerationSettings(max_new_tokens=4)
    with_cache(built)
    step(model, built.collator([(0, RECORDS[0])]))
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight.mul_(1.5)
    model.mmdpo_scoring.features.clear()
    with counted(model) as seen:
        ours = generate(model, built.encoder, RECORDS[:1], settings)
        assert seen == []
    model.mmdpo_scoring.features.cached = None
    assert generate(model, built.encoder, RECORDS[:1], settings) == ours


def test_a_model_that_cannot_score_answers_without_a_cache() -> None:
    tiny = FAMILIES["llava"]()
    tiny.model.lm_head = torch.nn.Sequential(tiny.model.lm_head)
    with answers_from(FeatureCache(GB), tiny.model, tiny.processor):
        assert not hasattr(tiny.model, "mmdpo_scoring")
