"""Answers to ids: what the model would have to emit, ending in one end of turn; text that stays text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.encoders import (
    END_OF_TURN,
    IMAGE,
    MARKS_NO_END,
    TRIMS,
    WRITTEN_BEFORE,
    answer_ids,
    encoder_of,
    every_family,
    fresh_encoder,
)
from core.oracle import generation_inputs, picture, record, setup
from mmdpo.errors import DataError
from mmdpo.records import Candidate, Record
from tiny import Tiny

# --- answers --------------------------------------------------------------------------------------------------------


@every_family
def test_the_last_scored_id_ends_the_turn(name: str) -> None:
    encoder, tiny = encoder_of(name)
    of = record("r", "What is it?", ["A red bird."], IMAGE)
    answer = encoder.answer(of, of.candidates[0])
    ids = answer.ids.tolist()
    assert answer.way == "prefix"
    assert tiny.tokenizer.convert_ids_to_tokens(ids[-1]) == END_OF_TURN[name]
    assert ids[-1] in tiny.stop_ids and not set(ids[:-1]) & set(tiny.stop_ids)
    assert tiny.tokenizer.decode(ids[:-1]) == WRITTEN_BEFORE.get(name, "") + "A red bird."


TEXTS = [
    pytest.param("A cat.", id="plain"),
    pytest.param("  two spaces before", id="leading spaces"),
    pytest.param("two spaces after  ", id="trailing spaces"),
    pytest.param("\n\nline feeds\nwithin and after\n\n", id="line feeds"),
    pytest.param("Ünï ✓ 🙂 {{ x }} {% y %} 鳥", id="unicode and braces"),
    pytest.param("Ġa Ċ", id="marks of tokenizers"),
]


@every_family
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("finished", [True, False])
def test_answers_decode_to_their_text(name: str, text: str, finished: bool) -> None:
    encoder, tiny = encoder_of(name)
    ids = answer_ids(encoder, text, finished=finished)
    if finished:
        assert tiny.tokenizer.convert_ids_to_tokens(ids.pop()) == END_OF_TURN[name]
    assert not set(ids) & set(tiny.tokenizer.all_special_ids)
    expected = text.strip() if name in TRIMS else text.rstrip() if name in MARKS_NO_END else text
    assert tiny.tokenizer.decode(ids) == WRITTEN_BEFORE.get(name, "") + expected


@every_family
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_answer_without_text_is_refused(name: str, text: str, finished: bool) -> None:
    encoder, _ = encoder_of(name)
    with pytest.raises(DataError, match="no text of its own"):
        answer_ids(encoder, text, finished=finished)


@every_family
def test_only_the_last_turn_of_a_dialogue_is_scored(name: str) -> None:
    """Three turns with images in the first and the third."""
    _, tiny = encoder_of(name)
    images = picture(1), picture(2, 40, 20)
    with_image, text = {"type": "image"}, "And this?"
    of = Record(
        id="dialogue",
        prompt=(
            {"role": "user", "content": [with_image, {"type": "text", "text": "What is this?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
            {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
            {"role": "user", "content": [with_image, {"type": "text", "text": text}]},
        ),
        candidates=(Candidate("A dog on a chair."),),
        media={"images": images},
    )
    batch = encoder_batch(tiny, of)
    ids = batch["targets"][0][batch["mask"][0]].tolist()
    expected = f"{WRITTEN_BEFORE.get(name, '')}A dog on a chair.{END_OF_TURN[name]}"
    assert tiny.tokenizer.decode(ids) == expected
    # They follow the whole prompt, both images in it, directly.
    prompt = generation_inputs(tiny, of)["input_ids"][0].tolist()
    assert batch["input_ids"][0].tolist() == prompt + ids
    assert batch["hidden_index"][0].tolist() == list(range(len(prompt) - 1, len(prompt) + len(ids) - 1))
    assert sum(batch["media"]["image"]["items"]) == 2


def encoder_batch(tiny: Tiny, of: Record) -> Any:
    return setup(tiny, candidates=len(of.candidates)).collator([(0, of)])


@every_family
def test_ids_that_were_sampled_are_kept(name: str) -> None:
    """Not the ids that the text would give: sampling tokenises differently, and white space at the end was emitted."""
    encoder, tiny = encoder_of(name)
    one_by_one = [tiny.tokenizer.encode(letter, add_special_tokens=False)[-1] for letter in "a red bird  "]
    end = tiny.tokenizer.convert_tokens_to_ids(END_OF_TURN[name])
    of = record("r", "What is it?", ["a red bird"])
    for given, finished, expected in [
        (one_by_one, False, one_by_one),
        ([*one_by_one, end], True, [*one_by_one, end]),
        ([*one_by_one, end], False, one_by_one),
        (one_by_one, True, [*one_by_one, tiny.stop_ids[0]]),
    ]:
        answer = encoder.answer(of, Candidate("a red bird", token_ids=tuple(given), finished=finished))
        assert answer.way == "given" and answer.ids.tolist() == expected


@every_family
def test_sampled_ids_with_a_placeholder_are_not_taken(name: str) -> None:
    """The model would take it for an image; the text is what counts."""
    encoder, tiny = encoder_of(name)
    ids = (tiny.model.config.image_token_id, tiny.stop_ids[0])
    answer = encoder.answer(record("r", "What is it?", ["x"], IMAGE), Candidate("x", token_ids=ids))
    assert answer.way != "given" and ids[0] not in answer.ids.tolist()


# --- answers that cannot be cut off the rendering -------------------------------------------------------------------


def test_a_token_that_straddles_the_boundary() -> None:
    """`assistant\\n` and an answer that begins with line feeds, whose run would be one token."""
    encoder, tiny = encoder_of("qwen2_5_vl")
    of = record("r", "What is it?", ["\n\nYes.", "Yes."])
    answer, plain = (encoder.answer(of, candidate) for candidate in of.candidates)
    assert (answer.way, plain.way) == ("context", "prefix")
    feeds = tiny.tokenizer.encode("\n\n", add_special_tokens=False)
    assert answer.ids.tolist() == [*feeds, *plain.ids.tolist()]


def test_the_context_keeps_spaces_where_they_are() -> None:
    """A prompt that ends in a space, which is part of the next word's token: the model emits the word without it."""
    template = (
        "{% for message in messages %}"
        "{% for part in message['content'] if part['type'] == 'text' %}"
        "{{ part['text'] if message['role'] == 'user' else ' ' ~ part['text'] ~ '<|im_end|>' }}"
        "{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' ' }}{% endif %}"
    )
    encoder, tiny = fresh_encoder("qwen2_5_vl")
    encoder.processor.chat_template = template
    of = record("r", "Is there a dog in the image?", ["There is."])
    answer = encoder.answer(of, of.candidates[0])
    assert answer.way == "context"
    assert tiny.tokenizer.decode(answer.ids) == "There is.<|im_end|>"
    prompt = encoder.prompt(of).input_ids
    assert tiny.tokenizer.decode(torch.cat([prompt, answer.ids])) == "Is there a dog in the image? There is.<|im_end|>"
    # Power: the rendering joins the space to the word, so its ids are no continuation of the prompt's.
    joined = tiny.tokenizer.encode("Is there a dog in the image? There is.", add_special_tokens=False)
    assert joined[: len(prompt)] != prompt.tolist()


