"""Warnings come where they should, and nowhere else: by rule, over log entries, and from real runs."""

from __future__ import annotations

import io
import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.oracle import record
from mmdpo.config import parse_config
from mmdpo.errors import ModelError
from mmdpo.media import Media
from mmdpo.objectives import make_objective
from mmdpo.records import Record
from mmdpo.report.pages import write_report
from mmdpo.runs.training import train
from mmdpo.training.advice import ENOUGH, RULES, Adviser, advice
from mmdpo.training.guard import Guard
from report.parsed_page import Page
from training.common import SUBJECTS, run_settings, saved_inputs

D = "diagnostics/"
HEALTHY = {
    "rewards/accuracies": 0.8,
    "rewards/accuracies_low": 0.75,
    "rewards/accuracies_high": 0.85,
    "rewards/blind_accuracies": 0.6,
    f"{D}blind_gap": 0.2,
    f"{D}displacement": 0.3,
    f"{D}chosen_change": -0.02,
    f"{D}length_correlation": 0.3,
    f"{D}kl_k2": 0.02,
    f"{D}kl_k3": 0.02,
    f"{D}saturated": 0.0,
    f"{D}off_policy_gap": 0.4,
    f"{D}beta": 0.1,
    "best/accuracies": 0.8,
    "configured/beta_low": 0.1,
    "configured/beta_high": 0.1,
}
FIRES: dict[str, list[dict[str, float]]] = {
    "text_solvable": [{f"{D}blind_gap": 0.04}, {f"{D}blind_gap": -0.1}],
    "displacement": [{f"{D}displacement": 0.51}],
    "chosen_fell": [{f"{D}chosen_change": -0.11}],
    "length": [{f"{D}length_correlation": 0.51}, {f"{D}length_correlation": -0.6}],
    "saturated": [{f"{D}saturated": 0.51}],
    "far_away": [{f"{D}kl_k2": 0.51}],
    "off_policy": [{f"{D}off_policy_gap": 1.1}],
    "over_optimised": [{"best/accuracies": 0.86}],
    "beta_moved": [{f"{D}beta": 0.31}, {f"{D}beta": 0.03}],
}
QUIET: dict[str, dict[str, float]] = {
    "nothing learnt yet": {"rewards/accuracies_low": 0.45, f"{D}blind_gap": 0.0},
    "rates of a policy that has hardly moved": {f"{D}displacement": 0.9, f"{D}chosen_change": -1e-4},
    "a correlation of rounding": {f"{D}length_correlation": 0.99, f"{D}kl_k2": 1e-9},
    "a correlation without a reference": {f"{D}length_correlation": 0.99, f"{D}kl_k2": float("nan")},
    "one token of log-ratio -11 in a thousand pairs": {f"{D}kl_k3": 35.0},
    "no number": {name: float("nan") for name in HEALTHY},
}


def as_held_out(values: dict[str, float], pairs: float = 200) -> dict[str, float]:
    return {f"eval_{name}": value for name, value in values.items()} | {"eval_pairs": pairs}


def as_training(values: dict[str, float], pairs: float = 200) -> dict[str, float]:
    return values | {f"{D}pairs": pairs}


def rules_of(metrics: dict[str, float]) -> set[str]:
    return {one.rule for one in advice(metrics)}


def test_each_rule_is_tried() -> None:
    assert FIRES.keys() == {rule.name for rule in RULES}


@pytest.mark.parametrize("rule", FIRES)
def test_a_rule_fires_in_its_zone_alone(rule: str) -> None:
    assert advice(as_held_out(HEALTHY) | as_training(HEALTHY)) == []
    for change in FIRES[rule]:
        assert rules_of(as_held_out(HEALTHY | change)) == {rule}
        assert rules_of(as_training(HEALTHY | change)) == {rule}
        assert rules_of(as_held_out(HEALTHY | change, pairs=ENOUGH["held-out"] - 1)) == set()
        assert rules_of(as_training(HEALTHY | change, pairs=ENOUGH["training"] - 1)) == set()
        assert rules_of(HEALTHY | change) == set(), "nobody knows how many pairs these are"


@pytest.mark.parametrize("change", QUIET.values(), ids=list(QUIET))
def test_there_is_no_false_alarm(change: dict[str, float]) -> None:
    assert advice(as_held_out(HEALTHY | change)) == []


def test_a_value_that_was_not_logged_is_not_judged() -> None:
    assert advice(as_held_out({"rewards/accuracies": 0.5})) == []


def test_the_sentence_has_value_number_and_remedy() -> None:
    (one,) = advice(as_held_out(HEALTHY | {f"{D}length_correlation": -0.612}, pairs=321))
    assert str(one).startswith("diagnostics/length_correlation is -0.612 on 321 held-out pairs (danger zone: above 0.5")
    assert "To try: pairs of balanced lengths" in str(one)


