"""Every preset against the oracle: values and gradients on random steps, to 1e-9."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from mmdpo.objectives import make_objective
from mmdpo.objectives.presets import PRESETS
from objectives.agreement import agrees
from objectives.oracle import Record
from objectives.oracle_sums import LOSSES, rewards_seen
from objectives.samples import MODES, Mode, draw

RANGES = {
    "beta": (0.01, 2.0),
    "eps": (0.01, 0.4),
    "tau": (0.05, 0.9),
    "delta": (-1.0, 1.0),
    "lam": (0.1, 5.0),
    "gamma": (0.5, 5.0),
    "alpha": (0.05, 0.9),
    "m0": (-1.0, 1.0),
    "w_": (0.0, 1.0),
    "k": (0.1, 2.0),
    "lam_d": (0.5, 2.0),
    "lam_u": (0.5, 2.0),
    "a": (0.1, 1.0),
    "gam": (1e-4, 0.5),
    "tok_beta": (0.05, 1.0),
    "b1": (0.05, 1.0),
    "b2": (0.05, 1.0),
    "copo": (0.1, 1.0),
    "wp": (0.1, 1.0),
    "wq": (0.1, 1.0),
    "wg": (0.1, 1.0),
}
"""Where the values of a parameter are drawn; a name that is not here (``media``) keeps its default."""
FARTHEST = {"fdpo_forward_kl": 200.0, "fdpo_alpha": 200.0}
"""Beyond, exponentials go on as straight lines: see the tests of links."""


KINKS = {("dpop", "same"), ("aot_paired", "ties"), ("aot_unpaired", "ties")}
"""Where a loss has no derivative: its difference quotient is that of neither side."""


def drawn(name: str, seed: int) -> dict[str, Any]:
    """Parameters of a preset: its own at first, then random ones."""
    parameters = dict(PRESETS[name].parameters)
    rng = random.Random(f"{name} {seed}")
    for key in parameters:
        if seed and key in RANGES and not (parameters[key] == "running" and seed % 2):
            parameters[key] = rng.uniform(*RANGES[key])
        if seed and key == "topk":
            parameters[key] = rng.randint(1, 4)
    return parameters


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets(name: str, mode: Mode) -> None:
    for seed in range(3):
        parameters = drawn(name, seed)
        objective = make_objective({name: parameters})
        step = draw(seed, objective.views, mode, FARTHEST.get(name, 1e4), severity=name == "hsa_dpo")
        agrees(objective, LOSSES[name], step, parameters, (name, mode) in KINKS)


def test_the_oracle_has_every_preset() -> None:
    assert set(LOSSES) == set(PRESETS)


@pytest.mark.parametrize("name", ["bco_pair", "bco_unpaired"])
def test_the_running_shift_over_steps(name: str) -> None:
    """Every step counts all rewards up to its own."""
    objective = make_objective(name)
    before: list[Any] = []
    for seed in range(4):
        step = draw(seed, objective.views, "missing")
        parameters = {"beta": 0.1, "delta": "running", "before": list(before)}
        agrees(objective, LOSSES[name], step, parameters)
        before += rewards_seen(step.records, SimpleNamespace(**parameters))
        objective.advance(step.table)
    assert objective.state[name]["count"] == len(before)
    assert objective.state[name]["sum"] == pytest.approx(float(sum(before)), rel=1e-12)


def raw_gaps(records: Sequence[Record]) -> list[float]:
    pairs = [e.texts for e in records if {"chosen", "rejected"} <= set(e.texts)]
    ratios = [
        {side: sum(a * (p - r) for a, p, r in zip(t[side].a, t[side].p, t[side].r, strict=True)) for side in t}
        for t in pairs
    ]
    return [ratio["chosen"] - ratio["rejected"] for ratio in ratios]


def test_the_running_mean_of_beta_dpo_over_steps() -> None:
    """m0 moves by a tenth of the way to each step's mean gap, after the step."""
    objective = make_objective({"beta_dpo": {"m0": 0.5}})
    m0, deviation = 0.5, 1.0
    for seed in range(4):
        step = draw(seed, objective.views, "usual")
        agrees(objective, LOSSES["beta_dpo_batch"], step, {"beta": 0.1, "alpha": 0.6, "m0": m0})
        gaps = raw_gaps(step.records)
        mean = sum(gaps) / len(gaps)
        m0 = 0.9 * m0 + 0.1 * mean
        deviation = 0.9 * deviation + 0.1 * (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
        objective.advance(step.table)
        expected = {"m0": m0, "deviation": deviation, "steps": seed + 1}
        assert objective.state["beta_dpo"] == pytest.approx(expected, rel=1e-12)
