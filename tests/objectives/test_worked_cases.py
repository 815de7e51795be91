"""The 63 worked cases of the literature: value per example, mean, and gradient where the file gives one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdpo.objectives import Objective, make_objective
from mmdpo.objectives.presets import PRESETS
from mmdpo.views import View
from objectives.tables import NAN, Answer, loss_of, spread, sums_by_row, table

CASES = Path(__file__).resolve().parents[3] / "shared" / "loss_cases.json"
FILE: dict[str, Any] = json.loads(CASES.read_text(encoding="utf-8")) if CASES.is_file() else {}
pytestmark = pytest.mark.skipif(not FILE, reason="the published cases are not there")

VIEWS = {
    "chosen": "chosen",
    "rejected": "rejected",
    "chosen_tokens": "chosen",
    "chosen_corrupt": "chosen/{media}",
    "noise_rejected": "2",
    "kl": "mismatched",
    "1_w": "chosen",
    "1_l": "rejected",
    "1_2": "partner",
    "2_w": "chosen/swap",
    "2_2": "partner/swap",
    "w_imgw": "chosen",
    "w_none": "chosen/none",
    "w_imgl": "chosen/swap",
    "l_imgl": "partner/swap",
    "l_none": "partner/none",
    "l_imgw": "partner",
    "w1": "0",
    "w2": "1",
    "l": "2",
    "w1_corrupt": "0/{media}",
    "w2_corrupt": "1/{media}",
}
"""Which row an input of the file is, by what follows ``policy_`` in its name."""
PROGRESSIVE = ("chosen", *(f"chosen/patch_mask:{share}" for share in (0.2, 0.4, 0.6, 0.8)))
OTHER_UNITS = ("bco_pair", "sft_nll_token_mean")
"""Their losses are those of answers and tokens; the file's one example is the mean."""
LENGTHS = {"chosen": 4, "rejected": 8}


