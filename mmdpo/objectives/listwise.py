"""Losses over lists of K candidates. Candidates compete only with those that are worse: ties are never compared."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from mmdpo import registry
from mmdpo.objectives.base import RatioTerm
from mmdpo.objectives.links import Link, Positive, Sigmoid, safe_exp
from mmdpo.views import EVERY, ScoreTable, View


@dataclass(frozen=True)
class Lists:
    """The lists of a table.

    Args:
        index: [M, K] rows; 0 where a list is shorter.
        present: [M, K] True where there is a candidate.
        grade: [M, K] larger is better; by the ratings, or by the order where there are none.
        beats: [M, K, K] True where candidate i is better than candidate j.
    """

    index: Tensor
    present: Tensor
    grade: Tensor
    beats: Tensor


@dataclass(frozen=True, kw_only=True)
class ListTerm(RatioTerm):
    """What losses over lists share.

    Args:
        order: Rows from best to worst, as ``candidate/media``; by default every candidate of the record, ordered by its
            ratings, or as they stand where there are none.
    """

    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.order:
            return
        if self.needs_scores:
            raise ValueError("order gives places, and the term reads ratings, which places are not; leave order out")
        if len({self.view(text) for text in self.order}) < max(2, len(self.order)):
            raise ValueError("order must name two or more rows, each once: a row is no better than itself")

    @property
    def needs(self) -> str:
        """Two candidates of different quality."""
        return "two or more candidates that are not all rated the same" + (", each with a score" * self.needs_scores)

    def views(self) -> tuple[View, ...]:
        """Every candidate, or the rows that are named."""
        return tuple(self.view(text) for text in self.order) or (View(EVERY, self.media),)

    def rows(self, table: ScoreTable) -> tuple[Tensor, ...]:
        """Rows of the lists that have an order: one index [M] for each place, 0 where a list is shorter."""
        return self.lists(table).index.unbind(1)

    def examples(self, table: ScoreTable) -> Tensor:
        """[records] numbers of the records whose lists are used; what fills up shorter lists is not among them."""
        lists = self.lists(table)
        return table.example[lists.index[lists.present]].unique()

    def lists(self, table: ScoreTable) -> Lists:
        """The lists with something to compare; those that are rated in part are left out, and as in :meth:`rows` of the
        base class those without a mark where marked tokens alone count.
        """
        if self.order:
            index = torch.stack(table.aligned(*self.views()), dim=1)
            present = torch.ones_like(index, dtype=torch.bool)
        else:
            index, present = table.lists(self.media)
        places = torch.arange(index.shape[1], device=index.device, dtype=table.score.dtype)
        scores = table.score[index]
        rated = (scores.isfinite() | ~present).all(1)
        by_place = (scores.isnan() | ~present).all(1) & (not self.needs_scores) | bool(self.order)
        grade = torch.where(by_place[:, None], -places, scores.nan_to_num())
        both = present[:, :, None] & present[:, None, :]
        beats = both & (grade[:, :, None] > grade[:, None, :])
        counted = (self.counted(table, index.flatten()).view(index.shape) & present).any(1)
        usable = (rated | by_place) & beats.flatten(1).any(1) & counted
        return Lists(index[usable], present[usable], grade[usable], beats[usable])

    def count(self, table: ScoreTable) -> Tensor:
        """Number of lists."""
        return torch.tensor(float(len(self.lists(table).index)), device=table.mask.device)

    def rewards(self, table: ScoreTable, lists: Lists) -> Tensor:
        """[M, K] implicit rewards, 0 where there is no candidate."""
        ratios = self.ratio(table, lists.index.flatten()).view(lists.index.shape)
        return self.beta * ratios.masked_fill(~lists.present, 0.0)

    def watch(self, table: ScoreTable) -> dict[str, Tensor]:
        """Beta, and the share of the pairs of each list that the rewards put in the right order (a tie is half)."""
        lists = self.lists(table)
        s = self.rewards(table, lists)
        gap = s[:, :, None] - s[:, None, :]
        right = ((gap > 0).to(s.dtype) + 0.5 * (gap == 0)) * lists.beats
        order = right.sum((1, 2)) / lists.beats.sum((1, 2))
        return {"beta": torch.full_like(order, self.beta), "order_accuracy": order}


@registry.terms.register("ranking")
@dataclass(frozen=True, kw_only=True)
class Ranking(ListTerm):
    """Plackett-Luce: each candidate wins against all that are worse.

    ``sum_k [logsumexp(s_k, and s of all worse than k) - s_k]`` with ``s = beta R``; two candidates make it DPO.

    Args:
        top: Only the factors of candidates with fewer than so many better ones; 1 is softmax DPO (S-DPO).
    """

    top: Annotated[int, Ge(1)] | None = None

    formula: ClassVar[str] = "sum_k [logsumexp(s_k, s of all worse) - s_k], s = beta R"
    source: ClassVar[str] = "arXiv 2305.18290, appendix A.3, equation 20"

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] losses."""
        lists = self.lists(table)
        s = self.rewards(table, lists)
        itself = torch.eye(s.shape[1], dtype=torch.bool, device=s.device)
        field = torch.where(lists.beats | itself, s[:, None, :], -torch.inf)
        counted = lists.beats.any(2)
        if self.top is not None:
            counted = counted & (lists.beats.sum(1) < self.top)
        return ((field.logsumexp(2) - s) * counted).sum(1)


