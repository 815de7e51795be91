"""With media: features stand where a forward pass put together by hand puts them, and generation follows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from composed.languages import KINDS, clip, composed, encode, language_model, turn, vectors
from mmdpo.errors import ModelError
from mmdpo.modalities.embeddings import Embeddings
from mmdpo.models.composed import compose


def projected(model: Any, modality: str, features: Tensor) -> Tensor:
    """The projector, written out."""
    layers = model.model.projectors[modality]
    normal = functional.layer_norm(features, features.shape[-1:], layers.norm.weight, layers.norm.bias)
    hidden = functional.gelu(normal @ layers.linear_1.weight.T + layers.linear_1.bias)
    return hidden @ layers.linear_2.weight.T + layers.linear_2.bias


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_replace_the_placeholders_embeddings(kind: str) -> None:
    llm, tokenizer = language_model(kind)
    model, processor = compose(llm, {"event": Embeddings(dim=6), "more": Embeddings(dim=6)}, tokenizer=tokenizer)
    first, other, second = vectors(3, 1), vectors(2, 2), vectors(4, 3)
    content = [
        {"type": "event", "event": first},
        {"type": "text", "text": "and"},
        {"type": "more", "more": other},
        {"type": "event", "event": second},
        {"type": "text", "text": "What is here?"},
    ]
    inputs = encode(processor, [{"role": "user", "content": content}])

    found = model(**inputs).logits

    ids = inputs["input_ids"]
    places = [(ids[0] == processor.media[name]["token_id"]).nonzero()[:, 0] for name in ("event", "more")]
    assert [len(place) for place in places] == [7, 2]
    assert places[0][2] < places[1][0] < places[1][1] < places[0][3]  # reading order
    embeddings = model.get_input_embeddings()(ids)
    embeddings[0, places[0]] = projected(model, "event", torch.cat([torch.tensor(first), torch.tensor(second)]))
    embeddings[0, places[1]] = projected(model, "more", torch.tensor(other))
    # the language model, with its own head and its own rule for logits
    own = llm(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(found, own)
    assert (own - llm(input_ids=ids).logits).abs().max() > 0.01  # the media are felt


@torch.no_grad()
def test_precomputed_outputs_are_those_of_the_encoder_inputs() -> None:
    model, processor = composed()
    inputs = encode(processor, turn(clip(1.3), vectors(3), "What is heard?", clip(0.2, seed=1)))
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}

    audio = model.model.get_media_features(
        "audio", input_features=inputs["audio_input_features"], lengths=inputs["audio_lengths"]
    )
    events = model.model.media_function("event")(
        **{name: inputs[name] for name in processor.input_names("event")}, return_dict=True
    )

    assert [len(item) for item in audio.pooler_output] == [17, 3]  # 65 and 10 frames of 20 ms by 4
    found = model(**text, mm_encoder_outputs={"audio": audio, "event": events}).logits
    torch.testing.assert_close(found, model(**inputs).logits)
    # the encoder by itself: what the projector makes of its list is the same
    alone = model.model.encoders["audio"](inputs["audio_input_features"], inputs["audio_lengths"])
    torch.testing.assert_close(projected(model, "audio", alone[1]), audio.pooler_output[1])
    with pytest.raises(ValueError, match="both encoder inputs and mm_encoder_outputs"):
        model(**inputs, mm_encoder_outputs={"audio": audio})
    with pytest.raises(ValueError, match="media need input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 32), mm_encoder_outputs={"audio": audio})


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "opt"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_batch_is_its_rows(kind: str, side: str) -> None:
    model, processor = composed(kind)
    processor.tokenizer.padding_side = side
    rows = [
        turn(clip(2.3), "What is heard?"),
        turn("No media at all, and a long question to make it differ in length. Is there a dog?"),
        turn(vectors(2), clip(0.4, seed=1), clip(1.0, seed=2), "How many?"),
    ]

    batch = encode(processor, rows)
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # as `generate` counts them
    found = model(**batch, position_ids=positions).logits

    for number, row in enumerate(rows):
        alone = encode(processor, row)
        kept = batch["attention_mask"][number].bool()
        assert torch.equal(batch["input_ids"][number, kept], alone["input_ids"][0])
        torch.testing.assert_close(found[number, kept], model(**alone).logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "gpt2", "opt"])
@torch.no_grad()
def test_generation_is_step_by_step_choice_of_the_best_token(kind: str) -> None:
    model, processor = composed(kind)
    processor.tokenizer.padding_side = "left"
    model.generation_config.eos_token_id = None  # so that every row is as long as asked for
    rows = [turn(clip(2.3), "What is heard?"), turn(vectors(2), clip(0.4, seed=1), clip(1.0, seed=2), "How many?")]

    expected = []
    for row in rows:
        inputs = encode(processor, row)
        for _ in range(6):
            best = model(**inputs).logits[:, -1].argmax(-1, keepdim=True)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], best], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        expected.append(inputs["input_ids"][0, -6:].tolist())

    batch = encode(processor, rows)
    for cache in (True, False):
        output = model.generate(**batch, max_new_tokens=6, do_sample=False, use_cache=cache)
        assert output[:, -6:].tolist() == expected


@torch.no_grad()
def test_several_answers_for_a_prompt_each_see_all_of_its_items() -> None:
    """Items repeated one by one would give the first answer of the second row the items of its neighbour."""
    model, processor = composed()
    processor.tokenizer.padding_side = "left"
    rows = [turn(vectors(2), clip(0.4, seed=1), clip(1.0, seed=2), "How many?"), turn(clip(1.7), "What?")]
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3, "num_return_sequences": 2}

    together = model.generate(**encode(processor, rows), **options)

    for number, row in enumerate(rows):
        inputs = encode(processor, row)
        alone = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
        both = together[2 * number : 2 * number + 2]
        found = [processor.tokenizer.decode(ids[-5:], skip_special_tokens=True) for ids in both]
        assert found == [processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in alone]


@torch.no_grad()
def test_placeholders_and_features_must_be_as_many() -> None:
    model, processor = composed()
    inputs = encode(processor, turn(vectors(3), "What?"))

    with pytest.raises(ModelError, match="3 event placeholder tokens, but 0 features of 0 event items"):
        model(input_ids=inputs["input_ids"])  # media are never left out silently
    with pytest.raises(ModelError, match="3 event placeholder tokens, but 2 features of 1 event items"):
        model(
            input_ids=inputs["input_ids"],
            event_values=inputs["event_values"],
            event_lengths=inputs["event_lengths"] - 1,
        )
    with pytest.raises(ModelError, match="image are given to a model that takes audio, event"):
        model(**inputs, mm_encoder_outputs={"image": object()})
    with pytest.raises(ValueError, match="not used by the model"):
        model.generate(**inputs, audio_input_featuers=inputs["event_values"], max_new_tokens=1)


class Wrong(nn.Module):
    """An encoder that gives what it is told to."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.given = given

    def forward(self, values: Tensor, lengths: Tensor) -> Any:
        return self.given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(2, 3, 6), r"one tensor of shape \(2, 3, 6\)"),
        ([torch.zeros(3, 6)], r"1 tensors of shapes \[\(3, 6\)\]"),
        ([torch.zeros(3, 6), torch.zeros(3, 5)], r"2 tensors of shapes \[\(3, 6\), \(3, 5\)\]"),
        ([torch.zeros(3, 6), torch.zeros(6)], r"2 tensors of shapes \[\(3, 6\), \(6,\)\]"),
        ([[1.0], [2.0]], "a list of other things than tensors"),
        (None, "a NoneType;"),
    ],
)
def test_an_encoder_that_gives_something_else_is_told_so(given: Any, message: str) -> None:
    model, processor = composed()
    inputs = encode(processor, turn(vectors(3), vectors(3), "What?"))
    model.model.encoders["event"] = Wrong(given)
    wanted = rf"encoder Wrong of modality 'event' gives {message}.*wanted is a list of 2 tensors \[tokens, 6\]"
    with pytest.raises(ModelError, match=wanted):
        model(**inputs)
    model.model.encoders["event"] = Wrong((torch.zeros(3, 6), torch.zeros(3, 6)))
    model(**inputs)