def parameters(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The file's parameters under our names: all but one are the same."""
    fields = dict(given)
    if "normalize" in fields:  # RLHF-V's division by the number of tokens is the reduction of a term
        fields["reduction"] = "mean" if fields.pop("normalize") else "sum"
    return fields


def tokens(value: float | Sequence[float], length: int) -> list[float]:
    return spread(value, length) if isinstance(value, float | int) else list(value)


def rows(name: str, inputs: dict[str, Any]) -> Iterator[Answer]:
    """The answers of a case."""
    media = PRESETS[name].parameters.get("media", "clean")
    for key, values in inputs.items():
        what = key.removeprefix("policy_")
        if (key == "policy" and "label" not in inputs) or key == "policy_views":
            yield from listed(inputs, key)
        elif key == "policy":
            for n, (p, r, good) in enumerate(zip(values, inputs["ref"], inputs["label"], strict=True)):
                yield Answer(n, "chosen", spread(p), spread(r), label=1 if good else -1)
        elif key.startswith("policy_") and what in VIEWS and not (what == "kl" and name != "kto"):
            side = what.removesuffix("_tokens")
            for n, p in enumerate(values):
                yield answer(inputs, n, VIEWS[what].format(media=media), side, p)
        elif key.startswith("imageless_"):
            side = key.removeprefix("imageless_")
            yield from (Answer(n, f"{side}/none", spread(p, LENGTHS[side])) for n, p in enumerate(values))


def listed(inputs: dict[str, Any], key: str) -> Iterator[Answer]:
    """Lists of candidates, or one candidate under several media."""
    for n, (policy, reference) in enumerate(zip(inputs[key], inputs[key.replace("policy", "ref")], strict=True)):
        scores = inputs["score"][n] if "score" in inputs else [NAN] * len(policy)
        views = PROGRESSIVE if key == "policy_views" else [str(k) for k in range(len(policy))]
        yield from (
            Answer(n, view, spread(p), spread(r), score=score)
            for view, p, r, score in zip(views, policy, reference, scores, strict=True)
        )


def answer(inputs: dict[str, Any], n: int, view: str, side: str, p: float | Sequence[float]) -> Answer:
    """Answer n of a side, with what the file says of its tokens."""
    length = inputs.get(f"{side}_len", {n: LENGTHS.get(side, 4)})[n]
    logp = tokens(p, length)
    ref = inputs.get(f"ref_{side}")
    statistics, ref_statistics = {}, {}
    if f"seqkl_{side}" in inputs:
        statistics["token_kl"] = spread(inputs[f"seqkl_{side}"][n], len(logp))
    if f"policy_logit_gap_{side}" in inputs:  # the corrupted rows are added with logits of 3
        statistics["logit"] = [3 + gap for gap in inputs[f"policy_logit_gap_{side}"][n]]
        ref_statistics["logit"] = [3 + gap for gap in inputs[f"ref_logit_gap_{side}"][n]]
    return Answer(
        n,
        view,
        logp,
        None if ref is None else tokens(ref[n], len(logp)),
        weight=inputs.get(f"weight_{side}", {}) and inputs[f"weight_{side}"][n],
        marks=inputs.get(f"changed_{side}", {}) and [bool(mark) for mark in inputs[f"changed_{side}"][n]],
        score=rating(inputs, side, n),
        label={"chosen": 1, "rejected": -1}.get(side, 0),
        statistics=statistics,
        ref_statistics=ref_statistics,
    )


def rating(inputs: dict[str, Any], side: str, n: int) -> float:
    if "reward_margin" in inputs:
        return inputs["reward_margin"][n] if side == "chosen" else 0.0
    if "offset" in inputs:  # the offset of the paper is the logarithm of the gap
        return math.exp(inputs["offset"][n]) if side == "chosen" else 0.0
    if "chosen_score" in inputs:  # a severity: data that say higher_is_better: false
        return -inputs[f"{side}_score"][n]
    return NAN


def with_corrupted_logits(answers: list[Answer]) -> list[Answer]:
    """TPO reads the logits of the same answer under corrupted media, and no log-probability of it."""
    hidden = [
        replace(row, view=f"{row.view}/diffusion", statistics=flat, ref_statistics=flat)
        for row in answers
        if "logit" in row.statistics
        for flat in [{"logit": [3.0] * len(row.logp)}]
    ]
    return answers + hidden


def distributions(inputs: dict[str, Any]) -> list[Answer]:
    """The KL of two written-out distributions at each token."""
    answers = []
    for n, (reference, policy) in enumerate(zip(inputs["ref_logprobs"], inputs["policy_logprobs"], strict=True)):
        kl = [
            sum(math.exp(r) * (r - p) for r, p in zip(r_token, p_token, strict=True))
            for r_token, p_token in zip(reference, policy, strict=True)
        ]
        answers.append(Answer(n, "chosen", [token[0] for token in policy], statistics={"token_kl": kl}))
    return answers


def built(name: str) -> tuple[Objective, Any, dict[str, Any]]:
    case = FILE["losses"][name]["case"]
    objective = make_objective({name: parameters(name, case["params"])})
    inputs = case["inputs"]
    answers = distributions(inputs) if "ref_logprobs" in inputs else list(rows(name, inputs))
    unique = {(row.example, View.parse(row.view)): row for row in with_corrupted_logits(answers)}
    return objective, table(unique.values()), case["expected"]


NAMES = list(FILE.get("losses", {}))


def test_every_published_loss_is_a_preset() -> None:
    assert len(NAMES) == 63 and set(NAMES) <= set(PRESETS)


@pytest.mark.parametrize("name", NAMES)
def test_values(name: str) -> None:
    objective, of, expected = built(name)
    loss, parts = objective(of, objective.counts(of))
    assert loss.item() == pytest.approx(expected["mean"], rel=1e-9, abs=1e-12)
    if len(objective.terms) == 1 and name not in OTHER_UNITS:
        ((full, term),) = objective.terms.items()
        losses = term.losses(replace(of, state=objective.state.get(full, {})))
        assert losses.tolist() == pytest.approx(expected["per_example"], rel=1e-9, abs=1e-12)
    else:
        assert expected["per_example"] == pytest.approx([expected["mean"]])
    weighted = sum(objective.terms[full].weight * part.item() for full, part in parts.items())
    assert weighted == pytest.approx(expected["mean"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if "grad_of_mean" in FILE["losses"][n]["case"]["expected"]])
def test_gradients(name: str) -> None:
    """To 1e-8, the error that the file's differences have; the oracle's test goes further."""
    objective, of, expected = built(name)
    (gradient,) = torch.autograd.grad(loss_of(objective, of), of.logp)
    found = sums_by_row(gradient, of)
    media = PRESETS[name].parameters.get("media", "clean")
    for key, values in expected["grad_of_mean"].items():
        if key == "policy":
            several = isinstance(values[0], list)
            wanted = [v for row in values for v in row] if several else values
            own = [found[n] for n in range(len(of.candidate)) if of.candidate[n] >= 0]
        else:
            wanted = values
            (own_rows,) = of.aligned(View.parse(VIEWS[key.removeprefix("policy_")].format(media=media)))
            own = [found[n] for n in own_rows.tolist()]
        assert own == pytest.approx(wanted, abs=1e-8), key


def test_what_the_file_says_beside_the_losses() -> None:
    objective, of, expected = built("beta_dpo_batch")  # what is watched is float32
    assert objective.watch(of)["beta"].tolist() == pytest.approx([expected["beta_used"]], rel=1e-6)
    objective, of, expected = built("mm_dpo")
    assert objective.watch(of)["beta"].tolist() == pytest.approx(expected["beta_used"], rel=1e-6)
    objective, of, expected = built("kto")
    assert objective.watch(of)["shift"].tolist() == pytest.approx([0.1 * expected["z0"]] * 4, rel=1e-6)
    objective, of, expected = built("mpo_internvl")
    parts = {name: part.item() for name, part in objective(of, objective.counts(of))[1].items()}
    assert parts == pytest.approx(
        {
            "mpo_internvl.preference": expected["dpo_mean"],
            "mpo_internvl.quality": expected["bco_mean"],
            "mpo_internvl.generation": expected["gen_nll_token_mean"],
        },
        rel=1e-9,
    )


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_estimators_of_kl(estimator: str) -> None:
    case = FILE["kl_estimators"]["a"]
    of = table([Answer(0, "chosen", case["policy"], case["ref"])])
    found = loss_of(make_objective({"drift": {"estimator": estimator}}), of).item()
    assert found == pytest.approx(case[f"{estimator}_mean"], rel=1e-9)
