"""What cannot be composed is refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM

from composed.languages import WHISPER, clip, composed, language_model, turn
from mmdpo.errors import ConfigError, ModelError
from mmdpo.modalities.embeddings import Embeddings
from mmdpo.modalities.whisper import WhisperFeatures
from mmdpo.models.composed import compose, compose_from
from tiny import FAMILIES

EVENTS = {"event": Embeddings(dim=4)}


@pytest.mark.parametrize(
    ("placeholders", "message"),
    [
        ({"a": "<x>", "b": "<x>"}, "'a' and 'b' both want the placeholder '<x>'"),
        ({"a": "</s>"}, "'</s>' of modality 'a' already is a token"),
        ({"a": "▁the"}, "'▁the' of modality 'a' already is a token"),
        ({"a": ""}, "'' of modality 'a' is blank"),
        ({"b": " \n"}, r"' \\n' of modality 'b' is blank"),
        ({"a": None}, "None of modality 'a' is blank or no text"),
        ({"c": "<x>"}, "placeholders name modality 'c', which has no encoder"),
    ],
)
def test_placeholders_that_clash(placeholders: dict[str, Any], message: str) -> None:
    llm, tokenizer = language_model()
    if placeholders.get("a") == "▁the":
        assert "▁the" in tokenizer.get_vocab()
    with pytest.raises(ConfigError, match=message):
        compose(llm, {"a": Embeddings(dim=4), "b": Embeddings(dim=4)}, tokenizer=tokenizer, placeholders=placeholders)


def test_a_special_token_that_is_free_may_be_the_placeholder() -> None:
    """Tokenizers keep some in reserve; here the one for images."""
    llm, tokenizer = language_model()
    model, processor = compose(
        llm, {"image": Embeddings(dim=4)}, tokenizer=tokenizer, placeholders={"image": "<image>"}
    )
    assert processor.image_token_id == tokenizer.convert_tokens_to_ids("<image>")
    assert len(processor.tokenizer) == len(tokenizer)
    assert model.config.image_token_id == processor.image_token_id


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dim": 4}, "has no kind"),
        ({"kind": "wisper", "stack": 4}, "encoder 'wisper' belongs to modality 'event', which is not registered"),
        ({"kind": "whisper", "stak": 4}, r"no field 'stak'\nDid you mean 'stack'"),
        ({"kind": "embeddings"}, "cannot be made.*dim"),
    ],
)
def test_entries_that_name_no_encoder(entry: dict[str, Any], message: str) -> None:
    llm, tokenizer = language_model()
    with pytest.raises(ConfigError, match=message):
        compose(llm, {"event": entry}, tokenizer=tokenizer)


def test_an_unknown_kind_of_a_known_modality_gets_a_suggestion() -> None:
    llm, tokenizer = language_model()
    with pytest.raises(ConfigError, match=r"modality 'image' has no encoder 'clipp'\nDid you mean 'clip'"):
        compose(llm, {"image": {"kind": "clipp"}}, tokenizer=tokenizer)


def test_language_models_that_cannot_be_used() -> None:
    tiny = FAMILIES["llava"]()
    with pytest.raises(ModelError, match="LlavaForConditionalGeneration is no language model for text alone"):
        compose(tiny.model, EVENTS, tokenizer=tiny.tokenizer)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ModelError, match="MambaForCausalLM takes no past_key_values"):
        compose(mamba, EVENTS, tokenizer=language_model()[1])
    # its head is more than a linear layer
    bert = BertLMHeadModel(
        BertConfig(
            vocab_size=424,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            is_decoder=True,
        )
    )
    with pytest.raises(ModelError, match="differ from those of bert"):
        compose(bert, EVENTS, tokenizer=language_model()[1])
    llm, tokenizer = language_model()
    llm.set_output_embeddings(nn.Sequential(llm.lm_head))
    with pytest.raises(ModelError, match="output layer of LlamaForCausalLM is a Sequential"):
        compose(llm, EVENTS, tokenizer=tokenizer)


def test_missing_things(tmp_path: Path) -> None:
    llm, tokenizer = language_model()
    with pytest.raises(ConfigError, match="no encoder is given"):
        compose(llm, {}, tokenizer=tokenizer)
    with pytest.raises(ModelError, match="cannot load a language model from"):
        compose(str(tmp_path), EVENTS)
    with pytest.raises(ModelError, match="cannot load a tokenizer from"):
        compose(llm, EVENTS)


def test_a_section_of_a_run_configuration(tmp_path: Path) -> None:
    llm, tokenizer = language_model()
    llm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    section = {
        "llm": str(tmp_path),
        "encoders": {"audio": {"kind": "whisper", "config": WHISPER, "stack": 8}},
        "placeholders": {"audio": "<sound>"},
        "projector_hidden": 24,
        "seed": 5,
    }

    model, processor = compose_from(section)

    direct, _ = compose(
        AutoModelForCausalLM.from_pretrained(tmp_path),
        {"audio": WhisperFeatures(config=WHISPER, stack=8)},
        placeholders={"audio": "<sound>"},
        projector_hidden=24,
        seed=5,
    )
    for (name, value), (other, expected) in zip(model.named_parameters(), direct.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(value, expected), name
    assert model.model.projectors["audio"].linear_1.weight.shape == (24, 8 * 16)
    assert processor.apply_chat_template(turn(clip(1), "What?")) == "<s>User: <sound>What?\n"
    with pytest.raises(ConfigError, match=r"no setting 'encoder'\nDid you mean 'encoders'"):
        compose_from({"llm": "x", "encoder": {}})
    with pytest.raises(ConfigError, match="encoders is missing"):
        compose_from({"llm": str(tmp_path)})


def test_the_placeholder_of_a_modality_is_its_name() -> None:
    model, processor = composed()
    assert processor.audio_token == "<|audio|>"
    assert model.config.event_token_id == processor.tokenizer.convert_tokens_to_ids("<|event|>")
