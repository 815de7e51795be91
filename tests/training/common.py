"""What the tests of training share: records, a tiny model made ready, and one way to run the trainer on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback, TrainingArguments

from core.oracle import picture, record
from mmdpo.encoding.example import Encoder
from mmdpo.models.load import Lora, Trainable
from mmdpo.objectives import make_objective
from mmdpo.policy import LoadedModel, prepare
from mmdpo.records import Record, Records, save_records
from mmdpo.reference import make_reference
from mmdpo.trainer import PreferenceTrainer
from mmdpo.training.token_batches import Batches
from tiny import FAMILIES, Tiny

LORA = Lora(r=4, alpha=8)
SUBJECTS = ("cat", "dog", "bird", "car", "red car", "man in the park", "ball", "table and a mat")


def pairs(count: int = 8, *, images: int = 3) -> list[Record]:
    """Pairs with answers of different lengths; every fourth has no image, the others share `images` photos."""
    made = []
    for n in range(count):
        subject, other = SUBJECTS[n % len(SUBJECTS)], SUBJECTS[(n + 3) % len(SUBJECTS)]
        photos = [] if n % 4 == 3 else [picture(n % images, 24 + 6 * (n % images), 24)]
        answers = [f"There is a {subject} here.", f"Two {other}s" + " on a table" * (n % 3)]
        made.append(record(f"pair-{n}", "What is here?" if n % 2 else "Say what you see.", answers, *photos))
    return made


def loaded_model(
    family: str = "llava",
    *,
    trainable: Trainable = "llm",
    lora: Lora | None = LORA,
    adapter: Path | None = None,
    spread: float = 0.0,
    **build: Any,
) -> LoadedModel:
    """A tiny model with its adapters.

    Args:
        family: Name in `tiny.FAMILIES`.
        trainable: Parts that train.
        lora: Adapter settings.
        adapter: Existing adapter to go on from.
        spread: Standard deviation of noise on the adapter's second matrices, zero in a fresh adapter: with it the
            policy is no longer its reference, as in the middle of a run.
        build: Arguments of the family's builder.
    """
    tiny: Tiny = FAMILIES[family](**build)
    torch.manual_seed(0)
    loaded = prepare(
        tiny.model,
        tiny.processor,
        trainable=trainable,
        lora=lora,
        adapter=None if adapter is None else str(adapter),
    )
    if spread:
        with torch.no_grad():
            for name, parameter in loaded.model.named_parameters():
                if "lora_B" in name and parameter.requires_grad:
                    parameter.normal_(std=spread)
    return loaded


def encoder_of(loaded: LoadedModel) -> Encoder:
    """The model's encoder, for records with embedded media."""
    return Encoder(loaded.processor, loaded.facts, loaded.eos_ids)


def make_trainer(
    loaded: LoadedModel,
    records: Sequence[Record],
    folder: Path,
    *,
    loss: Mapping[str, Any] | None = None,
    two_pass: bool = False,
    rows_per_chunk: int | None = None,
    batches: Batches | None = None,
    records_per_row: int | Literal["fit"] = 1,
    validation: Sequence[Record] = (),
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> PreferenceTrainer:
    """The trainer as the pipeline builds it, on the CPU, with plain gradient descent unless told otherwise."""
    objective = make_objective(loss or {"dpo": {"beta": 0.1}})
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "learning_rate": 0.1,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "remove_unused_columns": False,
    }
    return PreferenceTrainer(
        loaded,
        objective,
        make_reference(loaded) if objective.needs_reference else None,
        encoder_of(loaded),
        records,
        args=TrainingArguments(**defaults | arguments),
        validation_records=validation,
        validation_groups=[record.id for record in validation],
        two_pass=two_pass,
        rows_per_chunk=rows_per_chunk,
        batches=batches,
        records_per_row=records_per_row,
        callbacks=list(callbacks),
    )


class Gradients(TrainerCallback):
    """Keeps the gradients of every optimizer step, before they are used."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        named = kwargs["model"].named_parameters()
        self.steps.append({name: p.grad.clone() for name, p in named if p.grad is not None})


def trained(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """The parameters that train, as they are now."""
    return {name: p.detach().clone() for name, p in loaded.model.named_parameters() if p.requires_grad}


def saved_inputs(folder: Path, records: Sequence[Record], *, build: Callable[..., Tiny] = FAMILIES["llava"]) -> Path:
    """Writes `folder/model` and `folder/data`, as a user has them."""
    tiny = build()
    tiny.model.save_pretrained(folder / "model")
    tiny.processor.save_pretrained(folder / "model")
    save_records(Records(records), folder / "data", embed=True)
    return folder


def run_settings(folder: Path, **sections: Any) -> dict[str, Any]:
    """A configuration over what `saved_inputs` wrote; `train` fields are added to those that a test needs.

    Whether a feature cache would pay is not measured (a fifth of so short a run) but where that is what is tested.
    """
    train = {
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 2,
        "max_steps": 3,
        "save_strategy": "no",
    }
    return {
        "model": {"path": str(folder / "model"), "lora": {"r": 4, "alpha": 8}},
        "data": {"path": str(folder / "data"), "validation": 0},
        "features": {"cache": "off"},
        **sections,
        "train": train | sections.get("train", {}),
    }
