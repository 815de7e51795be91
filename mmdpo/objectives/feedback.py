"""Losses of single answers that are desirable or not: KTO, BCO, APO; also of the two answers of a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mmdpo import registry
from mmdpo.objectives.base import RatioTerm
from mmdpo.objectives.links import Bounded, Link, NotNegative, saturated
from mmdpo.views import EVERY, MISMATCHED, ScoreTable, View


@registry.terms.register("feedback")
@dataclass(frozen=True, kw_only=True)
class Feedback(RatioTerm):
    """Desirable answers are pushed above a reference point, undesirable ones below: ``link(+-(beta R - shift))``.

    A pair without labels counts as a desirable and an undesirable answer.

    Args:
        desirable: Weight of desirable answers.
        undesirable: Weight of undesirable answers.
        link: From argument to loss.
        shift: Reward of the reference point: a number; ``kl``: ``beta max(0, mean R)`` over answers that belong to
            other prompts (KTO's z0); ``running``: the mean reward of everything seen so far (BCO).
        per: Averages over ``answer`` or over ``record`` (the sum of its answers).
    """

    desirable: NotNegative = 1.0
    undesirable: NotNegative = 1.0
    link: Link = Bounded()  # noqa: RUF009
    shift: float | Literal["kl", "running"] = 0.0
    per: Literal["answer", "record"] = "answer"

    formula: ClassVar[str] = "weight link(sign (beta R - shift)), sign 1 for desirable answers, -1 for undesirable ones"
    source: ClassVar[str] = "arXiv 2402.01306 (KTO), equation 8"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.desirable == 0 and self.undesirable == 0:
            raise ValueError("desirable and undesirable are both 0, so that there is no gradient")

    @property
    def scope(self) -> Literal["example", "batch"]:
        """A reference point is that of a whole step."""
        return "example" if isinstance(self.shift, float | int) else "batch"

    @property
    def needs(self) -> str:
        """A label."""
        return "a label (desirable or not), or a chosen and a rejected answer"

    def views(self) -> tuple[View, ...]:
        """Every answer, and a mismatched one for the reference point."""
        answers = View(EVERY, self.media)
        return (answers, View(MISMATCHED, self.media)) if self.shift == "kl" else (answers,)

    def rows(self, table: ScoreTable) -> tuple[Tensor, ...]:
        """Rows of all answers with a label; where marked tokens alone count, of those that have any."""
        return (self._counted_rows(table, table.where(View(EVERY, self.media)) & (table.label != 0)),)

    def count(self, table: ScoreTable) -> Tensor:
        """Answers, or records."""
        (rows,) = self.rows(table)
        units = rows if self.per == "answer" else table.example[rows].unique()
        return torch.tensor(float(len(units)), device=table.mask.device)

    def reference_point(self, table: ScoreTable) -> Tensor:
        """The shift as a reward (a scalar), without gradient."""
        if self.shift == "kl":
            rows = self._counted_rows(table, table.where(View(MISMATCHED, self.media)))
            ratios = self.ratio(table, rows).detach()
            return self.beta * ratios.mean().clamp(min=0) if len(rows) else ratios.new_zeros(())
        if self.shift == "running":
            seen = self.next_state(table)  # this step's rewards count already, as in the authors' code
            return table.logp.new_tensor(seen["sum"] / max(seen["count"], 1.0))
        return table.logp.new_tensor(self.shift)

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] weighted losses of the labelled answers."""
        (rows,) = self.rows(table)
        good = (table.label[rows] > 0).to(table.logp.dtype)
        weight = self.undesirable + (self.desirable - self.undesirable) * good
        return weight * self.link(self._arguments(table))

    def watch(self, table: ScoreTable) -> dict[str, Tensor]:
        """Beta, the reference point, rewards of both kinds of answers, and which have no gradient left."""
        z = self._arguments(table)
        (rows,) = self.rows(table)
        reward, label = self.beta * self.ratio(table, rows), table.label[rows]
        return {
            "reward_desirable": reward[label > 0],
            "reward_undesirable": reward[label < 0],
            "beta": torch.full_like(z, self.beta),
            "shift": self.reference_point(table).expand_as(z),
            "saturated": saturated(self.link, z),
        }

    def initial_state(self) -> dict[str, float]:
        """Sum and number of the rewards seen."""
        return {"sum": 0.0, "count": 0.0} if self.shift == "running" else {}

    def next_state(self, table: ScoreTable) -> dict[str, float]:
        """Adds the step's rewards."""
        if self.shift != "running":
            return {}
        (rows,) = self.rows(table)
        rewards = self.beta * self.ratio(table, rows).detach().double()
        return {"sum": table.state["sum"] + rewards.sum().item(), "count": table.state["count"] + len(rows)}

    def _arguments(self, table: ScoreTable) -> Tensor:
        (rows,) = self.rows(table)
        reward = self.beta * self.ratio(table, rows)
        return table.label[rows].to(reward.dtype) * (reward - self.reference_point(table))

    def _counted_rows(self, table: ScoreTable, wanted: Tensor) -> Tensor:
        rows = wanted.nonzero().squeeze(1)
        return rows[self.counted(table, rows)]
