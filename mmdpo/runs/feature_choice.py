"""Whether a feature cache pays for a run: what it would save and need, measured on a few records before training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from mmdpo.collate import Collator, Layout
from mmdpo.config import FeaturesSection, RunConfig
from mmdpo.encoding.companions import Companions
from mmdpo.errors import ConfigError
from mmdpo.feature_caching import cached_as, folder_of, open_cache, stored_as
from mmdpo.features.cache import GIB, CachedFeatures, FeatureCache, Place
from mmdpo.features.encode_once import FeatureStore
from mmdpo.forward.step_cost import StepCost, flops, language_passes
from mmdpo.objectives import Objective
from mmdpo.parity import to_model
from mmdpo.policy import LoadedModel, inner_of
from mmdpo.records import Record
from mmdpo.runs.data import Data
from mmdpo.scoring import score
from mmdpo.views import CLEAN, NONE, SWAP

WORTH = 0.1
"""Share of a step that the frozen encoders must have for a cache that nobody asked for."""
PROBES = (0.25, 0.5, 0.75)
"""Records that are measured, by their place in the order of lengths."""


def place_of(store: FeatureStore) -> Place | None:
    """What of a model that trains can be kept from step to step; None where its encoder trains."""
    return None if store.frozen == "none" else store.frozen


@dataclass(frozen=True)
class Measured:
    """What a cache would save and need, measured on a few records.

    Args:
        cost: Operations of these records in a step.
        bytes_each: Bytes an item needs.
        items: Distinct items of the data, with their media variants that come back.
        uses: How often one of them is encoded in the run without a cache, on average.
    """

    cost: StepCost
    bytes_each: float
    items: int
    uses: float

    @property
    def bytes(self) -> float:
        """Bytes that all items need."""
        return self.bytes_each * self.items

    @property
    def saved(self) -> float:
        """Share of the run's operations that a cache saves: each item is encoded once and not at every use."""
        return self.cost.encoder_share * (1 - 1 / max(1.0, self.uses))

    def __str__(self) -> str:
        size = f"{self.bytes_each / 1e6:.3g} MB an item, {self.bytes / 1e9:.3g} GB for {self.items:,}"
        return (
            f"the frozen encoders are {self.cost.encoder_share:.1%} of a step's operations; a cache would save "
            f"{self.saved:.1%} of this run's (an item is used {self.uses:.3g} times) and need {size}"
        )


