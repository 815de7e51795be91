"""Diagnostics against worked numbers, against numpy, and pooled over parts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.oracle import record
from mmdpo.config import parse_config
from mmdpo.diagnostics import Reward, media_statistics, pair_statistics, reward_of, step_metrics, training_metrics
from mmdpo.errors import ConfigError, ModelError
from mmdpo.objectives import make_objective
from mmdpo.objectives.terms import Pair
from mmdpo.records import Candidate, Record
from mmdpo.runs.settings import training_arguments
from mmdpo.runs.training import train
from mmdpo.trainer import PreferenceTrainer
from mmdpo.training.meter import Meter
from mmdpo.training.validation import COLUMNS, blind_variant, held_out_views, validation_columns, validation_metrics
from mmdpo.views import NONE, View
from objectives.tables import Answer, spread, table
from training.common import encoder_of, loaded_model, make_trainer, pairs, run_settings, saved_inputs
from training.common import trained as weights_of

HAND = [
    Answer(0, "chosen", spread(-1.0, 4), spread(-1.5, 4)),
    Answer(0, "rejected", spread(-2.0, 8), spread(-1.8, 8)),
    Answer(0, "chosen/crop", spread(-1.6, 4), spread(-1.7, 4)),
]
"""One record worked by hand: R(chosen) = .5, R(rejected) = -.2, R(chosen under crop) = .1; beta .1."""


def means(metrics: dict[str, Tensor]) -> dict[str, float]:
    meter = Meter()
    meter.add(metrics)
    return meter.read(alone)


def alone(total: Tensor, reduction: str) -> Tensor:
    assert reduction == "sum"
    return total


def test_the_record_worked_by_hand() -> None:
    objective = make_objective({"dpo": {"beta": 0.1}, "visual": {"term": "pair", "worse": "chosen/crop"}})
    found = means(training_metrics(table(HAND), objective))
    expected = {
        "rewards/chosen": 0.05,
        "rewards/rejected": -0.02,
        "rewards/margins": 0.07,
        "rewards/accuracies": 1.0,
        "logps/chosen": -1.0,
        "logps/rejected": -2.0,
        "diagnostics/displacement": 0.0,
        "diagnostics/chosen_drop": 0.0,
        "diagnostics/chosen_change": 0.125,
        "diagnostics/length_gap": -4.0,
        "diagnostics/media_margin": 0.04,
        "diagnostics/media_accuracy": 1.0,
        "diagnostics/media_gain": 0.6,
        "diagnostics/pairs": 1.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert "diagnostics/length_correlation" not in found, "one pair has no correlation"


def test_kl_estimates_are_those_of_the_worked_tokens() -> None:
    rows = [
        Answer(0, "chosen", [-0.5, -0.25, -1.0], [-0.75, -0.5, -0.75]),
        Answer(0, "rejected", [-1.0], [-3.0]),
    ]
    found = means(step_metrics(pair_statistics(table(rows), Reward())))
    expected = {"k1": 0.08333333333333333, "k2": 0.03125, "k3": 0.030542327610183755}
    for name, value in expected.items():
        assert found[f"diagnostics/kl_{name}"] == pytest.approx(value, rel=1e-9)


def test_who_fell_is_told_by_log_ratios_whatever_weights_the_loss_gives() -> None:
    """Changes of chosen and rejected: both down, chosen down alone, rejected down alone, both up."""
    changes = [(-1.0, -2.0), (-1.0, 1.0), (1.0, -1.0), (2.0, 1.0)]
    rows = []
    for n, (chosen, rejected) in enumerate(changes):
        weight = [-1.0, 1.0]  # would turn the signs of rewards round
        rows += [
            Answer(n, "chosen", [-3.0 + chosen, -2.0], [-3.0, -2.0], weight),
            Answer(n, "rejected", [-3.0 + rejected, -2.0], [-3.0, -2.0], weight),
        ]
    found = means(step_metrics(pair_statistics(table(rows), Reward())))
    assert found["diagnostics/displacement"] == 0.25
    assert found["diagnostics/chosen_drop"] == 0.5
    assert found["diagnostics/chosen_change"] == pytest.approx(0.25 / 2)
    assert found["rewards/chosen"] == pytest.approx(-0.1 * 0.25)


def test_without_a_reference_nothing_is_said_of_a_distance_from_it() -> None:
    found = training_metrics(table(HAND, reference=False), make_objective("simpo"))
    expected = {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
    expected |= {"logps/chosen", "logps/rejected", "diagnostics/length_gap", "diagnostics/length_correlation"}
    assert found.keys() == expected


def test_the_share_of_marked_tokens_is_logged_where_the_loss_reads_marks() -> None:
    rows = [
        Answer(0, "chosen", spread(-1.0, 4), marks=[True, False, False, False]),
        Answer(0, "rejected", spread(-1.0, 2), marks=[True, False]),
        Answer(1, "chosen", spread(-1.0, 5)),
        Answer(1, "rejected", spread(-1.0, 2), marks=[True, True]),
    ]
    found = means(training_metrics(table(rows), make_objective({"dpo": {"marked": 3.0}})))
    assert found["diagnostics/marked_tokens"] == pytest.approx((0.25 + 0.5 + 0.0 + 1.0) / 4)
    assert "diagnostics/marked_tokens" not in training_metrics(table(rows), make_objective("dpo"))


def ratios(*changes: float, **given: list[Any]) -> list[Answer]:
    """One record whose candidates have these log-ratios; `given` are their scores or labels."""
    return [
        Answer(0, str(n), spread(change - 3.0, 2), spread(-3.0, 2), **{name: given[name][n] for name in given})
        for n, change in enumerate(changes)
    ]


RIGHT = {"rewards/accuracies": 1.0, "rewards/margins": 0.9, "diagnostics/displacement": 0.0}
WRONG = {"rewards/accuracies": 0.0, "rewards/margins": -0.3, "diagnostics/displacement": 1.0}


@pytest.mark.parametrize(
    ("loss", "given", "expected"),
    [
        ("plackett_luce", {"score": [1.0, 2.0, 3.0, 4.0]}, RIGHT),
        ("plackett_luce", {"score": [2.0, 3.0, 1.0, 4.0]}, {"rewards/margins": 0.4, "logps/rejected": -2.0}),
        ("plackett_luce", {}, {"rewards/accuracies": 0.0, "rewards/margins": -0.9}),  # as they stand: 0 best, 3 worst
        ("kto", {"label": [-1, 0, 0, 1]}, RIGHT),
        ("kto", {"label": [-1, 1, 0, 0]}, {"rewards/accuracies": 1.0, "rewards/margins": 0.3}),
        ("kto", {"label": [-1, 1, 0, 0], "score": [4.0, 3.0, 2.0, 1.0]}, {"rewards/margins": 0.3}),
        ("dpo", {"score": [1.0, 2.0, 3.0, 4.0]}, WRONG),  # a loss of places
    ],
)
def test_the_pair_is_what_the_loss_compares(loss: str, given: dict[str, list[Any]], expected: dict[str, float]) -> None:
    """Log-ratios -4, -1, 1 and 5 with beta .1, whatever the names of the candidates."""
    objective = make_objective({loss: {"beta": 0.1}})
    found = means(training_metrics(table(ratios(-4.0, -1.0, 1.0, 5.0, **given)), objective))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("loss", "given"),
    [
        ("plackett_luce", {"score": [2.0, 2.0, 2.0]}),
        ("plackett_luce", {"score": [2.0, float("nan"), 1.0]}),
        ("kto", {"label": [1, 1, 0]}),
    ],
)
def test_a_record_in_which_the_loss_compares_nothing_is_no_pair(loss: str, given: dict[str, list[Any]]) -> None:
    assert (
        means(training_metrics(table(ratios(1.0, 2.0, 3.0, **given)), make_objective(loss)))
        .keys()
        .isdisjoint({"rewards/margins", "diagnostics/pairs"})
    )


def test_rewards_are_of_the_tokens_that_the_loss_counts() -> None:
    """Chosen +.5 on its marked token and -2 elsewhere, rejected -.5 and +2: the marks alone make .1 of margin."""
    rows = [
        Answer(0, "chosen", [-1.0, -4.0], [-1.5, -2.0], marks=[True, False]),
        Answer(0, "rejected", [-2.0, -1.0, -1.0], [-1.5, -2.0, -2.0], marks=[True, False, False]),
    ]
    expected = {"sentinel": 0.1 * 1.0, "dpo": 0.1 * (-1.5 - 1.5)}
    # LD-DPO counts the third token of the rejected answer a half
    expected["ld_dpo"] = 0.1 * (-1.5 - 1.0)
    for loss, margin in expected.items():
        objective = make_objective({loss: {"beta": 0.1}})
        of = table(rows)
        assert means(training_metrics(of, objective))["rewards/margins"] == pytest.approx(margin, abs=1e-9), loss
        (term,) = objective.terms.values()
        assert isinstance(term, Pair)
        assert term.arguments(of)[0].item() == pytest.approx(margin, abs=1e-9), loss


def test_a_reference_that_another_term_reads_is_not_in_the_reward() -> None:
    rows = [Answer(0, "chosen", [-1.0, -2.0], [-9.0, -9.0]), Answer(0, "rejected", [-3.0], [-0.5])]
    found = means(training_metrics(table(rows), make_objective({"simpo": {"beta": 2.0}, "dpo": {}})))
    assert found["rewards/margins"] == pytest.approx(2.0 * (-1.5 + 3.0))
    assert found["diagnostics/chosen_change"] == pytest.approx(7.5), "distances from the reference stay"


def random_pairs(seed: int, count: int) -> list[Answer]:
    draw = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        for view in ("chosen", "rejected"):
            length = int(draw.integers(1, 9))
            logp = -draw.exponential(1.0, length)
            rows.append(Answer(n, view, logp.tolist(), (logp + draw.normal(0, 0.5, length)).tolist()))
    return rows


def test_the_correlation_is_numpys_and_parts_pooled_are_the_whole() -> None:
    """Micro-batches of 7, 2 and 4 pairs, the last on another process, as one batch of 13."""
    parts = [
        pair_statistics(table(random_pairs(seed, count)), Reward(Pair(beta=0.3)))
        for seed, count in enumerate((7, 2, 4))
    ]
    gaps, margins = (torch.cat([getattr(p, name) for p in parts]).numpy() for name in ("length_gap", "margin"))
    here, there = Meter(), Meter()
    for meter, part in zip((here, here, there), parts, strict=True):
        meter.add(step_metrics(part))
    other: list[Tensor] = []
    there.read(lambda total, reduction: other.append(total) or total)
    found = here.read(lambda total, reduction: total + other[0])
    assert found["diagnostics/length_correlation"] == pytest.approx(np.corrcoef(gaps, margins)[0, 1], rel=1e-9)
    assert found["rewards/margins"] == pytest.approx(margins.mean(), rel=1e-9)
    assert found["diagnostics/pairs"] == 13
    assert here.read(alone) == {}, "what was read is forgotten"


@pytest.mark.parametrize(
    "points", [[(1, 2), (2, 3)], [(4, 1), (4, 2), (4, 3)], [(1, 0.1), (2, 0.1), (3, 0.1)]], ids=["two", "x", "y"]
)
def test_a_correlation_that_is_not_defined_is_left_out(points: list[tuple[float, float]]) -> None:
    assert means({"correlation": torch.tensor(points, dtype=torch.float64)}) == {}


def test_a_small_variation_on_a_large_mean_is_a_variation() -> None:
    points = [(1000.0, 500.0), (1000.01, 500.01), (1000.02, 499.99)]
    found = means({"correlation": torch.tensor(points, dtype=torch.float64)})
    assert found["correlation"] == pytest.approx(np.corrcoef(np.array(points).T)[0, 1], abs=1e-4)


def test_every_variant_of_the_chosen_answer_counts() -> None:
    rows = [*HAND, Answer(0, "chosen/blur", spread(-1.2, 4), spread(-1.9, 4)), Answer(1, "chosen", [-1.0])]
    found = media_statistics(table(rows), Reward(), ("blur", "crop"))
    assert found.example.tolist() == [0, 0]
    assert found.margin.tolist() == pytest.approx([0.1 * (0.5 - 0.7), 0.1 * (0.5 - 0.1)])
    assert found.gain.tolist() == pytest.approx([0.2, 0.6])


def test_a_part_without_media_or_pairs_adds_nothing() -> None:
    objective = make_objective({"dpo": {}, "visual": {"term": "pair", "worse": "chosen/crop"}})
    meter = Meter()
    for rows in (HAND, [Answer(0, "chosen", [-1.0])], [Answer(0, "chosen", [-1.0]), Answer(0, "rejected", [-1.0])]):
        meter.add(training_metrics(replace(table(rows), media_names=("clean", "crop")), objective))
    found = meter.read(alone)
    assert found["diagnostics/media_margin"] == pytest.approx(0.04)
    assert (found["rewards/margins"], found["diagnostics/pairs"]) == (pytest.approx(0.035), 2)
    meter.add({"nothing": torch.empty(0), "no correlation": torch.empty(0, 2)})
    assert meter.read(alone) == {}


# ---- held-out pairs ----


def held_out(rows: list[Answer], **options: Any) -> dict[str, float]:
    of = table(rows, reference=options.pop("reference", True))
    count = int(of.example.max()) + 1
    columns = validation_columns(of, torch.arange(count), Reward(), **options)
    assert columns.shape == (count, len(COLUMNS))
    return validation_metrics(columns.double().numpy(), [f"image {n}" for n in range(count)])


def test_held_out_metrics_by_hand() -> None:
    """Record 0 as worked above with its blind rows; record 1 has no media, and its margin is -.05."""
    rows = [
        *HAND,
        Answer(0, "chosen/none", spread(-1.9, 4), spread(-1.8, 4)),
        Answer(0, "rejected/none", spread(-2.0, 8), spread(-2.2, 8)),
        Answer(1, "chosen", spread(-3.0, 3), spread(-2.5, 3)),
        Answer(1, "rejected", spread(-3.0, 5), spread(-3.0, 5)),
    ]
    found = held_out(rows, blind=NONE, variants=("crop",))
    expected = {
        "eval_rewards/accuracies": 0.5,
        "eval_rewards/margins": (0.07 - 0.05) / 2,
        "eval_rewards/blind_accuracies": 0.0,
        "eval_rewards/blind_margins": 0.1 * (-0.1 - 0.2),
        "eval_diagnostics/blind_gap": 1.0,  # of record 0 alone: the other is right or wrong without media anyway
        "eval_diagnostics/media_margin": 0.04,
        "eval_diagnostics/media_accuracy": 1.0,
        "eval_diagnostics/media_gain": 0.6,
        "eval_diagnostics/chosen_change": (0.125 - 0.5 / 3) / 2,
        "eval_diagnostics/chosen_drop": 0.5,
        "eval_diagnostics/displacement": 0.0,
        "eval_diagnostics/length_gap": -3.0,
        "eval_pairs": 2.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-7)
    against_none = held_out(rows, blind=NONE)
    assert against_none["eval_diagnostics/media_margin"] == pytest.approx(0.1 * (0.5 + 0.1), rel=1e-5)
    assert against_none["eval_diagnostics/media_gain"] == pytest.approx(0.9, rel=1e-5)


def test_the_off_policy_gap_is_zero_for_what_the_reference_samples() -> None:
    """Every token of a vocabulary of three as an answer, weighted by its probability; entropy by hand."""
    probabilities = np.array([0.7, 0.2, 0.1])
    entropy = -(probabilities * np.log(probabilities)).sum()
    rows = [
        Answer(n, "chosen", [-1.0], [float(np.log(p))], ref_statistics={"entropy": [entropy]})
        for n, p in enumerate(probabilities)
    ]
    of = table(rows)
    gaps = validation_columns(of, torch.arange(3), Reward())[:, COLUMNS.index("off_policy_gap")].double().numpy()
    assert (probabilities * gaps).sum() == pytest.approx(0, abs=1e-7)
    assert gaps == pytest.approx(-np.log(probabilities) - entropy, abs=1e-6)


def test_off_policy_answers_are_counted() -> None:
    rows = [
        Answer(0, "chosen", [-9.0, -9.0], [-1.0, -3.0], ref_statistics={"entropy": [0.5, 0.7]}),  # nll 2.0: not above
        Answer(1, "chosen", [-9.0], [-2.5], ref_statistics={"entropy": [1.0]}),
    ]
    found = held_out(rows)
    assert found["eval_diagnostics/off_policy_gap"] == pytest.approx((1.4 + 1.5) / 2, rel=1e-6)
    assert found["eval_diagnostics/surprising_chosen"] == 0.5


def test_of_single_answers_the_desirable_ones_are_looked_at() -> None:
    rows = [
        Answer(n, "chosen", [-9.0], [nll], label=label, ref_statistics={"entropy": [1.0]})
        for n, (nll, label) in enumerate([(-2.5, 1), (-1.0, 1), (-8.0, -1)])
    ]
    values = validation_columns(table(rows), torch.arange(3), reward_of(make_objective("kto"))).double().numpy()
    found = validation_metrics(values, [])
    assert found["eval_diagnostics/off_policy_gap"] == pytest.approx((1.5 + 0.0) / 2)
    assert found["eval_diagnostics/surprising_chosen"] == 0.5
    assert found["eval_pairs"] == 0
    assert "eval_rewards/margins" not in found


def test_held_out_pairs_of_a_loss_without_a_reference() -> None:
    found = held_out(HAND, reference=False, variants=("crop",))
    assert found["eval_diagnostics/media_gain"] == pytest.approx(0.6, rel=1e-6)
    known = {name.removeprefix("eval_diagnostics/") for name in found if "diagnostics" in name}
    assert known == {f"media_{name}" for name in ("margin", "accuracy", "accuracy_low", "accuracy_high", "gain")} | {
        "length_gap"
    }


def test_the_held_out_correlation_is_numpys() -> None:
    rows = random_pairs(3, 25)
    found = held_out(rows)
    of = pair_statistics(table(rows), Reward())
    expected = np.corrcoef(of.length_gap.numpy(), of.margin.numpy())[0, 1]
    assert found["eval_diagnostics/length_correlation"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's processor
@pytest.mark.parametrize(("family", "variant"), [("llava", "none"), ("paligemma", "blank")])
def test_media_are_dropped_where_the_model_can_be_asked_without(family: str, variant: str, tmp_path: Path) -> None:
    loaded = loaded_model(family)
    seen = [of for of in pairs(8) if of.media]
    blind = blind_variant(encoder_of(loaded), seen)
    assert blind.variant == variant
    assert variant == "none" or "PaliGemmaProcessor" in blind.reason
    trainer = make_trainer(loaded, seen, tmp_path, validation=seen, per_device_eval_batch_size=2)
    assert trainer.blind == blind
    assert set(trainer.validation_collator.views) == {
        View.parse(f"{name}{media}") for name in ("chosen", "rejected") for media in ("", f"/{variant}")
    }
    found = trainer.evaluate()
    assert found["eval_pairs"] == len(seen)
    assert 0 <= found["eval_rewards/blind_accuracies"] <= 1


def test_records_without_media_decide_nothing() -> None:
    encoder = encoder_of(loaded_model("paligemma"))
    assert blind_variant(encoder, [record("words", "What is it?", ["a cat", "a dog"])]).variant == "none"
    assert blind_variant(encoder, []).variant == "none"


def test_held_out_lists_are_compared_as_the_loss_does_with_and_without_their_media() -> None:
    """The last candidate is best and the first worst; candidates in between must not count."""
    seen = ratios(-4.0, 9.0, 5.0, score=[1.0, 2.0, 3.0])
    blind = [replace(row, view=f"{row.view}/none", logp=spread(-3.0 - n, 2)) for n, row in enumerate(seen)]
    reward = reward_of(make_objective({"plackett_luce": {"beta": 0.1}}))
    of = table([*seen, *blind])
    values = validation_columns(of, torch.arange(1), reward, NONE).double().numpy()
    found = validation_metrics(values, ["image"])
    assert found["eval_rewards/margins"] == pytest.approx(0.9)
    assert found["eval_rewards/blind_margins"] == pytest.approx(0.1 * (-2.0 - 0.0))
    assert found["eval_diagnostics/media_gain"] == pytest.approx(2.0 + 5.0), "of the best candidate"
    views = held_out_views(make_objective("plackett_luce"), NONE)
    assert sorted(map(str, views)) == ["every", "every/none"]


def test_what_the_terms_say_is_logged_of_held_out_records_too(tmp_path: Path) -> None:
    texts = ("A cat is here.", "Two dogs", "A red car on a table")
    rated = [
        replace(of, candidates=tuple(Candidate(text, score=float((n + k) % 3)) for k, text in enumerate(texts)))
        for n, of in enumerate(pairs(3))
    ]
    rated = [replace(of, higher_is_better=True) for of in rated]
    loaded = loaded_model(spread=0.2)
    trainer = make_trainer(
        loaded, rated, tmp_path, loss={"plackett_luce": {"beta": 0.2}}, validation=rated, per_device_eval_batch_size=2
    )
    found = trainer.evaluate()
    orders = [order_of(trainer, of) for of in rated]
    assert found["eval_diagnostics/order_accuracy"] == pytest.approx(np.mean(orders))
    assert found["eval_diagnostics/beta"] == pytest.approx(0.2)
    assert found["eval_pairs"] == 3


def order_of(trainer: PreferenceTrainer, of: Record) -> float:
    """Share of the three pairs of candidates that the log-ratios put as the scores do."""
    trainer.model.eval()
    batch = trainer._prepare_inputs(trainer.collator([(0, of)]))
    with torch.no_grad():
        rows = trainer._table(trainer.model, batch, trainer.collator)
    assert rows.ref_logp is not None
    change = ((rows.logp - rows.ref_logp) * rows.mask).sum(-1).tolist()
    score = rows.score.tolist()
    return float(np.mean([(change[i] > change[j]) == (score[i] > score[j]) for i, j in ((0, 1), (0, 2), (1, 2))]))


def test_held_out_views_are_the_pair_seen_and_unseen_and_what_the_loss_reads() -> None:
    views = held_out_views(make_objective("mdpo"), "none")
    names = ["chosen", "chosen/crop", "chosen/none", "rejected", "rejected/none"]
    assert sorted(map(str, views)) == names


# ---- a run ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> PreferenceTrainer:
    loss = {"mdpo": {}}
    trainer = make_trainer(
        loaded_model(spread=0.2),
        pairs(8),
        tmp_path_factory.mktemp("run"),
        loss=loss,
        validation=pairs(6),
        per_device_train_batch_size=4,
        per_device_eval_batch_size=2,
        max_steps=2,
        logging_steps=2,
    )
    trainer.train()
    return trainer


def test_every_step_log_has_all_diagnostics(trained: PreferenceTrainer) -> None:
    logged = trained.state.log_history[0]
    names = {"displacement", "chosen_drop", "chosen_change", "length_gap", "length_correlation", "kl_k1", "kl_k2"}
    names |= {"kl_k3", "saturated", "beta", "media_margin", "media_accuracy", "media_gain", "pairs"}
    assert {name.removeprefix("diagnostics/") for name in logged if name.startswith("diagnostics/")} == names
    assert logged["diagnostics/pairs"] == 8, "two steps of four pairs"
    assert logged["diagnostics/beta"] == pytest.approx(0.1)
    assert logged["diagnostics/kl_k3"] > 0


def test_validation_asks_the_reference_how_surprising_the_answers_are(trained: PreferenceTrainer) -> None:
    found = trained.evaluate()
    encoder = encoder_of(trained.loaded)
    gaps = [reference_gap(trained, encoder, of) for of in pairs(6)]
    assert found["eval_diagnostics/off_policy_gap"] == pytest.approx(np.mean(gaps), abs=1e-4)


def reference_gap(trainer: PreferenceTrainer, encoder: Any, of: Any) -> float:
    """Surprise beyond entropy of the chosen answer, by the model's own logits with the adapter off."""
    prompt, answer = encoder.prompt(of), encoder.answer(of, of.candidates[0]).ids
    ids = torch.cat([prompt.input_ids, answer])[None]
    trainer.model.eval()
    with torch.no_grad(), trainer.model.disable_adapter():
        logits = trainer.model(input_ids=ids, attention_mask=torch.ones_like(ids), **prompt.extras).logits[0]
    logp = logits[len(prompt.input_ids) - 1 : -1].double().log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    return (-logp.gather(1, answer[:, None])[:, 0] - entropy).mean().item()


