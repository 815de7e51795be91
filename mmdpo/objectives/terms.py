"""Loss terms: from a score table to a sum of losses. The heart of the objective; needs nothing but views and torch.

The pattern of every term is

    views()        which rows it reads
    rows(table)    those rows, for the records that have all of them; must not read log-probabilities
    losses(table)  one loss for each of these records; sum / number over the whole optimizer step is the term's value

Notation: ``p`` policy and ``r`` reference log-probability of an answer, ``R = p - r`` its log-ratio, ``z`` the argument
of a link. Most published losses are a :class:`Pair`, a :class:`Point` or a sum of both: see ``presets.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdpo import registry
from mmdpo.objectives.links import Link, NotNegative, Positive, ReverseKl, Sigmoid, Transform
from mmdpo.objectives.schedules import Schedule
from mmdpo.views import CLEAN, EVERY, Reduction, ScoreTable, View

SATURATED = 20.0
"""Arguments beyond which a sigmoid has no gradient to speak of: its slope is below 2e-9."""


def reduce_tokens(values: Tensor, weights: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Reduces per-token values [N, T] to one value per row [N], counting each token with its weight [N, T]."""
    total = (values.masked_fill(weights == 0, 0.0) * weights).sum(-1)
    return total if reduction == "sum" else total / weights.sum(-1).clamp(min=1e-12)


def one_row(text: str, media: str = CLEAN) -> View:
    """The view that a field of the configuration names; a ``ValueError`` if it names no candidate, or every one."""
    view = View.parse(text, media)
    if view.candidate == EVERY:
        raise ValueError(f"{text!r} is every answer of a record, and this is about a single one; name it")
    return view


def log_ratio(table: ScoreTable, rows: Tensor, reduction: Reduction = "sum") -> Tensor:
    """[M] log-ratios ``R = p - r`` of the answers in some rows [M], in nats; ``p`` itself without a reference."""
    values = table.logp[rows] if table.ref_logp is None else table.logp[rows] - table.ref_logp[rows]
    return reduce_tokens(values, table.weight[rows] * table.mask[rows], reduction)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One term of the objective.

    Args:
        weight: Factor of the term in the sum, or how it changes over the run: ``{name: warmup, share: 0.1}``,
            ``{name: linear, start: 0, end: 1}``.
    """

    weight: float | Schedule = 1.0

    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""

    @property
    def scope(self) -> Literal["example", "batch"]:
        """``"batch"``: the term must see the whole optimizer step of all processes at once (two passes)."""
        return "example"

    @property
    def needs_reference(self) -> bool:
        """Whether the term compares with a reference."""
        return True

    @property
    def statistics(self) -> tuple[str, ...]:
        """Per-token statistics beyond log-probabilities that the term reads (``ScoreTable.statistics``)."""
        return ()

    @property
    def needs(self) -> str:
        """What a record must have for this term beyond its views, for people; empty for nothing."""
        return ""

    def views(self) -> tuple[View, ...]:
        """The views this term reads."""
        raise NotImplementedError

    def rows(self, table: ScoreTable) -> tuple[Tensor, ...]:
        """Rows of the term's views, one [M] index per view, for the records that the term is taken of."""
        return table.aligned(*self.views())

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] losses."""
        raise NotImplementedError

    def count(self, table: ScoreTable) -> Tensor:
        """Number of units the term averages over in this table (a scalar); must not read ``logp``."""
        return torch.tensor(float(len(self.rows(table)[0])), device=table.mask.device)

    def total(self, table: ScoreTable) -> Tensor:
        """Sum of the losses of those units (a scalar)."""
        return self.losses(table).sum()

    def watch(self, table: ScoreTable) -> dict[str, Tensor]:
        """What diagnostics should show of this term, [M] values by name: ``beta``, ``saturated``."""
        return {}

    def initial_state(self) -> dict[str, float]:
        """Running values at the start of a run; a term that has some must have ``scope = "batch"``."""
        return {}

    def next_state(self, table: ScoreTable) -> dict[str, float]:
        """Running values after an optimizer step, of whose records (of all processes) the table is."""
        return dict(table.state)


@dataclass(frozen=True, kw_only=True)
class RatioTerm(Term):
    """What terms over log-ratios of whole answers share.

    Args:
        beta: Inverse temperature; larger keeps the policy nearer to the reference.
        reference: False reads the policy's log-probabilities alone.
        reduction: ``"sum"`` over the tokens of an answer, or their weighted ``"mean"``.
        marked: Weight of marked tokens (changed, corrected, hallucinated segments).
        unmarked: Weight of all other tokens; 0 leaves only the marked ones.
        media: Media variant of rows that name none.
    """

    beta: Positive = 0.1
    reference: bool = True
    reduction: Reduction = "sum"
    marked: NotNegative = 1.0
    unmarked: NotNegative = 1.0
    media: str = CLEAN

    @property
    def needs_reference(self) -> bool:
        """Unless it is reference-free."""
        return self.reference

    @property
    def reads_marks(self) -> bool:
        """Whether marked tokens count differently."""
        return self.marked != self.unmarked

    def rows(self, table: ScoreTable) -> tuple[Tensor, ...]:
        """Rows of the term's views; where marked tokens alone count, of the records that have any."""
        rows = super().rows(table)
        if self.unmarked:
            return rows
        marked = torch.stack([table.marks[row].any(-1) for row in rows]).any(0)
        return tuple(row[marked] for row in rows)

    def view(self, text: str) -> View:
        """A row of the configuration."""
        return one_row(text, self.media)

    def token_weights(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """[M, T] weights of the tokens of some rows, 0 where there is none."""
        marks = table.marks[rows].to(table.logp.dtype)  # torch.where with two numbers would give float32
        return table.weight[rows] * table.mask[rows] * (self.unmarked + (self.marked - self.unmarked) * marks)

    def token_ratios(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """[M, T] log-ratios of single tokens, or log-probabilities without a reference."""
        if not self.reference or table.ref_logp is None:
            return table.logp[rows]
        return table.logp[rows] - table.ref_logp[rows]

    def ratio(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """[M] log-ratio of the answers in some rows, in nats (a mean: nats per token)."""
        return reduce_tokens(self.token_ratios(table, rows), self.token_weights(table, rows), self.reduction)


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
        return {"beta": betas, "saturated": (z.abs() > SATURATED).to(z.dtype)}

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
        return {"beta": torch.full_like(z, self.beta), "saturated": (z.abs() > SATURATED).to(z.dtype)}

    def _arguments(self, table: ScoreTable) -> Tensor:
        (rows,) = self.rows(table)
        return self.sign * (self.beta * self.ratio(table, rows) - self.shift)
