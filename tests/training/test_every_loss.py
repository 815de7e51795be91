"""What every registered loss must keep: one optimizer step is one number, and moves the policy alone.

A loss that is registered later is tested here too, without a line in this file.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmdpo.encoding.companions import Companions
from mmdpo.encoding.planning import outline
from mmdpo.launch import _free_port
from mmdpo.objectives import Objective, make_objective
from mmdpo.reference import make_reference
from mmdpo.scoring import score
from mmdpo.views import MISMATCHED, ScoreTable
from tiny import exact_float64
from training import every_loss
from training.common import make_trainer
from training.every_loss import Loss, Step, losses, model, rated, records_for, take

MECHANISMS = {
    "pair": "dpo_sigmoid",
    "tokens of the step": "mpo_internvl",
    "marked tokens": "sentinel",
    "single answers": "nca_pair",
    "mismatched answers": "kto",
    "running mean": "bco_unpaired",
    "a beta for the step": "beta_dpo_batch",
    "sorted over the step": "aot_unpaired",
    "lists": "plackett_luce",
    "scores as targets": "infonca",
    "ratings": "hsa_dpo",
    "statistics of the policy": "wpo",
    "statistics of both": "tdpo2",
    "logits of both, corrupted media": "tpo_visual_anchored",
    "corrupted media": "mdpo",
    "partners": "symmpo",
    "no media and swapped media": "svco",
    "a list of media": "lpoi",
}
"""One loss for each way in which records of a step can come together; `QUICK` ones are in the default suite."""
QUICK = ("pair", "tokens of the step", "mismatched answers", "a beta for the step", "lists", "corrupted media")
SEED = 6
"""Of a model whose policy makes answers to other prompts likelier than its reference does."""
WAYS: dict[str, Loss] = {
    "4 x 2": {},
    "4 x 2 in two passes": {"two_pass": True},
    "4 x 2 row by row": {"rows_per_chunk": 1},
}


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> Iterator[None]:
    """The trainer collects garbage after every run: what is there before is left out of it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def assert_equal_steps(step: Step, whole: Step, how: str) -> None:
    assert step.gradients.keys() == whole.gradients.keys(), how
    for name, gradient in whole.gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            step.gradients[name], gradient, rtol=1e-6, atol=1e-9 + 1e-7 * scale, msg=f"{how}: {name}"
        )
    assert step.logged == pytest.approx(whole.logged, rel=1e-5, abs=1e-7), how


def assert_moves_the_policy_alone(step: Step) -> None:
    assert step.drift == 0, "the reference has changed"
    assert step.moved <= step.gradients.keys(), "a parameter without a gradient has changed"
    assert all("lora_" in name for name in step.gradients), "the gradient reaches more than the policy's adapter"
    assert max(float(gradient.abs().max()) for gradient in step.gradients.values()) > 1e-4, "there is no gradient"
    assert {name for name, gradient in step.gradients.items() if gradient.any()} == step.moved


def assert_is_one_number(folder: Path, name: str, ways: dict[str, Loss]) -> None:
    records = records_for(make_objective({name: {}}))
    whole = take(folder / "whole", name, 8, 1, records=records)
    assert_moves_the_policy_alone(whole)
    assert {f"loss/{term}" for term in make_objective({name: {}}).terms} <= whole.logged.keys()
    for how, options in ways.items():
        assert_equal_steps(take(folder / how, name, 2, 4, records=records, **options), whole, how)
    # the sampler draws places: in another order other records share a micro-batch
    turned = take(folder / "turned", name, 2, 4, records=[records[n] for n in (6, 3, 1, 7, 0, 5, 2, 4)])
    assert_equal_steps(turned, whole, "in another order")


