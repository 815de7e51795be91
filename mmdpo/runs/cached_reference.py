"""Puts a cached reference into a trainer: fills what is missing, proves it, says what was decided."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from mmdpo.collate import Collator
from mmdpo.policy import LoadedModel
from mmdpo.progress import Progress
from mmdpo.records import Record
from mmdpo.reference import Reference, make_reference
from mmdpo.trainer import PreferenceTrainer
from mmdpo.training.reference_cache import CachedReference, ingredients, open_cache, tolerance

logger = logging.getLogger(__name__)


def live_source(loaded: LoadedModel) -> Reference:
    """What computes the numbers: the adapter's reference, or without an adapter the policy before its first step."""
    if hasattr(loaded.model, "disable_adapter") and not loaded.base_changed:
        return make_reference(loaded)
    return Reference("live", loaded.model)


def cache_reference(trainer: PreferenceTrainer, folder: Path, progress: Progress = iter) -> float:
    """Lets a trainer look its reference up in a folder, after what is missing there was computed.

    Must be called before the first step, and before a checkpoint is loaded. Every process takes its share.

    Args:
        trainer: The trainer; its reference is replaced.
        folder: The cache.
        progress: Wraps the batches for a progress bar.

    Returns:
        By how many nats a token the records that were computed again differ at most.

    Raises:
        ConfigError: The folder is of other ingredients, or holds another prompt, answer or media of a record.
        DataError: A file of the folder is damaged.
        ParityError: What is computed again is something else.
    """
    accelerator, model = trainer.accelerator, trainer.model
    source = live_source(trainer.loaded)
    told = ingredients(trainer.loaded.model, trainer.loaded.processor, trainer.collator, source)
    told["numerics"] += f" {accelerator.mixed_precision}"
    reference = open_cache(source, folder, told, trainer.objective.statistics, accelerator.process_index)
    accelerator.wait_for_everyone()  # all have seen what is there before anybody adds to it
    was_training = model.training
    model.eval()
    computed, worst = 0, 0.0
    with torch.no_grad(), accelerator.autocast():
        for collator, records in _parts(trainer):
            with trainer.telling_memory(records):
                computed += reference.fill(
                    model,
                    collator,
                    records,
                    trainer._prepare_inputs,
                    batch_size=trainer.args.per_device_eval_batch_size,
                    process=accelerator.process_index,
                    processes=accelerator.num_processes,
                    progress=progress,
                )
        accelerator.wait_for_everyone()
        reference.store.load()
        worst = reference.prove(model, trainer.collator, trainer.train_dataset.records, trainer._prepare_inputs)
    model.train(was_training)
    logger.info("reference: %d answers computed, %d known in %s", computed, len(reference.store), folder)
    trainer.reference = reference
    return worst


def start_tolerance(trainer: PreferenceTrainer) -> float:
    """Nats by which policy and reference may differ at the start: looked-up numbers were computed in other batches."""
    return tolerance(trainer.loaded.model) if isinstance(trainer.reference, CachedReference) else 1e-3


def _parts(trainer: PreferenceTrainer) -> Sequence[tuple[Collator, Sequence[Record]]]:
    """The collators whose batches read the reference, with their records."""
    parts: list[tuple[Collator, Sequence[Record]]] = [(trainer.collator, trainer.train_dataset.records)]
    if trainer.eval_dataset is not None:
        parts.append((trainer.validation_collator, trainer.eval_dataset.records))
    return parts
