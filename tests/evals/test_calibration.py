"""Calibration: worked bins, temperatures that were put in, coverage of the intervals, and bad input."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit

from mmdpo.errors import DataError
from mmdpo.evals.calibration import Predictions, best_temperature, calibration, places, told
from mmdpo.evals.runner import score

Write = Callable[[str, Iterable[Mapping[str, Any]]], Path]


def drawn(n: int, temperature: float, seed: int, per: int = 2, spread: float = 2.0) -> Predictions:
    """Logits whose outcomes come true as if they had been divided by a temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=n) * spread
    outcomes = (generator.random(n) < expit(logits / temperature)).astype(float)
    return Predictions(logits, outcomes, [str(k // per) for k in range(n)])


def test_ece_brier_and_table_of_worked_numbers() -> None:
    logits = np.log([1 / 3, 1 / 3, 1.0, 3.0, 3.0, 3.0])  # probabilities .25, .25, .5, .75, .75, .75
    outcomes = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    found = calibration(Predictions(logits, outcomes, list("abcdef")), bins=2)
    # the edge between two bins is the median .625: .25 .25 .5 against .75 .75 .75
    assert [(row.n, row.probability, row.outcome) for row in found.table] == [
        (3, pytest.approx(1 / 3), pytest.approx(2 / 3)),
        (3, pytest.approx(0.75), pytest.approx(2 / 3)),
    ]
    assert found.ece.value == pytest.approx((3 * (1 / 3) + 3 * (1 / 12)) / 6)
    assert found.brier == pytest.approx((0.25**2 + 0.75**2 + 0.5**2 + 2 * 0.25**2 + 0.75**2) / 6)
    assert (found.n, found.groups) == (6, 6)


def test_bins_are_equally_full_and_equal_probabilities_stay_together() -> None:
    assert np.bincount(places(np.linspace(0, 1, 1000), 10)).tolist() == [100] * 10
    tied = np.array([0.5] * 90 + [0.9] * 10)
    assert len({*places(tied, 10)[:90].tolist()}) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    predictions = drawn(4000, temperature, seed=3)
    found = calibration(predictions)
    assert found.temperature is not None
    assert found.temperature.low < temperature < found.temperature.high
    oracle = scipy.optimize.minimize_scalar(
        lambda t: np.logaddexp(0, -(2 * predictions.outcomes - 1) * predictions.logits / t).sum(),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-9},
    ).x
    assert found.temperature.value == pytest.approx(oracle, rel=1e-5)
    assert found.ece_after is not None and found.ece_after < max(0.03, found.ece.value)
    assert (found.ece.low > 0) == (temperature != 1.0)
    assert "would fit best" in told("reward", found)


def test_logits_that_say_nothing_or_everything_have_no_temperature() -> None:
    logits, groups = np.array([1.0, 2.0, -1.0, -2.0]), list("abcd")
    wrong = calibration(Predictions(logits, np.array([0.0, 0.0, 1.0, 1.0]), groups))
    assert wrong.temperature is None and wrong.ece_after is None and "no temperature helps" in told("yes", wrong)
    perfect = calibration(Predictions(logits, np.array([1.0, 1.0, 0.0, 0.0]), groups))
    assert perfect.temperature is not None and perfect.temperature.value == 0.0
    assert "no temperature can be fitted" in told("yes", perfect)
    assert best_temperature(np.zeros(3), np.array([1.0, 0.0, 1.0])) is None


def test_questions_about_one_image_widen_the_interval_of_the_temperature() -> None:
    once = drawn(300, 2.0, seed=1, per=1)
    many = Predictions(np.tile(once.logits, 4), np.tile(once.outcomes, 4), [str(n) for n in range(300)] * 4)
    alone, copied = calibration(once).temperature, calibration(many).temperature
    assert alone is not None and copied is not None
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high)), "copies of an answer are no news"


@pytest.mark.parametrize(("temperature", "truth"), [(1.0, 0.0), (2.0, None)])
def test_the_interval_of_ece_covers_what_is_true(temperature: float, truth: float | None) -> None:
    """Also no error at all, which a percentile bootstrap never covers."""
    covered = 0
    for seed in range(120):
        predictions = drawn(400, temperature, seed)
        real = np.abs(predictions.probabilities - expit(predictions.logits / temperature)).mean()
        found = calibration(predictions, draws=300).ece
        covered += found.low <= (real if truth is None else truth) <= found.high
    assert covered >= 0.88 * 120