@pytest.mark.parametrize(
    "name",
    [pytest.param(loss, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, loss in MECHANISMS.items()],
)
def test_a_step_is_one_number(tmp_path: Path, name: str) -> None:
    assert_is_one_number(tmp_path, name, {"4 x 2 row by row": WAYS["4 x 2 row by row"]})


@pytest.mark.slow
@pytest.mark.parametrize("name", losses())
def test_a_step_of_every_loss_is_one_number(tmp_path: Path, name: str) -> None:
    assert_is_one_number(tmp_path, name, WAYS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_are_one(tmp_path: Path) -> None:
    """Two processes of 2 x 2 records, every loss in one launch: the same gradients on both, and those of 8 x 1."""
    port = str(_free_port())
    running = [
        subprocess.Popen(
            [sys.executable, every_loss.__file__, str(tmp_path), *losses()],
            env=os.environ
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(Path(__file__).parents[1])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    for name in losses():
        first, second = (load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in range(2))
        for key, gradient in first.items():
            assert gradient.equal(second[key]), f"{name}: {key} differs between the processes"
        said, other = (json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(2))
        assert said["states"] == other["states"], name
        whole = take(tmp_path / "whole", name, 8, 1, steps=len(said["states"]))
        assert_equal_steps(replace(whole, gradients=first, logged=said["logged"]), whole, f"{name} in two processes")
        assert said["states"] == [{term: pytest.approx(values) for term, values in one.items()} for one in whole.states]


@pytest.mark.parametrize("loss", [*({name: {}} for name in losses()), {"beta_dpo": {"keep": 0.5}}], ids=str)
def test_rows_and_records_may_stand_in_any_order(loss: dict[str, Any]) -> None:
    """The number and its derivatives belong to the rows, wherever they stand; counts need no log-probabilities."""
    objective = make_objective(loss)
    records = records_for(objective)
    table = random_scores(outline(records, objective.views, Companions(records)), objective.statistics)
    order = list(range(len(table.logp)))
    random.Random(0).shuffle(order)
    counts = objective.counts(replace(table, logp=torch.full_like(table.logp, torch.nan), ref_logp=None, statistics={}))
    assert counts.isfinite().all() and (counts > 1).all()
    value, gradients = value_and_gradients(objective, table, counts)
    number = torch.tensor([3, 7, 0, 5, 1, 6, 2, 4])  # records that come in another order have other numbers
    turned = replace(table, example=number[table.example]).select(torch.tensor(order))
    other, moved = value_and_gradients(objective, turned, counts)
    assert other == pytest.approx(value, rel=1e-9)
    assert any(gradient.any() for gradient in gradients)
    for gradient, there in zip(gradients, moved, strict=True):
        torch.testing.assert_close(there, gradient[order], rtol=1e-6, atol=1e-12)


def value_and_gradients(objective: Objective, table: ScoreTable, counts: Tensor) -> tuple[float, list[Tensor]]:
    """The loss of a table, and its derivatives with respect to log-probabilities and statistics."""
    columns = {"logp": table.logp, **table.statistics}
    leaves = {name: values.detach().clone().requires_grad_() for name, values in columns.items()}
    of = replace(table, logp=leaves["logp"], statistics={name: leaves[name] for name in table.statistics})
    value = objective(of, counts)[0]
    gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return value.item(), [
        torch.zeros_like(x) if g is None else g for g, x in zip(gradients, leaves.values(), strict=True)
    ]


def random_scores(table: ScoreTable, statistics: tuple[str, ...]) -> ScoreTable:
    """The table with three tokens an answer and random numbers of a model for each."""
    generator = torch.Generator().manual_seed(0)

    def numbers(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(table.logp), 3, generator=generator, dtype=torch.float64)

    drawn = {"token_kl": (0.0, 1.0), "sum_squared_probability": (0.1, 0.9), "entropy": (0.0, 2.0)}
    values, reference = (
        {statistic: numbers(*drawn.get(statistic, (-3.0, 3.0))) for statistic in statistics} for _ in range(2)
    )
    mask = torch.ones(len(table.logp), 3, dtype=torch.bool)
    return replace(
        table,
        logp=numbers(-3, 0),
        ref_logp=numbers(-3, 0),
        mask=mask,
        weight=mask.double(),
        marks=table.marks & torch.tensor([True, False, True]),
        statistics=values,
        ref_statistics=reference,
    )


def test_the_reference_point_of_kto_is_that_of_the_step(tmp_path: Path) -> None:
    """Its mean over the mismatched answers of all eight records, even if every micro-batch has one alone."""
    records, loss = rated(), {"kto": {"beta": 0.3}}
    loaded = model(SEED)
    trainer = make_trainer(loaded, records, tmp_path / "oracle", loss=loss)
    batch = trainer.collator(list(enumerate(records)))
    with exact_float64(), torch.no_grad():
        ratios = score(loaded.model, batch) - make_reference(loaded).score(loaded.model, batch)
    rows = batch["candidate"] == MISMATCHED
    assert rows.sum() == len(records)
    expected = 0.3 * float((ratios * batch["weight"])[rows].sum(-1).mean())
    assert expected > 0.01, "the case is no case: the reference point is cut off at 0"
    for batch_size in (1, 8):
        step = take(tmp_path / f"{batch_size}", loss, batch_size, 8 // batch_size, records=records, seed=SEED)
        assert step.logged["diagnostics/shift"] == pytest.approx(expected, rel=1e-6)
