"""Records to ids: the prompt that `generate` gets, the answer that the model would emit, text that stays text."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch

from core.oracle import conversation, generation_inputs, opened, picture, record, setup
from mmdpo.encoding import Encoder
from mmdpo.errors import DataError, ModelError
from mmdpo.records import Candidate, Record
from mmdpo.scoring import score
from tiny import FAMILIES, Tiny
from tiny.overfit import Dialogue, overfit, reply

every_family = pytest.mark.parametrize("name", FAMILIES)

END_OF_TURN = {
    "llava": "</s>",
    "llava_next": "</s>",
    "qwen2_5_vl": "<|im_end|>",
    "qwen3_5": "<|im_end|>",
    "gemma3": "<end_of_turn>",
    "idefics3": "<end_of_utterance>",
}
WRITTEN_BEFORE = {"idefics3": " "}
"""What the template writes between the prompt and an answer, and the model has to emit."""
TRIMS = {"gemma3", "qwen3_5"}
"""Families whose template trims the answer."""
MARKS_NO_END = {"llava"}
"""Families whose template writes no end token, so that white space at the end is not told from the template's own."""

IMAGE = picture(1)


def fresh_encoder(name: str, **overrides: Any) -> tuple[Encoder, Tiny]:
    """For tests that change the template or the weights."""
    tiny = FAMILIES[name](**overrides)
    return setup(tiny).encoder, tiny


encoder_of = lru_cache(fresh_encoder)
"""For all others."""


def answer_ids(encoder: Encoder, text: str, question: str = "What is it?", **fields: Any) -> list[int]:
    of = record("r", question, [text], IMAGE)
    return encoder.answer(of, replace(of.candidates[0], **fields)).ids.tolist()


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
def test_sampled_ids_with_a_placeholder_are_refused(name: str) -> None:
    """The model would take it for an image."""
    encoder, tiny = encoder_of(name)
    ids = (tiny.model.config.image_token_id, tiny.stop_ids[0])
    with pytest.raises(DataError, match="control token"):
        encoder.answer(record("r", "What is it?", ["x"], IMAGE), Candidate("x", token_ids=ids))


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


# --- prompts --------------------------------------------------------------------------------------------------------


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
        encoder.prompt(record("r", "Hello", ["x"]))
    encoder.processor.chat_template = TEXTS_ALONE
    encoder.prompt(record("r", "Hello", ["x"]))
    with pytest.raises(ModelError, match="refuses the prompt of record 'r'"):
        encoder.prompt(record("r", "Hello", ["x"], IMAGE))


def test_a_second_text_that_the_template_drops_is_noticed() -> None:
    """LLaVA-NeXT reads only the first part of an earlier answer."""
    encoder, _ = encoder_of("llava_next")
    parts = [{"type": "text", "text": "A cat."}, {"type": "text", "text": "I am sure."}]
    of = record("r", "What is it?", ["x"])
    turns = (*of.prompt, {"role": "assistant", "content": parts}, *of.prompt)
    with pytest.raises(ModelError, match=r"loses the text 'I am sure\.'"):
        encoder.prompt(replace(of, prompt=turns))


def test_what_an_encoder_needs() -> None:
    tiny = FAMILIES["llava"]()
    facts = setup(tiny).encoder.facts
    with pytest.raises(ModelError, match="eos_token_id"):
        Encoder(tiny.processor, facts, [])
    tiny.processor.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        Encoder(tiny.processor, facts, tiny.stop_ids)


# --- the whole way: what is scored is what is generated -------------------------------------------------------------

ANSWERS = ["There is a red bird.", "No, there is not.", "Two small dogs", "A blue car on the beach."]
PUBLISHED = ("llava", "llava_next", "qwen2_5_vl", "idefics3", "gemma3")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_that_learnt_four_answers_stops_by_itself(name: str) -> None:
    """Trained on the encoder's ids by the family's own loss; the reply depends on the image alone."""
    encoder, tiny = fresh_encoder(name)
    records = [record(str(n), "What is this?", [answer], picture(n)) for n, answer in enumerate(ANSWERS)]
    dialogues = [Dialogue(conversation(of), encoder.answer(of, of.candidates[0]).ids.tolist()) for of in records]
    overfit(tiny, dialogues, steps=45)
    assert [reply(tiny, dialogue.prompt) for dialogue in dialogues] == [dialogue.answer_ids for dialogue in dialogues]
    assert [
        tiny.tokenizer.decode(dialogue.answer_ids, skip_special_tokens=True).strip() for dialogue in dialogues
    ] == ANSWERS


@pytest.mark.parametrize(
    "name", ["llava", "gemma3", *(pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED[1:4])]
)
def test_a_model_trained_through_branches_says_what_it_was_trained_on(name: str) -> None:
    """The same through our own scoring, all answers of a record as branches: the likeliest one is generated."""
    tiny = FAMILIES[name]()
    built = setup(tiny, candidates=2)
    records = [record(str(n), "What is this?", [answer, "A cat."], picture(n)) for n, answer in enumerate(ANSWERS)]
    batch = built.collator(list(enumerate(records)))
    sign = torch.where(batch["candidate"] == 0, 1.0, 0.02)  # the second one is hardly wanted
    optimizer = torch.optim.AdamW(tiny.model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(60):
        loss = -(score(tiny.model, batch).sum(1) * sign).sum() / 40
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tiny.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    first = batch["candidate"] == 0
    chosen = [ids[mask].tolist() for ids, mask in zip(batch["targets"][first], batch["mask"][first], strict=True)]
    assert [reply(tiny, conversation(of)) for of in records] == chosen
