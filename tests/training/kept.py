"""Runs of one process or of several, one after the other, and what each process computed in them.

As a program, it is one of several processes that make these runs together: `kept.py FOLDER JOBS.json`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import PartialState
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from mmdpo.config import parse_config
from mmdpo.errors import MMDPOError
from mmdpo.features.cache import FeatureCache
from mmdpo.jsonfiles import read_json, write_json
from mmdpo.runs import training
from mmdpo.scoring import score
from mmdpo.training.callbacks import RunCallback
from mmdpo.training.reference_store import ReferenceStore
from training.lopsided import PATIENCE

STOPS_BEFORE = 3
"""The optimizer step, counted from 0, before which the last process of a run that is stopped gets SIGTERM."""


class Stopped(RunCallback):
    """Sends this process the signal that a scheduler sends."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STOPS_BEFORE and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def counting() -> Iterator[dict[str, Any]]:
    """What this process computes: media items put into the feature cache, images that pass a tower's layer, answers
    that the reference cache is given; and under `scores` those of the records when training is over.
    """
    seen: dict[str, Any] = {"encoded": [], "layers": 0, "answers": 0, "scores": {}}
    put, add, forward, save = FeatureCache.put, ReferenceStore.add, CLIPEncoderLayer.forward, training.save_trained

    def counted_put(self: Any, fingerprint: str, key: str, *rest: Any) -> Any:
        seen["encoded"].append(key)
        return put(self, fingerprint, key, *rest)

    def counted_add(self: Any, identity: Any, mask: Any, values: Any, rows: Any) -> None:
        seen["answers"] += len(rows)
        add(self, identity, mask, values, rows)

    def counted_forward(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen["layers"] += len(hidden_states)
        return forward(self, hidden_states, *args, **kwargs)

    def scored_save(trainer: Any, loaded: Any, out: Path) -> Path:
        seen["scores"] = scores(trainer)
        return save(trainer, loaded, out)

    with (
        patch.object(FeatureCache, "put", counted_put),
        patch.object(ReferenceStore, "add", counted_add),
        patch.object(CLIPEncoderLayer, "forward", counted_forward),
        patch.object(training, "save_trained", scored_save),
    ):
        yield seen


@torch.no_grad()
def scores(trainer: Any) -> dict[str, list[float]]:
    """Log-probability of both answers of every training pair, by the model as the processes share it."""
    records, model = trainer.train_dataset.records, trainer.model_wrapped
    batch = trainer._prepare_inputs(trainer.collator(list(enumerate(records))))
    model.eval()
    sums = score(model, batch).sum(-1)
    return {record.id: sums[batch["example"] == n].tolist() for n, record in enumerate(records)}


def make(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """One run: `name`, `settings`, and whether it is `stopped` or `resumed`; gives what was counted."""
    callback = Stopped if job.get("stopped") else RunCallback
    error = ""
    with counting() as seen, patch.object(training, "RunCallback", callback):
        try:
            training.train(parse_config(job["settings"]), folder / job["name"], resume=bool(job.get("resumed")))
        except MMDPOError as told:
            error = str(told)
    assert ("SIGTERM" in error) if job.get("stopped") else not error, error
    return seen


def main(folder: Path, jobs: Path) -> None:
    """Makes this process's share of all runs; what it computed in the n-th is in `counted-N-RANK.json`."""
    import training.every_rank  # noqa: F401  allows FSDP on the CPU

    PartialState(cpu=True, timeout=PATIENCE)
    for number, job in enumerate(read_json(jobs)["jobs"]):
        write_json(folder / f"counted-{number}-{PartialState().process_index}.json", make(folder, job))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
