"""Terms and objective: published cases, closed forms, denominators over a step."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdpo.errors import ConfigError
from mmdpo.objectives import Objective, make_objective
from mmdpo.views import ScoreTable, View

CASES = Path(__file__).resolve().parents[3] / "shared" / "loss_cases.json"
MEDIA = ("clean", "blank")
Row = tuple[int, int, str, Sequence[float], Sequence[float]]
"""Record, candidate, media variant, and the log-probabilities of each token under policy and reference."""


def table(*rows: Row, reference: bool = True) -> ScoreTable:
    """A float64 score table; padding holds rubbish, which no term may read."""
    longest = max(len(logp) for *_, logp, _ in rows) + 1

    def padded(values: Sequence[float]) -> list[float]:
        return [*values, *([-99.0] * (longest - len(values)))]

    mask = torch.tensor([[n < len(logp) for n in range(longest)] for *_, logp, _ in rows])
    return ScoreTable(
        logp=torch.tensor([padded(logp) for *_, logp, _ in rows], dtype=torch.float64, requires_grad=True),
        ref_logp=torch.tensor([padded(ref) for *_, ref in rows], dtype=torch.float64) if reference else None,
        mask=mask,
        weight=torch.ones_like(mask, dtype=torch.float64),
        example=torch.tensor([row[0] for row in rows]),
        candidate=torch.tensor([row[1] for row in rows]),
        media=torch.tensor([MEDIA.index(row[2]) for row in rows]),
        score=torch.full((len(rows),), float("nan")),
        media_names=MEDIA,
    )


def spread(total: float, length: int = 4) -> list[float]:
    """Tokens of an answer that sum to a total, not all alike."""
    weights = range(1, length + 1)
    return [total * weight / sum(weights) for weight in weights]


def loss_of(objective: Objective, of: ScoreTable) -> Tensor:
    return objective(of, objective.counts(of))[0]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# --- published cases ------------------------------------------------------------------------------------------------


def published(name: str) -> dict[str, Any]:
    if not CASES.is_file():
        pytest.skip(f"the published cases are not there: {CASES.name}")
    case: dict[str, Any] = json.loads(CASES.read_text(encoding="utf-8"))["losses"][name]["case"]
    return case


def pair_table(inputs: dict[str, Any]) -> ScoreTable:
    """Chosen and rejected of each record, their sums spread over tokens."""
    rows: list[Row] = []
    for n, sums in enumerate(zip(*(inputs[key] for key in SUMS), strict=True)):
        chosen, rejected = inputs.get("chosen_len", [4])[0], inputs.get("rejected_len", [8])[0]
        rows.append((n, 0, "clean", spread(sums[0], chosen), spread(sums[2], chosen)))
        rows.append((n, 1, "clean", spread(sums[1], rejected), spread(sums[3], rejected)))
    return table(*rows)


SUMS = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("dpo_sigmoid", lambda p: {"dpo": {"beta": p["beta"]}}),
        ("sigmoid_norm", lambda p: {"dpo": {"beta": p["beta"], "reduction": "mean"}}),
        ("rpo_nll", lambda p: {"dpo": {"beta": p["beta"]}, "nll": {"weight": p["alpha"]}}),
    ],
)
def test_published_pair_losses(name: str, config: Any) -> None:
    case = published(name)
    of = pair_table(case["inputs"])
    loss = loss_of(make_objective(config(case["params"])), of)
    assert loss.item() == pytest.approx(case["expected"]["mean"], abs=1e-9)
    (gradient,) = torch.autograd.grad(loss, of.logp)
    for index, key in enumerate(("policy_chosen", "policy_rejected")):
        # Every token has the same share of its answer's gradient, padding has none.
        for token, inside in zip(gradient[index], of.mask[index], strict=True):
            expected = case["expected"]["grad_of_mean"][key][0] if inside else 0.0
            assert token.item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(("name", "per"), [("sft_nll_token_mean", "token"), ("sft_nll_seq_mean", "sequence")])
def test_published_likelihood_losses(name: str, per: str) -> None:
    case = published(name)
    (logp,) = case["inputs"]["policy_chosen"]
    of = table((0, 0, "clean", logp, logp), reference=False)
    loss = loss_of(make_objective({"nll": {"per": per}}), of)
    assert loss.item() == pytest.approx(case["expected"]["mean"], abs=1e-9)


# --- worked by hand -------------------------------------------------------------------------------------------------

TWO_PAIRS = (
    (0, 0, "clean", [-1.0, -2.0], [-1.5, -2.5]),  # R = 1
    (0, 1, "clean", [-3.0], [-1.0]),  # R = -2
    (1, 1, "clean", [-1.0, -1.0, -1.0], [-2.0, -1.0, -1.0]),  # R = 1
    (1, 0, "clean", [-4.0], [-4.5]),  # R = 0.5
)


def test_dpo_by_hand() -> None:
    of = table(*TWO_PAIRS)
    objective = make_objective({"dpo": {"beta": 0.5}})
    assert objective.counts(of).tolist() == [2.0]
    expected = (-log_sigmoid(0.5 * 3) - log_sigmoid(0.5 * -0.5)) / 2
    assert loss_of(objective, of).item() == pytest.approx(expected, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss_of(objective, of), of.logp)
    first, second = (0.5 / 2 / (1 + math.exp(0.5 * margin)) for margin in (3, -0.5))
    expected_gradient = [[-first, -first, 0, 0], [first, 0, 0, 0], [second, second, second, 0], [-second, 0, 0, 0]]
    torch.testing.assert_close(gradient, torch.tensor(expected_gradient, dtype=torch.float64))


@pytest.mark.parametrize(
    ("per", "count", "expected"),
    [("sequence", 2, (1.5 + 4.0) / 2), ("token", 3, (1 + 2 + 4.0) / 3), ("sum", 2, (3.0 + 4.0) / 2)],
)
def test_likelihood_by_hand(per: str, count: int, expected: float) -> None:
    of = table(*TWO_PAIRS)
    objective = make_objective({"nll": {"per": per}})
    assert not objective.needs_reference
    assert objective.counts(of).tolist() == [count]
    assert loss_of(objective, of).item() == pytest.approx(expected, abs=1e-12)


def test_token_weights_count_tokens() -> None:
    """Weights 2, 1 on the first answer; the second counts as it is."""
    of = table(*TWO_PAIRS)
    weight = of.weight.clone()
    weight[0] = torch.tensor([2.0, 1.0, 9.0, 9.0])  # behind the answer they must not matter
    of = replace(of, weight=weight)
    for per, expected in [("sequence", ((2 + 2) / 3 + 4) / 2), ("token", (2 + 2 + 4) / 4), ("sum", (4 + 4) / 2)]:
        assert loss_of(make_objective({"nll": {"per": per}}), of).item() == pytest.approx(expected, abs=1e-12)
    dpo = loss_of(make_objective({"dpo": {"beta": 0.5}}), of)  # R of the first answer: 2 * .5 + .5
    assert dpo.item() == pytest.approx((-log_sigmoid(0.5 * 3.5) - log_sigmoid(0.5 * -0.5)) / 2, abs=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_at_the_reference_is_log_two(reduction: str) -> None:
    of = table(*((n, k, media, logp, logp) for n, k, media, logp, _ in TWO_PAIRS))
    objective = make_objective({"dpo": {"beta": 0.3, "reduction": reduction}})
    assert loss_of(objective, of).item() == pytest.approx(math.log(2), abs=1e-15)


def test_margins_of_thousands_stay_finite() -> None:
    of = table((0, 0, "clean", [-9e4], [-1.0]), (0, 1, "clean", [-1.0], [-9e4]))
    loss = loss_of(make_objective({"dpo": {"beta": 1.0}}), of)
    loss.backward()
    assert loss.item() == pytest.approx(2 * (9e4 - 1)) and of.logp.grad is not None
    assert of.logp.grad[:, 0].tolist() == [-1.0, 1.0]


# --- views and denominators -----------------------------------------------------------------------------------------

MIXED = (
    *TWO_PAIRS,
    (2, 0, "clean", [-0.5], [-0.25]),  # no rejected answer
    (0, 0, "blank", [-2.0, -2.0], [-1.0, -2.0]),
    (0, 1, "blank", [-1.0], [-1.0]),
    (3, 1, "clean", [-0.75], [-0.25]),  # no chosen answer
    (3, 0, "blank", [-0.5], [-1.0]),
)


def test_terms_count_the_records_that_have_their_views() -> None:
    objective = make_objective(
        {
            "dpo": {"beta": 0.5},
            "blind": {"term": "dpo", "beta": 0.5, "media": "blank"},
            "nll": {},
            "rejected": {"term": "nll", "candidate": 1, "per": "token"},
            "blind_nll": {"term": "nll", "media": "blank"},
        }
    )
    assert objective.views == (View(0, "blank"), View(0, "clean"), View(1, "blank"), View(1, "clean"))
    of = table(*MIXED)
    assert objective.counts(of).tolist() == [2.0, 1.0, 3.0, 5.0, 2.0]
    loss, parts = objective(of, objective.counts(of))
    expected = {
        "dpo": (-log_sigmoid(0.5 * 3) - log_sigmoid(0.5 * -0.5)) / 2,
        "blind": -log_sigmoid(0.5 * -1),
        "nll": (1.5 + 4.0 + 0.5) / 3,
        "rejected": (3.0 + 3.0 + 0.75) / 5,
        "blind_nll": (2.0 + 0.5) / 2,
    }
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, abs=1e-12)
    assert loss.item() == pytest.approx(sum(expected.values()), abs=1e-12)


OBJECTIVES: dict[str, dict[str, Any]] = {
    "dpo": {"dpo": {}},
    "dpo mean": {"dpo": {"reduction": "mean", "beta": 2.0}},
    "dpo + nll": {"dpo": {}, "nll": {"weight": 0.7}},
    "token nll": {"nll": {"per": "token"}},
    "sum nll": {"nll": {"per": "sum", "candidate": 1}},
    "with blank": {"dpo": {}, "blind": {"term": "dpo", "media": "blank", "weight": 2.0}, "nll": {"media": "blank"}},
}


@pytest.mark.parametrize("config", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("cuts", [[[0], [1], [2], [3]], [[0, 3], [2, 1]], [[2], [3, 0, 1]], [[3, 2, 1, 0]]])
def test_micro_batches_sum_to_the_step(config: dict[str, Any], cuts: list[list[int]]) -> None:
    """Counts added first, as over micro-batches and processes; a micro-batch may lack every view of a term."""
    objective = make_objective(config)
    whole = table(*MIXED)
    loss, parts = objective(whole, objective.counts(whole))
    (expected,) = torch.autograd.grad(loss, whole.logp)
    tables = []
    for members in cuts:
        rows = [row for row in MIXED if row[0] in members]
        tables.append((rows, table(*((members.index(row[0]), *row[1:]) for row in rows))))
    counts = torch.stack([objective.counts(of) for _, of in tables]).sum(0)
    torch.testing.assert_close(counts, objective.counts(whole))
    values = [objective(of, counts) for _, of in tables]
    torch.testing.assert_close(torch.stack([value for value, _ in values]).sum(), loss)
    for name, part in parts.items():
        torch.testing.assert_close(torch.stack([pieces[name] for _, pieces in values]).sum(), part)
    for (value, _), (rows, of) in zip(values, tables, strict=True):
        (gradient,) = torch.autograd.grad(value, of.logp)
        for row, own in zip(rows, gradient, strict=True):
            theirs = expected[MIXED.index(row)]
            length = len(row[3])
            torch.testing.assert_close(own[:length], theirs[:length])
            assert not own[length:].any()


def test_counts_do_not_need_log_probabilities() -> None:
    """They are taken before the forward: a table of nothing but NaN has the same."""
    of = table(*MIXED)
    blank = replace(of, logp=torch.full_like(of.logp, float("nan")), ref_logp=None)
    for config in OBJECTIVES.values():
        objective = make_objective(config)
        assert objective.counts(blank).tolist() == objective.counts(of).tolist()


def test_a_step_without_any_view_of_a_term_has_a_loss_of_zero() -> None:
    of = table((0, 1, "clean", [-1.0], [-2.0]))
    objective = make_objective({"dpo": {}, "nll": {}})
    loss = loss_of(objective, of)
    loss.backward()
    assert loss.item() == 0 and of.logp.grad is not None and not of.logp.grad.any()


def test_aligned_rows_belong_to_the_same_records_in_the_same_order() -> None:
    of = table(*MIXED)
    chosen, rejected, blank = of.aligned(View(0), View(1), View(0, "blank"))
    assert (chosen.tolist(), rejected.tolist(), blank.tolist()) == ([0], [1], [5])
    assert [rows.tolist() for rows in of.aligned(View(1), View(0))] == [[1, 2], [0, 3]]
    assert [rows.tolist() for rows in of.aligned(View(0), View(0, "unheard"))] == [[], []]


# --- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "what", "why"),
    [
        ({"dop": {}}, "unknown name 'dop' among the losses", "Did you mean 'dpo'?"),
        ({"visual": {"term": "nlll"}}, "unknown name 'nlll'", "Did you mean 'nll'?"),
        ({"dpo": {"betta": 0.1}}, "loss.dpo.betta is unknown", "Did you mean 'beta'?"),
        ({"dpo": None}, "no loss term", "nothing to train"),
        ({}, "no loss term", "nothing to train"),
    ],
)
def test_mistakes_in_the_configuration(config: dict[str, Any], what: str, why: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_objective(config)
    assert what in raised.value.what and why in raised.value.why and raised.value.fix


def test_a_description_has_fields_formula_and_source() -> None:
    described = make_objective({"visual": {"term": "dpo", "beta": 0.2, "media": "blank"}, "nll": None}).describe()
    assert set(described) == {"visual"}
    assert described["visual"]["term"] == "Dpo" and described["visual"]["media"] == "blank"
    assert described["visual"]["beta"] == 0.2 and described["visual"]["weight"] == 1.0
    assert "sigmoid" in described["visual"]["formula"] and "2305.18290" in described["visual"]["source"]
