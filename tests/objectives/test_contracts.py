"""What every loss promises, for everything that is registered: also for what is registered later."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdpo import registry
from mmdpo.objectives import Objective, make_objective
from mmdpo.objectives.presets import PRESETS, Preset
from mmdpo.views import EVERY, ScoreTable, View
from objectives.tables import Answer, loss_of, table

L = math.log(2)
K = 4
RECORDS = 3
STATISTICS = ("token_kl", "logit", "entropy", "sum_squared_probability")
SCORES = [-0.5 - 1.5 * k for k in range(K)]
"""Ratings of the candidates; below 0, so that they may be severities."""
LENGTHS = [3, 5, 2, 4]


def discounted() -> float:
    """The sum of LiPO's weights where all rewards are equal: ranks are places then."""
    pairs = [(i, j) for i in range(K) for j in range(i + 1, K)]
    return sum((2 ** SCORES[i] - 2 ** SCORES[j]) * (1 / math.log(2 + i) - 1 / math.log(2 + j)) for i, j in pairs)


ONE_SIGMOID = """
dpo_sigmoid cdpo robust_dpo dpop aot_paired aot_unpaired fdpo_js fdpo_forward_kl fdpo_alpha sigmoid_norm
ld_dpo beta_dpo_batch mm_dpo hsa_dpo tdpo2 ddpo_segment sentinel token_weighted_dpo tpo_visual_anchored
cond_pref anchor_chosen anchor_rejected chip_single_sigmoid povid_paper povid_code bco_unpaired pairwise_all
amp_multilevel pair point reward_scaled_pair severity_pair token_kl_pair sorted_pair batch_beta_pair
anchored_pair all_pairs
"""
AT_REFERENCE: dict[str, float] = {
    **dict.fromkeys(ONE_SIGMOID.split(), L),
    **dict.fromkeys(["ipo_avg", "ipo_sum"], 1 / (2 * 0.1) ** 2),
    **dict.fromkeys(["seq_forward_kl", "token_kl", "drift", "consistency"], 0.0),
    **dict.fromkeys(["kto", "apo_zero_unpaired", "feedback"], 0.5),
    **dict.fromkeys(["odpo_offset", "offset_pair"], math.log1p(1.5)),
    **dict.fromkeys(["plackett_luce", "ranking"], math.log(24)),
    **dict.fromkeys(["infonca", "soft_ranking", "s_dpo"], math.log(4)),
    "plackett_luce_topk": math.log(4 * 3),
    "lipo_lambda": L * discounted(),
    "hinge": 1.0,
    "sppo_hard": 2 / (2 * 0.1) ** 2,
    "nca_pair": 2 * L,
    "nca_listwise": 2 * L,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "bco_pair": K * L,  # all four answers of a record have labels here
    "exo_pair": -L - (math.log(0.999) + math.log(0.001)) / 2,
    "discopop": (L + 1) / 2,
    "r_dpo": math.log1p(math.exp(-0.01 * (LENGTHS[0] - LENGTHS[1]))),
    "mdpo": 3 * L,
    "rdpo_realign": 2 * L,
    "chip": (3 + 0.1) * L,
    "symmpo": (1 + 2 * 0.5 + 2) * L,
    "svco": 4 * L,
    "lpoi": 2 * L + math.log(120),
    "opa_dpo_core": (2 + 2 * 0.2) * L,
}
"""Losses where policy and reference are equal, worked by hand."""
OF_VALUES = """
slic_hf simpo orpo cpo rpo_nll stic sft_nll_seq_mean sft_nll_token_mean mpo_internvl likelihood entropy wpo
policy_weighted_pair vdpo_guided guided_pair
"""
"""Losses that depend on the log-probabilities themselves, and not only on how they changed."""

NAMES = sorted({target.name if isinstance(target := registry.terms.get(n), Preset) else n for n in registry.terms})
NAMES = [name for name in NAMES if registry.terms.get(name) not in [registry.terms.get(n) for n in NAMES if n < name]]


