"""Pairs that see the whole optimizer step: sorted gaps, a beta for the step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from mmdpo import registry
from mmdpo.objectives.base import reduce_tokens
from mmdpo.objectives.links import NotNegative, Positive, ReverseKl
from mmdpo.objectives.terms import Pair
from mmdpo.views import ScoreTable

Share = Annotated[float, Gt(0), Le(1)]


def log_probability(table: ScoreTable, rows: Tensor) -> Tensor:
    """[M] summed log-probabilities of the answers in some rows, without gradient."""
    return reduce_tokens(table.logp[rows].detach(), table.mask[rows].to(table.logp.dtype))


@registry.terms.register("sorted_pair")
@dataclass(frozen=True, kw_only=True)
class SortedPair(Pair):
    """Alignment by optimal transport: the distribution of gaps is moved, not each pair (AOT).

    Args:
        paired: True compares sorted policy gaps with sorted reference gaps; False compares the sorted log-ratios of all
            better answers with those of all worse ones, as if they did not belong together.
    """

    paired: bool = True

    formula: ClassVar[str] = "link(beta (sort(p(better) - p(worse)) - sort(r(better) - r(worse))))"
    source: ClassVar[str] = "arXiv 2406.05882 (AOT)"

    @property
    def scope(self) -> Literal["example", "batch"]:
        """Sorting compares the records of a step."""
        return "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.paired and (self.penalty or self.transform != ReverseKl()):
            raise ValueError("a transform or a penalty is of log-ratios, and paired gaps are of log-probabilities")

    def ratios(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> list[Tensor]:
        """[M] log-ratios of each kind of answer over the whole optimizer step, in rising order if not ``paired``."""
        ratios = super().ratios(table, rows)
        return ratios if self.paired else [ratio.sort().values for ratio in ratios]

    def gap(self, table: ScoreTable, rows: tuple[Tensor, ...]) -> Tensor:
        """[M] differences of order statistics, over the whole optimizer step."""
        if not self.paired:
            return super().gap(table, rows)
        policy = super().gap(replace(table, ref_logp=None), rows).sort().values
        if not self.reference or table.ref_logp is None:
            return policy
        return policy - super().gap(replace(table, logp=table.ref_logp, ref_logp=None), rows).sort().values


@registry.terms.register("batch_beta_pair")
@dataclass(frozen=True, kw_only=True)
class BatchBetaPair(Pair):
    """Beta follows the informativeness of the step: ``max(beta (1 + alpha (mean gap - m0)), floor)`` (beta-DPO).

    m0 is a running mean of the gaps, taken before this step's are added.

    Args:
        alpha: How strongly beta follows.
        m0: Running mean at the start of a run, in nats.
        momentum: Of the running mean and deviation.
        floor: Smallest beta.
        keep: Share of the pairs that is used: those nearest to the running mean by a Gaussian weight. The paper keeps
            0.8; 1 uses all.
    """

    alpha: NotNegative = 0.6
    m0: float = 0.0
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    floor: Positive = 1e-3
    keep: Share = 1.0

    formula: ClassVar[str] = "link(b (R(better) - R(worse))), b = max(beta (1 + alpha (mean gap - m0)), floor)"
    source: ClassVar[str] = "arXiv 2407.08639 (beta-DPO)"

    @property
    def scope(self) -> Literal["example", "batch"]:
        """Beta is that of a step."""
        return "batch"

    def betas(self, table: ScoreTable, rows: tuple[Tensor, ...], gap: Tensor) -> Tensor:
        """[M] the step's beta."""
        kept = self._kept(table, gap)
        used = self.beta * (1 + self.alpha * (gap[kept].mean() - table.state["m0"]))
        return torch.full_like(gap, used.clamp(min=self.floor).item())

    def losses(self, table: ScoreTable) -> Tensor:
        """[M] losses; with ``keep`` below 1 those of pairs that are left out are 0 and the others are scaled up."""
        losses = super().losses(table)
        if self.keep == 1 or not len(losses):
            return losses
        kept = self._kept(table, self.gap(table, self.rows(table)))
        return losses * kept * (len(kept) / kept.sum())

    def initial_state(self) -> dict[str, float]:
        """Mean and deviation of the gaps, and the steps done, which seed the draw of pairs."""
        return {"m0": self.m0, "deviation": 1.0, "steps": 0.0}

    def next_state(self, table: ScoreTable) -> dict[str, float]:
        """Moves both towards this step's."""
        gap = self.gap(table, self.rows(table)).detach()
        if not len(gap):
            return dict(table.state)
        old, new = self.momentum, 1 - self.momentum
        deviation = gap.std(correction=0).item() if len(gap) > 1 else table.state["deviation"]
        return {
            "m0": old * table.state["m0"] + new * gap.mean().item(),
            "deviation": old * table.state["deviation"] + new * deviation,
            "steps": table.state["steps"] + 1,
        }

    def _kept(self, table: ScoreTable, gap: Tensor) -> Tensor:
        """[M] which pairs are used; drawn without replacement, seeded by the state: the same on every process."""
        if self.keep == 1 or len(gap) < 2:
            return torch.ones_like(gap, dtype=torch.bool)
        state = table.state
        distance = (gap.detach().double().cpu() - state["m0"]) / max(state["deviation"], 1e-6)
        generator = torch.Generator().manual_seed(int(state["steps"]))
        uniform = torch.empty(len(gap), dtype=torch.float64)
        # by rank, so that the draw does not depend on where in the step a pair stands; gaps tie before the first step
        better = log_probability(table, self.rows(table)[0])
        order = better.argsort(stable=True)
        order = order[gap.detach()[order].argsort(stable=True)].cpu()
        uniform[order] = torch.rand(len(gap), generator=generator, dtype=torch.float64)
        # the largest of log-weight + Gumbel noise are a draw without replacement, and no weight underflows
        keys = -0.5 * distance**2 - torch.log(-torch.log(uniform))
        kept = torch.zeros(len(gap), dtype=torch.bool)
        kept[keys.topk(max(1, round(self.keep * len(gap)))).indices] = True
        return kept.to(gap.device)
