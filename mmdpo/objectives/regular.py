"""Terms beside the preference: likelihood of an answer, distance from the reference, agreement of margins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from mmdpo import registry
from mmdpo.objectives.base import AnswerTerm, Term, one_row, reduce_tokens
from mmdpo.objectives.links import safe_exp
from mmdpo.views import CLEAN, Reduction, ScoreTable, View

KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda ratio: ratio,
    "k2": lambda ratio: ratio**2 / 2,
    "k3": lambda ratio: safe_exp(-ratio) - 1 + ratio,
}
"""Estimates of KL(policy || reference) from log-ratios of tokens that the policy gave (Schulman 2020): k1 has no bias,
k2 little variance, k3 neither, and is never negative."""


@dataclass(frozen=True, kw_only=True)
class TokenTerm(Term):
    """What averages over the tokens of one answer share.

    Args:
        row: The answer, as ``candidate/media``.
        per: ``sequence``: mean over records of the mean over their tokens; ``token``: mean over all answer tokens of
            the optimizer step; ``sum``: mean over records of the sum over their tokens.
        media: Media variant of a row that names none.
    """

    row: str = "chosen"
    per: Literal["sequence", "token", "sum"] = "sequence"
    media: str = CLEAN

    def views(self) -> tuple[View, ...]:
        """The answer."""
        return (one_row(self.row, self.media),)

    def values(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """[M, T] one value per token."""
        raise NotImplementedError

    def weights(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """[M, T] weights of the tokens, 0 where there is none."""
        return table.weight[rows] * table.mask[rows]

    def count(self, table: ScoreTable) -> Tensor:
        """Records, or answer tokens for ``per: token``."""
        (rows,) = self.rows(table)
        return self.weights(table, rows).sum().float() if self.per == "token" else super().count(table)

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] values in the term's unit."""
        (rows,) = self.rows(table)
        reduction: Reduction = "mean" if self.per == "sequence" else "sum"
        return reduce_tokens(self.values(table, rows), self.weights(table, rows), reduction)


@registry.terms.register("likelihood")
@dataclass(frozen=True, kw_only=True)
class Nll(TokenTerm):
    """Negative log-likelihood of an answer: keeps the chosen answer likely while a preference moves the margin."""

    formula: ClassVar[str] = "-mean_t log p(token)"
    source: ClassVar[str] = "arXiv 2404.19733 (RPO), equation 1"

    @property
    def needs_reference(self) -> bool:
        """It is the policy's alone."""
        return False

    def values(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """Negative log-probabilities."""
        return -table.logp[rows]


@registry.terms.register("drift")
@dataclass(frozen=True, kw_only=True)
class Drift(TokenTerm):
    """Distance of the policy from the reference, estimated on the tokens of an answer.

    Args:
        estimator: ``k1``, ``k2`` or ``k3``, see :data:`KL_ESTIMATORS`. As a loss take k2 or k3: k1 is a log-likelihood.
    """

    estimator: Literal["k1", "k2", "k3"] = "k3"

    formula: ClassVar[str] = "mean_t [exp(-d) - 1 + d], d = log p - log r of the token"
    source: ClassVar[str] = "Schulman 2020, approximating KL divergence"

    def values(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """Estimates of single tokens."""
        assert table.ref_logp is not None
        return KL_ESTIMATORS[self.estimator](table.logp[rows] - table.ref_logp[rows])


@registry.terms.register("token_kl")
@dataclass(frozen=True, kw_only=True)
class TokenKl(TokenTerm):
    """``sum_v r(v) (log r(v) - log p(v))``: KL(reference || policy) of the whole distribution at each answer token."""

    formula: ClassVar[str] = "mean_t KL(reference_t || policy_t)"
    source: ClassVar[str] = "arXiv 2404.11999 (TDPO), definition 4.2"

    @property
    def statistics(self) -> tuple[str, ...]:
        """KL of the distributions."""
        return ("token_kl",)

    def values(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """KL at single tokens."""
        return table.statistics["token_kl"][rows]


@registry.terms.register("entropy")
@dataclass(frozen=True, kw_only=True)
class Entropy(TokenTerm):
    """Negative entropy of the policy at the answer's tokens: keeps its distribution from collapsing."""

    formula: ClassVar[str] = "-mean_t H(policy_t)"
    source: ClassVar[str] = "Williams and Peng 1991"

    @property
    def needs_reference(self) -> bool:
        """It is the policy's alone."""
        return False

    @property
    def statistics(self) -> tuple[str, ...]:
        """Entropy at each token."""
        return ("entropy",)

    def values(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """Negative entropy at single tokens."""
        return -table.statistics["entropy"][rows]


@registry.terms.register("consistency")
@dataclass(frozen=True, kw_only=True)
class Consistency(AnswerTerm):
    """Two pairs should have the same margin: ``((R(a) - R(b)) - (R(c) - R(d)))^2``, without beta (SymMPO).

    Args:
        first: Better and worse row of one pair, as ``candidate/media``.
        second: Better and worse row of the other.
    """

    first: tuple[str, str] = ("chosen", "partner")
    second: tuple[str, str] = ("partner/swap", "chosen/swap")

    def __post_init__(self) -> None:
        super().__post_init__()
        a, b, c, d = self.views()
        if (a, b) == (c, d) or (a, c) == (b, d):
            raise ValueError("the two margins are always the same, so that there is no gradient")

    formula: ClassVar[str] = "((R(a) - R(b)) - (R(c) - R(d)))^2"
    source: ClassVar[str] = "arXiv 2506.11712 (SymMPO)"

    def views(self) -> tuple[View, ...]:
        """The four rows."""
        return tuple(self.view(text) for text in (*self.first, *self.second))

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] squared differences."""
        a, b, c, d = (self.ratio(table, row) for row in self.rows(table))
        return ((a - b) - (c - d)) ** 2