def questions(write: Write, pairs: list[tuple[str, float, float]]) -> tuple[Path, Path]:
    asked = [
        {"question_id": n, "image": f"{n}.png", "text": "Is there a dog?", "label": label}
        for n, (label, _, _) in enumerate(pairs)
    ]
    said = [{"question_id": n, "yes": yes, "no": no} for n, (_, yes, no) in enumerate(pairs)]
    return write("questions.jsonl", asked), write("logps.jsonl", said)


def test_probabilities_of_yes_and_no(write_lines: Write) -> None:
    half = math.log(0.2)
    rows = [("yes", math.log(0.6), half), ("no", math.log(0.6), half), ("no", half, math.log(0.6)), ("yes", half, half)]
    result = score("yes_no", *questions(write_lines, rows))
    assert result.metrics["accuracy"].value == pytest.approx(2.5 / 4)
    assert result.metrics["yes_probability"].value == pytest.approx((0.75 + 0.75 + 0.25 + 0.5) / 4)
    assert result.metrics["mass"].value == pytest.approx((0.8 * 3 + 0.4) / 4)
    assert result.metrics["yes_brier"].value == pytest.approx((0.25**2 + 0.75**2 + 0.25**2 + 0.5**2) / 4)
    assert [item.raw for item in result.items] == ["yes", "yes", "no", "yes or no"]
    assert [item.correct for item in result.items] == [True, False, True, None]
    assert not [flag for flag in result.flags if flag.startswith("little_mass")]


def test_probabilities_without_their_logarithms_are_read_too(write_lines: Write) -> None:
    data, _ = questions(write_lines, [("yes", -1.0, -1.0), ("no", -1.0, -1.0), ("no", -1.0, -1.0)])
    said = write_lines("p.jsonl", [{"question_id": n, "p_yes": p} for n, p in enumerate([0.9, 0.25, 1.0])])
    result = score("yes_no", data, said)
    assert result.metrics["yes_brier"].value == pytest.approx((0.1**2 + 0.25**2 + 1) / 3)
    assert result.metrics["accuracy"].value == pytest.approx(2 / 3)
    # P(yes) among the two words does not tell what the others have.
    assert "mass" not in result.metrics
    assert not [flag for flag in result.flags if flag.startswith("little_mass")]


@pytest.mark.parametrize("side", ["yes", "no"])
def test_a_model_that_is_always_sure_of_one_word(write_lines: Write, side: str) -> None:
    sure, never = -0.0001, -800.0
    rows = [(label, *((sure, never) if side == "yes" else (never, sure))) for label in ("yes", "no") * 20]
    result = score("yes_no", *questions(write_lines, rows))
    assert result.metrics["accuracy"].value == 0.5
    assert result.metrics["yes_ece"].value == pytest.approx(0.5)
    assert any("no temperature helps" in flag for flag in result.flags)


def test_a_model_that_would_say_something_else_is_flagged(write_lines: Write) -> None:
    result = score("yes_no", *questions(write_lines, [("yes", -9.0, -10.0), ("no", -9.0, -10.0)]))
    assert any(flag.startswith("little_mass: yes and no have 0.000") for flag in result.flags)


@pytest.mark.parametrize(
    "entry",
    [
        {"yes": -1.0},
        {"yes": "a", "no": -1},
        {"yes": 0.7, "no": -1},
        {"yes": -math.inf, "no": -1},
        {"yes": -(10**400), "no": -1},
        {"yes": math.nan, "no": -1},
        {"yes": False, "no": -1},
        {"yes": -0.2, "no": -1.0},  # .82 and .37: more than there is
        {"p_yes": 1.2},
        {"p_yes": True},
    ],
)
def test_what_is_no_logarithm_of_a_probability_is_refused(write_lines: Write, entry: dict[str, Any]) -> None:
    data, _ = questions(write_lines, [("yes", -1.0, -2.0)])
    answers = data.parent / "bad.jsonl"
    answers.write_text(json.dumps({"question_id": 0, **entry}), encoding="utf-8")
    with pytest.raises(DataError, match="logarithms"):
        score("yes_no", data, answers)
