"""What terms can do beyond the presets, against the oracle: links, transforms, weights of tokens, rows, sides, caps."""

# ruff: noqa: E741 - w and l are the log-ratios of the papers
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmdpo.objectives import make_objective
from objectives.agreement import agrees
from objectives.oracle import (
    K,
    LeftOut,
    Number,
    P,
    R,
    Record,
    S,
    Text,
    any_marked,
    disco,
    exo,
    exp,
    guided,
    head,
    log,
    ls,
    marked_R,
    mean,
    mp,
    nll,
    odds,
    power,
    rated,
    severity,
    sg,
    size,
    visual,
    wpo_weight,
)
from objectives.oracle_sums import graded, labelled, ordered_pairs, plackett_luce, softmax
from objectives.samples import draw

half, third = mp.mpf("0.5"), mp.mpf("0.3")


def D(e: Record) -> Number:
    return R(e["chosen"]) - R(e["rejected"])


def relu(x: Number) -> Number:
    return max(mp.mpf(0), x)


def part(t: Text, marked: Number, unmarked: Number) -> Number:
    total, weights = marked_R(t, marked, unmarked)
    return total / weights if weights else mp.mpf(0)


def k3(t: Text) -> Number:
    return mp.fsum(a * (exp(r - p) - 1 + p - r) for a, p, r in zip(t.a, t.p, t.r, strict=True))


PAIRS: dict[str, tuple[dict[str, Any], Callable[[Record], Number]]] = {
    "robust": ({"link": {"name": "robust", "noise": 0.3}}, lambda e: (-0.7 * ls(D(e) / 2) + 0.3 * ls(-D(e) / 2)) / 0.4),
    "smoothed": (
        {"link": {"name": "sigmoid", "label_smoothing": 0.25}},
        lambda e: -(3 * ls(D(e) / 2) + ls(-D(e) / 2)) / 4,
    ),
    "hinge": ({"link": {"name": "hinge", "target": 2.5}}, lambda e: relu(2.5 - D(e) / 2)),
    "square": ({"link": {"name": "square", "tau": 0.25}}, lambda e: (D(e) / 2 - 2) ** 2),
    "bounded": ({"link": "bounded"}, lambda e: 1 - S(D(e) / 2)),
    "exo": ({"link": {"name": "exo", "noise": 0.125}}, lambda e: exo(D(e) / 2, mp.mpf("0.125"))),
    "disco": ({"link": {"name": "disco", "tau": 1.0}}, lambda e: disco(D(e) / 2, 1)),
    "alpha": (
        {"transform": {"name": "alpha", "alpha": 0.25}},
        lambda e: -ls((power(R(e["chosen"]), 0.25) - power(R(e["rejected"]), 0.25)) / 2),
    ),
    "log odds": (
        {"transform": "log_odds", "reference": False, "reduction": "mean"},
        lambda e: -ls((odds(e["chosen"]) - odds(e["rejected"])) / 2),
    ),
    "jensen shannon": (
        {"transform": "jensen_shannon", "link": "hinge"},
        lambda e: relu(1 - (ls(R(e["chosen"])) - ls(R(e["rejected"]))) / 2),
    ),
    "margins": (
        {"margin": 0.5, "length_margin": 0.25},
        lambda e: -ls(D(e) / 2 - 0.5 + (len(e["chosen"]) - len(e["rejected"])) * mp.mpf("0.25")),
    ),
    "penalty": ({"penalty": 3.0, "link": "bounded"}, lambda e: 1 - S((D(e) - 3 * relu(-R(e["chosen"]))) / 2)),
    "reference-free": ({"reference": False}, lambda e: -ls((P(e["chosen"]) - P(e["rejected"])) / 2)),
    "marks": (
        {"marked": 0.5, "unmarked": 2.0},
        lambda e: -ls((marked_R(e["chosen"], half, 2)[0] - marked_R(e["rejected"], half, 2)[0]) / 2),
    ),
    "marked alone, mean": (
        {"unmarked": 0.0, "reduction": "mean"},
        lambda e: -ls((part(any_marked(e)["chosen"], 1, 0) - part(e["rejected"], 1, 0)) / 2),
    ),
    "rows": (
        {"better": "2", "worse": "chosen/blank", "media": "crop"},
        lambda e: -ls((R(e["2/crop"]) - R(e["chosen/blank"])) / 2),
    ),
    "scales and further rows": (
        {"better_scale": 2.0, "worse_scale": 0.5, "plus": {"2": -0.25, "partner": 0.75}},
        lambda e: (
            -ls((2 * R(e["chosen"]) - R(e["rejected"]) / 2 - R(e["2"]) / 4 + R(e["partner"]) * mp.mpf("0.75")) / 2)
        ),
    ),
    "tail of all rows": (
        {"tail": 0.5, "plus": {"chosen": 1.0}},
        lambda e: -ls((2 * head(e["chosen"], e["rejected"], half) - head(e["rejected"], e["chosen"], half)) / 2),
    ),
    "linear offset": ({"term": "offset_pair", "alpha": 0.5, "scale": "linear"}, lambda e: -ls(D(e) / 2 - rated(e) / 2)),
    "capped severities": (
        {"term": "severity_pair", "cap": 2.0},
        lambda e: -ls((severity(e, 2)[0] * R(e["chosen"]) - severity(e, 2)[1] * R(e["rejected"])) / 2),
    ),
    "severity of the rejected side, with a penalty": (
        {"term": "severity_pair", "sides": "rejected", "penalty": 2.0},
        lambda e: -ls((R(e["chosen"]) - severity_of_rejected(e) * R(e["rejected"]) - 2 * relu(-R(e["chosen"]))) / 2),
    ),
    "drift beside scales": (
        {"term": "token_kl_pair", "alpha": 0.5, "worse_scale": 2.0, "margin": 0.25},
        lambda e: -ls((R(e["chosen"]) - 2 * R(e["rejected"])) / 2 - 0.25 - (K(e["rejected"]) - K(sg(e["chosen"]))) / 4),
    ),
    "capped weight": (
        {"term": "policy_weighted_pair", "cap": 0.05, "link": "bounded"},
        lambda e: min(mp.mpf(0.05), wpo_weight(e["chosen"]) * wpo_weight(e["rejected"])) * (1 - S(D(e) / 2)),
    ),
    "guided, with a further row": (
        {"term": "guided_pair", "gamma": 3.0, "plus": {"2": -1.0}},
        lambda e: -ls((guided(e, "chosen", 3) - guided(e, "rejected", 3) - R(e["2"])) / 2),
    ),
    "anchored, marked, one side": (
        {"term": "anchored_pair", "corrupted": "crop", "anchor": 0.25, "worse_scale": 0.5},
        lambda e: (
            -ls(
                (
                    visual(e["chosen"], e["chosen/crop"], 0.25, 1)
                    - visual(e["rejected"], e["rejected/crop"], 0.25, -1) / 2
                )
                / 2
            )
        ),
    ),
}
"""Fields of a pair with beta 0.5, and its loss for one record."""


