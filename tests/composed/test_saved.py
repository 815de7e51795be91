"""Saved and loaded: the same model and the same inputs, by the Auto classes, from safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from composed.languages import KINDS, clip, composed, encode, language_model, turn, vectors
from mmdpo import registry
from mmdpo.errors import ConfigError
from mmdpo.modalities.base import Modality
from mmdpo.modalities.encoders import MediaEncoder
from mmdpo.models.composed import ComposedConfig, ComposedForConditionalGeneration, ComposedProcessor, compose


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_saved_model_gives_the_same_logits_and_inputs(kind: str, tmp_path: Path) -> None:
    model, processor = composed(kind)
    conversation = turn(clip(1.3), vectors(3), "What is heard?")
    inputs = encode(processor, conversation)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path, use_safetensors=True)
    again = AutoProcessor.from_pretrained(tmp_path)

    assert type(loaded) is ComposedForConditionalGeneration
    assert type(again) is ComposedProcessor
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix not in (".json", ".jinja")] == [".safetensors"]
    found = encode(again, conversation)
    assert found.keys() == inputs.keys()
    for name, values in inputs.items():
        assert torch.equal(found[name], values), name
    assert torch.equal(loaded(**found).logits, model(**inputs).logits)
    assert again.apply_chat_template(conversation) == processor.apply_chat_template(conversation)
    assert loaded.generation_config.eos_token_id == model.generation_config.eos_token_id == 2
    tied = KINDS[kind].get("tie_word_embeddings", kind in ("gpt2", "opt", "cohere"))
    for each in (model, loaded):
        assert (each.lm_head.weight is each.get_input_embeddings().weight) == tied


def test_every_auto_class_knows_it(tmp_path: Path) -> None:
    model, _ = composed()
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is ComposedConfig
    assert config.text_config.model_type == "llama"
    assert config.get_text_config() is config.text_config
    assert config.audio_token_id == model.config.media["audio"]["token_id"]
    assert config.to_dict()["media"] == model.config.to_dict()["media"]
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        assert type(auto.from_pretrained(tmp_path)) is ComposedForConditionalGeneration
    backbone = AutoModel.from_pretrained(tmp_path)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, model.model.state_dict()[name])


def test_half_precision_and_attention_reach_every_part(tmp_path: Path) -> None:
    model, _ = composed()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}
    assert loaded.model.language_model.config._attn_implementation == "eager"
    loaded.set_attn_implementation("sdpa")
    assert loaded.model.language_model.config._attn_implementation == "sdpa"
    model, processor = composed()
    inputs = encode(processor, turn(clip(0.5), vectors(2), "What?"))
    half = loaded(**inputs).logits
    assert half.dtype == torch.bfloat16
    assert (half - model(**inputs).logits).abs().max() < 0.1 * model(**inputs).logits.std()


def test_a_fresh_model_from_a_configuration() -> None:
    config = composed()[0].config
    torch.manual_seed(0)
    fresh = AutoModelForMultimodalLM.from_config(config)
    assert all(value.isfinite().all() for value in fresh.parameters())
    first = fresh.model.projectors["audio"].linear_1
    assert float(first.weight.detach().std()) == pytest.approx(first.in_features**-0.5, rel=0.1)


class Wave(nn.Module):
    """An encoder of a user: a parameter, a buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.full((4, 4), 0.5))
        self.register_buffer("count", torch.arange(4.0))
        self.register_buffer("table", torch.from_numpy(np.linspace(1, 2, 4, dtype=np.float32)), persistent=False)

    def forward(self, samples: Tensor) -> list[Tensor]:
        return list((samples * self.table + self.count) @ self.mix)


@dataclass(frozen=True, kw_only=True)
class Waves(MediaEncoder):
    inputs: ClassVar[tuple[str, ...]] = ("samples",)
    scale: float = 1.0

    @property
    def width(self) -> int:
        return 4

    def prepare(self, item: Any) -> dict[str, Tensor]:
        return {"samples": self.scale * torch.as_tensor(item)[None]}

    def tokens(self, item: Any) -> int:
        return len(item)

    def build(self) -> nn.Module:
        return Wave()


@pytest.fixture
def sensor() -> Iterator[None]:
    """A modality of a plugin."""

    @registry.modalities.register("sensor")
    class Sensor(Modality):
        name = "sensor"
        plural = "sensors"
        corruptions: ClassVar[dict[str, Any]] = {}
        encoders: ClassVar[dict[str, type[MediaEncoder]]] = {"waves": Waves}

        def load(self, media: Any, root: Any) -> Any:
            raise NotImplementedError

    yield
    del registry.modalities._entries["sensor"]


@torch.no_grad()
def test_an_encoder_of_a_plugin_comes_back_whole(sensor: None, tmp_path: Path) -> None:
    llm, tokenizer = language_model()
    model, processor = compose(llm, {"sensor": {"kind": "waves", "scale": 2.0}}, tokenizer=tokenizer)
    model.model.encoders["sensor"].mix.add_(1)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path)

    for (name, value), (_, other) in zip(
        model.model.encoders.named_buffers(), loaded.model.encoders.named_buffers(), strict=True
    ):
        assert torch.equal(value, other), name
    samples = torch.arange(8.0).reshape(2, 4).numpy()
    content = [{"type": "sensor", "sensor": samples}, {"type": "text", "text": "What?"}]
    inputs = encode(AutoProcessor.from_pretrained(tmp_path), [{"role": "user", "content": content}])
    assert torch.equal(inputs["sensor_samples"][0], 2 * torch.tensor(samples))
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_without_its_plugin_the_error_says_what_to_load(sensor: None, tmp_path: Path) -> None:
    llm, tokenizer = language_model()
    model, processor = compose(llm, {"sensor": Waves()}, tokenizer=tokenizer)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    kept = registry.modalities._entries.pop("sensor")
    try:
        for auto in (AutoModelForMultimodalLM, AutoProcessor):
            with pytest.raises(ConfigError, match="'waves' belongs to modality 'sensor', which is not registered"):
                auto.from_pretrained(tmp_path)
    finally:
        registry.modalities._entries["sensor"] = kept


def test_a_saved_model_needs_nothing_of_the_folders_it_came_from(tmp_path: Path) -> None:
    from transformers import WhisperConfig, WhisperModel

    from composed.languages import WHISPER

    sizes = {
        "vocab_size": 64,
        "pad_token_id": 0,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 8,
    }
    whisper, lm, out = tmp_path / "whisper", tmp_path / "lm", tmp_path / "out"
    pretrained = WhisperModel(WhisperConfig(**WHISPER, **sizes))
    pretrained.save_pretrained(whisper)
    llm, tokenizer = language_model()
    llm.save_pretrained(lm)
    tokenizer.save_pretrained(lm)
    model, processor = compose(str(lm), {"audio": {"kind": "whisper", "path": str(whisper)}})
    model.save_pretrained(out)
    processor.save_pretrained(out)
    assert torch.equal(model.model.encoders["audio"].encoder.conv1.weight, pretrained.encoder.conv1.weight)
    for folder in (whisper, lm):
        folder.rename(folder.with_suffix(".gone"))

    loaded = AutoModelForMultimodalLM.from_pretrained(out)
    again = AutoProcessor.from_pretrained(out)

    assert "path" not in json.loads((out / "config.json").read_text())["media"]["audio"]
    inputs = encode(again, turn(clip(0.7), "What is heard?"))
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
