"""The tiny families are what the other tests stand on: that they run, that nothing in them is vacuous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tiny import CORE, FAMILIES, Tiny, append_ids, assistant, encode, exact_float64, user
from tiny.overfit import Dialogue, overfit, reply

every_family = pytest.mark.parametrize("name", CORE)


def last_logits(tiny: Tiny, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return tiny.model(**inputs).logits[0, -1]


@every_family
@pytest.mark.parametrize("count", [1, 2])
def test_processor_output_runs_through_the_model(name: str, count: int, images: list[Image.Image]) -> None:
    tiny = FAMILIES[name]()
    inputs = encode(tiny, [user("What is in the picture?", *images[:count])])
    logits = tiny.model(**inputs).logits
    assert logits.shape == (1, inputs["input_ids"].shape[1], tiny.model.config.get_text_config().vocab_size)
    assert torch.isfinite(logits).all()
    placeholders = (inputs["input_ids"] == tiny.model.config.image_token_id).sum().item()
    assert 4 * count <= placeholders <= 24 * count


@every_family
def test_every_image_and_its_place_matter(name: str, images: list[Image.Image]) -> None:
    tiny = FAMILIES[name]()
    same_size = [images[0], images[0].transpose(Image.Transpose.ROTATE_90), Image.new("RGB", images[0].size, "red")]
    question = "What is in the picture?"
    reference = last_logits(tiny, encode(tiny, [user(question, same_size[0], same_size[1])]))
    for pair in [(0, 2), (2, 1), (1, 0)]:
        other = last_logits(tiny, encode(tiny, [user(question, *(same_size[index] for index in pair))]))
        assert (other - reference).abs().max() > 0.05, pair


@every_family
def test_order_of_tokens_matters(name: str, images: list[Image.Image]) -> None:
    tiny = FAMILIES[name]()
    inputs, swapped = (
        encode(tiny, [user(question, images[0])])
        for question in ("Is there a dog on the table?", "Is there a table on the dog?")
    )
    assert inputs["input_ids"].sort().values.equal(swapped["input_ids"].sort().values)
    assert (last_logits(tiny, swapped) - last_logits(tiny, inputs)).abs().max() > 0.02


@every_family
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_float64_is_exact(name: str, attention: str, images: list[Image.Image]) -> None:
    """Inside `exact_float64` what comes later changes nothing to rounding of float64; outside, float32 speaks."""
    tiny = FAMILIES[name](dtype=torch.float64, attn_implementation=attention)
    inputs = encode(tiny, [user("How many birds are there?", *images[:2])])
    longer = append_ids(inputs, tiny.tokenizer("There are two", add_special_tokens=False).input_ids)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        rounded = tiny.model(**inputs).logits
        with exact_float64():
            exact, exact_longer = tiny.model(**inputs).logits, tiny.model(**longer).logits
    assert exact.dtype == torch.float64
    assert (exact_longer[:, :length] - exact).abs().max() < 1e-12
    assert 1e-9 < (rounded - exact).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_exact_float64_holds_in_the_backward_pass_of_checkpointing(name: str, images: list[Image.Image]) -> None:
    gradients = []
    for checkpointing in (False, True):
        tiny = FAMILIES[name](dtype=torch.float64)
        tiny.model.train()
        if checkpointing:
            tiny.model.activation_checkpointing_enable({"use_reentrant": False})
        with exact_float64():
            tiny.model(**encode(tiny, [user("Is there a dog?", images[0])])).logits[0, -1].square().sum().backward()
        gradients.append({key: value.grad for key, value in tiny.model.named_parameters() if value.grad is not None})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    assert all((plain[key] - recomputed[key]).abs().max() < 1e-12 * (1 + plain[key].abs().max()) for key in plain)


@every_family
def test_generate_runs_and_its_ids_are_set(name: str, images: list[Image.Image]) -> None:
    tiny = FAMILIES[name]()
    settings = tiny.model.generation_config
    assert tiny.end_of_turn_id in tiny.stop_ids
    assert settings.pad_token_id not in (None, tiny.end_of_turn_id)
    prompt = [user("What is in the picture?", images[0])]
    ids = reply(tiny, prompt, max_new_tokens=4)
    assert 1 <= len(ids) <= 4
    assert ids == reply(tiny, prompt, max_new_tokens=4)


@every_family
def test_saved_pair_loads_through_the_auto_classes(name: str, tmp_path: Path, images: list[Image.Image]) -> None:
    tiny = FAMILIES[name]()
    tiny.model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    loaded = Tiny(
        name,
        AutoModelForImageTextToText.from_pretrained(tmp_path, local_files_only=True).eval(),
        AutoProcessor.from_pretrained(tmp_path, local_files_only=True),
        tiny.end_of_turn,
    )
    prompt = [user("What is in the picture?", images[1]), assistant("Nothing. "), user("<s></s> Really?")]
    inputs, again = encode(tiny, prompt), encode(loaded, prompt)
    assert type(loaded.processor) is type(tiny.processor)
    assert inputs.keys() == again.keys()
    assert all(torch.equal(inputs[key], again[key]) for key in inputs)
    assert torch.equal(last_logits(loaded, again), last_logits(tiny, inputs))
    assert loaded.stop_ids == tiny.stop_ids


@every_family
def test_weights_come_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = FAMILIES[name](seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = FAMILIES[name](seed=3, dtype=torch.float64), FAMILIES[name](seed=4)
    for (key, left), right, third in zip(
        first.model.named_parameters(), again.model.parameters(), other.model.parameters(), strict=True
    ):
        assert torch.equal(left.double(), right), key
        assert not torch.equal(left, third), key
        assert left.abs().max() > 0, key
    assert first.tokenizer.get_vocab() == again.tokenizer.get_vocab()


def test_gemma_window_binds_and_images_are_seen_both_ways(images: list[Image.Image]) -> None:
    prompt = [user("What is in the picture?", images[0])]
    tiny, wide = FAMILIES["gemma3"](), FAMILIES["gemma3"](sliding_window=512)
    inputs = encode(tiny, prompt)
    assert inputs["input_ids"].shape[1] > 2 * tiny.model.config.text_config.sliding_window
    assert set(tiny.model.config.text_config.layer_types) == {"full_attention", "sliding_attention"}
    reference = last_logits(tiny, inputs)
    assert (last_logits(wide, inputs) - reference).abs().max() > 0.05
    causal = {key: value for key, value in inputs.items() if key != "token_type_ids"}
    assert (last_logits(tiny, causal) - reference).abs().max() > 0.05


def test_qwen_positions_of_images_matter(images: list[Image.Image]) -> None:
    tiny = FAMILIES["qwen2_5_vl"]()
    inputs = encode(tiny, [user("What is in the picture?", images[1])])
    positions, _ = tiny.model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
    )
    assert positions.shape == (3, 1, inputs["input_ids"].shape[1])
    assert positions.max() < inputs["input_ids"].shape[1] - 1  # an image takes less room than it has tokens
    straight = dict(inputs) | {"position_ids": torch.arange(positions.shape[-1]).expand(3, 1, -1)}
    assert (last_logits(tiny, straight) - last_logits(tiny, inputs)).abs().max() > 0.05


def test_qwen3_5_mixes_linear_and_full_attention() -> None:
    layer_types = FAMILIES["qwen3_5"]().model.config.text_config.layer_types
    assert layer_types == ["linear_attention"] * 3 + ["full_attention"]


ANSWERS = ["There is a red bird.", "No, there is not.", "Two small dogs", "A blue car on the beach."]


@pytest.mark.slow
@every_family
def test_overfit_model_stops_by_itself(name: str, images: list[Image.Image]) -> None:
    """One question, four images, four answers: the reply depends on the image alone, and ends at the end of turn."""
    tiny = FAMILIES[name]()
    dialogues = [
        Dialogue(
            [user("What is this?", image)],
            [*tiny.tokenizer(answer, add_special_tokens=False).input_ids, tiny.end_of_turn_id],
        )
        for image, answer in zip(images, ANSWERS, strict=True)
    ]
    assert overfit(tiny, dialogues) < 0.03
    assert [reply(tiny, dialogue.prompt) for dialogue in dialogues] == [dialogue.answer_ids for dialogue in dialogues]
