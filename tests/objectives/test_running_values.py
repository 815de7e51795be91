"""Values that losses carry over steps, and beta-DPO's choice of pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmdpo.objectives import Objective, make_objective
from mmdpo.views import ScoreTable
from objectives.tables import Answer, loss_of, spread, table


def pairs(*gaps: float) -> ScoreTable:
    """Pairs with these differences of log-ratios."""
    rows = [
        (Answer(n, "chosen", spread(gap - 9), spread(-9)), Answer(n, "rejected", [-2.0])) for n, gap in enumerate(gaps)
    ]
    return table(answer for pair in rows for answer in pair)


def used(objective: Objective, of: ScoreTable) -> list[bool]:
    """Which pairs have a gradient."""
    (gradient,) = torch.autograd.grad(loss_of(objective, of), of.logp)
    return gradient[of.candidate == 0].any(1).tolist()


@pytest.mark.parametrize(("keep", "number"), [(1.0, 10), (0.8, 8), (0.25, 2), (0.01, 1)])
def test_the_loss_is_the_mean_over_the_pairs_that_are_kept(keep: float, number: int) -> None:
    gaps = [0.3 * n - 1.5 for n in range(10)]
    objective = make_objective({"beta_dpo": {"beta": 0.5, "alpha": 0.6, "m0": 0.25, "keep": keep}})
    kept = used(objective, pairs(*gaps))
    assert sum(kept) == number
    mine = torch.tensor([gap for gap, own in zip(gaps, kept, strict=True) if own], dtype=torch.float64)
    beta = max(0.5 * (1 + 0.6 * (mine.mean().item() - 0.25)), 1e-3)
    expected = torch.nn.functional.softplus(-beta * mine).mean().item()
    assert loss_of(objective, pairs(*gaps)).item() == pytest.approx(expected, rel=1e-12)


def test_pairs_far_from_the_running_mean_are_dropped() -> None:
    """By weight exp(-distance^2 / 2): 60 deviations away means never."""
    objective = make_objective({"beta_dpo": {"keep": 0.75}})
    for steps in range(20):
        objective.state["beta_dpo"]["steps"] = steps
        assert used(objective, pairs(0.5, 60.0, -0.5, 0.0)) == [True, False, True, True]


def test_pairs_are_kept_by_their_weight() -> None:
    """One of two at 0 and 2 deviations: odds 1 to exp(-2), over 400 steps."""
    objective = make_objective({"beta_dpo": {"keep": 0.5}})
    near = 0
    for steps in range(400):
        objective.state["beta_dpo"]["steps"] = steps
        near += used(objective, pairs(0.0, 2.0))[0]
    assert near / 400 == pytest.approx(1 / (1 + 2.718281828**-2), abs=0.05)  # 3 standard errors


def test_the_choice_is_that_of_the_step() -> None:
    gaps = [0.1 * n for n in range(20)]
    objective = make_objective({"beta_dpo": {"keep": 0.5}})
    first = used(objective, pairs(*gaps))
    assert first == used(objective, pairs(*gaps))
    objective.advance(pairs(*gaps))
    assert objective.state["beta_dpo"]["steps"] == 1 and used(objective, pairs(*gaps)) != first


def test_beta_has_a_floor() -> None:
    objective = make_objective({"beta_dpo": {"beta": 0.1, "floor": 0.02}})
    assert objective.watch(pairs(-50.0, -70.0))["beta"].tolist() == pytest.approx([0.02, 0.02])


def test_each_loss_has_running_values_of_its_own() -> None:
    """Two shifts with another beta each; a loss without running values has none."""
    objective = make_objective({"bco": {"beta": 1.0}, "other": {"term": "bco", "beta": 0.5}, "dpo": {}})
    of = table([Answer(0, "0", spread(-3), spread(-5), label=1), Answer(1, "0", spread(-3), spread(-4), label=-1)])
    objective.advance(of)
    objective.advance(of)
    assert objective.state == {"bco": {"sum": 6.0, "count": 4.0}, "other": {"sum": 3.0, "count": 4.0}}
    fresh = make_objective("bco")
    assert fresh.state == {"bco": {"sum": 0.0, "count": 0.0}}


def test_a_restored_state_goes_on() -> None:
    of = table([Answer(0, "0", spread(-3), spread(-5), label=1), Answer(1, "0", spread(-3), spread(-4), label=-1)])
    one = make_objective("bco")
    one.advance(of)
    other = Objective(one.terms, {name: dict(values) for name, values in one.state.items()})
    later = of.select(of.example == 0)  # its own reward is 0.2, the mean of all three 0.5 / 3
    expected = torch.nn.functional.softplus(torch.tensor(0.5 / 3 - 0.2, dtype=torch.float64)).item()
    assert [loss_of(it, later).item() for it in (one, other)] == pytest.approx([expected] * 2, rel=1e-12)


def test_kto_uses_mismatched_answers_without_gradient() -> None:
    of = table([Answer(0, "0", [-3.0], [-5.0], label=1), Answer(0, "mismatched", [-2.0], [-4.0])])
    objective = make_objective({"kto": {"beta": 1.0}})
    (gradient,) = torch.autograd.grad(loss_of(objective, of), of.logp)
    assert gradient[:, 0].tolist() == [-0.25, 0.0]  # R = z0 = 2: the slope of a sigmoid at 0
    below = replace(of, ref_logp=of.logp.detach() + 3)
    assert objective.watch(below)["shift"].tolist() == [0.0]


def test_token_weights_below_one_in_all_are_counted() -> None:
    of = table([Answer(0, "chosen", [-3.0, -1.0], weight=[0.25, 0.125])])
    objective = make_objective("sft")
    assert objective.counts(of).tolist() == [0.375]
    assert loss_of(objective, of).item() == pytest.approx((0.75 + 0.125) / 0.375, rel=1e-12)