def rows(views: tuple[View, ...], equal: bool = False, gap: float | None = None, score: Any = None) -> Iterator[Answer]:
    """Every view of each record.

    Args:
        views: What the loss asks for.
        equal: The policy is the reference.
        gap: Log-ratio of each answer in nats; None: a little random one.
        score: One rating for all.
    """
    names = {
        str(View(k, view.media)) for view in views for k in (range(K) if view.candidate == EVERY else [view.candidate])
    }
    for n in range(RECORDS):
        for name in sorted(names):
            k = View.parse(name).candidate
            length = LENGTHS[k] if k >= 0 else 3
            logp, ref = (-torch.rand(2, length, dtype=torch.float64) - 0.1).tolist()
            if equal:
                logp = ref
            elif gap is not None:
                low = [value - abs(gap) / length for value in ref]
                logp, ref = (low, ref) if gap < 0 else (ref, low) if gap > 0 else (ref, ref)
            statistics = {what: torch.rand(length, dtype=torch.float64).tolist() for what in STATISTICS}
            if equal:
                statistics["token_kl"] = [0.0] * length
            yield Answer(
                n,
                name,
                logp,
                ref,
                marks=[t % 2 == 0 for t in range(length)],
                score=SCORES[k] if score is None and k >= 0 else (math.nan if score is None else score),
                label=0 if k < 0 else 1 - 2 * (k % 2),
                statistics=statistics,
                ref_statistics={"logit": statistics["logit"] if equal else [0.5] * length},
            )


def given(name: str) -> Objective:
    return make_objective({name: {}})


@pytest.mark.parametrize("name", NAMES)
def test_where_policy_and_reference_are_equal(name: str) -> None:
    objective = given(name)
    losses = [loss_of(objective, table(rows(objective.views, equal=True))).item() for _ in range(2)]
    assert all(map(math.isfinite, losses))
    if name in AT_REFERENCE:
        assert losses == pytest.approx([AT_REFERENCE[name]] * 2, rel=1e-12, abs=1e-15)


def test_every_shipped_loss_has_its_closed_form_or_none() -> None:
    shipped = {name for name in NAMES if name in PRESETS or registry.terms.get(name).__module__.startswith("mmdpo.")}
    assert set(AT_REFERENCE) | set(OF_VALUES.split()) == shipped
    assert not set(AT_REFERENCE) & set(OF_VALUES.split())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_policy_and_never_the_reference(name: str) -> None:
    objective = given(name)
    of = table(rows(objective.views))
    assert of.ref_logp is not None
    loss = loss_of(objective, of)
    inputs = [of.logp, *of.statistics.values()]
    gradients = torch.autograd.grad(loss, inputs, materialize_grads=True, retain_graph=True)
    assert any(gradient.any() for gradient in gradients)
    assert not any(gradient[~of.mask].any() for gradient in gradients), "padding has a gradient"
    reference = torch.autograd.grad(
        loss, [of.ref_logp, *of.ref_statistics.values()], allow_unused=True, materialize_grads=True
    )
    assert not any(gradient.any() for gradient in reference)
    if not objective.needs_reference:
        assert loss_of(objective, replace(of, ref_logp=None, ref_statistics={})).item() == loss.item()


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_finite_at_any_distance(name: str, dtype: torch.dtype) -> None:
    objective = given(name)
    for gap in (-1e4, -1e2, 0.0, 1e2, 1e4):
        for score in (None, 1.0, -1.0, math.nan):
            answers = list(rows(objective.views, gap=gap, score=score))
            turned = [replace(a, logp=a.ref, ref=a.logp) if n % 2 else a for n, a in enumerate(answers)]
            for of in (table(answers, dtype), table(turned, dtype)):
                loss = loss_of(objective, of)
                inputs = [of.logp, *of.statistics.values()]
                gradients = torch.autograd.grad(loss, inputs, materialize_grads=True)
                assert loss.dtype == torch.float32 and loss.isfinite(), (gap, score)
                assert all(gradient.isfinite().all() for gradient in gradients), (gap, score)


