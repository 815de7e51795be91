"""Loss terms: from a score table to a sum of per-record losses.

Read alone: this file needs nothing but the table of :mod:`mmdpo.views` and torch. The pattern of every term is

    views()       which rows it reads
    count(table)  how many units (records or tokens) it will average over; known before any forward pass
    total(table)  the sum of the losses of those units; total / count over the whole optimizer step is the term's value

Notation: ``p`` policy and ``r`` reference log-probability of an answer, ``R = p - r`` its log-ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdpo.views import CHOSEN, CLEAN, REJECTED, Reduction, ScoreTable, View

LINKS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": lambda margin: -F.logsigmoid(margin)}
"""Maps a margin [M] (in units of reward) to a loss [M]."""


def reduce_tokens(values: Tensor, mask: Tensor, weight: Tensor, reduction: Reduction) -> Tensor:
    """Reduces per-token values [N, T] to one value per row [N], counting each token with its weight."""
    weights = weight * mask
    total = (values.masked_fill(~mask, 0.0) * weights).sum(-1)
    return total if reduction == "sum" else total / weights.sum(-1).clamp(min=1e-12)


def log_ratio(table: ScoreTable, rows: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Log-ratio ``R = p - r`` of the given rows.

    Args:
        table: Score table.
        rows: [M] row indices.
        reduction: ``"sum"`` over answer tokens (the likelihood of the answer) or their weighted ``"mean"``.

    Returns:
        [M], in nats. Without a reference it is ``p`` itself.
    """
    values = table.logp[rows]
    if table.ref_logp is not None:
        values = values - table.ref_logp[rows]
    return reduce_tokens(values, table.mask[rows], table.weight[rows], reduction)


def pair(
    table: ScoreTable,
    better: Tensor,
    worse: Tensor,
    *,
    beta: float,
    link: str = "sigmoid",
    reduction: Reduction = "sum",
) -> Tensor:
    """Pairwise preference loss ``link(beta * (R_better - R_worse))``.

    Args:
        table: Score table.
        better: [M] rows that are preferred.
        worse: [M] rows that they are preferred to.
        beta: Inverse temperature of the implicit reward.
        link: Name in :data:`LINKS`.
        reduction: How token log-ratios make one log-ratio per answer.

    Returns:
        [M] losses.
    """
    gap = log_ratio(table, better, reduction) - log_ratio(table, worse, reduction)
    return LINKS[link](beta * gap)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One term of the objective.

    Args:
        weight: Factor of the term in the sum.
    """

    weight: float = 1.0

    needs_reference: ClassVar[bool] = True
    scope: ClassVar[Literal["example", "batch"]] = "example"
    """``"batch"``: the term must see the whole optimizer step of all processes at once (two passes)."""
    statistics: ClassVar[tuple[str, ...]] = ()
    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""

    def views(self) -> tuple[View, ...]:
        """The views this term reads."""
        raise NotImplementedError

    def count(self, table: ScoreTable) -> Tensor:
        """Number of units the term averages over in this table (a scalar); must not read ``logp``."""
        return torch.tensor(float(len(table.aligned(*self.views())[0])), device=table.mask.device)

    def total(self, table: ScoreTable) -> Tensor:
        """Sum of the losses of those units (a scalar)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Dpo(Term):
    """Direct preference optimization: the chosen answer is preferred to the rejected one.

    Rafailov et al. 2023 (arXiv 2305.18290), equation 7.

    Args:
        beta: Inverse temperature; larger keeps the policy nearer to the reference.
        reduction: ``"sum"`` is the paper's likelihood; ``"mean"`` divides each log-ratio by its length.
        media: Media variant under which both answers are scored.
    """

    beta: float = 0.1
    reduction: Reduction = "sum"
    media: str = CLEAN

    formula: ClassVar[str] = "-log sigmoid(beta * (R(chosen) - R(rejected)))"
    source: ClassVar[str] = "arXiv 2305.18290, equation 7"

    def views(self) -> tuple[View, ...]:
        """Chosen and rejected under the term's media variant."""
        return View(CHOSEN, self.media), View(REJECTED, self.media)

    def total(self, table: ScoreTable) -> Tensor:
        """Sum of the pair losses."""
        better, worse = table.aligned(*self.views())
        return pair(table, better, worse, beta=self.beta, reduction=self.reduction).sum()


@dataclass(frozen=True, kw_only=True)
class Nll(Term):
    """Negative log-likelihood of one candidate: keeps the chosen answer likely while DPO moves the margin.

    As in RPO, Pang et al. 2024 (arXiv 2404.19733), where it stands beside DPO with weight 1.

    Args:
        candidate: Candidate index (0 = chosen).
        per: ``"sequence"``: mean over records of the per-token mean (RPO); ``"token"``: mean over all answer tokens of
            the optimizer step; ``"sum"``: mean over records of the summed negative log-likelihood.
        media: Media variant under which the answer is scored.
    """

    candidate: int = CHOSEN
    per: Literal["sequence", "token", "sum"] = "sequence"
    media: str = CLEAN

    needs_reference: ClassVar[bool] = False
    formula: ClassVar[str] = "-log p(chosen) / tokens(chosen)"
    source: ClassVar[str] = "arXiv 2404.19733, equation 1"

    def views(self) -> tuple[View, ...]:
        """The candidate under the term's media variant."""
        return (View(self.candidate, self.media),)

    def count(self, table: ScoreTable) -> Tensor:
        """Records, or answer tokens for ``per="token"``."""
        if self.per != "token":
            return super().count(table)
        (rows,) = table.aligned(*self.views())
        return (table.weight[rows] * table.mask[rows]).sum().float()

    def total(self, table: ScoreTable) -> Tensor:
        """Sum of the negative log-likelihoods in the term's unit."""
        (rows,) = table.aligned(*self.views())
        reduction: Reduction = "mean" if self.per == "sequence" else "sum"
        return -reduce_tokens(table.logp[rows], table.mask[rows], table.weight[rows], reduction).sum()
