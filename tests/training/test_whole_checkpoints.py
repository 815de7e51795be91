"""Checkpoints of full fine-tunings: every weight in them is the model's again, under whatever name it is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmdpo.errors import DataError
from mmdpo.models.load import load_pretrained
from training.common import loaded_model, make_trainer, pairs, trained

FAMILIES = ("llava", "qwen2_5_vl", "ovis2")
"""The last one's head is its embedding, and is saved once."""
STEPS: dict[str, Any] = {
    "save_strategy": "steps",
    "save_steps": 1,
    "max_steps": 3,
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
}


@pytest.mark.parametrize("family", ["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES[1:])])
def test_a_full_fine_tuning_goes_on_from_its_checkpoint(family: str, tmp_path: Path) -> None:
    """Transformers saves a model by the names of older versions, which its own Trainer does not load."""
    weights = []
    for checkpoint in (None, str(tmp_path / "checkpoint-1"), str(tmp_path / "checkpoint-2")):
        loaded = loaded_model(family, lora=None)
        before = trained(loaded)
        make_trainer(loaded, pairs(6), tmp_path, **STEPS).train(resume_from_checkpoint=checkpoint)
        weights.append(trained(loaded))
    assert any(not torch.equal(values, before[name]) for name, values in weights[0].items())
    for other in weights[1:]:
        for name, values in weights[0].items():
            torch.testing.assert_close(other[name], values, rtol=0, atol=1e-6)


def test_the_best_checkpoint_is_taken_back_whole(tmp_path: Path) -> None:
    loaded = loaded_model(lora=None)
    trainer = make_trainer(loaded, pairs(6), tmp_path, **STEPS)
    trainer.train()
    last = trained(loaded)
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    trainer._load_best_model()
    first, _ = load_pretrained(str(tmp_path / "checkpoint-1"))  # a checkpoint is a model, too
    expected = dict(first.named_parameters())
    assert any(not torch.equal(values, last[name]) for name, values in expected.items() if name in last)
    for name, values in trained(loaded).items():
        assert torch.equal(values, expected[name]), name


@pytest.mark.parametrize("changed", ["lacking", "renamed"])
def test_a_checkpoint_of_other_weights_is_refused(changed: str, tmp_path: Path) -> None:
    make_trainer(loaded_model(lora=None), pairs(6), tmp_path, **STEPS | {"max_steps": 1}).train()
    path = tmp_path / "checkpoint-1" / "model.safetensors"
    weights = load_file(path)
    values = weights.pop("lm_head.weight")
    save_file(weights if changed == "lacking" else {**weights, "head.weight": values}, path, {"format": "pt"})
    other = "0" if changed == "lacking" else "1"
    with pytest.raises(DataError, match=rf"lacks 1 weights of this model and has {other} others, .*'lm_head.weight'"):
        make_trainer(loaded_model(lora=None), pairs(6), tmp_path, **STEPS).train(
            resume_from_checkpoint=str(path.parent)
        )