def test_held_out_pairs_come_before_training_pairs() -> None:
    bad = HEALTHY | {f"{D}kl_k2": 2.0}
    (one,) = advice(as_held_out(bad) | as_training(bad | {f"{D}kl_k2": 3.0}))
    assert (one.split, one.value) == ("held-out", 2.0)


def test_what_is_to_be_tried_exists() -> None:
    names = {name for rule in RULES for name in re.findall(r"loss: (\w+)", rule.attempt)}
    assert {"mdpo", "rpo_nll", "dpop"} <= names
    for name in names:
        assert make_objective(name).terms
    terms = {name for rule in RULES for name in re.findall(r"term: (\w+)", rule.attempt)}
    for name in terms:
        assert make_objective({"dpo": {}, "held": {"term": name}}).terms


# ---- over log entries ----


def test_small_log_entries_are_judged_together() -> None:
    """Entries of 8 pairs: nothing at 96, at 104 the mean over all of them, in the end the newest 104 alone."""
    adviser = Adviser()
    entries = [as_training(HEALTHY | {f"{D}kl_k2": 5.2 if n == 0 else 0.0}, pairs=8) for n in range(13)]
    assert [adviser.hear(entry) for entry in entries[:12]] == [[]] * 12
    assert adviser.hear(entries[12]) == [], "5.2 / 13 = 0.4"
    high = as_training(HEALTHY | {f"{D}kl_k2": 0.6}, pairs=8)
    found = [adviser.hear(high) for _ in range(13)]
    # entry n of the high ones: n of 13 are 0.6, and the 5.2 is gone from the first on
    fired = [bool(one) for one in found]
    assert fired == [n * 0.6 / 13 > 0.5 for n in range(1, 14)]
    assert found[-1][0].pairs == 104
    assert found[-1][0].value == pytest.approx(0.6)


def test_the_window_is_no_longer_than_it_must_be() -> None:
    adviser = Adviser()
    values = [adviser.hear(as_training(HEALTHY | {f"{D}kl_k2": value}, pairs=50)) for value in (1.8, 0.0, 0.0)]
    assert [len(one) for one in values] == [0, 1, 0], "the third entry makes the first one unnecessary"


def test_correlations_of_few_pairs_are_not_averaged() -> None:
    adviser = Adviser()
    few = as_training(HEALTHY | {f"{D}length_correlation": 0.9}, pairs=60)
    assert [adviser.hear(few), adviser.hear(few)] == [[], []]
    (one,) = adviser.hear({**few, f"{D}pairs": 120})
    assert one.rule == "length"


def test_a_held_out_accuracy_is_compared_with_the_best_before() -> None:
    adviser = Adviser()
    falls = {"rewards/accuracies": 0.6, "rewards/accuracies_low": 0.55, "rewards/accuracies_high": 0.65}
    assert adviser.hear(as_held_out(HEALTHY | falls)) == [], "the first is the best"
    assert adviser.hear(as_held_out(HEALTHY)) == []
    (one,) = adviser.hear(as_held_out(HEALTHY | falls))
    assert (one.rule, one.value) == ("over_optimised", 0.6)


def test_the_beta_really_used_is_compared_with_the_configured_ones() -> None:
    assert Adviser([0.1, 0.5]).hear(as_training({f"{D}beta": 1.4})) == []
    (one,) = Adviser([0.1, 0.5]).hear(as_training({f"{D}beta": 1.6}))
    assert one.rule == "beta_moved"
    assert Adviser().hear(as_training({f"{D}beta": 1.6})) == []


def test_other_entries_are_passed_over() -> None:
    assert Adviser().hear({"train_runtime": 3.0, "epoch": 1.0}) == []


# ---- from real runs ----


