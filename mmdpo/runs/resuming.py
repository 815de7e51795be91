"""What ``--resume`` may go on with: the configuration and the data that the run began with."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from mmdpo.config import RunConfig, parse_config
from mmdpo.errors import ConfigError, DataError
from mmdpo.jsonfiles import plain, read_json
from mmdpo.training.checkpoints import newest

logger = logging.getLogger(__name__)
EVALUATIONS = "training_eval"
"""Folder of the evaluations while training."""
TOLD = ("train.logging", "train.disable_tqdm", "train.report_to")
"""Beginnings of the settings that say what is told."""
LENGTH = ("train.max_steps", "train.num_train_epochs")
"""How long to go on."""
MEMORY = (
    "rows_per_chunk",
    "branches_per_row",
    "train.gradient_checkpointing",
    "train.activation_checkpointing",
    "train.per_device_eval_batch_size",
    "train.dataloader_",
    "batches.max_tokens",
    "features.folder",
    "features.memory_gb",
    "features.disk_gb",
)
"""How much memory a step takes: the loss is the same, to rounding and to what dropout draws."""
STEP = ("train.per_device_train_batch_size", "train.gradient_accumulation_steps")
"""Settings whose product is the records of a process in an optimizer step; it must stay."""
MAY_CHANGE = (*LENGTH, *TOLD, *MEMORY)
"""Beginnings of the settings that may differ on a resume."""


def last_checkpoint(out: Path) -> str | None:
    """The newest whole checkpoint of a run folder."""
    return newest(out / "checkpoints")


def step_of(checkpoint: str | None) -> int:
    """The step that a checkpoint was made at; 0 for none."""
    return 0 if checkpoint is None else int(checkpoint.rpartition("-")[2])


def is_trained(out: Path, config: RunConfig) -> bool:
    """Whether a run has done all of its training with these settings, and only evaluations may be missing."""
    manifest = out / "manifest.json"
    if not manifest.is_file() or read_json(manifest).get("exit") != "ok":
        return False
    if not ((out / "adapter").is_dir() or (out / "model").is_dir()):
        return False
    return not _changed(out, config, TOLD)


def check_same_config(out: Path, config: RunConfig) -> None:
    """Compares with the stored configuration of a run that has a checkpoint.

    Raises:
        ConfigError: Listing every setting that differs and may not.
    """
    changed = _changed(out, config, MAY_CHANGE)
    if changed:
        raise ConfigError(
            f"{len(changed)} settings differ from those that {str(out)!r} began with:\n  " + "\n  ".join(changed),
            why="The checkpoint belongs to the old ones: the run would be a mixture that no configuration describes.",
            fix="Resume with the run's own config.yaml, or start a new run with another --out.",
        )


def _changed(out: Path, config: RunConfig, may_change: tuple[str, ...]) -> list[str]:
    """The settings that differ from the stored ones, in words."""
    path = out / "config.yaml"
    stored = parse_config(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    before, now = (dict(flat(plain(each.model_dump(mode="json")))) for each in (stored, config))
    names = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    if may_change == MAY_CHANGE and _records(before) == _records(now) and not now.get("batches.bucket"):
        names -= set(STEP)
    return [
        f"{name}: {before.get(name, 'not set')!r} before, {now.get(name, 'not set')!r} now"
        for name in sorted(names)
        if not name.startswith(may_change)
    ]


def _records(settings: Mapping[str, Any]) -> int:
    """Records of a process in an optimizer step."""
    batch, accumulation = (int(settings.get(name, default)) for name, default in zip(STEP, (2, 1), strict=True))
    return batch * accumulation


def check_same_processes(manifest: Mapping[str, Any], records: int) -> None:
    """Compares the records of an optimizer step, of all processes, with those of a run with a checkpoint.

    Raises:
        ConfigError: They are others.
    """
    before = manifest.get("records_per_step", records)
    if before != records:
        raise ConfigError(
            f"an optimizer step has {records} records in all processes now, and had {before}",
            why="The checkpoint's place in the data is counted in steps: records would be left out or seen twice.",
            fix="Use as many processes as before, or another train.gradient_accumulation_steps to the same product.",
        )


def records_per_step(arguments: TrainingArguments) -> int:
    """Records of an optimizer step, of all processes."""
    return arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size


def set_evaluations_aside(out: Path, config: RunConfig) -> None:
    """Before a run begins again: what was evaluated while training with other settings is not of this run."""
    folder = out / EVALUATIONS
    if not folder.exists() or not (out / "config.yaml").is_file() or not _changed(out, config, TOLD):
        return
    number = 1
    while (other := folder.with_name(f"{EVALUATIONS}.{number}")).exists():
        number += 1
    folder.rename(other)
    logger.info("the run begins again with other settings; its earlier evaluations are in %s", other)


def check_same_data(manifest: Mapping[str, Any], fingerprint: str) -> None:
    """Compares the data with those that a run with a checkpoint began with.

    Raises:
        DataError: They have changed.
    """
    before = manifest.get("data_fingerprint")
    if before is not None and before != fingerprint:
        raise DataError(
            f"the training data have changed since the run began (fingerprint {fingerprint}, then {before})",
            why="The checkpoint's place in the data, and the split, belong to the old records.",
            fix="Restore the records, or start a new run with another --out.",
        )


def rewrite_config(out: Path, config: RunConfig) -> None:
    """Replaces the stored configuration by the one that the run goes on with, all or nothing."""
    temporary = out / f".config.yaml.{os.getpid()}.tmp"
    text = yaml.safe_dump(plain(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(out / "config.yaml")


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every single setting of nested sections, with its name in the form of an override."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
