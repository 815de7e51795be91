"""Plain words about a run that is going wrong: what a number in its danger zone means, and what to try.

The zones are rules of thumb, meant to make people look. They are judged on enough pairs alone (:data:`ENOUGH`), and
where a number moves as soon as anything moves, only once the policy has visibly left the reference.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ENOUGH = {"held-out": 30, "training": 100}
"""Pairs below which nothing is said. Held-out pairs are scored by one model, training pairs by one that moves."""

NEVER_MEANS = ("diagnostics/length_correlation", "diagnostics/pairs")
"""Logged values of which a mean over several log entries says nothing."""

Values = Mapping[str, float]


@dataclass(frozen=True)
class Advice:
    """One number in its danger zone.

    Args:
        rule: Name of the rule.
        metric: Name of the number.
        value: The number.
        pairs: How many pairs it is over.
        split: ``"held-out"`` or ``"training"``.
        zone: Where the danger zone begins.
        meaning: What it means.
        attempt: What to try.
    """

    rule: str
    metric: str
    value: float
    pairs: int
    split: str
    zone: str
    meaning: str
    attempt: str

    def __str__(self) -> str:
        return (
            f"{self.metric} is {self.value:.3g} on {self.pairs} {self.split} pairs (danger zone: {self.zone}). "
            f"{self.meaning} To try: {self.attempt}"
        )


@dataclass(frozen=True)
class Rule:
    """When a number is in its danger zone.

    Args:
        name: Name of the rule.
        metric: The number that is told.
        danger: Whether the values are in the zone; a value that is not there is NaN, of which no comparison holds.
        zone: Where the zone begins, in words.
        meaning: What it means.
        attempt: What to try.
    """

    name: str
    metric: str
    danger: Callable[[Callable[[str], float]], bool]
    zone: str
    meaning: str
    attempt: str


REMEDY = (
    "a likelihood term on the chosen answer (loss: rpo_nll) or a larger weight of it where the loss has one already, "
    "loss: dpop, or a lower learning rate."
)
"""Against chosen answers that become less likely."""


def _moved(get: Callable[[str], float]) -> bool:
    """Whether the policy's tokens differ from the reference's by more than about 0.014 nats (root mean square)."""
    return get("diagnostics/kl_k2") > 1e-4


RULES = (
    Rule(
        "text_solvable",
        "rewards/blind_accuracies",
        # above chance with the media: before that, seeing and not seeing are equal because nothing is learnt
        lambda get: get("rewards/accuracies_low") > 0.5 and get("diagnostics/blind_gap") < 0.05,
        "less than 5 points below the accuracy of the same pairs with their media",
        "The preference can be told without the media: the model may learn to prefer a style, not what is there.",
        "a term over the media (loss: mdpo), or pairs whose answers differ only in what the media show.",
    ),
    Rule(
        "displacement",
        "diagnostics/displacement",
        lambda get: get("diagnostics/displacement") > 0.5 and get("diagnostics/chosen_change") < -0.01,
        "above 0.5",
        "Of most pairs both answers became less likely: what becomes likelier instead is in no pair.",
        REMEDY,
    ),
    Rule(
        "chosen_fell",
        "diagnostics/chosen_change",
        lambda get: get("diagnostics/chosen_change") < -0.1,
        "below -0.1 nats a token",
        "The chosen answers became less likely than before training.",
        REMEDY,
    ),
    Rule(
        "length",
        "diagnostics/length_correlation",
        lambda get: abs(get("diagnostics/length_correlation")) > 0.5 and _moved(get),
        "above 0.5 or below -0.5",
        "The margin follows the difference in length: the model learns how long an answer should be.",
        "pairs of balanced lengths, or loss: sigmoid_norm, loss: ld_dpo or loss: r_dpo.",
    ),
    Rule(
        "saturated",
        "diagnostics/saturated",
        lambda get: get("diagnostics/saturated") > 0.5,
        "above 0.5",
        "The loss has no gradient left on most pairs: its link is flat there.",
        "if the loss is high, look for a term whose scale is wrong; if low, stop earlier, or lower beta.",
    ),
    Rule(
        "far_away",
        "diagnostics/kl_k2",  # not k3, whose exp(-d) lets one token of log-ratio -11 outweigh tens of thousands
        lambda get: get("diagnostics/kl_k2") > 0.5,
        "above 0.5 nats a token",
        "The policy is far from the reference: what it could do before may be lost.",
        "fewer steps, a lower learning rate, a larger beta, or a term that holds it (term: drift).",
    ),
    Rule(
        "off_policy",
        "diagnostics/off_policy_gap",
        lambda get: get("diagnostics/off_policy_gap") > 1.0,
        "above 1 nat a token",
        "The chosen answers are not such as this model gives: training moves it to another style first.",
        "training on the chosen answers before (loss: nll), or pairs of the model's own answers.",
    ),
    Rule(
        "over_optimised",
        "rewards/accuracies",
        lambda get: get("rewards/accuracies_high") < get("best/accuracies"),
        "its 95% interval lies below what it was earlier in the run",
        "Held-out pairs are ordered worse than before, while training goes on: the training pairs are learnt by heart.",
        "an earlier checkpoint, fewer steps, or more pairs.",
    ),
    Rule(
        "beta_moved",
        "diagnostics/beta",
        lambda get: (
            get("diagnostics/beta") > 3 * get("configured/beta_high")
            or get("diagnostics/beta") < get("configured/beta_low") / 3
        ),
        "more than three times off what is configured",
        "The beta that the loss really uses is not the one that was asked for.",
        "look at what beta follows (alpha, scores, running means), or use a loss with a fixed beta.",
    ),
)


def advice(metrics: Values) -> list[Advice]:
    """What to say of some metrics, at most once for each rule.

    Args:
        metrics: Values by the names under which they are logged: of held-out pairs with ``eval_`` before the name and
            ``eval_pairs``, of training pairs without and with ``diagnostics/pairs``. Further ``configured/beta_low``,
            ``configured/beta_high`` and ``best/accuracies``, the best held-out accuracy so far, with the prefix of
            their split.

    Returns:
        One for each rule whose number is in its danger zone, held-out pairs before training pairs.
    """
    held_out = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
    training = {name: value for name, value in metrics.items() if not name.startswith("eval_")}
    found: dict[str, Advice] = {}
    for split, values, count in (("held-out", held_out, "pairs"), ("training", training, "diagnostics/pairs")):
        pairs = values.get(count, 0)
        if not pairs >= ENOUGH[split]:
            continue
        for rule in RULES:
            if rule.name not in found and rule.danger(lambda name, values=values: values.get(name, math.nan)):  # type: ignore[misc]
                told = (values[rule.metric], int(pairs), split, rule.zone, rule.meaning, rule.attempt)
                found[rule.name] = Advice(rule.name, rule.metric, *told)
    return list(found.values())


class Adviser:
    """Hears every log entry of a run and says what is wrong.

    Training entries are averaged over the newest :data:`ENOUGH` pairs, because one entry may be over a few.

    Args:
        betas: The betas that are configured.
    """

    def __init__(self, betas: Sequence[float] = ()) -> None:
        self._recent: deque[Values] = deque()
        self._best = -math.inf
        self._configured = {"configured/beta_low": min(betas), "configured/beta_high": max(betas)} if betas else {}

    def hear(self, logs: Values) -> list[Advice]:
        """What to say after one log entry."""
        if "eval_pairs" in logs:
            seen = advice({**logs, "eval_best/accuracies": self._best})
            if logs["eval_pairs"] >= ENOUGH["held-out"]:
                self._best = max(self._best, logs.get("eval_rewards/accuracies", -math.inf))
            return seen
        if "diagnostics/pairs" not in logs:
            return []
        self._recent.append(logs)
        while sum(_pairs(entry) for entry in self._recent) - _pairs(self._recent[0]) >= ENOUGH["training"]:
            self._recent.popleft()
        return advice({**self._window(), **self._configured})

    def _window(self) -> dict[str, float]:
        """Means over the newest pairs."""
        pairs = sum(_pairs(entry) for entry in self._recent)
        newest = self._recent[-1]
        if len(self._recent) == 1:
            return dict(newest)
        names = [name for name in newest if name.startswith(("rewards/", "diagnostics/")) and name not in NEVER_MEANS]
        shares = [(entry, _pairs(entry) / pairs) for entry in self._recent]
        means = {name: sum(entry.get(name, math.nan) * share for entry, share in shares) for name in names}
        return {**means, "diagnostics/pairs": pairs}


def _pairs(entry: Values) -> float:
    return entry["diagnostics/pairs"]
