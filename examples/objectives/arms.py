"""The arms of the comparison: a loss by its name in `mmdpo ls losses`, and the form of the ratings that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rated import CAPTIONS, Size

from mmdpo.config import RunConfig, parse_config
from mmdpo.playground.worlds import PICTURES

LEARNING_RATES = (5.0e-4, 1.0e-3, 2.0e-3, 4.0e-3)
"""Tried for each arm on scenes that are measured nowhere else."""


@dataclass(frozen=True)
class Arm:
    """One way to train on the ratings.

    Args:
        form: ``pairs``, ``lists``, ``answers``, or ``shuffled`` (pairs of ratings dealt out at random).
        loss: The ``loss:`` section.
        data: Further settings of the ``data:`` section.
    """

    form: str
    loss: str | Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)


ARMS: Mapping[str, Arm] = {
    "dpo": Arm("pairs", "dpo"),
    "rpo_nll": Arm("pairs", "rpo_nll"),
    "cdpo": Arm("pairs", "cdpo"),
    "ipo": Arm("pairs", "ipo"),
    "sigmoid_norm": Arm("pairs", "sigmoid_norm"),
    "simpo": Arm("pairs", "simpo"),
    "ddpo": Arm("pairs", "ddpo", {"marks": "difference"}),
    # three answers in five are desirable: the paper asks for a ratio of the weighted numbers of 1 to 4/3
    "kto": Arm("answers", {"kto": {"lam_u": 1.25}}),
    "plackett_luce": Arm("lists", "plackett_luce"),
    "mpo": Arm("pairs", "mpo"),
    "mdpo": Arm("pairs", "mdpo"),
    "symmpo": Arm("pairs", "symmpo"),
    "shuffled": Arm("shuffled", "dpo"),
}


def configuration(arm: Arm, data: Path, seed: int, learning_rate: float, size: Size) -> RunConfig:
    """The run's configuration; only loss, data and learning rate differ between arms.

    A step sees the answers to as many prompts in every form: single answers are four captions of a scene and two
    answers to a question, three to a prompt.
    """
    batch = size.prompts * (CAPTIONS + 2) // 2 if arm.form == "answers" else size.prompts
    return parse_config(
        {
            "seed": seed,
            "model": {"path": PICTURES.model, "lora": {"r": 16, "alpha": 32}},
            "data": {"path": str(data / arm.form), "validation": 0.0, **arm.data},
            "loss": arm.loss if isinstance(arm.loss, str) else dict(arm.loss),
            "train": {
                "learning_rate": learning_rate,
                "max_steps": size.steps,
                "per_device_train_batch_size": batch,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 10,
                "save_strategy": "no",
                "disable_tqdm": True,
                "use_cpu": True,
            },
        }
    )
