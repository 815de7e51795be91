"""Micro-batches cut by tokens: the same step, less padding, every record once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdpo.collate import Batch, Collator
from mmdpo.forward.batch_rows import cut_by_tokens, cut_sizes, row_lengths
from mmdpo.objectives import make_objective
from mmdpo.records import Record
from mmdpo.training.token_batches import Batches, LengthGroups, micro_batches
from tiny import exact_float64
from training.common import Gradients, encoder_of, loaded_model, make_trainer, pairs

EIGHT = pairs(8)
WHOLE = {"per_device_train_batch_size": 8}
LOSSES: dict[str, Any] = {
    "dpo and nll": {"dpo": {"beta": 0.3}, "nll": {"weight": 0.5, "per": "token"}},
    # only the records with an image have these rows, which must stay with those of their record
    "media pairs": {"dpo": {"beta": 0.3}, "seen": {"term": "dpo", "media": "blank", "beta": 0.2}},
    "entropy": {"dpo": {"beta": 0.3}, "entropy": {"weight": 0.1}},
    "lists": "plackett_luce",
}
WAYS: dict[str, dict[str, Any]] = {
    "some": {"max_tokens": 200},
    "one record each": {"max_tokens": 1},
    "all": {"max_tokens": 10**6},
    "accumulated": {"max_tokens": 200, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "two passes": {"max_tokens": 200, "two_pass": True},
    "two passes by row": {"max_tokens": 200, "rows_per_chunk": 1},
}
BY_STEP: dict[str, Any] = {"kto": "kto", "beta_dpo": "beta_dpo"}


def gradients_of(
    folder: Path, loss: Any, max_tokens: int | None = None, **options: Any
) -> tuple[dict[str, torch.Tensor], float]:
    """Gradients and loss of one step over eight records, from weights in the middle of a run."""
    gradients = Gradients()
    loaded = loaded_model(spread=0.2, dtype=torch.float64)
    fields = {"callbacks": [gradients], "max_steps": 1, "batches": Batches(max_tokens)} | WHOLE | options
    trainer = make_trainer(loaded, EIGHT, folder, loss=loss, **fields)
    with exact_float64():
        trainer.train()
    return gradients.steps[0], trainer.state.log_history[0]["loss"]


def packed(views: Any = ("dpo",)) -> Batch:
    loaded = loaded_model()
    objective = make_objective({name: {} for name in views})
    return Collator(encoder_of(loaded), objective.views)(list(enumerate(EIGHT)))


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(loss, id=name, marks=pytest.mark.slow if name in ("media pairs", "entropy", "beta_dpo") else ())
        for name, loss in (LOSSES | BY_STEP).items()
    ],
)
def test_a_step_is_the_same_however_its_tokens_are_cut(tmp_path: Path, loss: Any) -> None:
    expected, value = gradients_of(tmp_path / "whole", loss)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
    for how, options in WAYS.items() if loss == LOSSES["media pairs"] else [("some", WAYS["some"])]:
        found, loss_found = gradients_of(tmp_path / how, loss, **options)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=f"{how}: {name}")
        assert loss_found == pytest.approx(value, rel=1e-5), how


def test_padded_tokens_are_bounded_and_fewer() -> None:
    batch = packed()
    lengths = row_lengths(batch)
    assert len(set(lengths)) > 3, "rows of one length show nothing"
    most = 2 * max(lengths)
    parts = cut_by_tokens(batch, most, whole_records=True)
    padded = [part["input_ids"].numel() for part, _ in parts]
    assert all(size <= most for size in padded)
    assert sum(padded) < batch["input_ids"].numel()
    assert sum(int((part["record"] >= 0).sum()) for part, _ in parts) == sum(lengths), "a token is lost"
    widths = [part["input_ids"].shape[1] for part, _ in parts]
    assert widths == sorted(widths, reverse=True), "the longest comes last"
    places = torch.cat([part["index"] for part, _ in parts]).tolist()
    assert sorted(places) == list(range(8))
    for part, answers in parts:
        assert part["index"][part["example"]].tolist() == batch["index"][batch["example"][answers]].tolist()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [1, 16])
def test_a_part_is_the_batch_of_its_records(side: Any, multiple: int) -> None:
    """The oracle is the collator itself, given those records alone."""
    loaded = loaded_model()
    objective = make_objective(LOSSES["media pairs"])
    collator = Collator(encoder_of(loaded), objective.views, side=side)
    batch = collator(list(enumerate(EIGHT)))
    for part, _ in cut_by_tokens(batch, 120, whole_records=True, multiple=multiple):
        alone = collator([(int(n), EIGHT[int(n)]) for n in part["index"]])
        width = alone["input_ids"].shape[1]
        assert part["input_ids"].shape[1] == min(batch["input_ids"].shape[1], -(-width // multiple) * multiple)
        for name in ("input_ids", "record", "segment", "depth", "position_ids"):
            ours = part[name][:, :width] if side == "right" else part[name][:, -width:]
            used = alone["record"] >= 0
            assert torch.equal(ours[used], alone[name][used]), name
        assert torch.equal(part["example"], alone["example"])
        flat = part["input_ids"].flatten()[part["hidden_index"][part["mask"]]]
        mask = alone["mask"]
        assert torch.equal(flat, alone["input_ids"].flatten()[alone["hidden_index"][mask]])
        assert torch.equal(part["targets"][:, : mask.shape[1]][mask], alone["targets"][mask])
        for name, entry in alone["media"].items():
            keys = [[of["keys"][n] for n in of["order"]] for of in (part["media"][name], entry)]
            assert keys[0] == keys[1] and part["media"][name]["rows"] == entry["rows"]


@pytest.mark.parametrize(
    ("sizes", "most", "rows", "expected"),
    [
        ([(1, 5), (1, 9), (1, 4), (1, 2)], 10, None, [[1], [0, 2], [3]]),  # 9; 2 x 5; 2
        ([(1, 5), (1, 9), (1, 4), (1, 2)], 20, None, [[1, 0], [2, 3]]),
        ([(2, 5), (1, 5)], 10, None, [[0], [1]]),
        ([(1, 50), (1, 3)], 10, None, [[0], [1]]),  # longer than allowed: alone, and not left out
        ([(1, 3)] * 4, 100, 3, [[0, 1, 2], [3]]),
    ],
)
def test_sizes_are_cut_as_by_hand(sizes: Any, most: int, rows: int | None, expected: list[list[int]]) -> None:
    assert cut_sizes(sizes, most, rows) == expected


LENGTHS = [(7 * n * n + 13 * n) % 101 for n in range(203)]


@pytest.mark.parametrize("processes", [1, 2])
def test_every_record_comes_once_and_the_longest_at_once(processes: int) -> None:
    sampler = LengthGroups(LENGTHS, 4, processes, seed=3)
    order = list(sampler)
    assert len(sampler) == len(order) and sorted(order) == list(range(len(LENGTHS)))
    assert max(LENGTHS) in [LENGTHS[n] for n in order[: 4 * processes]]
    assert list(LengthGroups(LENGTHS, 4, processes, seed=3)) == order, "the order is another one each time"
    assert list(LengthGroups(LENGTHS, 4, processes, seed=4)) != order
    sampler.set_epoch(1)
    assert list(sampler) != order


def test_no_epoch_of_one_seed_is_an_epoch_of_another() -> None:
    orders = set()
    for seed in range(4):
        sampler = LengthGroups(LENGTHS, 4, seed=seed)
        for epoch in range(4):
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 16


def test_batches_have_similar_lengths_and_processes_similar_loads() -> None:
    def spread(order: list[int]) -> float:
        cut = [[LENGTHS[n] for n in order[start : start + 8]] for start in range(0, 200, 8)]
        return sum(max(lengths) - min(lengths) for lengths in cut) / len(cut)

    grouped = list(LengthGroups(LENGTHS, 4, 2))
    assert spread(grouped) < spread(list(range(203))) / 4
    loads = [[sum(LENGTHS[n] for n in grouped[s : s + 4]) for s in (at, at + 4)] for at in range(0, 200, 8)]
    assert max(abs(a - b) for a, b in loads) <= 30  # of about 200: dealt one by one


class Seen:
    """What a trainer's collator is given."""

    def __init__(self, trainer: Any) -> None:
        self.batches: list[list[int]] = []
        build = trainer.get_batch_samples

        def get(*arguments: Any) -> Any:
            batches, counts = build(*arguments)
            parts = [part for batch in batches for part in micro_batches(batch)]
            self.batches.append([int(n) for part in parts for n in part["index"]])
            return batches, counts

        trainer.get_batch_samples = get


def trained_order(folder: Path, records: list[Record], resume: str | None = None, **fields: Any) -> list[list[int]]:
    lengths = [len(record.candidates[1].text) for record in records]
    trainer = make_trainer(
        loaded_model(),
        records,
        folder,
        batches=Batches(200, lengths),
        per_device_train_batch_size=3,
        num_train_epochs=2,
        save_strategy="steps",
        save_steps=1,
        **fields,
    )
    seen = Seen(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return [sorted(batch) for batch in seen.batches]


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_resumed_run_goes_on_in_the_same_order(tmp_path: Path, at: int) -> None:
    records = pairs(8)
    whole = trained_order(tmp_path / "run", records)
    assert [Counter(n for batch in epoch for n in batch) for epoch in (whole[:3], whole[3:])] == [Counter(range(8))] * 2
    again = trained_order(tmp_path / "run", records, resume=str(tmp_path / "run" / f"checkpoint-{at}"))
    assert again == whole[at:]
