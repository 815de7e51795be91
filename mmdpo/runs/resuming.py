"""What ``--resume`` may go on with: the configuration and the data that the run began with."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from transformers import TrainingArguments

from mmdpo.config import RunConfig, parse_config
from mmdpo.errors import ConfigError, DataError
from mmdpo.fingerprints import digest_of
from mmdpo.jsonfiles import plain, read_json, read_json_lines
from mmdpo.run_lock import exclusive
from mmdpo.runs.data import Data
from mmdpo.training.checkpoints import bring_back, check_readable, newest, progress_of, was_replacing

logger = logging.getLogger(__name__)
EVALUATIONS = "training_eval"
"""Folder of the evaluations while training."""
SET_ASIDE = "set_aside.jsonl"
"""File of the records that are not trained on."""
SHOWN = 5
"""Record ids that a message names."""
TOLD = (
    "train.logging",
    "train.disable_tqdm",
    "train.report_to",
    "train.save_total_limit",
    "train.ddp_timeout",
)
"""Beginnings of the settings that say what is told, how many checkpoints stay, and how long processes wait."""
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


@dataclass(frozen=True)
class Begun:
    """A run that goes on.

    Args:
        checkpoint: Folder of its newest checkpoint.
        step: The step that it was made at.
        manifest: The run's manifest as it was left.
    """

    checkpoint: str
    step: int
    manifest: Mapping[str, Any]


def begun(out: Path, config: RunConfig, arguments: TrainingArguments) -> Begun | None:
    """The run that ``--resume`` goes on with; None where it has no checkpoint, and begins again. Changes nothing.

    Raises:
        ConfigError: Settings, length or number of processes are not those of a run that can go on from there.
        DataError: The checkpoint cannot be read.
    """
    checkpoint = last_checkpoint(out)
    if checkpoint is None:
        return None
    check_same_config(out, config)
    manifest = out / "manifest.json"
    found = Begun(checkpoint, step_of(checkpoint), read_json(manifest) if manifest.is_file() else {})
    check_same_processes(found.manifest, records_per_step(arguments))
    _check_length(found, out, config, arguments)
    check_readable(Path(checkpoint))
    return found


def last_checkpoint(out: Path) -> str | None:
    """The newest whole checkpoint of a run folder."""
    return newest(out / "checkpoints")


def mend(out: Path) -> None:
    """Puts back the checkpoint of a process that was killed while it replaced one; the main process alone writes.

    Raises:
        ConfigError: Another process is at work there.
    """
    if PartialState().is_main_process and was_replacing(out / "checkpoints"):
        with exclusive(out):
            bring_back(out / "checkpoints")
    PartialState().wait_for_everyone()


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


def _stored(out: Path) -> RunConfig:
    path = out / "config.yaml"
    return parse_config(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


def _changed(out: Path, config: RunConfig, may_change: tuple[str, ...]) -> list[str]:
    """The settings that differ from the stored ones, in words."""
    before, now = (dict(flat(plain(each.model_dump(mode="json")))) for each in (_stored(out), config))
    names = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    if may_change == MAY_CHANGE and _records(before) == _records(now) and not now.get("batches.bucket"):
        names -= set(STEP)
    names -= {name for name in names if name.startswith("eval.") and name.endswith(".batch_size")}
    if config.data.validation == 0:  # else it decides which checkpoints are compared on the held-out records
        names.discard("train.save_steps")
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


def _check_length(found: Begun, out: Path, config: RunConfig, arguments: TrainingArguments) -> None:
    """Refuses an end that the checkpoint is past.

    Raises:
        ConfigError: The run would have fewer steps than its checkpoint.
    """
    if arguments.max_steps > 0:
        past, name = arguments.max_steps < found.step, f"train.max_steps={arguments.max_steps}"
    else:
        epochs, before = arguments.num_train_epochs, _stored(out).train
        # steps are whole: an epoch that is done in part is rounded up to the next of them
        done = progress_of(Path(found.checkpoint)) * (found.step - 1) / found.step
        changed = any(before.get(n) != config.train.get(n) for n in ("max_steps", "num_train_epochs"))
        past, name = changed and epochs <= done, f"train.num_train_epochs={epochs:g}"
    if past:
        raise ConfigError(
            f"with {name} the run would end before step {found.step}, which its checkpoint has",
            why="Steps cannot be taken back: config.yaml would tell of a shorter run than the model has had.",
            fix=f"Set train.max_steps={found.step} or more, or start a new run with another --out.",
        )


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


def kept_of(data: Data) -> dict[str, str]:
    """Digests of which records are trained on and validated on, for the manifest."""
    return {"train": digest_of(data.screening.kept), "validation": digest_of(data.held_out.kept)}


def check_same_records(found: Begun, out: Path, data: Data) -> None:
    """Compares the records that passed the screening with those that passed it when the run began.

    Raises:
        DataError: They are others: media files have changed, or a package that reads them.
    """
    before = found.manifest.get("kept")
    if before is None or before == kept_of(data):
        return
    then = {(row["split"], row["id"]): row["reason"] for row in read_json_lines(out / SET_ASIDE).rows}
    now = {(entry.split, entry.id): entry.reason for entry in data.set_aside}
    others = [f"{name!r} ({reason} now)" for (split, name), reason in now.items() if (split, name) not in then]
    others += [f"{name!r} ({reason} then)" for (split, name), reason in then.items() if (split, name) not in now]
    named = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
    raise DataError(
        f"other records are set aside than when the run began: {named or 'which of them is not known any more'}",
        why="The checkpoint's place in the data is counted in records that are used: it would be another one now.",
        fix="Restore their files (mmdpo quality DATA --media opens all), or start a new run with another --out.",
    )


def set_evaluations_aside(out: Path, config: RunConfig) -> None:
    """Before a run begins again: what was evaluated with other settings is not of this run."""
    made = [out / name for name in (EVALUATIONS, "base_eval") if (out / name).exists()]
    if made and _changed(out, config, TOLD):
        for folder in made:
            other = _renamed(folder)
            logger.info("the run begins again with other settings; its earlier evaluations are in %s", other)


def set_final_evaluation_aside(out: Path) -> None:
    """Before a model is saved that was trained on: the evaluation of the one before is not of this one."""
    folder, comparison = out / "eval", out / "comparison.json"
    if not folder.exists():
        return
    if comparison.is_file():
        comparison.replace(folder / comparison.name)
    logger.info("the evaluation of the model that was trained before is in %s", _renamed(folder))


def _renamed(folder: Path) -> Path:
    number = 1
    while (other := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(other)


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
