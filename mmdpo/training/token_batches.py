"""Batches by tokens: the micro-batches of an optimizer step are cut by padded tokens and not by their records.

A step keeps its records. The loss is divided by counts over the whole step, so it does not matter how the step is cut:
micro-batches of records of similar length have less padding, and no more than the tokens that fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainingArguments

from mmdpo.collate import Batch, Collator
from mmdpo.forward.batch_rows import cut_by_tokens

MICRO = "micro_batches"
"""Under what a batch that is a whole optimizer step keeps its micro-batches."""
WINDOW = 32
"""Batches of records that are grouped by length: enough for similar lengths, few enough for a random order."""


SMALLEST = 1
"""Tokens with which every record is a micro-batch of its own."""


@dataclass(frozen=True)
class Batches:
    """How the micro-batches of a run are made.

    Args:
        max_tokens: Padded tokens of a micro-batch; None for the number of records that the training arguments say.
        lengths: Tokens of each training record, where those of a batch are to have similar lengths; else None.
    """

    max_tokens: int | None = None
    lengths: Sequence[int] | None = None


def whole_steps(args: TrainingArguments) -> TrainingArguments:
    """The same optimizer step, fetched as one batch a process."""
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return replace(args, per_device_train_batch_size=rows, gradient_accumulation_steps=1)


def micro_batches(batch: Batch) -> list[Batch]:
    """The micro-batches of what a loader gives: those of a step, or the batch itself."""
    found: list[Batch] = batch.get(MICRO, [batch])
    return found


class StepCollator:
    """Builds the micro-batches of one optimizer step.

    Args:
        collator: Builds the batch of all records of the step.
        max_tokens: Padded tokens of a micro-batch (rows x its longest row); a record that has more is one of its own.
    """

    def __init__(self, collator: Collator, max_tokens: int) -> None:
        self.collator = collator
        self.max_tokens = max_tokens

    def __call__(self, examples: Any) -> Batch:
        """The micro-batches, the one with the longest rows first, each with whole records."""
        batch = self.collator(examples)
        multiple = self.collator.encoder.facts.row_multiple if self.collator.layout == "shared" else 1
        parts = cut_by_tokens(batch, self.max_tokens, whole_records=True, multiple=multiple)
        return {MICRO: [part for part, _ in parts]}


class LengthGroups(Sampler[int]):
    """A random order in which the records of a batch have similar lengths.

    Every record comes once. The records of :data:`WINDOW` batches, drawn anew by seed in every epoch, are sorted by
    length and cut into batches, whose order is drawn again. The records of a batch of all processes are dealt to them
    one by one, so that all have about the same number of tokens. The first batch of an epoch holds the longest record:
    what does not fit in memory is found at once.

    Args:
        lengths: Tokens of each record.
        batch: Records of a process in a batch.
        processes: Number of processes.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[int], batch: int, processes: int = 1, seed: int = 0) -> None:
        self.lengths = list(lengths)
        self.batch = batch
        self.processes = processes
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch is drawn."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        both = hashlib.blake2b(f"{self.seed} {self.epoch}".encode(), digest_size=8).digest()  # a sum is not of one pair
        generator = torch.Generator().manual_seed(int.from_bytes(both, "little", signed=True))
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.batch * self.processes
        whole = len(order) - len(order) % size
        place = max(range(len(order)), key=lambda n: self.lengths[order[n]])
        order[0], order[place] = order[place], order[0]  # the longest is in no step that is not full
        steps: list[list[int]] = []
        for start in range(0, whole, WINDOW * size):
            window = sorted(order[start : min(start + WINDOW * size, whole)], key=lambda n: -self.lengths[n])
            drawn = torch.randperm(len(window) // size, generator=generator).tolist()
            steps += [window[n * size : (n + 1) * size] for n in drawn]
        if steps:
            longest = order[0]
            steps.insert(0, steps.pop(next(n for n, step in enumerate(steps) if longest in step)))
        for step in steps:
            for process in range(self.processes):
                yield from step[process :: self.processes]
        yield from order[whole:]


class Epochs(TrainerCallback):
    """Tells a sampler the epoch, before its batches are drawn.

    Args:
        sampler: The sampler.
    """

    def __init__(self, sampler: LengthGroups) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets it."""
        self.sampler.set_epoch(int(state.epoch or 0))