def severity_of_rejected(e: Record) -> Number:
    if not e.scores[1] <= 0:
        raise LeftOut
    return mp.mpf(min(-e.scores[1], 10))


@pytest.mark.parametrize("mode", ["usual", "same", "missing"])
@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name: str, mode: Any) -> None:
    fields, formula = PAIRS[name]
    objective = make_objective({"it": {"term": "pair", "beta": 0.5, **fields}})
    for seed in range(2):
        step = draw(seed, objective.views, mode, severity="severit" in name)
        kink = mode == "same" and "penalty" in fields
        agrees(objective, lambda records, _: mean(records, formula), step, {}, kink)


LISTS: dict[str, tuple[dict[str, Any], Callable[[Record], Number]]] = {
    "ranking of rows": (
        {"term": "ranking", "order": ["rejected", "chosen", "chosen/crop"], "beta": 0.5, "top": 2},
        lambda e: plackett_luce(
            [(-k, R(e[n]) / 2, None) for k, n in enumerate(["rejected", "chosen", "chosen/crop"])], 2
        ),
    ),
    "all pairs, hinge, sum, anchor": (
        {"term": "all_pairs", "beta": 0.5, "link": "hinge", "per": "sum", "anchor": 0.25},
        lambda e: hinges(e),
    ),
    "soft ranking of marked tokens": (
        {"term": "soft_ranking", "beta": 0.5, "tau": 0.5, "marked": 3.0},
        lambda e: soft(e),
    ),
    "point": (
        {
            "term": "point",
            "row": "2/crop",
            "sign": -1,
            "shift": 0.5,
            "beta": 0.5,
            "link": {"name": "square", "tau": 1.0},
        },
        lambda e: (-(R(e["2/crop"]) / 2 - half) - half) ** 2,
    ),
    "consistency": (
        {"term": "consistency", "first": ["0", "1"], "second": ["0/crop", "1/crop"], "reduction": "mean"},
        lambda e: (per_token(e["0"]) - per_token(e["1"]) - per_token(e["0/crop"]) + per_token(e["1/crop"])) ** 2,
    ),
    "likelihood": (
        {"term": "likelihood", "row": "rejected/crop", "weight": 2.0},
        lambda e: -2 * P(e["1/crop"]) / size(e["1/crop"]),
    ),
    "drift k1": ({"term": "drift", "estimator": "k1", "per": "sum"}, lambda e: R(e["chosen"])),
    "drift k2": (
        {"term": "drift", "estimator": "k2", "per": "sum"},
        lambda e: mp.fsum(a * (p - r) ** 2 / 2 for a, p, r in zip(e["0"].a, e["0"].p, e["0"].r, strict=True)),
    ),
    "drift k3": ({"term": "drift"}, lambda e: k3(e["chosen"]) / size(e["chosen"])),
    "token kl": ({"term": "token_kl"}, lambda e: weighted(e["0"], "kl") / size(e["0"])),
    "entropy": ({"term": "entropy", "per": "sum", "row": "rejected"}, lambda e: -weighted(e["1"], "entropy")),
}


