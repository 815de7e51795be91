"""Prompts to ids and encoder inputs: what `generate` is given, and templates that lose a part of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from core.encoders import IMAGE, encoder_of, every_family, fresh_encoder
from core.oracle import generation_inputs, opened, picture, record, setup
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ModelError
from tiny import FAMILIES


@every_family
@pytest.mark.parametrize("count", [0, 1, 2])
def test_prompts_are_what_generate_is_given(name: str, count: int) -> None:
    encoder, tiny = encoder_of(name)
    of = record("r", "What is in the picture?", ["x"], *(picture(n, 24 + 8 * n, 24) for n in range(count)))
    prompt, expected = encoder.prompt(of), generation_inputs(tiny, of)
    assert prompt.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert sum(unit.items for unit in prompt.units) == count
    for field, values in prompt.fields.items():
        assert torch.equal(values, expected[field][0])
    if count:
        pixels = torch.cat([unit.inputs["pixel_values"].flatten() for unit in prompt.units])
        assert torch.equal(pixels, expected["pixel_values"].flatten())


@every_family
def test_equal_images_have_equal_keys(name: str) -> None:
    """The key is of the encoder inputs: it does not depend on the record, the file or the other images of a prompt."""
    encoder, _ = encoder_of(name)
    first, second = picture(1), picture(2)
    alone = encoder.prompt(record("a", "What?", ["x"], first)).units
    again = encoder.prompt(record("b", "Why?", ["y"], picture(1))).units
    other = encoder.prompt(record("c", "What?", ["x"], second)).units
    assert [unit.key for unit in alone] == [unit.key for unit in again]
    assert [unit.key for unit in alone] != [unit.key for unit in other]
    if name not in ("llava_next", "idefics3"):  # whose inputs are padded to the prompt's largest image
        pair = encoder.prompt(record("d", "What?", ["x"], second, first)).units
        assert [unit.key for unit in pair] == [other[0].key, alone[0].key]


def test_a_media_variant_is_the_same_every_time_and_another_item() -> None:
    encoder, tiny = encoder_of("llava")
    of = record("r", "What is it?", ["x"], IMAGE)
    clean, blank, again = encoder.prompt(of), encoder.prompt(of, "blank"), encoder.prompt(of, "blank")
    assert clean.units[0].key != blank.units[0].key == again.units[0].key
    assert torch.equal(clean.input_ids, blank.input_ids)
    grey = tiny.processor.image_processor(opened(IMAGE, "blank"), return_tensors="pt")["pixel_values"]
    assert torch.equal(blank.units[0].inputs["pixel_values"], grey)


# A template that reads string content alone, as many text models have it, renders lists of parts as nothing.
STRINGS_ALONE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TEXTS_ALONE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@every_family
def test_a_template_that_loses_text_or_images_is_refused(name: str) -> None:
    encoder, _ = fresh_encoder(name)
    encoder.processor.chat_template = STRINGS_ALONE
    with pytest.raises(ModelError, match="loses the text 'Hello'"):
        encoder.check_rendering(record("r", "Hello", ["x"]))
    encoder.processor.chat_template = TEXTS_ALONE
    encoder.check_rendering(record("r", "Hello", ["x"]))
    with pytest.raises(ModelError, match="refuses the prompt of record 'r'"):
        encoder.prompt(record("r", "Hello", ["x"], IMAGE))


def test_a_second_text_that_the_template_drops_is_noticed() -> None:
    """LLaVA-NeXT reads only the first part of an earlier answer."""
    encoder, _ = encoder_of("llava_next")
    parts = [{"type": "text", "text": "A cat."}, {"type": "text", "text": "I am sure."}]
    of = record("r", "What is it?", ["x"])
    turns = (*of.prompt, {"role": "assistant", "content": parts}, *of.prompt)
    with pytest.raises(ModelError, match=r"loses the text 'I am sure\.'"):
        encoder.check_rendering(replace(of, prompt=turns))


def test_what_an_encoder_needs() -> None:
    tiny = FAMILIES["llava"]()
    facts = setup(tiny).encoder.facts
    with pytest.raises(ModelError, match="eos_token_id"):
        Encoder(tiny.processor, facts, [])
    tiny.processor.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        Encoder(tiny.processor, facts, tiny.stop_ids)