# ---- runs that cannot become anything ----


def broken(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Every pair term gives `change` of its losses."""
    losses = Pair.losses
    monkeypatch.setattr(Pair, "losses", lambda term, of: change(losses(term, of)))


@pytest.mark.parametrize("two_pass", [False, True])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda losses: losses * float("nan"), "step 1: loss/dpo is nan; "),
        (lambda losses: losses + (losses * 0).sqrt(), "step 1: the gradient norm is nan; "),
    ],
    ids=["the loss", "its gradient alone"],
)
def test_a_step_that_is_not_finite_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, said: str, two_pass: bool
) -> None:
    broken(monkeypatch, change)
    loaded = loaded_model(num_hidden_layers=1)
    trainer = make_trainer(
        loaded, pairs(4), tmp_path, loss={"dpo": {}, "nll": {}}, two_pass=two_pass, max_steps=3, max_grad_norm=1.0
    )
    before = weights_of(loaded)
    with pytest.raises(ModelError) as caught:
        trainer.train()
    assert re.match(said, caught.value.what)
    assert all(repr(f"pair-{n}") in caught.value.what for n in range(4))
    assert caught.value.why and caught.value.fix
    for name, value in weights_of(loaded).items():
        assert torch.equal(value, before[name])


def test_a_loss_without_a_gradient_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken(monkeypatch, Tensor.detach)
    trainer = make_trainer(loaded_model(num_hidden_layers=1), pairs(4), tmp_path, max_steps=2)
    with pytest.raises(ModelError, match=r"step 2: loss/dpo is 0\.6931, and the gradient is exactly 0"):
        trainer.train()
    assert [said.getMessage()[:7] for said in caplog.records if said.name == "mmdpo.training.guard"] == ["step 1:"]


def test_nothing_is_saved_of_a_run_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda losses: losses * float("nan"))
    saved_inputs(tmp_path, pairs(4))
    with pytest.raises(ModelError, match="step 1: loss/dpo is nan"):
        train(parse_config(run_settings(tmp_path)), tmp_path / "run")
    assert not (tmp_path / "run" / "adapter").exists()


def test_the_filter_that_hides_such_losses_is_off() -> None:
    sections = {"model": {"path": "m"}, "data": {"path": "d"}}
    assert not training_arguments(parse_config(sections), Path("runs/x")).logging_nan_inf_filter
    asked = parse_config({**sections, "train": {"logging_nan_inf_filter": True}})
    with pytest.raises(ConfigError, match=r"train\.logging_nan_inf_filter cannot be set"):
        training_arguments(asked, Path("runs/x"))