def per_token(t: Text) -> Number:
    return R(t) / size(t)


def weighted(t: Text, what: str) -> Number:
    return mp.fsum(a * value for a, value in zip(t.a, getattr(t, what), strict=True))


def hinges(e: Record) -> Number:
    entries = graded(e, half)
    best = max(grade for grade, _, _ in entries)
    return mp.fsum(
        relu(1 - entries[i][1] + entries[j][1]) - (entries[i][0] == best) * entries[i][1] / 2
        for i, j in ordered_pairs(entries)
    )


def soft(e: Record) -> Number:
    entries = graded(e, half, needs_scores=True)
    targets = softmax([2 * grade for grade, _, _ in entries])
    rewards = [marked_R(t, 3)[0] / 2 for _, t in e.candidates()]
    total = log(mp.fsum(map(exp, rewards)))
    return mp.fsum(t * (total - s) for t, s in zip(targets, rewards, strict=True))


@pytest.mark.parametrize("mode", ["usual", "missing", "ties"])
@pytest.mark.parametrize("name", LISTS)
def test_lists_points_and_tokens(name: str, mode: Any) -> None:
    fields, formula = LISTS[name]
    objective = make_objective({"it": fields})
    for seed in range(2):
        step = draw(seed, objective.views, mode)
        agrees(objective, lambda records, _: mean(records, formula), step, {})


def test_a_mean_over_tokens_of_the_step() -> None:
    objective = make_objective({"it": {"term": "entropy", "per": "token"}, "nll": {}})

    def loss(records: Any, _: Any) -> Number:
        chosen = [e.texts["chosen"] for e in records if "chosen" in e.texts]
        mean_entropy = mp.fsum(weighted(t, "entropy") for t in chosen) / mp.fsum(map(size, chosen))
        return mean(records, nll) - mean_entropy

    for seed in range(3):
        agrees(objective, loss, draw(seed, objective.views, "missing"), {})


@pytest.mark.parametrize("per", ["answer", "record"])
def test_feedback_of_records_and_answers(per: str) -> None:
    fields = {"term": "feedback", "beta": 0.5, "desirable": 2.0, "undesirable": 0.25, "shift": 0.5, "per": per}
    objective = make_objective({"it": {**fields, "link": "hinge", "marked": 2.0}})

    def loss(records: Any, _: Any) -> Number:
        answers = labelled(records)
        units = len(answers) if per == "answer" else len({n for n, _, _ in answers})
        weight = {1: 2, -1: mp.mpf("0.25")}
        return mp.fsum(weight[s] * relu(1 - s * (marked_R(t, 2)[0] / 2 - half)) for _, s, t in answers) / units

    for seed in range(3):
        agrees(objective, loss, draw(seed, objective.views, "missing"), {})


def sides(records: Any, of: Callable[[Text], Number]) -> tuple[list[Number], list[Number]]:
    pairs = [(e["0"], e["1"]) for e in records if {"chosen", "rejected"} <= set(e.texts)]
    return [of(w) for w, _ in pairs], [of(l) for _, l in pairs]


@pytest.mark.parametrize("mode", ["usual", "far", "missing"])
def test_sorted_pairs(mode: Any) -> None:
    unpaired = make_objective({"aot_unpaired": {"beta": 0.5, "worse_scale": 2.0, "link": "hinge"}})
    free = make_objective({"aot": {"beta": 0.5, "reference": False}})

    def of_ratios(records: Any, _: Any) -> Number:
        better, worse = sides(records, R)
        gaps = [b - 2 * w for b, w in zip(sorted(better), sorted(worse), strict=True)]
        return mp.fsum(relu(1 - gap / 2) for gap in gaps) / len(gaps)

    def of_policy(records: Any, _: Any) -> Number:
        better, worse = sides(records, P)
        return -mp.fsum(ls((b - w) / 2) for b, w in zip(better, worse, strict=True)) / len(better)

    for seed in range(3):
        step = draw(seed, unpaired.views, mode)
        agrees(unpaired, of_ratios, step, {})
        agrees(free, of_policy, step, {})