@torch.no_grad()
def measure(
    model: Any,
    collator: Collator,
    records: Sequence[Record],
    lengths: Sequence[int],
    *,
    passes: float,
    epochs: float,
    dtype: torch.dtype | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Measured | None:
    """Counts operations and bytes on three records; None where none of the data has media or nothing is frozen.

    Args:
        model: The policy before its first step.
        collator: Builds batches with the views that training reads.
        records: The records to train on.
        lengths: Tokens of each, to choose from.
        passes: :func:`mmdpo.forward.step_cost.language_passes`.
        epochs: How often each record is used.
        dtype: Precision in which features are kept, where it is another one.
        autocast: As training computes.
    """
    inner = inner_of(model)
    store: FeatureStore = inner.mmdpo_scoring.features
    place = place_of(store)
    media = [item.identity for record in records for _, item in record.media_items()]
    if place is None or not media:
        return None
    order = sorted(range(len(records)), key=lengths.__getitem__)
    before, training = store.cached, model.training
    scratch = FeatureCache(memory=2**62, dtype=dtype)
    store.cached = CachedFeatures(scratch, "", place)
    encoder = language = 0.0
    model.eval()
    try:
        with autocast():
            for n in sorted({order[int(part * (len(order) - 1))] for part in PROBES}):
                batch = to_model(collator([(n, records[n])]), inner)
                store.clear()
                cold = flops(store.units, batch["media"])
                store.clear()
                encoder += cold - flops(store.units, batch["media"])  # fresh variants are encoded anew
                language += flops(score, model, batch)
    finally:
        model.train(training)
        store.cached = before
        store.clear()
    shown = {view.media for view in collator.views} - {CLEAN, NONE, SWAP}
    variants = 1 if collator.encoder.fresh else 1 + len(shown)
    items = len(set(media)) * variants
    each = scratch.used / len(scratch) if len(scratch) else 0.0
    return Measured(StepCost(encoder, language, passes), each, items, len(media) * variants * epochs / items)


@dataclass(frozen=True)
class Choice:
    """Whether and where features are kept.

    Args:
        value: ``memory``, ``disk`` or ``off``.
        reason: Why.
        folder: Where on disk.
    """

    value: str
    reason: str
    folder: Path | None = None


def choose(
    section: FeaturesSection,
    store: FeatureStore,
    default: Path,
    found: Callable[[], Measured | None],
    processes: int = 1,
) -> Choice:
    """Decides where features are kept.

    Args:
        section: What is asked for.
        store: The model's feature store.
        default: The folder, where the section names none.
        found: Measures, where the decision needs it.
        processes: How many train: each has a memory of its own, and meets other records in every epoch.

    Raises:
        ConfigError: A cache is asked for, and the encoder trains.
    """
    folder = Path(section.folder) if section.folder is not None else default
    told = f"; kept as {section.dtype}" if section.dtype != "as_computed" else ""
    if section.cache == "off":
        return Choice("off", "asked for")
    if place_of(store) is None:
        why = "an encoder trains, or a projector inside it"
        if section.cache == "auto":
            return Choice("off", f"{why}: features change with every step")
        raise ConfigError(
            f"features.cache is {section.cache}, and {why}",
            why="Its features change with every step: kept ones would be those of other weights.",
            fix="Use features: {cache: off}, or a model.trainable that leaves the encoder frozen.",
        )
    if section.cache == "memory":
        return Choice("memory", f"asked for, up to {section.memory_gb:g} GB{told}")
    if section.cache == "disk":
        return Choice("disk", f"asked for, in {folder}, up to {section.disk_gb:g} GB{told}", folder)
    measured = found()
    if measured is None:
        return Choice("off", "no record has media")
    place, reason = _weighed(section, measured, processes)
    if place == "off":
        return Choice("off", f"{measured}{reason}")
    where = f"; in {folder}" if place == "disk" else ""
    return Choice(place, f"{measured}{where}{told}", folder if place == "disk" else None)


def _weighed(section: FeaturesSection, measured: Measured, processes: int) -> tuple[str, str]:
    """Where features are kept that nobody asked for, and why."""
    if measured.cost.encoder_share < WORTH:
        return "off", f"; under {WORTH:.0%} of a step it is not worth its room"
    if measured.uses <= 1:
        return "off", ""
    if processes == 1 and measured.bytes <= section.memory_gb * GIB:
        return "memory", ""
    if measured.bytes <= section.disk_gb * GIB:
        return "disk", ""
    return "off", f"; more than features.disk_gb {section.disk_gb:g}"


@dataclass(frozen=True)
class RunFeatures:
    """The features of one run.

    Args:
        config: The configuration.
        objective: Its objective.
        arguments: Its training arguments, finished.
        loaded: The policy before its first step.
        data: Its records.
        layout: How answers are laid out.
    """

    config: RunConfig
    objective: Objective
    arguments: TrainingArguments
    loaded: LoadedModel
    data: Data
    layout: Layout

    def choose(self) -> Choice:
        """Where they are kept, and why; as :func:`choose`."""
        default = folder_of(self.config)
        store = self.loaded.inner.mmdpo_scoring.features
        return choose(self.config.features, store, default, self.measure, self.arguments.world_size)

    def measure(self) -> Measured | None:
        """What a cache would save and need; as :func:`measure`."""
        config, arguments, train = self.config, self.arguments, self.data.train
        rows = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        limited = arguments.max_steps > 0
        passes = language_passes(
            whole=config.model.lora is None and config.model.adapter is None,
            checkpointing=bool(arguments.activation_checkpointing),
            reference=self.objective.needs_reference and config.reference.kind != "cached",
            two_pass=config.two_pass or self.objective.coupled or config.rows_per_chunk is not None,
        )
        mixed = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
        device = next(self.loaded.inner.parameters()).device.type
        others = Companions(train, config.seed)
        return measure(
            self.loaded.model,
            Collator(self.data.encoder, self.objective.views, companions=others, layout=self.layout),
            train,
            self.data.screening.lengths,
            passes=passes,
            epochs=arguments.max_steps * rows / len(train) if limited else arguments.num_train_epochs,
            dtype=stored_as(config.features),
            autocast=lambda: torch.autocast(device, dtype=mixed, enabled=mixed is not None),
        )


def keep_features(features: RunFeatures) -> tuple[str, str]:
    """Puts the cache that a run shall have under its model.

    Returns:
        ``memory``, ``disk`` or ``off``, and why.

    Raises:
        ConfigError: A cache is asked for, and the encoder trains.
    """
    chosen, loaded = features.choose(), features.loaded
    store: FeatureStore = loaded.inner.mmdpo_scoring.features
    place = place_of(store)
    if chosen.value != "off" and place is not None:
        cache = open_cache(features.config.features, chosen.folder)
        store.cached = cached_as(cache, loaded.model, loaded.processor, place)
    return chosen.value, chosen.reason