def solid(bright: bool, seed: int) -> Media:
    """A dark or a bright image, no two with the same bytes."""
    pixels = np.full((16, 16, 3), 230 if bright else 20, dtype=np.uint8)
    pixels[0, 0] = np.random.default_rng(seed).integers(0, 256, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Media(data=buffer.getvalue())


def seen(n: int) -> Record:
    """The image decides: bright ones show a cat, dark ones a dog."""
    answers = ["There is a cat", "There is a dog"]
    return record(f"pair-{n}", "What is here?", answers if n % 2 else answers[::-1], solid(bool(n % 2), n))


def unseen(n: int) -> Record:
    """The same images, dealt out without regard to the answers: people prefer the cat."""
    return record(f"pair-{n}", "What is here?", ["There is a cat", "There is a dog"], solid(bool(n % 2), n))


def longer(n: int) -> Record:
    """The longer answer is chosen, by one to five more places."""
    chosen = f"There is a {SUBJECTS[n % 4]}" + " on a table" * (1 + n * 7 % 5)
    return record(f"pair-{n}", "What is here?", [chosen, f"There is a {SUBJECTS[(n * 3 + 1) % 4]}"], solid(True, n))


def run_of(folder: Path, make: Callable[[int], Record], steps: int, eval_steps: int, rate: float, **model: Any) -> Path:
    """A run over 80 records, 40 of them held out."""
    saved_inputs(folder, [make(n) for n in range(80)])
    train_fields = {
        "max_steps": steps,
        "learning_rate": rate,
        "per_device_train_batch_size": 8,
        "eval_strategy": "steps",
        "eval_steps": eval_steps,
    }
    settings = run_settings(folder, data={"path": str(folder / "data"), "validation": 0.5}, train=train_fields)
    settings["model"] |= model
    return train(parse_config(settings), folder / "run")


def said(run: Path) -> dict[str, dict[str, Any]]:
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return {entry["rule"]: entry for entry in manifest["advice"]}


@pytest.mark.slow
def test_pairs_that_need_their_image_raise_no_alarm_about_it(tmp_path: Path) -> None:
    run = run_of(tmp_path, seen, 16, 16, rate=1e-3, trainable="all", lora=None)
    held_out = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if "eval_loss" in line][-1]
    assert held_out["eval_rewards/accuracies_low"] > 0.5, "the case is no case: nothing was learnt"
    assert said(run).keys() & {"text_solvable", "length"} == set()


def test_pairs_that_need_no_image_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING, logger="mmdpo.training.callbacks"):
        run = run_of(tmp_path, unseen, 6, 6, rate=1e-2)
    entry = said(run)["text_solvable"]
    assert (entry["pairs"], entry["split"], entry["step"]) == (40, "held-out", 6)
    assert "length" not in said(run), "all answers are as long as each other"
    assert sum("told without the media" in message for message in caplog.messages) == 1
    assert capfd.readouterr().out == "", "stdout belongs to results"


@pytest.mark.slow
def test_the_longer_answer_is_warned_of_once_and_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mmdpo.training.callbacks"):
        run = run_of(tmp_path, longer, 6, 3, rate=1e-2)
    assert said(run)["length"]["value"] > 0.5
    assert said(run)["length"]["step"] == 6, "so it was at the last validation too"
    assert sum("how long an answer should be" in message for message in caplog.messages) == 1
    text = " ".join(Page(write_report([run]).read_text(encoding="utf-8")).text.split())
    for expected in ("came into a danger zone", "on 40 held-out pairs, last so at step 6", "Correlation of length gap"):
        assert expected in text, expected


# ---- the guard ----

ONE = {"dpo": 1.0}


def heard(*gradients: float, parts: dict[str, float] | None = None, weights: Any = None, steps: int = 100) -> Guard:
    """A guard that has heard steps with these gradient norms."""
    guard = Guard()
    for step, gradient in enumerate(gradients):
        guard.hear(parts or {"dpo": 0.69}, weights or ONE, gradient, step, steps)
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_term_that_is_not_finite_is_named_with_its_step(value: float) -> None:
    guard = heard(1.0, 2.0)
    with pytest.raises(ModelError, match=f"^step 3: loss/nll is {value}, loss/kl is nan\n"):
        guard.hear({"dpo": 0.69, "nll": value, "kl": math.nan}, {"dpo": 1, "nll": 1, "kl": 1}, 1.0, 2, 100)
    with pytest.raises(ModelError, match=f"^step 3: the gradient norm is {value}\n"):
        guard.hear({"dpo": 0.69}, ONE, value, 2, 100)


def test_a_loss_that_never_had_a_gradient_ends_after_ten_steps_or_at_the_last() -> None:
    guard = heard(*[0.0] * 9)
    with pytest.raises(ModelError, match=r"^step 10: loss/dpo is 0\.69, and the gradient is exactly 0"):
        guard.hear({"dpo": 0.69}, ONE, 0.0, 9, 100)
    with pytest.raises(ModelError, match=r"^step 3: "):
        heard(0.0, 0.0, 0.0, steps=3)


@pytest.mark.parametrize(
    ("gradients", "settings"),
    [
        ([0.0, 0.0, 0.5, *[0.0] * 20], {}),  # a gradient once is a gradient
        ([0.0] * 20, {"weights": {"dpo": 0.0}}),  # the weight is 0 by its schedule
        ([0.0] * 20, {"parts": {"hinge": 0.0}, "weights": {"hinge": 1.0}}),  # every pair is beyond the hinge
    ],
)
def test_what_is_no_dead_loss(gradients: list[float], settings: dict[str, Any]) -> None:
    heard(*gradients, steps=len(gradients), **settings)


def test_the_first_step_without_a_gradient_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    heard(0.0, 0.0, 0.0)
    (said,) = [entry.getMessage() for entry in caplog.records]
    assert said.startswith("step 1: loss/dpo is 0.69, and the gradient is exactly 0")
