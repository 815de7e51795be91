"""The model of a run: composed or loaded, with its adapters, on its device; and saved in the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from mmdpo.config import RunConfig
from mmdpo.forward.attention import check_attention
from mmdpo.models.load import Lora, load_pretrained
from mmdpo.policy import LoadedModel, prepare
from mmdpo.trainer import PreferenceTrainer
from mmdpo.training.sharding import compile_layers


def write_composed(config: RunConfig, run: Path) -> None:
    """Makes the model that a configuration composes and keeps it in the run, so that all later steps load the same."""
    if config.model.compose is None:
        return
    base = Path(config.model.base(run))
    if PartialState().is_main_process and not base.is_dir():
        unfinished = base.with_suffix(".part")
        for part in _composed(config):
            part.save_pretrained(unfinished)
        unfinished.rename(base)
    PartialState().wait_for_everyone()  # all of them, whether they find it written already or not


def _composed(config: RunConfig) -> tuple[Any, Any]:
    from mmdpo.models.composed import compose_from  # imports open_clip's and Whisper's classes

    return compose_from({"seed": config.seed, **(config.model.compose or {})})


def load_policy(config: RunConfig, device: torch.device, run: Path | None = None) -> LoadedModel:
    """Loads the model of a configuration with its adapters, on a device; ``run`` keeps one that is composed."""
    section = config.model
    if section.compose is not None and run is None:
        model, processor = _composed(config)
    else:
        model, processor = load_pretrained(
            section.base(run or Path()), attention=section.attention, dtype=section.dtype, quantize=section.quantize
        )
    lora = None if section.lora is None else Lora(**section.lora.model_dump())
    loaded = prepare(
        model,
        processor,
        trainable=section.trainable,
        lora=lora,
        adapter=section.adapter,
        router_aux_loss_coef=section.router_aux_loss_coef,
    )
    check_attention(loaded.facts, device, trains=True)
    if section.quantize is None:
        loaded.model.to(device)
    if section.compile:
        compile_layers(loaded)
    return loaded


def save_trained(trainer: PreferenceTrainer, loaded: LoadedModel, out: Path) -> Path:
    """Saves the adapter (or the model) and its processor, safetensors only."""
    adapter = hasattr(loaded.model, "peft_config")
    folder = out / ("adapter" if adapter else "model")
    unfinished = folder.with_suffix(".part")
    trainer.save_model(str(unfinished))
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        (unfinished / "training_args.bin").unlink(missing_ok=True)  # a pickle; the run folder has config.yaml
        for stale in (unfinished / "reference", folder):
            if stale.is_dir():
                shutil.rmtree(stale)
        unfinished.rename(folder)
    return folder
