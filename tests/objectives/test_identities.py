"""Losses that are others at some value of a parameter: the same value and the same gradient on the same step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdpo.objectives import make_objective
from mmdpo.views import ScoreTable, View
from objectives.samples import Mode, draw
from objectives.tables import Answer, loss_of, spread, sums_by_row, table

DPO = {"dpo": {"beta": 0.3}}
Config = dict[str, dict[str, Any]]


def value_and_gradient(config: Config, of: ScoreTable) -> tuple[Tensor, Tensor]:
    loss = loss_of(make_objective(config), of)
    return loss.detach(), torch.autograd.grad(loss, of.logp)[0]


def assert_same(first: Config, second: Config, of: ScoreTable) -> None:
    for one, other in zip(value_and_gradient(first, of), value_and_gradient(second, of), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


ALWAYS: dict[str, tuple[Config, Config]] = {
    "cdpo without noise": ({"cdpo": {"beta": 0.3, "eps": 0.0}}, DPO),
    "robust DPO without noise": ({"robust_dpo": {"beta": 0.3, "eps": 0.0}}, DPO),
    "LD-DPO that keeps the tail": ({"ld_dpo": {"beta": 0.3, "alpha": 1.0}}, DPO),
    "segments of weight 1": ({"ddpo_segment": {"beta": 0.3, "gamma": 1.0, "reduction": "sum"}}, DPO),
    "no guidance": ({"vdpo_guided": {"beta": 0.3, "gamma": 1.0}}, DPO),
    "beta that does not grow": ({"mm_dpo": {"beta": 0.3, "w_": 0.0}}, {"mm_dpo": {"beta": 0.3, "k": 1e-300}}),
    "no drift": ({"tdpo2": {"beta": 0.3, "alpha": 0.0}}, DPO),
    "no penalty": ({"dpop": {"beta": 0.3, "lam": 0.0}}, DPO),
    "no length": ({"r_dpo": {"beta": 0.3, "alpha": 0.0}}, DPO),
    "alpha 0 is the forward KL": ({"fdpo_alpha": {"beta": 0.3, "alpha": 0.0}}, {"fdpo_forward_kl": {"beta": 0.3}}),
    "CHiP's sigmoid alone": (
        {"chip_single_sigmoid": {"beta": 0.3, "tok_beta": 0.0, "media": "clean"}},
        {"it": {"term": "pair", "beta": 0.3}},
    ),
    "POVID with one negative": ({"povid": {"alpha": 0.3, "b1": 0.3, "b2": 0.0}}, {"it": {**DPO["dpo"], "term": "dpo"}}),
}


@pytest.mark.parametrize("mode", ["usual", "far", "ties"])
@pytest.mark.parametrize("name", ALWAYS)
def test_whatever_the_step(name: str, mode: Mode) -> None:
    first, second = ALWAYS[name]
    views = make_objective({**first, **second}).views
    assert_same(first, second, draw(3, views, mode, farthest=50.0).table)


def two_candidates(seed: int, **changed: Any) -> ScoreTable:
    """Pairs without ratings: the order is that of the candidates."""
    return replace(draw(seed, [View(0), View(1)], "unrated").table, **changed)


@pytest.mark.parametrize("name", ["plackett_luce", "s_dpo", "pairwise_all"])
def test_lists_of_two_are_dpo(name: str) -> None:
    assert_same({name: {"beta": 0.3}}, DPO, two_candidates(1))


@pytest.mark.parametrize("seed", range(3))
def test_ratings_that_leave_one_answer(seed: int) -> None:
    """tau towards 0: InfoNCA is S-DPO, and NCA of two candidates the loss for pairs."""
    of = draw(seed, [View(-3)], "usual").table
    assert_same({"infonca": {"beta": 0.3, "tau": 1e-5}}, {"s_dpo": {"beta": 0.3}}, of)
    pairs = two_candidates(seed)
    pairs = replace(pairs, score=torch.where(pairs.candidate == 0, 1.0, 0.0).double())
    assert_same({"nca_listwise": {"beta": 0.3, "tau": 1e-5}}, {"nca_pair": {"beta": 0.3}}, pairs)


def test_s_dpo_is_the_cross_entropy_of_the_best() -> None:
    of = table(Answer(0, str(k), spread(p), spread(r)) for k, (p, r) in enumerate([(-3, -4), (-5, -2), (-1, -1.5)]))
    rewards = 0.5 * torch.tensor([1.0, -3.0, 0.5], dtype=torch.float64)
    expected = -rewards.log_softmax(0)[0].item()
    assert loss_of(make_objective({"s_dpo": {"beta": 0.5}}), of).item() == pytest.approx(expected, rel=1e-12)


def test_anchored_rewards_without_any_gap_of_logits_are_dpo() -> None:
    config = {"tpo": {"beta": 0.3, "a": 0.5}}
    of = draw(0, make_objective(config).views, "usual").table
    flat = {"logit": torch.full_like(of.logp, 2.5)}
    of = replace(of, statistics=of.statistics | flat, ref_statistics=flat)
    (expected, _), (found, _) = value_and_gradient(DPO, of), value_and_gradient(config, of)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_anchored_rewards_without_a_reference() -> None:
    """As with a reference that gives every token probability 1 and reads nothing in the media."""
    config = {"tpo": {"beta": 0.3, "a": 0.5}}
    of = draw(0, make_objective(config).views, "usual").table
    sure = replace(of, ref_logp=torch.zeros_like(of.logp), ref_statistics={"logit": torch.zeros_like(of.logp)})
    expected = value_and_gradient(config, sure)
    free = value_and_gradient({"tpo": {**config["tpo"], "reference": False}}, of)
    for one, other in zip(free, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("ratio", [0.0, 1e-9, 2.0])
def test_no_penalty_while_the_chosen_answer_is_as_likely_as_before(ratio: float) -> None:
    """At policy == reference, where a run starts, the gradient is DPO's too."""
    of = table([Answer(0, "chosen", spread(ratio - 3), spread(-3)), Answer(0, "rejected", spread(-5), spread(-4))])
    assert_same({"dpop": {"beta": 0.3, "lam": 50.0}}, DPO, of)


def test_equal_ratings_leave_beta_as_it_is() -> None:
    of = table([Answer(0, "chosen", spread(-2), spread(-3), score=3.0), Answer(0, "rejected", spread(-5), score=3.0)])
    assert_same({"mm_dpo": {"beta": 0.3}}, DPO, of)
    offset = make_objective({"odpo": {}})
    assert offset.counts(of).tolist() == [0.0]  # but have no logarithm of their gap


def test_the_gradient_of_dpo() -> None:
    """d/dp(yw) = -beta sigmoid(-beta D) / B, and the opposite on the other side."""
    gaps = [1.7, -0.4, 0.0]
    rows = [
        [Answer(n, "chosen", spread(gap - 3), spread(-3)), Answer(n, "rejected", spread(-4, 7))]
        for n, gap in enumerate(gaps)
    ]
    of = table(answer for pair in rows for answer in pair)
    loss, gradient = value_and_gradient(DPO, of)
    slopes = [0.3 / (1 + math.exp(0.3 * gap)) / 3 for gap in gaps]
    assert sums_by_row(gradient, of) == pytest.approx([sign * s for s in slopes for sign in (-1, 1)], rel=1e-12)
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(-0.3 * gap)) for gap in gaps) / 3, rel=1e-12)
