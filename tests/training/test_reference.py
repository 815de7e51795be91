"""The reference is the model as it was before training, however it is kept."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from mmdpo.collate import Batch, Collator
from mmdpo.config import parse_config
from mmdpo.errors import ConfigError, ParityError
from mmdpo.models.load import Lora, silence_dropout
from mmdpo.objectives import make_objective
from mmdpo.policy import LoadedModel
from mmdpo.reference import Kind, make_reference
from mmdpo.runs.model import save_trained
from mmdpo.runs.training import train
from mmdpo.scoring import score
from tiny import FAMILIES
from training.common import (
    encoder_of,
    loaded_model,
    make_trainer,
    pairs,
    run_settings,
    saved_inputs,
    trained,
)

CHANGING = Lora(r=4, alpha=8, init="pissa")


def batch_of(loaded: LoadedModel, count: int = 4) -> Batch:
    views = make_objective({"dpo": {}}).views
    return Collator(encoder_of(loaded), views)(list(enumerate(pairs(count))))


def policy_logprobs(loaded: LoadedModel, batch: Batch) -> Tensor:
    loaded.inner.mmdpo_scoring.features.clear()
    with torch.no_grad():
        return score(loaded.model, batch)


@pytest.fixture
def sft_adapter(tmp_path: Path) -> Path:
    """An adapter of earlier training, with weights far from those of a fresh one."""
    loaded = loaded_model(spread=0.3)
    loaded.model.save_pretrained(tmp_path / "sft")
    return tmp_path / "sft"


CASES: dict[Kind, dict[str, Any]] = {"adapter_off": {}, "copy": {"lora": None}, "adapter_copy": {"lora": None}}


@pytest.mark.parametrize("kind", CASES)
def test_the_reference_stays_where_the_policy_began(kind: Kind, tmp_path: Path, sft_adapter: Path) -> None:
    adapter = {"adapter": sft_adapter} if kind == "adapter_copy" else {}
    loaded = loaded_model(**CASES[kind], **adapter)
    loaded.model.eval()
    batch = batch_of(loaded)
    before = policy_logprobs(loaded, batch)

    trainer = make_trainer(loaded, pairs(4), tmp_path / "run", max_steps=2, learning_rate=0.3)
    assert trainer.reference is not None
    assert trainer.reference.kind == kind
    assert trainer.check_start().difference < 1e-5
    trainer.train()

    loaded.model.eval()
    loaded.inner.mmdpo_scoring.features.clear()
    torch.testing.assert_close(trainer.reference.score(loaded.model, batch), before, rtol=0, atol=1e-5)
    after = policy_logprobs(loaded, batch)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(policy_logprobs(loaded, batch), after)  # scoring the reference left no trace


def test_a_copy_shares_what_is_frozen(tmp_path: Path) -> None:
    loaded = loaded_model(trainable="llm", lora=None)
    reference = make_reference(loaded)
    theirs = dict(reference.frozen.named_parameters())
    for name, parameter in loaded.model.named_parameters():
        shared = theirs[name].data_ptr() == parameter.data_ptr()
        assert shared is not parameter.requires_grad, name
        assert not theirs[name].requires_grad
    assert not reference.frozen.training


def test_an_existing_adapter_is_loaded_twice_and_saved_once(tmp_path: Path, sft_adapter: Path) -> None:
    loaded = loaded_model(lora=None, adapter=sft_adapter)
    trainer = make_trainer(loaded, pairs(4), tmp_path / "run", max_steps=1)
    assert all(".default." in name for name in trained(loaded))
    trainer.train()
    folder = save_trained(trainer, loaded, tmp_path / "out")

    assert sorted(path.name for path in folder.rglob("adapter_*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not [path for path in folder.iterdir() if path.is_dir()]
    again = PeftModel.from_pretrained(FAMILIES["llava"]().model, folder).eval()
    prompt = encoder_of(loaded).prompt(pairs(1)[0])
    inputs = {"input_ids": prompt.input_ids[None], **prompt.units[0].inputs}
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, loaded.model.eval()(**inputs).logits, rtol=0, atol=1e-6)


def test_an_initialisation_that_changes_the_base_is_copied(tmp_path: Path) -> None:
    loaded = loaded_model(lora=CHANGING)
    assert loaded.base_changed
    trainer = make_trainer(loaded, pairs(4), tmp_path, max_steps=1, per_device_train_batch_size=4)
    assert trainer.reference is not None
    assert trainer.reference.kind == "copy"
    assert trainer.check_start().difference < 1e-4
    trainer.train()
    assert trainer.state.log_history[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("loaded", "reason"),
    [
        (lambda adapter: loaded_model(lora=CHANGING), "changes the base weights"),
        (lambda adapter: loaded_model(lora=None), "needs an adapter"),
        (lambda adapter: loaded_model(lora=None, adapter=adapter), "compare with the base model"),
    ],
    ids=["pissa", "full", "adapter"],
)
def test_adapter_off_is_refused_where_it_is_another_model(loaded: Any, reason: str, sft_adapter: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_reference(loaded(sft_adapter), "adapter_off")


def test_a_fresh_adapter_may_be_copied_too(tmp_path: Path) -> None:
    loaded = loaded_model()
    reference = make_reference(loaded, "copy")
    batch = batch_of(loaded)
    torch.testing.assert_close(reference.score(loaded.model, batch), policy_logprobs(loaded, batch))


@pytest.mark.parametrize("kind", ["adapter_off", "copy"])
def test_a_reference_that_is_another_model_stops_the_run(kind: Kind, tmp_path: Path) -> None:
    loaded = loaded_model(**CASES[kind])
    trainer = make_trainer(loaded, pairs(4), tmp_path, max_steps=1)
    assert trainer.reference is not None
    with torch.no_grad():
        if kind == "copy":
            trainer.reference.frozen.get_output_embeddings().weight.mul_(1.5)
        else:  # an adapter that is not fresh: with it switched off the model is not the one that trains
            next(p for name, p in loaded.model.named_parameters() if "lora_B" in name).normal_()
    with pytest.raises(ParityError, match="before any training"):
        trainer.check_start()


@pytest.mark.slow
def test_the_pipeline_goes_on_from_an_adapter(tmp_path: Path, sft_adapter: Path) -> None:
    inputs = saved_inputs(tmp_path / "inputs", pairs(4))
    model = {"path": str(inputs / "model"), "adapter": str(sft_adapter)}
    fields = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    run = train(parse_config(run_settings(inputs, model=model, train=fields)), tmp_path / "run")
    assert [path.name for path in run.rglob("adapter_model.safetensors") if path.parent.name == "adapter"]
    assert not (run / "adapter" / "reference").exists()


def test_noise_of_the_loaded_model_is_off_and_lora_dropout_is_the_policys_alone(tmp_path: Path) -> None:
    """In training mode the reference gives the same values every time; the policy does too without LoRA dropout."""
    for dropout, same in ((0.0, True), (0.5, False)):
        loaded = loaded_model(lora=Lora(r=4, alpha=8, dropout=dropout), spread=0.3, attention_dropout=0.4)
        reference = make_reference(loaded)
        loaded.model.train()
        batch = batch_of(loaded)
        first, second = (policy_logprobs(loaded, batch) for _ in range(2))
        assert torch.equal(first, second) is same
        first, second = (reference.score(loaded.model, batch) for _ in range(2))
        assert torch.equal(first, second)


def test_a_frozen_adapter_has_no_dropout(sft_adapter: Path, tmp_path: Path) -> None:
    with_dropout = loaded_model(lora=Lora(r=4, alpha=8, dropout=0.5), spread=0.3)
    with_dropout.model.save_pretrained(tmp_path / "noisy")
    loaded = loaded_model(lora=None, adapter=tmp_path / "noisy")
    reference = make_reference(loaded)
    loaded.model.train()
    batch = batch_of(loaded)
    first, second = (reference.score(loaded.model, batch) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(policy_logprobs(loaded, batch), policy_logprobs(loaded, batch))
    dropouts = [m for name, m in loaded.model.named_modules() if name.endswith("lora_dropout.reference")]
    assert dropouts
    assert not any(isinstance(module, nn.Dropout) and module.p for module in dropouts)


class Noisy(nn.Module):
    """Every kind of noise that a loaded model may have."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(apply_spec_augment=True)
        self.layerdrop, self.activation_dropout, self.count = 0.2, 0.1, 3
        self.layers = nn.Sequential(nn.Dropout(0.1), nn.AlphaDropout(0.3), nn.BatchNorm1d(2))


def test_layerdrop_and_every_other_noise_are_silenced() -> None:
    model = Noisy()
    inputs = torch.randn(4, 2)
    expected = model.eval().layers(inputs)
    silence_dropout(model)
    assert (model.layerdrop, model.activation_dropout, model.count) == (0.0, 0.0, 3)
    assert not model.config.apply_spec_augment
    for copied in (model, copy.deepcopy(model)):
        assert copied.train().layers(inputs).equal(expected)
        assert copied.layers[2].running_mean.eq(0).all()
        assert not copied.layers[2].training
