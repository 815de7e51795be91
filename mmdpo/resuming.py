"""What ``--resume`` may go on with: the configuration and the data that the run began with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers.trainer_utils import get_last_checkpoint

from mmdpo.config import RunConfig, parse_config
from mmdpo.errors import ConfigError, DataError
from mmdpo.jsonfiles import plain

MAY_CHANGE = ("train.max_steps", "train.num_train_epochs", "train.logging", "train.disable_tqdm", "train.report_to")
"""Beginnings of the settings that may differ on a resume: how long to go on, and what is told."""


def last_checkpoint(out: Path) -> str | None:
    """The newest checkpoint of a run folder."""
    folder = out / "checkpoints"
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def check_same_config(out: Path, config: RunConfig) -> None:
    """Compares with the stored configuration of a run that has a checkpoint.

    Raises:
        ConfigError: Listing every setting that differs and may not.
    """
    path = out / "config.yaml"
    stored = parse_config(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    before, now = (dict(flat(plain(each.model_dump(mode="json")))) for each in (stored, config))
    changed = [
        f"{name}: {before.get(name, 'not set')!r} before, {now.get(name, 'not set')!r} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(MAY_CHANGE)
    ]
    if changed:
        raise ConfigError(
            f"{len(changed)} settings differ from those that {str(out)!r} began with:\n  " + "\n  ".join(changed),
            why="The checkpoint belongs to the old ones: the run would be a mixture that no configuration describes.",
            fix="Resume with the run's own config.yaml, or start a new run with another --out.",
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
