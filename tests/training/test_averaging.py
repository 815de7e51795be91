"""One optimizer step is one number, however it is cut into micro-batches and passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdpo.models.load import Lora
from mmdpo.records import Record
from tiny import exact_float64
from training.common import LORA, Gradients, loaded_model, make_trainer, pairs, trained

EIGHT = pairs(8)
LOSSES: dict[str, dict[str, Any]] = {
    "dpo": {"dpo": {"beta": 0.3}},
    "nll per sequence": {"dpo": {"beta": 0.3}, "nll": {"weight": 0.5}},
    "nll per token": {"dpo": {"beta": 0.3}, "nll": {"weight": 0.5, "per": "token"}},
    "nll sum": {"dpo": {"beta": 0.3}, "nll": {"weight": 0.5, "per": "sum"}},
    # only the records with an image have these rows: the terms divide by different counts
    "views missing": {
        "dpo": {"beta": 0.3},
        "blind": {"term": "nll", "media": "blank", "per": "token", "weight": 0.2},
        "blind_pair": {"term": "dpo", "media": "blank", "beta": 0.2},
    },
}


@dataclass(frozen=True)
class Step:
    """What one optimizer step left behind."""

    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    logged: dict[str, float]


def one_step(
    folder: Path,
    loss: dict[str, Any],
    batch: int,
    accumulation: int,
    *,
    records: Sequence[Record] = EIGHT,
    lora: Lora = LORA,
    **cut: Any,
) -> Step:
    """One step over the same records, from weights in the middle of a run."""
    gradients = Gradients()
    loaded = loaded_model(spread=0.2, dtype=torch.float64, lora=lora)
    trainer = make_trainer(
        loaded,
        records,
        folder,
        loss=loss,
        **cut,
        callbacks=[gradients],
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
    )
    with exact_float64():
        trainer.train()
    timing = ("runtime", "per_second", "flos", "epoch", "step")
    logged = {name: value for name, value in trainer.state.log_history[0].items() if not name.endswith(timing)}
    return Step(gradients.steps[0], trained(loaded), logged)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(loss, id=name, marks=() if name in ("dpo", "nll per token") else pytest.mark.slow)
        for name, loss in LOSSES.items()
    ],
)
def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path: Path, loss: dict[str, Any]) -> None:
    whole = one_step(tmp_path / "whole", loss, 8, 1)
    others = {
        "4 x 2": one_step(tmp_path / "cut", loss, 2, 4),
        "4 x 2 in two passes": one_step(tmp_path / "two", loss, 2, 4, two_pass=True),
    }
    if loss is LOSSES["views missing"]:
        others |= {
            "packed rows": one_step(tmp_path / "packed", loss, 8, 1, records_per_row="fit"),
            "packed rows in chunks": one_step(
                tmp_path / "chunks", loss, 4, 2, records_per_row="fit", two_pass=True, rows_per_chunk=1
            ),
        }
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.gradients.values())
    for how, other in others.items():
        assert other.gradients.keys() == whole.gradients.keys()
        for name, gradient in whole.gradients.items():
            torch.testing.assert_close(other.gradients[name], gradient, rtol=1e-6, atol=1e-9, msg=f"{how}: {name}")
            torch.testing.assert_close(other.weights[name], whole.weights[name], rtol=1e-7, atol=1e-9)
        assert other.logged == pytest.approx(whole.logged, rel=1e-5, abs=1e-7), how


@pytest.mark.slow
def test_the_step_is_the_mean_over_its_records(tmp_path: Path) -> None:
    """Four records in one step have the mean of the gradients that each has alone."""
    loss, records = LOSSES["nll per sequence"], pairs(4)
    whole = one_step(tmp_path / "whole", loss, 4, 1, records=records)
    alone = [one_step(tmp_path / record.id, loss, 1, 1, records=[record]) for record in records]
    for name, gradient in whole.gradients.items():
        mean = torch.stack([step.gradients[name] for step in alone]).mean(0)
        torch.testing.assert_close(mean, gradient, rtol=1e-6, atol=1e-9)


def test_dropout_of_the_second_pass_is_that_of_the_first(tmp_path: Path) -> None:
    """With all records in one micro-batch both ways draw the same masks, so that they agree in spite of dropout."""
    one, two, without = (
        one_step(tmp_path / str(n), LOSSES["dpo"], 8, 1, two_pass=two_pass, lora=Lora(r=4, alpha=8, dropout=dropout))
        for n, (two_pass, dropout) in enumerate([(False, 0.5), (True, 0.5), (False, 0.0)])
    )
    name = next(name for name in one.gradients if "lora_B" in name)
    assert not torch.allclose(one.gradients[name], without.gradients[name])
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(two.gradients[name], gradient, rtol=1e-6, atol=1e-9)


def test_a_fresh_run_starts_at_its_closed_form(tmp_path: Path) -> None:
    trainer = make_trainer(loaded_model(), pairs(8), tmp_path, per_device_train_batch_size=4, max_steps=1)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["loss/dpo"] == pytest.approx(math.log(2), abs=1e-6)
    for name in ("rewards/margins", "rewards/chosen", "rewards/rejected", "diagnostics/kl_k3"):
        assert first[name] == pytest.approx(0, abs=1e-5), name
