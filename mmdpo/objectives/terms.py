"""The two terms that most losses are: a :class:`Pair` and a :class:`Point`; and what terms of your own build on.

Most published losses are one of the two or a sum of both: see ``presets.yaml``. Notation is that of
:mod:`mmdpo.objectives.base`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdpo import registry
from mmdpo.objectives.base import AnswerTerm, RatioTerm, Term, log_ratio, one_row, reduce_tokens
from mmdpo.objectives.links import Link, LogOdds, NotNegative, ReverseKl, Sigmoid, Transform, saturated
from mmdpo.views import ScoreTable, View

__all__ = ["AnswerTerm", "Pair", "Point", "RatioTerm", "Term", "log_ratio", "one_row", "reduce_tokens"]


@registry.terms.register("pair")
@dataclass(frozen=True, kw_only=True)
class Pair(RatioTerm):
    """One row is preferred to another: ``link(beta * (R(better) - R(worse)) - margin)``, and its many variants.

    Args:
        better: Row that is preferred, as ``candidate/media``: ``chosen``, ``chosen/crop``, ``partner/swap``, ``2``.
        worse: Row that it is preferred to.
        better_scale: Factor of R(better).
        worse_scale: Factor of R(worse).
        plus: Further rows inside the same link, with their factors.
        link: From argument to loss (``sigmoid``, ``robust``, ``hinge``, ``square``, ``bounded``, ``exo``, ``disco``).
        transform: Of each log-ratio (``reverse_kl``, ``jensen_shannon``, ``forward_kl``, ``alpha``, ``log_odds``).
        margin: Subtracted from the argument, in units of reward.
        length_margin: Added to the argument for each token that the better answer is longer (R-DPO).
        penalty: Subtracts ``penalty * max(0, -R(better))`` inside beta (DPO-positive).
        tail: Weight of the tokens beyond the length of the shorter answer (LD-DPO).
    """

    better: str = "chosen"
    worse: str = "rejected"
    better_scale: float = 1.0
    worse_scale: float = 1.0
    plus: Mapping[str, float] = field(default_factory=dict)
    link: Link = Sigmoid()  # noqa: RUF009  (frozen)
    transform: Transform = ReverseKl()  # noqa: RUF009
    margin: float = 0.0
    length_margin: float = 0.0
    penalty: NotNegative = 0.0
    tail: NotNegative = 1.0

    formula: ClassVar[str] = "link(beta (R(better) - R(worse)) - margin)"
    source: ClassVar[str] = "arXiv 2305.18290, equation 7"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.view(self.better) == self.view(self.worse):
            raise ValueError(f"better and worse are the same row, {self.better}, so that there is no gradient")
        if not (self.better_scale or self.worse_scale or any(self.plus.values()) or self.penalty):
            raise ValueError("better_scale and worse_scale are both 0, so that there is no gradient")
        if self.reference and isinstance(self.transform, LogOdds):
            raise ValueError(
                "the transform log_odds is of log-probabilities, and log-ratios above 0 have no odds and no gradient; "
                "set reference: false"
            )

    def views(self) -> tuple[View, ...]:
        """Better, worse, and the further rows."""
        return tuple(self.view(text) for text in (self.better, self.worse, *self.plus))

    def ratios(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> list[Tensor]:
        """[M] what enters the preference of each answer: the better, the worse, then the further ones."""
        return [self.transform(self.ratio(table, row)) for row in rows]

    def gap(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> Tensor:
        """[M] preference in nats, before beta."""
        if self.tail != 1:
            table = self._shortened(table, rows)
        better, worse, *others = self.ratios(table, rows)
        gap = self.better_scale * better - self.worse_scale * worse
        for factor, other in zip(self.plus.values(), others, strict=True):
            gap = gap + factor * other
        return gap - self.penalty * F.relu(-better) if self.penalty else gap

    def betas(self, table: ScoreTable, rows: tuple[Tensor, ...], gap: Tensor) -> Tensor:
        """[M] inverse temperature of each pair."""
        return torch.full_like(gap, self.beta).detach()

    def offsets(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> Tensor:
        """[M] what is subtracted from the argument."""
        better, worse = (table.mask[row].sum(-1).to(table.logp.dtype) for row in rows[:2])
        return self.margin - self.length_margin * (better - worse)

    def arguments(self, table: ScoreTable) -> tuple[Tensor, Tensor]:
        """[M] arguments of the link and [M] the betas in them."""
        rows = self.rows(table)
        gap = self.gap(table, rows)
        betas = self.betas(table, rows, gap)
        return betas * gap - self.offsets(table, rows), betas

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] pair losses."""
        return self.link(self.arguments(table)[0])

    def watch(self, table: ScoreTable) -> dict[str, Tensor]:
        """The betas really used, and which pairs have no gradient left."""
        z, betas = self.arguments(table)
        return {"beta": betas, "saturated": saturated(self.link, z)}

    def _shortened(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> ScoreTable:
        """The table with the weight of what lies beyond the shorter answer of each pair multiplied by ``tail``."""
        shorter = torch.minimum(*(table.mask[row].sum(-1) for row in rows[:2]))
        weight = table.weight.to(table.logp.dtype, copy=True)
        for row in rows:
            beyond = (table.mask[row].cumsum(-1) > shorter[:, None]).to(weight.dtype)
            weight[row] = table.weight[row] * (1 + (self.tail - 1) * beyond)
        return replace(table, weight=weight)


@registry.terms.register("point")
@dataclass(frozen=True, kw_only=True)
class Point(RatioTerm):
    """One row alone is pushed up or down: ``link(sign * (beta * R(row) - shift))``; anchors, NCA, APO.

    Args:
        row: The row, as ``candidate/media``.
        sign: 1 makes it likelier than under the reference, -1 less likely.
        shift: Reward at which the argument is 0.
        link: From argument to loss.
    """

    row: str = "chosen"
    sign: Literal[1, -1] = 1
    shift: float = 0.0
    link: Link = Sigmoid()  # noqa: RUF009

    formula: ClassVar[str] = "link(sign (beta R(row) - shift))"
    source: ClassVar[str] = "arXiv 2406.11839, anchored preference"

    def views(self) -> tuple[View, ...]:
        """The row."""
        return (self.view(self.row),)

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] losses."""
        return self.link(self._arguments(table))

    def watch(self, table: ScoreTable) -> dict[str, Tensor]:
        """Beta, and which answers have no gradient left."""
        z = self._arguments(table)
        return {"beta": torch.full_like(z, self.beta), "saturated": saturated(self.link, z)}

    def _arguments(self, table: ScoreTable) -> Tensor:
        (rows,) = self.rows(table)
        return self.sign * (self.beta * self.ratio(table, rows) - self.shift)
