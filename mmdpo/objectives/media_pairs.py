"""Pairs that compare the same answers with and without, or with damaged, media."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmdpo import registry
from mmdpo.objectives.base import reduce_tokens
from mmdpo.objectives.links import Positive
from mmdpo.objectives.terms import Pair
from mmdpo.views import NONE, ScoreTable, View


@registry.terms.register("guided_pair")
@dataclass(frozen=True, kw_only=True)
class GuidedPair(Pair):
    """The policy's log-probability is guided away from that without media, as in classifier-free guidance.

    ``p`` becomes ``gamma p(y | media) - (gamma - 1) stop_gradient p(y | without)``.

    Args:
        gamma: Guidance; 1 is DPO. At 0, the value of the authors' released script, the policy has no gradient at all.
        without: Media variant of the unguided pass.
    """

    gamma: Positive = 1.5
    without: str = NONE

    formula: ClassVar[str] = "link(beta (G(better) - G(worse))), G = gamma p - (gamma - 1) sg p(without media) - r"
    source: ClassVar[str] = "arXiv 2411.02712 (V-DPO)"

    def views(self) -> tuple[View, ...]:
        """The pair with and without media."""
        views = super().views()
        return *views, *(View(view.candidate, self.without) for view in views[:2])

    def ratios(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> list[Tensor]:
        """[M] log-ratios, those of the pair guided."""
        better, worse, *others, better_blind, worse_blind = rows
        pair = (self._guided(table, better, better_blind), self._guided(table, worse, worse_blind))
        return [*map(self.transform, pair), *super().ratios(table, tuple(others))]

    def _guided(self, table: ScoreTable, seen: Tensor, blind: Tensor) -> Tensor:
        weights = self.token_weights(table, seen)
        unguided = reduce_tokens(table.logp[blind].detach(), self.token_weights(table, blind), self.reduction)
        policy = reduce_tokens(table.logp[seen], weights, self.reduction)
        return self.ratio(table, seen) + (self.gamma - 1) * (policy - unguided)


@registry.terms.register("anchored_pair")
@dataclass(frozen=True, kw_only=True)
class AnchoredPair(Pair):
    """Tokens are weighted by how much they need the media: TPO's visual-anchored rewards.

    ``R = sum_t [p_t - r_t + log(c_t / c_t(reference))]``, ``c = a + sigmoid(s)`` on the better answer and
    ``a + 1 - sigmoid(s)`` on the worse, ``s = logit(y_t | media) - logit(y_t | corrupted)``.

    Args:
        anchor: a.
        corrupted: Media variant that hides what is in the media.
    """

    anchor: Positive = 0.5
    corrupted: str = "diffusion"

    formula: ClassVar[str] = "link(beta (A(better) - A(worse))), A = sum_t [p - r + log(c / c_ref)]"
    source: ClassVar[str] = "arXiv 2412.14487 (TPO), equations 4 to 12"

    @property
    def statistics(self) -> tuple[str, ...]:
        """Logits of the answer tokens."""
        return ("logit",)

    def views(self) -> tuple[View, ...]:
        """The pair with clean and corrupted media."""
        views = super().views()
        return *views, *(View(view.candidate, self.corrupted) for view in views[:2])

    def ratios(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> list[Tensor]:
        """[M] log-ratios, those of the pair anchored."""
        better, worse, *others, better_hidden, worse_hidden = rows
        pair = (self._anchored(table, better, better_hidden, 1.0), self._anchored(table, worse, worse_hidden, -1.0))
        return [*map(self.transform, pair), *super().ratios(table, tuple(others))]

    def _anchored(self, table: ScoreTable, seen: Tensor, hidden: Tensor, sign: float) -> Tensor:
        def weight(logits: Tensor) -> Tensor:  # 1 - sigmoid(s) is sigmoid(-s)
            return torch.log(self.anchor + torch.sigmoid(sign * (logits[seen] - logits[hidden])))

        ratios = self.token_ratios(table, seen) + weight(table.statistics["logit"])
        if self.reference:
            ratios = ratios - weight(table.ref_statistics["logit"])
        return reduce_tokens(ratios, self.token_weights(table, seen), self.reduction)
