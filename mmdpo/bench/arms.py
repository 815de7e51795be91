"""The sides of a comparison: our trainer and TRL's, each on the same weights, records, precision and kernels.

A side is a real trainer whose batch is always the same, collated beforehand: what is timed are whole optimizer steps of
the loop of ``transformers.Trainer``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from mmdpo.bench.data import Sizes, make_records, trl_rows
from mmdpo.bench.flops import Layout, Reference
from mmdpo.bench.models import build_model, build_processor
from mmdpo.bench.shapes import Shape, get_shape, with_pixels
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError
from mmdpo.features.cache import CachedFeatures, FeatureCache
from mmdpo.models.load import Lora, lora_targets
from mmdpo.objectives import make_objective
from mmdpo.policy import prepare
from mmdpo.records import Record
from mmdpo.reference import make_reference
from mmdpo.runs.cached_reference import live_source
from mmdpo.runs.feature_choice import place_of
from mmdpo.trainer import PreferenceTrainer
from mmdpo.training.reference_cache import CachedReference
from mmdpo.training.reference_store import ReferenceStore

COPIES = 4096
"""How often the records are repeated, so that an epoch outlasts every measurement."""

FEATURE_BYTES = 2**31
"""Room of the feature cache, in memory."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison, and all that decides what it computes.

    Args:
        kind: Ours with one prefix for all answers, ours with a row for each answer, or TRL's.
        shape: Name of the model.
        batch: Records in a step.
        candidates: Answers to each; two for TRL.
        answer: Tokens of an answer.
        reference: Computed in every step, looked up, or looked up with the images' features.
        checkpointing: Whether activations are computed again in the backward pass.
        device: ``"cpu"`` or ``"cuda"``.
        attention: ``transformers``' name of the attention kernel.
        seed: Of weights, data and adapters.
        pixels: A side of the images; None for what the shape says.
    """

    kind: Layout
    shape: str
    batch: int = 1
    candidates: int = 2
    answer: int = 90
    reference: Reference = "fresh"
    checkpointing: bool = False
    device: str = "cpu"
    attention: str = "sdpa"
    seed: int = 0
    pixels: int | None = None

    @property
    def model(self) -> Shape:
        """The model, with the images that are asked for."""
        shape = get_shape(self.shape)
        return shape if self.pixels is None else with_pixels(shape, self.pixels)

    @property
    def name(self) -> str:
        """What people call it."""
        if self.kind == "trl":
            return "trl"
        return {"shared": "mmdpo", "plain": "mmdpo, plain rows"}[self.kind] + (
            "" if self.reference == "fresh" else f", {self.reference}"
        )

    @property
    def sizes(self) -> Sizes:
        """Of its batch."""
        return Sizes(self.batch, self.candidates, self.answer)


@dataclass
class Side:
    """A trainer that is ready to run.

    Args:
        trainer: Its data loader gives the same batch every time.
        answer_tokens: Scored tokens of the batch.
        collate: Builds the batch once more, from the files' bytes.
        settings: What it runs with, for people.
        model: The Hugging Face model, inside any wrapper.
    """

    trainer: Any
    answer_tokens: int
    collate: Callable[[], Any]
    settings: dict[str, Any]
    model: Any

    def collate_seconds(self, times: int = 3) -> float:
        """Least seconds that building the batch takes."""
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            self.collate()
            taken.append(time.perf_counter() - start)
        return min(taken)


class SameBatch:
    """A collator that always gives the same batch, as a new dictionary: trainers write into theirs."""

    def __init__(self, batch: Any) -> None:
        self.batch = dict(batch)

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """The batch, whatever the examples are."""
        del examples
        return dict(self.batch)


def build_side(arm: Arm, folder: Path, callback: TrainerCallback) -> Side:
    """Builds a side of a comparison.

    Args:
        arm: Which.
        folder: For files that trainers insist on.
        callback: Hears of every step.

    Raises:
        ConfigError: TRL is asked for and not installed, or cannot take the data.
    """
    shape = arm.model
    processor = build_processor(shape)
    dtype = torch.bfloat16 if arm.device == "cuda" else torch.float32
    model = build_model(
        shape, processor.tokenizer, device=arm.device, dtype=dtype, attention=arm.attention, seed=arm.seed
    )
    lora = Lora(r=shape.lora_rank, alpha=2 * shape.lora_rank)
    set_seed(arm.seed)  # the adapters' weights are drawn now
    if arm.kind == "trl":
        return _trl(arm, model, processor, lora, folder, callback)
    return _ours(arm, model, processor, lora, folder, callback)


def _arguments(arm: Arm, folder: Path) -> dict[str, Any]:
    """Training arguments of both sides."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": arm.batch,
        "max_steps": COPIES,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": arm.device == "cpu",
        "bf16": arm.device == "cuda",
        "gradient_checkpointing": arm.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if arm.checkpointing else None,
        "dataloader_pin_memory": arm.device == "cuda",
        "remove_unused_columns": False,
        "seed": arm.seed,
    }


