"""From a configuration to a trained adapter in a run folder: what ``mmdpo train`` does, step by step."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from mmdpo import registry
from mmdpo.callbacks import RunCallback, SilentRun
from mmdpo.config import RunConfig
from mmdpo.errors import ConfigError, MMDPOError, ParityError, did_you_mean
from mmdpo.jsonfiles import write_json_lines
from mmdpo.models.load import Lora, load_pretrained
from mmdpo.objectives import Objective, make_objective
from mmdpo.parity import choose_layout
from mmdpo.policy import LoadedModel, prepare
from mmdpo.reference import Reference, make_reference
from mmdpo.run import RunFolder
from mmdpo.run_data import Data, load_data, probe_records
from mmdpo.trainer import REFUSED, PreferenceTrainer

logger = logging.getLogger(__name__)
Progress = Callable[[Iterable[Any]], Iterable[Any]]


class Interrupted(MMDPOError):
    """The run was stopped from outside; its checkpoint is kept."""

    exit_code = 130


def train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    folder: Path = Path(),
    command: Sequence[str] = tuple(sys.argv),
    progress: Progress = iter,
) -> Path:
    """Trains and leaves a run folder.

    Args:
        config: The configuration.
        out: The run folder; must be new unless ``resume``.
        resume: Go on from the last checkpoint in it.
        folder: Folder that relative plugin paths start from.
        command: What was typed, for the manifest.
        progress: Wraps long loops for a progress bar.

    Returns:
        The run folder.

    Raises:
        MMDPOError: Something foreseen went wrong; the manifest says what.
    """
    registry.load_plugins([folder / plugin for plugin in config.plugins])
    objective = make_objective(config.loss)
    arguments = training_arguments(config, out)
    with _run_folder(config, out, resume, command) as run:
        set_seed(config.seed)
        loaded = load_policy(config, arguments.device)
        data = load_data(config, loaded, objective, progress)
        callback = RunCallback(run)
        trainer = _trainer(config, arguments, loaded, objective, data, run, callback)
        _note(run, out, loaded, objective, data)
        _check_start(trainer, run, trainer.reference, resume)
        checkpoint = get_last_checkpoint(str(run.checkpoints)) if resume else None
        with callback:
            trainer.train(resume_from_checkpoint=checkpoint)
        if callback.signal is not None:
            raise Interrupted(
                f"stopped by {signal.Signals(callback.signal).name} at step {trainer.state.global_step}",
                why=f"The checkpoint is in {run.checkpoints}.",
                fix="Go on with --resume.",
            )
        save_trained(trainer, loaded, run.path)
    return out


def _trainer(
    config: RunConfig,
    arguments: TrainingArguments,
    loaded: LoadedModel,
    objective: Objective,
    data: Data,
    run: Any,
    callback: RunCallback,
) -> PreferenceTrainer:
    """Decides layout and reference, keeps both in the manifest, and builds the trainer."""
    layout = choose_layout(loaded.inner, data.encoder, probe_records(data), objective.views, config.layout)
    run.decide("layout", layout.layout, layout.reason)
    reference = make_reference(loaded, config.reference.kind) if objective.needs_reference else None
    if reference is not None:
        run.decide("reference", reference.kind, "the live weights before training")
    return PreferenceTrainer(
        loaded,
        objective,
        reference,
        data.encoder,
        data.train,
        args=_scheduled(arguments, config, data),
        validation_records=data.validation,
        validation_groups=data.groups,
        layout=layout.layout,
        two_pass=config.two_pass,
        branches_per_row=config.branches_per_row,
        rows_per_chunk=config.rows_per_chunk,
        callbacks=[callback],
    )


def _note(run: Any, out: Path, loaded: LoadedModel, objective: Objective, data: Data) -> None:
    """Keeps in the run folder what is trained on what."""
    run.note(
        data_fingerprint=data.fingerprint,
        objective=objective.describe(),
        trained=loaded.decisions,
        counts={"train": len(data.train), "validation": len(data.validation)},
        set_aside=data.screening.reasons(),
        tokenised=dict(data.screening.ways),
    )
    if PartialState().is_main_process:
        write_json_lines(out / "set_aside.jsonl", [asdict(entry) for entry in data.screening.set_aside])


def training_arguments(config: RunConfig, out: Path) -> TrainingArguments:
    """``transformers.TrainingArguments`` of the ``train:`` section.

    Raises:
        ConfigError: A field is unknown or would break the objective.
    """
    known = set(TrainingArguments.__dataclass_fields__)
    for name in config.train:
        if name in REFUSED:
            raise ConfigError(
                f"train.{name} cannot be set",
                why=f"It would break the run: {REFUSED[name]}.",
                fix="Remove it.",
            )
        if name not in known:
            raise ConfigError(
                f"train.{name} is unknown", why=did_you_mean(name, known), fix="See transformers.TrainingArguments."
            )
    fields: dict[str, Any] = {
        "output_dir": str(out / "checkpoints"),
        "seed": config.seed,
        "report_to": "none",
        "logging_steps": 10,
        "logging_first_step": True,
        "save_total_limit": 2,
        "learning_rate": 5e-6,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "max_grad_norm": 1.0,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    # YAML reads a bare `no` as false
    given = {k: "no" if v is False and k.endswith("_strategy") else v for k, v in config.train.items()}
    try:
        return TrainingArguments(**fields | given | {"remove_unused_columns": False})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the train: section is refused: {error}",
            why="transformers.TrainingArguments checks its fields.",
            fix="Correct the field that is named.",
        ) from error


def _scheduled(arguments: TrainingArguments, config: RunConfig, data: Data) -> TrainingArguments:
    """Adds validation four times a run and the choice of the best checkpoint, where the user set nothing else."""
    if not data.validation:
        return arguments
    rows = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps = arguments.max_steps
    if steps <= 0:
        steps = int(max(1, len(data.train) // rows) * arguments.num_train_epochs)
    every = max(1, steps // 4)
    defaults: dict[str, Any] = {
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_rewards/margins",
        "greater_is_better": True,
    }
    return replace(arguments, **{name: value for name, value in defaults.items() if name not in config.train})


def load_policy(config: RunConfig, device: torch.device) -> LoadedModel:
    """Loads the model of a configuration with its adapters, on a device."""
    section = config.model
    model, processor = load_pretrained(
        section.path, attention=section.attention, dtype=section.dtype, quantize=section.quantize
    )
    lora = None if section.lora is None else Lora(**section.lora.model_dump())
    loaded = prepare(model, processor, trainable=section.trainable, lora=lora, adapter=section.adapter)
    if section.quantize is None:
        loaded.model.to(device)
    return loaded


def _run_folder(config: RunConfig, out: Path, resume: bool, command: Sequence[str]) -> Any:
    if not PartialState().is_main_process:
        return SilentRun(out)
    if resume:
        return RunFolder.open(out, command=command)
    return RunFolder.create(out, config=config.model_dump(mode="json"), command=command)


def _check_start(trainer: PreferenceTrainer, run: Any, reference: Reference | None, resume: bool) -> None:
    """Policy == reference at the start; on a resume, reference == the reference that the run began with."""
    if reference is None:
        return
    batch = trainer._prepare_inputs(trainer.collator([(0, trainer.train_dataset.records[0])]))
    value = float(reference.score(trainer.model, batch).sum())
    trainer.loaded.inner.mmdpo_scoring.features.clear()
    if not resume:
        run.note(reference_start=value, start_difference=trainer.check_start())
        return
    before = run.manifest.get("reference_start")
    if before is not None and abs(value - before) > 1e-2 * max(1.0, abs(before)):
        raise ParityError(
            f"the reference gives {value:.4f} nats to the first record, the run began with {before:.4f}",
            why="Model or data have changed since; the resumed run would optimise against another reference.",
            fix="Restore what changed, or start a new run.",
        )


def save_trained(trainer: PreferenceTrainer, loaded: LoadedModel, out: Path) -> Path:
    """Saves the adapter (or the model) and its processor, safetensors only."""
    adapter = hasattr(loaded.model, "peft_config")
    folder = out / ("adapter" if adapter else "model")
    trainer.save_model(str(folder))
    if trainer.args.should_save:
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; the run folder has config.yaml
        stale = folder / "reference"
        for path in sorted(stale.glob("*")) if stale.is_dir() else []:
            path.unlink()
        if stale.is_dir():
            stale.rmdir()
    return folder
