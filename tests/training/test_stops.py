"""A run that cannot go on says which records it was: numbers that are not finite, memory that is full."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.oracle import picture, record
from mmdpo.config import parse_config
from mmdpo.errors import ModelError
from mmdpo.objectives import make_objective
from mmdpo.records import Record
from mmdpo.runs.training import train
from mmdpo.training import guarded_trainer
from mmdpo.training.not_finite import Culprits, Scored, culprits, told
from mmdpo.training.out_of_memory import (
    Load,
    MemoryShortageError,
    Settings,
    is_shortage,
    load_of,
    shortage,
    suggestions,
)
from mmdpo.views import ScoreTable
from training.common import loaded_model, make_trainer, pairs, run_settings, saved_inputs, trained
from training.test_resume import adapter_of, log_of

# ---- not finite ----


def seeing(count: int = 4) -> list[Record]:
    """Pairs with a picture of their own each."""
    return [record(f"pair-{n}", "What is here?", ["A cat.", "Two dogs."], picture(n)) for n in range(count)]


def poison(trainer: Any, place: int) -> None:
    """Lets the model's first layer of vision overflow on the picture of one record."""
    batch = trainer.collator([(place, trainer.train_dataset.records[place])])
    (bad,) = [unit["pixel_values"] for unit in batch["media"]["image"]["units"]]
    tower = next(m for name, m in trainer.loaded.inner.named_modules() if name.endswith("vision_tower"))

    def hook(module: Any, arguments: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
        pixels = arguments[0] if arguments else options["pixel_values"]
        wrong = torch.tensor([bool(torch.equal(one, bad[0].to(one.dtype))) for one in pixels])
        pixels = torch.where(wrong[:, None, None, None], torch.nan, pixels)
        return ((pixels, *arguments[1:]), options) if arguments else (arguments, options | {"pixel_values": pixels})

    tower.register_forward_pre_hook(hook, with_kwargs=True)


def test_the_record_with_a_picture_that_an_encoder_fails_on_is_named(tmp_path: Path) -> None:
    trainer = make_trainer(loaded_model(), seeing(), tmp_path, max_steps=4, per_device_train_batch_size=4)
    poison(trainer, 2)
    with pytest.raises(ModelError, match=r"the image features of record 'pair-2' are not finite"):
        trainer.train()


@pytest.mark.parametrize("two_pass", [False, True])
def test_the_record_that_the_language_model_fails_on_is_named(tmp_path: Path, two_pass: bool) -> None:
    """The weights of one word are not finite, and one record has that word."""
    records = [*seeing(3), record("odd", "What is here?", ["A bird.", "Two dogs."], picture(4))]
    trainer = make_trainer(
        loaded_model(), records, tmp_path, two_pass=two_pass, max_steps=4, per_device_train_batch_size=4
    )
    tokenizer = trainer.loaded.processor.tokenizer
    (word,) = set(tokenizer("A bird.")["input_ids"]) - set(tokenizer("A cat. Two dogs. What is here?")["input_ids"])
    with torch.no_grad():
        trainer.loaded.inner.get_input_embeddings().weight[word] = torch.nan
    with pytest.raises(ModelError, match=r"^step 1: loss/dpo is nan; log-probabilities of record 'odd' are") as said:
        trainer.train()
    assert "mmdpo show" in said.value.fix
    assert all(p.isfinite().all() for p in trained(trainer.loaded).values()), "the step was not taken"


def test_weights_that_give_nan_everywhere_blame_no_record_alone(tmp_path: Path) -> None:
    trainer = make_trainer(loaded_model(), seeing(), tmp_path, max_steps=1, per_device_train_batch_size=4)
    with torch.no_grad():
        next(p for p in trainer.model.parameters() if p.requires_grad).fill_(torch.nan)
    with pytest.raises(
        ModelError, match=r"records 'pair-0', .*'pair-3' are not finite, which is all of the step"
    ) as said:
        trainer.train()
    assert "learning_rate" in said.value.fix


def table(logp: list[float], rejected: list[float]) -> ScoreTable:
    """Pairs of answers of one token; the reference gives 0."""
    values = torch.tensor([x for pair in zip(logp, rejected, strict=True) for x in pair])[:, None]
    count = len(values)
    return ScoreTable(
        logp=values,
        mask=torch.ones(count, 1, dtype=torch.bool),
        weight=torch.ones(count, 1),
        marks=torch.zeros(count, 1, dtype=torch.bool),
        example=torch.arange(count) // 2,
        candidate=torch.arange(count) % 2,
        media=torch.zeros(count, dtype=torch.long),
        score=torch.full((count,), torch.nan),
        label=torch.zeros(count),
        media_names=("clean",),
        ref_logp=torch.zeros(count, 1),
    )


def test_a_term_that_overflows_is_traced_to_the_record() -> None:
    """The square of a margin of 1e20 is infinite in float32: only for the second record."""
    objective = make_objective({"dpo": {"beta": 1.0, "link": "square"}})
    scored = Scored.of(torch.tensor([7, 9, 3]), table([-1.0, -5e19, -2.0], [-1.0, 5e19, -2.0]))
    found = culprits(objective, [scored], 0.0)
    assert found == Culprits((9,), "loss", everything=False)
    assert told(found, ["pair-9"])[0] == "; a loss or a derivative of record 'pair-9' is not finite"


def test_where_every_number_of_the_records_is_finite_all_of_the_step_are_named() -> None:
    objective = make_objective({"dpo": {}})
    scored = Scored.of(torch.tensor([7, 9]), table([-1.0, -2.0], [-1.0, -2.0]))
    found = culprits(objective, [scored], 0.0)
    assert found == Culprits((7, 9), "nothing", everything=True)
    assert told(found, [f"r{n}" for n in range(10)])[0].endswith(
        "'r7' and 2 more, whose log-probabilities and losses are finite"
    )


# ---- out of memory ----

ALLOCATORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 68719476736 bytes."),
    MemoryError("Unable to allocate 7.45 GiB"),
]


