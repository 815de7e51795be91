"""``batches: {max_tokens: auto}``: the most padded tokens whose forward and backward pass fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from transformers import TrainerCallback, TrainingArguments

from mmdpo.errors import ConfigError
from mmdpo.objectives import Objective
from mmdpo.scoring import scores
from mmdpo.sections import BatchesSection
from mmdpo.training.out_of_memory import is_shortage
from mmdpo.training.scoring_trainer import ScoringTrainer
from mmdpo.training.token_batches import SMALLEST, Batches, StepCollator
from mmdpo.training.two_pass import Generators

TRIED = ("cuda", "xpu")
"""Devices whose allocator says when its memory is full."""
MARGIN = 0.9
"""Share of what fits that is used: memory becomes fragmented, and other records have other media and answers."""
MOMENTS = 2
"""Numbers that the optimizer keeps of each trained one, from the first step on; Adam's two in float32."""


def check_batches(section: BatchesSection, arguments: TrainingArguments, objective: Objective, packed: bool) -> None:
    """Refuses batches by tokens that could not be made.

    Args:
        section: What is asked for.
        arguments: The training arguments.
        objective: The objective.
        packed: Whether several records share a row.

    Raises:
        ConfigError: The memory of this device cannot be tried, or rows cannot be cut.
    """
    if section.max_tokens == "auto" and arguments.device.type not in TRIED:
        raise ConfigError(
            f"batches.max_tokens is auto, and the device is {arguments.device.type}",
            why="Only a GPU says when its memory is full; the computer's is swapped out, or the run is killed.",
            fix="Give a number: mmdpo check prints the tokens of the longest record (docs/memory.md).",
        )
    if section.max_tokens == "auto" and (arguments.fsdp or arguments.deepspeed):
        raise ConfigError(
            "batches.max_tokens is auto, and the weights are spread over processes",
            why="A process that has no memory left would keep the others waiting forever.",
            fix="Give a number; one process on the same GPU finds one with a smaller model of the same width.",
        )
    if section.max_tokens is not None and packed and len({view.media for view in objective.views}) > 1:
        raise ConfigError(
            "batches.max_tokens is set, records share rows (records_per_row), and the loss shows media variants",
            why="The rows of a record would hold others, whose rows hold others: nothing could be cut.",
            fix="Remove one of the two.",
        )


def planned(section: BatchesSection, lengths: Sequence[int]) -> Batches:
    """How a run's micro-batches are made, before anything was tried; ``lengths`` are those of its packed records."""
    most = SMALLEST if section.max_tokens == "auto" else section.max_tokens
    return Batches(most, lengths if section.bucket else None)


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` that fits, by doubling and then bisection; 0 where 1 does not."""
    good, bad = 0, most + 1
    while bad - good > 1:
        trial = min(max(1, 2 * good), most) if bad > most else (good + bad) // 2
        good, bad = (trial, bad) if fits(trial) else (good, trial)
    return good


class TokenSearch(TrainerCallback):
    """Finds the largest micro-batches that fit before the first step, and has the trainer use them.

    Batches of the longest records are scored forward and backward, as in training, with room left for the optimizer.
    Nothing of it stays: no gradient, no draw of a generator.

    Args:
        trainer: The trainer.
        lengths: Tokens of each training record.
        told: Gets the tokens that were chosen, and why.
    """

    def __init__(self, trainer: ScoringTrainer, lengths: Sequence[int], told: Callable[[int, str], None]) -> None:
        self.trainer = trainer
        self.order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        self.told = told

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Searches, on each process; all use what fits on every one.

        Raises:
            MemoryShortageError: Not even the longest record fits (raised so by the trainer, who hears of it).
        """
        trainer, model = self.trainer, kwargs["model"]
        step = min(len(self.order), args.per_device_train_batch_size)
        tokens: dict[int, int] = {}
        shortages: list[Exception] = []
        generators = Generators.now()

        def fits(records: int) -> bool:
            batch = trainer.collator([trainer.train_dataset[place] for place in self.order[:records]])
            tokens[records] = batch["input_ids"].numel()
            try:
                self._try(model, batch)
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
                shortages[:] = [error.with_traceback(None)]  # which would hold on to what was computed
                return False
            finally:
                model.zero_grad(set_to_none=True)
                trainer.loaded.inner.mmdpo_scoring.features.clear()
                clear_device_cache(garbage_collection=True)
            return True

        records = largest_that_fits(fits, step)
        found = self._of_all(tokens[records] if records else 0)
        generators.restore()
        if not found:  # the trainer's own account of a shortage says what helps
            raise shortages[0] if shortages else MemoryError("the longest record does not fit on another process")
        everything = found == tokens.get(step)
        chosen = found if everything else max(tokens[1], int(MARGIN * found))
        trainer.batches = replace(trainer.batches, max_tokens=chosen)
        if isinstance(trainer.data_collator, StepCollator):  # else the two-pass step cuts its batches itself
            trainer.data_collator.max_tokens = chosen
        fit = f"measured on the {records} longest records, {found:,} tokens"
        self.told(chosen, f"{fit}: a whole step" if everything else f"{fit}; {MARGIN:.0%} of that is used")

    def _try(self, model: Any, batch: Any) -> None:
        """One forward and backward pass as in training, with room for the optimizer's numbers."""
        trainer = self.trainer
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        room = 0 if trainer.optimizer is not None and trainer.optimizer.state else 4 * MOMENTS * trained
        kept = torch.empty(room, dtype=torch.uint8, device=trainer.args.device)
        inputs = trainer._prepare_inputs(batch)
        model.train()
        with trainer.accelerator.no_sync(model), trainer.compute_loss_context_manager():
            hidden = trainer._reference_scores(model, inputs)[1]
            found = scores(model, inputs, trainer.objective.statistics, hidden)
            trainer.accelerator.backward(torch.stack([values.sum() for values in found.values()]).sum())
        del kept

    def _of_all(self, found: int) -> int:
        """The smallest of all processes' numbers."""
        accelerator = self.trainer.accelerator
        return int(accelerator.gather(torch.tensor([found], device=self.trainer.args.device)).min())