@registry.terms.register("soft_ranking")
@dataclass(frozen=True, kw_only=True)
class SoftRanking(ListTerm):
    """Ratings as soft targets ``t = softmax(score / tau)`` (InfoNCA, NCA).

    Args:
        tau: Temperature of the targets, in units of the ratings; towards 0 only the best counts.
        against: ``softmax``: cross-entropy over the list (InfoNCA); ``sigmoid``: each candidate against the reference,
            which keeps good answers likely (NCA).
    """

    tau: Positive = 1.0
    against: Literal["softmax", "sigmoid"] = "softmax"

    formula: ClassVar[str] = "-sum_k t_k log softmax(s)_k, t = softmax(score / tau), s = beta R"
    source: ClassVar[str] = "arXiv 2402.05369 (InfoNCA, NCA), equations 10 and 12"

    @property
    def needs_scores(self) -> bool:
        """The targets are made of ratings."""
        return True

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] losses."""
        lists = self.lists(table)
        s = self.rewards(table, lists)
        grades = (lists.grade / self.tau).masked_fill(~lists.present, -torch.inf)
        target = grades.to(s.dtype).softmax(1)
        if self.against == "softmax":
            log_softmax = s.masked_fill(~lists.present, -torch.inf).log_softmax(1)
            return -(target * log_softmax.masked_fill(~lists.present, 0.0)).sum(1)
        share = lists.present.to(s.dtype) / lists.present.sum(1, keepdim=True)
        return -(target * F.logsigmoid(s) + share * F.logsigmoid(-s)).sum(1)


@registry.terms.register("all_pairs")
@dataclass(frozen=True, kw_only=True)
class AllPairs(ListTerm):
    """Every candidate against each that is worse: ``link(s_i - s_j)``.

    Args:
        link: From argument to loss.
        weights: ``equal``, or ``lambda``: ``|2^score_i - 2^score_j| |1/ln(1 + rank_i) - 1/ln(1 + rank_j)|``, ranks by
            the policy's rewards (LiPO-lambda); scores are then grades, 0 to about 5.
        per: ``mean`` over the pairs of a list, or their ``sum``.
        anchor: Adds this times ``-R`` of the best to each pair that it is in (AMP).
    """

    link: Link = Sigmoid()  # noqa: RUF009
    weights: Literal["equal", "lambda"] = "equal"
    per: Literal["mean", "sum"] = "mean"
    anchor: float = 0.0

    formula: ClassVar[str] = "mean over i better than j of link(s_i - s_j), s = beta R"
    source: ClassVar[str] = "arXiv 2402.01878 (LiPO)"

    @property
    def needs_scores(self) -> bool:
        """Lambda weights are made of ratings."""
        return self.weights == "lambda"

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] losses."""
        lists = self.lists(table)
        s = self.rewards(table, lists)
        values = self.link(s[:, :, None] - s[:, None, :])
        if self.weights == "lambda":
            values = values * self._lambda(s.detach(), lists)
        if self.anchor:
            best = lists.beats.sum(1) == 0
            values = values - self.anchor * (s / self.beta * best)[:, :, None]
        total = torch.where(lists.beats, values, 0.0).sum((1, 2))
        return total / lists.beats.sum((1, 2)) if self.per == "mean" else total

    def _lambda(self, s: Tensor, lists: Lists) -> Tensor:
        """[M, K, K] LiPO's weights."""
        order = s.masked_fill(~lists.present, -torch.inf).argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(1, s.shape[1] + 1, device=s.device).expand_as(s))
        discount = 1 / torch.log1p(rank.to(s.dtype))
        gain = safe_exp(lists.grade.to(s.dtype) * log(2))
        return (gain[:, :, None] - gain[:, None, :]).abs() * (discount[:, :, None] - discount[:, None, :]).abs()