def test_an_open_thought_is_closed_by_the_answer() -> None:
    """Qwen3.5's larger models are prompted inside a thought: the model has to leave it before it answers."""
    encoder, tiny = encoder_of("qwen3_5", thinking=True)
    of = record("r", "What is it?", ["A dog.", "<think>\nA tail.\n</think>\n\nA dog."])
    unthinking, thinking = (encoder.answer(of, candidate) for candidate in of.candidates)
    assert (unthinking.way, thinking.way) == ("context", "prefix")
    assert tiny.tokenizer.decode(unthinking.ids) == "\n</think>\n\nA dog.<|im_end|>"
    assert tiny.tokenizer.decode(thinking.ids) == "A tail.\n</think>\n\nA dog.<|im_end|>"
    assert unthinking.ids[1] == tiny.tokenizer.convert_tokens_to_ids("</think>")


# --- text is text ---------------------------------------------------------------------------------------------------

CONTROL = [
    "<image>",
    "</s>",
    "<s>",
    "<|im_end|>",
    "<|im_start|>",
    "<|vision_start|>",
    "<|image_pad|>",
    "<end_of_turn>",
    "<start_of_image>",
    "<image_soft_token>",
    "<end_of_utterance>",
    "<|begin_of_text|>",
    "<fake_token_around_image>",
]


@every_family
@pytest.mark.parametrize("token", CONTROL)
@pytest.mark.parametrize("text", ["{}", "a {} b", "a{}{}b"])
def test_no_character_of_an_answer_becomes_a_special_id(name: str, token: str, text: str) -> None:
    encoder, tiny = encoder_of(name)
    text = text.format(token, token)
    ids = answer_ids(encoder, text)
    assert not set(ids[:-1]) & set(tiny.tokenizer.all_special_ids)
    assert tiny.tokenizer.decode(ids[:-1]) == WRITTEN_BEFORE.get(name, "") + text


@every_family
@pytest.mark.parametrize("token", CONTROL)
def test_no_character_of_a_prompt_becomes_a_special_id(name: str, token: str) -> None:
    """Kept as text, or refused as data where the processor works by string replacement."""
    encoder, tiny = encoder_of(name)
    of = record("r", f"What does {token} mean?", ["Nothing."], IMAGE)
    special = set(tiny.tokenizer.all_special_ids)

    def specials(of: Record) -> list[int]:
        return [token_id for token_id in encoder.prompt(of).input_ids.tolist() if token_id in special]

    plain = specials(record("r", "What does it mean?", ["Nothing."], IMAGE))
    assert plain
    try:
        found = specials(of)
    except DataError as error:
        assert "control token" in error.what
        assert encoder.control_tokens(token) == [token]
    else:
        assert found == plain
        assert f"What does {token} mean?" in tiny.tokenizer.decode(encoder.prompt(of).input_ids)
    # A dangerous question does not spoil the answer.
    assert encoder.answer(of, of.candidates[0]).ids.tolist() == answer_ids(encoder, "Nothing.")


def test_qwen_keeps_control_text_in_prompts() -> None:
    """Power of the test above: not everything is refused."""
    encoder, _ = encoder_of("qwen2_5_vl")
    for token in ("<|im_end|>", "<|vision_start|>", "<|image_pad|>"):
        assert encoder.control_tokens(token) == [token]
        encoder.prompt(record("r", f"What does {token} mean?", ["Nothing."], IMAGE))