def _ours(arm: Arm, model: Any, processor: Any, lora: Lora, folder: Path, callback: TrainerCallback) -> Side:
    loaded = prepare(model, processor, lora=lora)
    objective = make_objective({"dpo": {"beta": 0.1}} if arm.candidates == 2 else {"plackett_luce": {}})

    def encoder() -> Encoder:
        return Encoder(processor, loaded.facts, loaded.eos_ids)

    records = make_records(arm.model, arm.sizes, encoder(), arm.seed)
    trainer = PreferenceTrainer(
        loaded,
        objective,
        make_reference(loaded),
        encoder(),
        records * (COPIES // len(records) + 1),
        args=TrainingArguments(**_arguments(arm, folder)),
        layout="plain" if arm.kind == "plain" else "shared",
        callbacks=[callback],
    )
    collator = trainer.collator

    def collate() -> Any:
        collator.encoder = encoder()  # one that has not seen the images
        return collator(list(enumerate(records)))

    batch = collate()
    if arm.reference == "features":
        store = loaded.inner.mmdpo_scoring.features
        place = place_of(store)
        store.cached = None if place is None else CachedFeatures(FeatureCache(FEATURE_BYTES), "measured", place)
    if arm.reference != "fresh":
        trainer.reference = _looked_up(trainer, records, folder / "reference")
    trainer.data_collator = SameBatch(batch)
    settings = {"layout": arm.kind, "reference": arm.reference, "trained": loaded.decisions}
    return Side(trainer, int(batch["mask"].sum()), collate, settings, loaded.inner)


def _looked_up(trainer: PreferenceTrainer, records: Sequence[Record], folder: Path) -> CachedReference:
    """The reference of the records as numbers; the store is new, so its ingredients need not be told apart."""
    store = ReferenceStore(folder, {"measured": "now"}, {"logp", "entropy", *trainer.objective.statistics})
    reference = CachedReference(live_source(trainer.loaded), store)
    with torch.no_grad(), trainer.accelerator.autocast():
        reference.fill(trainer.model, trainer.collator, records, trainer._prepare_inputs, batch_size=len(records))
    store.load()
    return reference


def _trl(arm: Arm, model: Any, processor: Any, lora: Lora, folder: Path, callback: TrainerCallback) -> Side:
    trl = require_trl()
    from datasets import Image as ImageFeature
    from datasets import List
    from peft import LoraConfig

    from mmdpo.models.families import facts_of

    if arm.candidates != 2:
        raise ConfigError(
            f"trl.DPOTrainer takes pairs, not {arm.candidates} answers",
            why="There is nothing to compare a list with.",
            fix="Use --k 2, or compare with our own plain rows.",
        )
    facts = facts_of(model)
    encoder = Encoder(processor, facts, [processor.tokenizer.eos_token_id])
    rows = trl_rows(make_records(arm.model, arm.sizes, encoder, arm.seed))
    given = {"max_length": None, "precompute_ref_log_probs": False, "disable_dropout": True}
    trainer = trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(**_arguments(arm, folder), **given),
        # the batch is made beforehand, so the loop's rows need not be decoded
        train_dataset=rows.cast_column("images", List(ImageFeature(decode=False))).select(
            [n % len(rows) for n in range(COPIES)]
        ),
        processing_class=processor,
        peft_config=LoraConfig(
            r=lora.r,
            lora_alpha=int(lora.alpha),
            lora_dropout=0.0,
            target_modules=lora_targets(model, facts, frozenset({"llm"}), "auto"),
            bias="none",
        ),
        callbacks=[callback],
    )
    collator = trainer.data_collator

    def collate() -> Any:
        return collator([rows[n] for n in range(len(rows))])

    batch = collate()
    trainer.data_collator = SameBatch(batch)
    settings = {
        "trl": trl.__version__,
        **given,
        "reference": "adapter off, in every step: precomputing is refused for images",
        "head": "fused, answers alone" if arm.device == "cuda" else "fused, every position: no Triton on a CPU",
        "padding_free": "no longer in TRL",
        "adapters": "linear layers of the language model",
    }
    return Side(trainer, int(batch["completion_mask"].sum()), collate, settings, trainer.model.get_base_model())


def require_trl() -> Any:
    """TRL, if it is installed.

    Raises:
        ConfigError: It is not.
    """
    try:
        import trl
    except ImportError as error:
        raise ConfigError(
            f"TRL is not installed: {error}",
            why="There is nothing to compare with.",
            fix='pip install "trl>=1.16", or measure our side alone with --no-trl.',
        ) from error
    return trl
