"""`model.compile: true`: the layers are compiled, and the numbers stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdpo.training.sharding import compile_layers
from training.common import loaded_model, make_trainer, pairs


def losses(folder: Path, *, compiled: bool) -> list[float]:
    loaded = loaded_model(spread=0.2)
    if compiled:
        compile_layers(loaded)
    trainer = make_trainer(
        loaded, pairs(8), folder, per_device_train_batch_size=2, max_steps=4, gradient_checkpointing=True
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
def test_only_the_layers_of_the_language_model_are_compiled() -> None:
    loaded = loaded_model()
    compile_layers(loaded)
    compiled = [name for name, module in loaded.inner.named_modules() if module._compiled_call_impl is not None]
    assert compiled and all("language_model.layers." in name and name.split(".")[-1].isdigit() for name in compiled)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_losses_are_those_of_the_plain_layers(tmp_path: Path) -> None:
    """With gradient checkpointing, rows of several lengths, and the adapter switched off for the reference."""
    plain, compiled = (losses(tmp_path / str(way), compiled=way) for way in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-4)