def renamed(of: ScoreTable, order: Tensor) -> ScoreTable:
    """The same records with other numbers, rows in another order, media variants under other indices."""
    places = torch.randperm(len(of.media_names))
    names = [""] * len(of.media_names)
    for old, new in enumerate(places.tolist()):
        names[new] = of.media_names[old]
    numbers = torch.randperm(RECORDS)
    other = replace(of, example=numbers[of.example], media=places[of.media], media_names=tuple(names))
    return other.select(order)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_rows_records_and_media_does_not_matter(name: str) -> None:
    objective = given(name)
    of = table(rows(objective.views))
    order = torch.randperm(len(of.example))
    loss = loss_of(objective, of)
    (gradient,) = torch.autograd.grad(loss, of.logp, materialize_grads=True, retain_graph=True)
    other = loss_of(objective, renamed(of, order))
    (theirs,) = torch.autograd.grad(other, of.logp, materialize_grads=True)
    torch.testing.assert_close(other, loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(theirs, gradient, rtol=1e-10, atol=1e-14)


ALONE = [name for name in NAMES if not given(name).coupled]
"""Losses of single records."""


def test_what_couples_the_records_of_a_step() -> None:
    coupled = {"aot_paired", "aot_unpaired", "sorted_pair", "beta_dpo_batch", "batch_beta_pair", "kto"}
    coupled |= {"bco_pair", "bco_unpaired", "mpo_internvl"}
    assert coupled <= set(NAMES) - set(ALONE)


@pytest.mark.parametrize("name", ALONE)
def test_micro_batches_sum_to_the_step(name: str) -> None:
    objective = given(name)
    of = table(rows(objective.views))
    of = of.select((of.example == 0) | (torch.rand(len(of.example)) > 0.2))  # some answers are not there
    pieces = [of.select(of.example == n) for n in range(RECORDS)]
    counts = torch.stack([objective.counts(piece) for piece in pieces]).sum(0)
    torch.testing.assert_close(counts, objective.counts(of))
    total = torch.stack([objective(piece, counts)[0] for piece in pieces]).sum()
    loss = loss_of(objective, of)
    torch.testing.assert_close(total, loss, rtol=1e-12, atol=1e-14)
    grads = [torch.autograd.grad(value, of.logp, materialize_grads=True)[0] for value in (total, loss)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_counts_need_no_log_probabilities(name: str) -> None:
    """They are taken before the forward; a record without one of its answers is not counted."""
    objective = given(name)
    of = table(rows(objective.views))
    nothing = replace(of, logp=torch.full_like(of.logp, math.nan), ref_logp=None, statistics={}, ref_statistics={})
    counts = objective.counts(of)
    assert counts.tolist() == objective.counts(nothing).tolist() and (counts > 0).all()
    assert objective.counts(of.select(of.example < 0)).tolist() == [0] * len(counts)
    for (full, term), count in zip(objective.terms.items(), counts, strict=True):
        first = term.count(of.select(of.example == 0))
        for view in term.views():
            lacks = of.where(view) & (of.example == 0)
            if view.candidate != View.parse("mismatched").candidate:
                assert term.count(of.select(~lacks)) == count - first, f"{full} without {view}"


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_step_costs_nothing(name: str) -> None:
    objective = given(name)
    of = table(rows(objective.views))
    loss = loss_of(objective, of.select(of.example < 0))
    (gradient,) = torch.autograd.grad(loss, of.logp)
    assert loss.item() == 0 and not gradient.any()
    objective.advance(of.select(of.example < 0))
    assert all(math.isfinite(value) for state in objective.state.values() for value in state.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_a_loss_says_of_itself(name: str) -> None:
    objective = given(name)
    of = table(rows(objective.views))
    for what, values in objective.watch(of).items():
        assert values.ndim == 1 and values.isfinite().all() and not values.requires_grad, what
    described = objective.describe()
    assert set(described) == set(objective.terms) and json.dumps(described)
    assert all(fields["formula"] and fields["source"] for fields in described.values())
    for term in objective.terms.values():
        with pytest.raises(FrozenInstanceError):
            term.weight = 2.0


def test_other_names_mean_the_same() -> None:
    for name in registry.terms:
        target = registry.terms.get(name)
        if isinstance(target, Preset):
            theirs = list(make_objective({"it": {"term": target.name}}).terms.items())
            assert list(make_objective({"it": {"term": name}}).terms.items()) == theirs
