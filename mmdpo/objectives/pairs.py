"""Pairs whose beta, margin, factors or weight depend on more than two log-probabilities: ratings and statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mmdpo import registry
from mmdpo.objectives.base import reduce_tokens
from mmdpo.objectives.links import NotNegative, Positive
from mmdpo.objectives.terms import Pair
from mmdpo.views import ScoreTable


@dataclass(frozen=True, kw_only=True)
class RatedPair(Pair):
    """A pair that reads the ratings of its two answers; pairs without them, or in the wrong order, are left out."""

    @property
    def needs_scores(self) -> bool:
        """The gap of the ratings enters."""
        return True

    @property
    def needs(self) -> str:
        """A rating of both answers."""
        return "a score for each candidate, higher for the better one"

    def rows(self, table: ScoreTable) -> tuple[Tensor, ...]:
        """Pairs whose better answer is not rated below the other."""
        rows = super().rows(table)
        known = table.score[rows[0]] >= table.score[rows[1]]  # False for NaN
        return tuple(row[known] for row in rows)

    def score_gap(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> Tensor:
        """[M] how much better the better answer was rated, 0 or more."""
        return (table.score[rows[0]] - table.score[rows[1]]).to(table.logp.dtype)


@registry.terms.register("reward_scaled_pair")
@dataclass(frozen=True, kw_only=True)
class RewardScaledPair(RatedPair):
    """Clear preferences get a larger beta: ``beta (1 + w (1 - exp(-k (score(better) - score(worse)))))``.

    Args:
        reward_weight: w, how much beta can grow.
        reward_rate: k, how fast it does with the rating gap.
    """

    reward_weight: NotNegative = 0.5
    reward_rate: Positive = 0.5

    formula: ClassVar[str] = "link(beta_i (R(better) - R(worse))), beta_i = beta (1 + w (1 - exp(-k score gap)))"
    source: ClassVar[str] = "arXiv 2502.10391 (MM-RLHF)"

    def betas(self, table: ScoreTable, rows: tuple[Tensor, ...], gap: Tensor) -> Tensor:
        """[M] betas from the ratings."""
        growth = 1 - torch.exp(-self.reward_rate * self.score_gap(table, rows))
        return self.beta * (1 + self.reward_weight * growth)


@registry.terms.register("offset_pair")
@dataclass(frozen=True, kw_only=True)
class OffsetPair(RatedPair):
    """A margin that grows with the rating gap: ``link(beta (R(better) - R(worse)) - alpha f(score gap))``.

    Args:
        alpha: Factor of the offset.
        scale: f: ``log`` (the paper's choice; negative for gaps below 1, and equal ratings are left out) or ``linear``.
    """

    alpha: NotNegative = 1.0
    scale: Literal["log", "linear"] = "log"

    formula: ClassVar[str] = "link(beta (R(better) - R(worse)) - alpha f(score(better) - score(worse)))"
    source: ClassVar[str] = "arXiv 2402.10571 (ODPO)"

    def rows(self, table: ScoreTable) -> tuple[Tensor, ...]:
        """Pairs that have an offset: equal ratings have no logarithm."""
        rows = super().rows(table)
        if self.scale == "linear":
            return rows
        apart = table.score[rows[0]] > table.score[rows[1]]
        return tuple(row[apart] for row in rows)

    def offsets(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> Tensor:
        """[M] offsets from the ratings."""
        gap = self.score_gap(table, rows)
        return super().offsets(table, rows) + self.alpha * (gap.log() if self.scale == "log" else gap)


@registry.terms.register("severity_pair")
@dataclass(frozen=True, kw_only=True)
class SeverityPair(Pair):
    """Log-ratios weighted with the severity of hallucination: ``link(beta (s_w R(better) - s_l R(worse)))``.

    The severity is the candidate's score in data that say ``higher_is_better: false``.

    Args:
        sides: ``both``, or the ``rejected`` answer alone as in the authors' script.
        cap: Largest severity: it is in effect a second beta, and a detector's has no bound.
    """

    sides: Literal["both", "rejected"] = "both"
    cap: Positive = 10.0

    formula: ClassVar[str] = "link(beta (severity_w R(better) - severity_l R(worse)))"
    source: ClassVar[str] = "arXiv 2404.14233 (HSA-DPO)"

    @property
    def needs_scores(self) -> bool:
        """The severities enter."""
        return True

    @property
    def needs(self) -> str:
        """Severities, where lower is better."""
        return "a severity of 0 or more as score of each candidate, with higher_is_better: false"

    def rows(self, table: ScoreTable) -> tuple[Tensor, ...]:
        """Pairs with severities."""
        rows = super().rows(table)
        known = table.score[rows[1]] <= 0
        if self.sides == "both":
            known = known & (table.score[rows[0]] <= 0)
        return tuple(row[known] for row in rows)

    def ratios(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> list[Tensor]:
        """[M] log-ratios, those of the pair weighted with the severities."""
        severity = (-table.score).clamp(0, self.cap).to(table.logp.dtype)
        better, worse, *others = super().ratios(table, rows)
        of_better = severity[rows[0]] if self.sides == "both" else 1.0
        return [of_better * better, severity[rows[1]] * worse, *others]


@registry.terms.register("token_kl_pair")
@dataclass(frozen=True, kw_only=True)
class TokenKlPair(Pair):
    """Token-level DPO: the drift of the worse answer counts against the pair.

    ``link(beta (R(better) - R(worse)) - alpha beta (K(worse) - stop_gradient K(better)))`` with
    ``K = sum_t KL(reference_t || policy_t)``.

    Args:
        alpha: Factor of the drift.
    """

    alpha: NotNegative = 0.5

    formula: ClassVar[str] = "link(beta (R(better) - R(worse)) - alpha beta (K(worse) - sg K(better)))"
    source: ClassVar[str] = "arXiv 2404.11999 (TDPO2), equation 17"

    @property
    def statistics(self) -> tuple[str, ...]:
        """KL of the whole distributions at each token."""
        return ("token_kl",)

    def offsets(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> Tensor:
        """[M] margin and drift."""
        drift = table.statistics["token_kl"]
        better, worse = (reduce_tokens(drift[row], table.mask[row].to(drift.dtype)) for row in rows[:2])
        return super().offsets(table, rows) + self.alpha * self.beta * (worse - better.detach())


@registry.terms.register("policy_weighted_pair")
@dataclass(frozen=True, kw_only=True)
class PolicyWeightedPair(Pair):
    """Pairs count by how likely the policy is to give them: off-policy pairs count less (WPO).

    The weight is the product over both answers of ``exp(mean_t [log p_t - log sum_v p_v^2])``, without gradient.

    Args:
        cap: Largest weight of a pair.
    """

    cap: Positive = 1.0

    formula: ClassVar[str] = (
        "w link(beta (R(better) - R(worse))), w = min(cap, product of exp(mean_t log p - log sum p^2))"
    )
    source: ClassVar[str] = "arXiv 2406.11827 (WPO)"

    @property
    def statistics(self) -> tuple[str, ...]:
        """Sum of the squared probabilities at each token."""
        return ("sum_squared_probability",)

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] weighted pair losses."""
        squares = table.statistics["sum_squared_probability"].masked_fill(~table.mask, 1.0)
        likeliness = (table.logp - squares.log()).detach()
        rows = self.rows(table)
        log_weight = sum(
            reduce_tokens(likeliness[row], table.mask[row].to(likeliness.dtype), "mean") for row in rows[:2]
        )
        return super().losses(table) * torch.as_tensor(log_weight).exp().clamp(max=self.cap)
