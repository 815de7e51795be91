"""What every loss term is: from a score table to a sum of losses.

Of the library it needs ``views``, ``errors`` and its neighbours ``links`` and ``schedules``: no model and no data.

The pattern of every term is

    views()        which rows it reads
    rows(table)    those rows, for the records that have all of them; must not read log-probabilities
    losses(table)  one loss for each of these records; sum / number over the whole optimizer step is the term's value

Notation: ``p`` policy and ``r`` reference log-probability of an answer, ``R = p - r`` its log-ratio, ``z`` the argument
of a link.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mmdpo.errors import ConfigError
from mmdpo.objectives.links import NotNegative, Positive
from mmdpo.objectives.schedules import Schedule
from mmdpo.views import CLEAN, EVERY, Reduction, ScoreTable, View


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

    weight: NotNegative | Schedule = 1.0

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

    @property
    def needs_scores(self) -> bool:
        """Whether the ratings themselves enter, so that ranks, which have no distances, cannot stand in for them."""
        return False

    def views(self) -> tuple[View, ...]:
        """The views this term reads."""
        raise NotImplementedError

    def rows(self, table: ScoreTable) -> tuple[Tensor, ...]:
        """Rows of the term's views, one [M] index per view, for the records that the term is taken of."""
        return table.aligned(*self.views())

    def examples(self, table: ScoreTable) -> Tensor:
        """[records] numbers of the records that the term is taken of, each once; must not read ``logp``."""
        rows = self.rows(table)
        return torch.cat([table.example[row] for row in rows]).unique() if rows else table.example[:0]

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] losses."""
        raise NotImplementedError

    def count(self, table: ScoreTable) -> Tensor:
        """Number of units the term averages over in this table (a scalar); must not read ``logp``."""
        return torch.tensor(float(len(self.rows(table)[0])), device=table.mask.device)

    def total(self, table: ScoreTable) -> Tensor:
        """Sum of the losses of those units (a scalar).

        Raises:
            ConfigError: There is not one loss for each unit: a mean would be divided by their number once more.
        """
        losses = self.losses(table)
        units = max((len(row) for row in self.rows(table)[:1]), default=0)
        if losses.shape != (units,):
            raise ConfigError(
                f"losses() of the term {type(self).__name__} has the shape {tuple(losses.shape)}, for {units} records",
                why="The mean is taken over the whole optimizer step: each record must have a loss of its own.",
                fix=f"Return a tensor of shape ({units},), one loss for each entry of rows(), without a mean or a sum.",
            )
        return losses.sum()

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
class AnswerTerm(Term):
    """What terms over log-ratios of whole answers share, with or without a beta.

    Args:
        reference: False reads the policy's log-probabilities alone.
        reduction: ``"sum"`` over the tokens of an answer, or their weighted ``"mean"``.
        marked: Weight of marked tokens (changed, corrected, hallucinated segments).
        unmarked: Weight of all other tokens; 0 leaves only the marked ones.
        media: Media variant of rows that name none.
    """

    reference: bool = True
    reduction: Reduction = "sum"
    marked: NotNegative = 1.0
    unmarked: NotNegative = 1.0
    media: str = CLEAN

    def __post_init__(self) -> None:
        if self.marked == 0 and self.unmarked == 0:
            raise ValueError("marked and unmarked are both 0, so that no token counts and there is no gradient")

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
        marked = torch.stack([self.counted(table, row) for row in rows]).any(0)
        return tuple(row[marked] for row in rows)

    def counted(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """[M] True on the answers of which any token counts: all, or where ``unmarked`` is 0 those with a mark."""
        if self.unmarked:
            return torch.ones_like(rows, dtype=torch.bool)
        return (table.marks[rows] & table.mask[rows]).any(-1)

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


@dataclass(frozen=True, kw_only=True)
class RatioTerm(AnswerTerm):
    """What terms over rewards share: ``beta`` times the log-ratios of whole answers.

    Args:
        beta: Inverse temperature; larger keeps the policy nearer to the reference.
    """

    beta: Positive = 0.1
