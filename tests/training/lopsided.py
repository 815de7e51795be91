"""Optimizer steps in which the processes' shares of the media differ, to run in one process or in several.

As a program, it is one of several processes that take these steps together: `lopsided.py FOLDER KIND WAY...`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor

from core.oracle import picture, record, sound
from mmdpo.models.load import Lora, Trainable
from mmdpo.records import Record
from mmdpo.training.sharding import load_whole
from tiny import AUDIO
from training.common import LORA, SUBJECTS, loaded_model, make_trainer

PATIENCE = timedelta(seconds=90)
"""How long a process waits for the others: a step takes less than a second, so longer is forever."""
ITEMS = (
    *(1, 2, 0, 0),  # the first process has all media, the second none
    *(0, 0, 1, 0),  # the first has none, the second one item
    *(0, 0, 0, 0),  # nobody has any
)
"""Media of each record; in the order of the steps, two records of the first process and two of the second."""
KINDS: dict[str, dict[str, Any]] = {"ddp": {}, "fsdp2": {"fsdp": True, "fsdp_config": {"version": 2}}}
AUTO = dict.fromkeys(("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"), "auto")
ZERO: dict[str, dict[str, Any]] = {
    f"zero{stage}": {"use_cpu": False, "deepspeed": {"zero_optimization": {"stage": stage}} | AUTO} for stage in (2, 3)
}


@dataclass(frozen=True)
class Way:
    """One way to train.

    Args:
        family: Name in `tiny.FAMILIES`.
        trainable: Parts that train.
        lora: Adapter settings; None for the parts themselves.
        loss: The `loss:` section.
        options: What the trainer takes beside.
        accumulation: Micro-batches a process.
    """

    family: str = "llava"
    trainable: Trainable = "llm"
    lora: Lora | None = LORA
    loss: Mapping[str, Any] = field(default_factory=lambda: {"dpo": {"beta": 0.3}, "nll": {"weight": 0.5}})
    options: Mapping[str, Any] = field(default_factory=dict)
    accumulation: int = 1


WAYS = {
    "lora": Way(),
    "accumulated": Way(accumulation=2),
    "full": Way(lora=None),
    "projector": Way(trainable="llm+projector"),
    "projector-alone": Way(trainable="projector", lora=None, accumulation=2),
    "all": Way(trainable="all", lora=None),
    "two-passes": Way(trainable="llm+projector", options={"two_pass": True}),
    "chunks": Way(trainable="llm+projector", options={"rows_per_chunk": 1}, accumulation=2),
    "chunks-llm": Way(options={"rows_per_chunk": 1}, accumulation=2),
    "kto-llm": Way(loss={"kto": {}}),
    "reference-free": Way(lora=None, loss={"simpo": {}}),
    "kto": Way(trainable="llm+projector", loss={"kto": {}}),
    "bco": Way(trainable="llm+projector", loss={"bco": {}}),
    "beta-dpo": Way(trainable="llm+projector", loss={"beta_dpo": {}}),
    "packed": Way("qwen2_5_vl", trainable="llm+projector"),
    "crossed": Way("mllama", trainable="llm+projector", options={"gradient_checkpointing": True}),
    "audio": Way("qwen2_audio", trainable="llm+projector"),
}
"""Ways to train, by name."""


def records(way: Way) -> list[Record]:
    """Twelve pairs with :data:`ITEMS` media."""
    item, kind = (sound, "audio") if way.family in AUDIO else (picture, "image")
    return [
        record(
            f"pair-{n}",
            "What is here?" if n % 2 else "Say what you see.",
            [f"There is a {SUBJECTS[n % 8]} here.", f"Two {SUBJECTS[(n + 3) % 8]}s" + " on a table" * (n % 3)],
            *[item(10 * n + k) for k in range(count)],
            kind=kind,
        )
        for n, count in enumerate(ITEMS)
    ]


def take(folder: Path, way: Way, processes: int, kind: str = "ddp") -> dict[str, Tensor]:
    """Three optimizer steps of four records each; the trained weights after them, whole."""
    load_whole()  # after other steps under ZeRO-3
    loaded = loaded_model(way.family, trainable=way.trainable, lora=way.lora)
    trainer = make_trainer(
        loaded,
        records(way),
        folder,
        loss=way.loss,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=4 // processes // way.accumulation,
        gradient_accumulation_steps=way.accumulation,
        max_steps=3,
        **(KINDS | ZERO)[kind],
        **way.options,
    )
    trainer.train()
    assert (trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled) == (kind == "fsdp2", kind in ZERO)
    return {name: whole(p) for name, p in loaded.model.named_parameters() if p.requires_grad}


def whole(parameter: Tensor) -> Tensor:
    """A copy of a parameter, from all processes where it is sharded."""
    if hasattr(parameter, "ds_id"):
        with importlib.import_module("deepspeed.runtime.zero").GatheredParameters([parameter]):
            return parameter.detach().clone()
    gathered: Tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return gathered.detach().clone()


def main(folder: Path, kind: str, names: Sequence[str]) -> None:
    """Takes the steps of each way in this process's share; its weights are written by rank."""
    if kind in ZERO:
        import training.deepspeed_on_cpu
    else:
        import training.every_rank  # noqa: F401  allows FSDP on the CPU

        PartialState(cpu=True, timeout=PATIENCE)
    for name in names:
        weights = take(folder / "runs", WAYS[name], 2, kind)
        save_file(weights, folder / f"{name}-{PartialState().process_index}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
