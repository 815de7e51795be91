"""Which parts train: exactly those that the preset names, with adapters and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mmdpo.errors import ConfigError
from mmdpo.models.load import Lora, Trainable
from training.common import LORA, loaded_model, make_trainer, pairs

# where each part lies, as the model classes of transformers 5 name their modules; the longest prefix counts
PARTS = {
    "llava": {
        "model.vision_tower": "encoder",
        "model.multi_modal_projector": "projector",
        "model.language_model": "llm",
        "lm_head": "llm",
    },
    "qwen2_5_vl": {
        "model.visual": "encoder",
        "model.visual.merger": "projector",
        "model.language_model": "llm",
        "lm_head": "llm",
    },
    "gemma3": {
        "model.vision_tower": "encoder",
        "model.multi_modal_projector": "projector",
        "model.language_model": "llm",
        "lm_head": "llm",
    },
    "idefics3": {
        "model.vision_model": "encoder",
        "model.connector": "projector",
        "model.text_model": "llm",
        "lm_head": "llm",
    },
}
PRESETS: dict[Trainable, set[str]] = {
    "llm": {"llm"},
    "llm+projector": {"llm", "projector"},
    "all": {"llm", "projector", "encoder"},
}
each_family = pytest.mark.parametrize("family", PARTS)
each_preset = pytest.mark.parametrize("preset", PRESETS)


def part(name: str, family: str) -> str:
    plain = name.removeprefix("base_model.model.")
    fitting = [prefix for prefix in PARTS[family] if f"{plain}.".startswith(f"{prefix}.")]
    return PARTS[family][max(fitting, key=len)]


@each_family
@each_preset
def test_full_training_moves_the_named_parts_and_no_other(family: str, preset: Trainable, tmp_path: Path) -> None:
    loaded = loaded_model(family, trainable=preset, lora=None)
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    for name, parameter in loaded.model.named_parameters():
        assert parameter.requires_grad is (part(name, family) in PRESETS[preset]), name
    make_trainer(loaded, pairs(2), tmp_path, per_device_train_batch_size=2, max_steps=1, learning_rate=1e-2).train()
    moved = {part(name, family) for name, p in loaded.model.named_parameters() if not p.equal(before[name])}
    assert moved == PRESETS[preset]


@each_family
@each_preset
def test_adapters_stand_on_every_linear_layer_of_the_named_parts(family: str, preset: Trainable) -> None:
    plain = loaded_model(family, lora=None).model
    expected = {
        name
        for name, module in plain.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head" and part(name, family) in PRESETS[preset]
    }
    loaded = loaded_model(family, trainable=preset, lora=LORA)
    adapted = {name.split(".lora_")[0] for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert {name.removeprefix("base_model.model.") for name in adapted} == expected
    trains = [name for name, p in loaded.model.named_parameters() if p.requires_grad]
    assert all(".lora_" in name for name in trains)


def test_named_targets_take_their_layers_in_the_trained_parts_alone() -> None:
    loaded = loaded_model("llava", trainable="llm", lora=Lora(r=2, targets=["q_proj", "v_proj"]))
    adapted = {name.split(".lora_")[0] for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert len(adapted) == 2 * 3  # CLIP has layers of these names too
    assert all(name.split(".")[-1] in ("q_proj", "v_proj") and "language_model" in name for name in adapted)


def test_targets_that_match_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="match no linear layer"):
        loaded_model("llava", lora=Lora(r=2, targets=["lm_head", "attention_of_another_model"]))


def test_a_step_with_adapters_leaves_the_base_alone(tmp_path: Path) -> None:
    loaded = loaded_model("llava", trainable="all")
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    make_trainer(loaded, pairs(2), tmp_path, per_device_train_batch_size=2, max_steps=1).train()
    moved = {name for name, p in loaded.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_B" in name for name in moved)  # after one step from zero only these have a gradient
    assert {part(name, "llava") for name in moved} == PRESETS["all"]
