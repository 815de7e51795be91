"""From conversations to inputs: placeholders expanded in the ids, text left as text, nothing dropped."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
import torch

from composed.languages import clip, composed, encode, language_model, turn, vectors
from mmdpo.errors import DataError, ModelError
from mmdpo.modalities.embeddings import Embeddings
from mmdpo.models.composed import compose
from tiny import templates

PLAIN = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What is heard?"}]}]


def test_the_generic_template_and_the_expansion() -> None:
    _, processor = composed()
    conversation = [
        *turn(vectors(2), "What is here?", clip(0.2)),
        {"role": "assistant", "content": "A dog."},
        *turn("And now?"),
    ]

    text = processor.apply_chat_template(conversation, add_generation_prompt=True)

    assert text == ("<s>User: <|event|>What is here?<|audio|>\nAssistant: A dog.</s>\nUser: And now?\nAssistant:")
    inputs = encode(processor, conversation)
    expanded = text.replace("<|event|>", "<|event|>" * 2).replace("<|audio|>", "<|audio|>" * 3)
    assert inputs["input_ids"][0].tolist() == processor.tokenizer.encode(expanded, add_special_tokens=False)
    assert inputs["attention_mask"].tolist() == [[1] * inputs["input_ids"].shape[1]]
    assert set(inputs) == {
        "input_ids",
        "attention_mask",
        "audio_input_features",
        "audio_lengths",
        "event_values",
        "event_lengths",
    }
    assert processor.input_names("audio") == ("audio_input_features", "audio_lengths")
    assert set(inputs) == set(processor.model_input_names)


def test_the_language_models_own_template_is_kept() -> None:
    llm, tokenizer = language_model()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}"
        "[{{ message['role'] }}]{{ message['content'] | trim }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    own = tokenizer.apply_chat_template([{"role": "user", "content": " Hi "}], tokenize=False)
    _, processor = compose(llm, {"event": Embeddings(dim=6)}, tokenizer=tokenizer)

    assert own == "<s>[user]Hi</s>"
    assert processor.apply_chat_template([{"role": "user", "content": " Hi "}]) == own
    assert processor.apply_chat_template(turn(vectors(1), "Hi ")) == "<s>[user]<|event|>Hi</s>"


def test_the_tokenizer_alone_renders_a_media_part_as_its_placeholder() -> None:
    """As `mmdpo.encoding.rendering` asks it to."""
    _, processor = composed()
    for tokenizer in (processor.tokenizer, language_model()[1]):
        text = tokenizer.apply_chat_template(PLAIN, chat_template=processor.chat_template, tokenize=False)
        assert text == "<s>User: <|audio|>What is heard?\n"
    with pytest.raises(jinja2.TemplateError, match="no media of type thermal"):
        processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": [{"type": "thermal"}]}], chat_template=processor.chat_template
        )


def test_text_that_spells_a_placeholder_stays_text_when_asked() -> None:
    _, processor = composed()
    conversation = turn(clip(0.2), "Is <|audio|> a word? </s>")

    ids = encode(processor, conversation, sanitize_control_tokens=True)["input_ids"][0]

    audio = processor.audio_token_id
    assert (ids == audio).sum() == 3
    assert (ids == processor.tokenizer.eos_token_id).sum() == 0
    assert "Is <|audio|> a word? </s>" in processor.decode(ids[(ids != audio)])
    with pytest.raises(DataError, match=r"2 placeholders <\|audio\|> for 1 audio items"):
        encode(processor, conversation)


def test_placeholders_and_items_must_be_as_many() -> None:
    _, processor = composed()
    with pytest.raises(DataError, match=r"1 placeholders <\|audio\|> for 0 audio items"):
        encode(processor, PLAIN)
    with pytest.raises(DataError, match=r"1 placeholders <\|audio\|> for 2 audio items"):
        processor("Hear: <|audio|>", media={"audio": [clip(0.1), clip(0.2)]})
    with pytest.raises(DataError, match=r"1 placeholders <\|audio\|> for 0 audio items"):
        processor(["Hear: <|audio|>", "Hear: <|audio|>"], media={"audio": [clip(0.1)]})


@pytest.mark.parametrize("content", [{"type": "image", "image": object()}, {"type": "image"}])
def test_media_that_the_model_does_not_take_are_refused(content: Any) -> None:
    _, processor = composed()
    for tokenize in (True, False):
        with pytest.raises(ModelError, match="media of type 'image'; the model takes audio, event"):
            processor.apply_chat_template([{"role": "user", "content": [content]}], tokenize=tokenize)
    with pytest.raises(ModelError, match="media of type 'image'"):
        processor("text", media={"image": [object()]})


def test_lists_and_tensors_one_and_several() -> None:
    _, processor = composed()
    rows = [turn(vectors(2), "What?"), turn("Is there a dog in the image?")]
    lists = processor.apply_chat_template(rows, tokenize=True)
    assert [type(row) for row in lists] == [list, list]
    assert processor.apply_chat_template(rows[1], tokenize=True) == lists[1]

    for side in ("left", "right"):
        processor.tokenizer.padding_side = side
        batch = encode(processor, rows)
        for number, row in enumerate(lists):
            assert batch["input_ids"][number][batch["attention_mask"][number].bool()].tolist() != row  # with the prompt
        assert int(batch["attention_mask"][0].sum()) < batch["input_ids"].shape[1]
        padded = batch["input_ids"][0][~batch["attention_mask"][0].bool()]
        assert set(padded.tolist()) == {processor.tokenizer.pad_token_id}
        assert bool(batch["attention_mask"][0, 0]) == (side == "right")


def test_rendered_text_with_media() -> None:
    _, processor = composed()
    clips = [clip(0.2), clip(0.4, seed=1), clip(0.1, seed=2)]
    inputs = processor(["A <|audio|> and <|audio|>", "B <|audio|>"], media={"audio": clips}, return_tensors="pt")
    assert (inputs["input_ids"] == processor.audio_token_id).sum(1).tolist() == [3 + 5, 2]
    assert inputs["audio_lengths"].flatten().tolist() == [10, 20, 5]
    assert processor("A <|audio|>", media={"audio": clips[:1]})["input_ids"].count(processor.audio_token_id) == 3


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (vectors(3)[:, :5], r"shape \(3, 5\)"),
        (vectors(3)[:0], r"shape \(0, 6\)"),
        (vectors(3)[0], r"shape \(6,\)"),
        (torch.full((2, 6), float("nan")).numpy(), "not finite"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(item: Any, message: str) -> None:
    _, processor = composed()
    with pytest.raises(DataError, match=message):
        encode(processor, [{"role": "user", "content": [{"type": "event", "event": item}]}])


def test_a_template_of_a_published_family_takes_the_text() -> None:
    """Qwen's: a system turn is added, and turns are closed by its own tokens."""
    llm, tokenizer = language_model()
    tokenizer.chat_template = templates.QWEN2_5_VL
    _, processor = compose(llm, {"event": Embeddings(dim=6)}, tokenizer=tokenizer)
    assert processor.apply_chat_template(turn(vectors(1), "What?"), add_generation_prompt=True).endswith(
        "<|im_start|>user\n<|event|>What?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("padding", [True, "longest"])
def test_padding_that_is_asked_for_is_masked(padding: Any) -> None:
    _, processor = composed()
    texts = ["What is heard in this recording?", "What?"]
    wanted = processor(texts, return_tensors="pt")
    found = processor(texts, padding=padding, return_tensors="pt")
    assert torch.equal(found["input_ids"], wanted["input_ids"])
    assert found["attention_mask"].sum(1).tolist() == [len(row) for row in processor.tokenizer(texts)["input_ids"]]
    rows = [turn(vectors(2), texts[0]), turn(texts[1])]
    for name, value in encode(processor, rows, padding=padding).items():
        assert torch.equal(value, encode(processor, rows)[name]), name


def test_no_text_at_all_is_refused() -> None:
    _, processor = composed()
    for tensors in (None, "pt"):
        with pytest.raises(DataError, match="empty list of texts"):
            processor([], return_tensors=tensors)


def test_an_item_that_becomes_no_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, processor = composed()
    monkeypatch.setattr(Embeddings, "tokens", lambda self, item: len(item) // 2)
    assert encode(processor, turn(vectors(2), "What?"))["input_ids"].shape[0] == 1
    with pytest.raises(DataError, match="item of modality 'event' becomes 0 tokens"):
        encode(processor, turn(vectors(2), vectors(1), "What?"))
