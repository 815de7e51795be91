"""Batches made in other processes while the model computes: how many, and what must go well between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from mmdpo import errors
from mmdpo.collate import Batch
from mmdpo.errors import MMDPOError

MOST = 8
"""Workers of one process beyond which decoding is seldom what is waited for."""
REFUSED = "refused"
"""Under what a worker's batch says why there is none."""
OPEN_FILES = 65_536
"""Each tensor of a batch on its way from a worker is an open file."""


def local_processes() -> int:
    """Training processes on this machine, as their launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def usual_workers(device: str, processes: int = 1) -> int:
    """How many workers make batches where the user says nothing.

    Args:
        device: Type of the device that trains; on a CPU the workers would take its cores.
        processes: Training processes on this machine.
    """
    if device == "cpu":
        return 0
    return max(0, min(MOST, len(os.sched_getaffinity(0)) // max(1, processes) - 1))


def workers_reason(workers: int, given: bool) -> str:
    """Why a run has so many workers, for its manifest."""
    if given:
        return "as train.dataloader_num_workers says"
    return "by the cores of this machine" if workers else "on a CPU they would take the cores of the training"


def carried(error: MMDPOError) -> list[str]:
    """An error as texts for another process: its kind among :mod:`mmdpo.errors`, then its three parts."""
    kind = next(base for base in type(error).__mro__ if base.__module__ == errors.__name__)
    return [kind.__name__, error.what, error.why, error.fix]


def restored(parts: Sequence[str]) -> MMDPOError:
    """The error that :func:`carried` took apart."""
    kind, what, why, fix = parts
    found: MMDPOError = getattr(errors, kind)(what, why=why, fix=fix)
    return found


class InWorker:
    """A collator in a worker process: what it raises is carried to the process that trains, in its own words.

    A data loader would make a traceback of it, or another error where the class takes other arguments.

    Args:
        collator: Builds batches.
    """

    def __init__(self, collator: Callable[[Any], Batch]) -> None:
        self.collator = collator

    def __call__(self, examples: Any) -> Batch:
        """A batch, or why there is none."""
        try:
            return self.collator(examples)
        except MMDPOError as error:
            return {REFUSED: carried(error)}


def unpacked(batch: Batch) -> Batch:
    """The batch that a worker has made.

    Raises:
        MMDPOError: Why the worker could make none.
    """
    if REFUSED in batch:
        raise restored(batch[REFUSED])
    return batch


def prepare_for_workers() -> None:
    """Before processes are forked: tokenizers must not warn of it, and their tensors must find open files enough."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import resource  # not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