@pytest.mark.parametrize("error", ALLOCATORS, ids=lambda error: type(error).__name__)
def test_what_allocators_say(error: Exception) -> None:
    assert is_shortage(error)
    assert not is_shortage(RuntimeError("shape mismatch"))
    assert not is_shortage(ValueError("out of memory"))


def sizes() -> list[Record]:
    """Three pairs; the second has a long question and a picture, and four answers."""
    long = record("long", "What is here? " * 12, ["A cat.", "Two dogs.", "A car.", "A ball."], picture(1))
    return [record("short", "What?", ["A cat.", "A dog."]), long, record("seen", "What?", ["Yes", "No"], picture(2))]


def raising(at: int, error: Exception) -> Callable[..., Any]:
    """A stand-in for the scoring of a training batch that fails at a call."""
    calls = 0
    plain = guarded_trainer.GuardedTrainer._table

    def table(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return plain(self, *arguments, **options)

    return table


@pytest.mark.parametrize("error", ALLOCATORS[:2])
def test_the_largest_record_is_named_with_what_helps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    trainer = make_trainer(loaded_model(), sizes(), tmp_path, max_steps=3, per_device_train_batch_size=3)
    batch = trainer.collator(list(enumerate(sizes())))
    load = load_of(batch)
    row = next(n for n in range(3) if int(batch["example"][2 * n]) == 1)
    assert (load.records, load.largest, load.answers) == (3, 1, 2)
    assert load.tokens == int((batch["record"][row] >= 0).sum())
    assert load.padded == batch["input_ids"].numel()
    monkeypatch.setattr(guarded_trainer.GuardedTrainer, "_table", raising(1, error))
    with pytest.raises(MemoryShortageError, match=rf"the largest is 'long' \({load.tokens} tokens, 1 images") as said:
        trainer.train()
    assert str(error).split("\n")[0] in said.value.why
    assert "train.per_device_train_batch_size=1 train.gradient_accumulation_steps=3" in said.value.fix


def test_a_held_out_record_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"validation": sizes()[1:], "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 2}
    trainer = make_trainer(loaded_model(), pairs(3), tmp_path, max_steps=2, **options)
    monkeypatch.setattr(guarded_trainer.GuardedTrainer, "_table", raising(2, ALLOCATORS[2]))
    with pytest.raises(MemoryShortageError, match=r"scored without gradient: 2 records.* largest is 'long'") as said:
        trainer.train()
    assert "train.per_device_eval_batch_size=1" in said.value.fix
    alone = trainer.collator([(0, sizes()[1])])
    fix = shortage(ALLOCATORS[2], alone, sizes()[1:], PLAIN, held_out=True).fix
    assert re.search(r"data\.max_length=\d+ or less \(sets such records aside; needs a new run\)", fix)


PLAIN = Settings(4, 2, None, None, None, checkpointing=False, wide=False)


def words(load: Load, settings: Settings) -> list[str]:
    return [suggestion.split(" (")[0] for suggestion in suggestions(load, settings)]


def test_what_helps_most_comes_first() -> None:
    even = Load(records=4, padded=4000, largest=0, tokens=1000, answers=2)
    fewer = "train.per_device_train_batch_size=2 train.gradient_accumulation_steps=4"
    checkpointing, rows, shorter = "train.gradient_checkpointing=true", "rows_per_chunk=1", "data.max_length=999"
    assert words(even, PLAIN) == [fewer, checkpointing, rows, f"{shorter} or less"]

    one = Load(records=1, padded=1000, largest=0, tokens=1000, answers=8)
    alone = Settings(1, 8, None, None, None, checkpointing=True, wide=True)
    assert words(one, alone) == ["rows_per_chunk=1 branches_per_row=1", "model.dtype=bfloat16", f"{shorter} or less"]

    by_tokens = Settings(8, 1, 8000, None, None, checkpointing=True, wide=False)
    assert words(even, by_tokens)[0] == "batches.max_tokens=4000"
    assert not [w for w in words(one, by_tokens) if "batches" in w]


@pytest.mark.slow
def test_a_checkpoint_from_before_is_kept_and_goes_on_with_less_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the records at a time, accumulated, is the same step: settings of memory may change."""
    saved_inputs(tmp_path, pairs(6))
    fields = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "optim": "sgd", "learning_rate": 0.1}
    whole = train(parse_config(run_settings(tmp_path, train=fields)), tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(guarded_trainer.GuardedTrainer, "_table", raising(4, ALLOCATORS[0]))
        with pytest.raises(MemoryShortageError):
            train(parse_config(run_settings(tmp_path, train=fields)), tmp_path / "run")
    halves = fields | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    settings = run_settings(tmp_path, train=halves | {"gradient_checkpointing": True}) | {"rows_per_chunk": 1}
    resumed = train(parse_config(settings), tmp_path / "run", resume=True)
    for name, weight in adapter_of(whole).items():
        torch.testing.assert_close(adapter_of(resumed)[name], weight, rtol=0, atol=1e-6)


# ---- what else a resume must not change ----


@pytest.mark.slow
def test_generators_are_those_of_the_checkpoint_before_a_first_pass(tmp_path: Path) -> None:
    """Two passes draw dropout where the batches are fetched, which Trainer does before it sets the generators."""
    saved_inputs(tmp_path, pairs(8))
    model = {"path": str(tmp_path / "model"), "lora": {"r": 4, "alpha": 8, "dropout": 0.5}}
    fields = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 9}
    config = parse_config(run_settings(tmp_path, model=model, train=fields) | {"two_pass": True})
    whole = train(config, tmp_path / "whole")
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "adapter")
    for step in (3, 4):
        shutil.rmtree(run / "checkpoints" / f"checkpoint-{step}")
    train(config, run, resume=True)
    assert [e["loss"] for e in log_of(run) if "loss" in e] == [e["loss"] for e in log_of(whole) if "loss" in e]
    for name, weight in adapter_of(whole).items():
        assert weight.equal(adapter_of(run)[name]), name
