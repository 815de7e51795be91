"""What to watch while training: rewards, displacement, length gap, distance from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdpo.objectives import Objective
from mmdpo.objectives.terms import reduce_tokens
from mmdpo.views import CHOSEN, CLEAN, REJECTED, Reduction, ScoreTable, View


@dataclass(frozen=True)
class Reward:
    """How log-ratios become the rewards that are reported: as in the first term of the objective that has a beta.

    Args:
        beta: Factor.
        reduction: Over the tokens of an answer.
    """

    beta: float = 0.1
    reduction: Reduction = "sum"


def reward_of(objective: Objective) -> Reward:
    """The beta and reduction really used, else the defaults."""
    term = next((term for term in objective.terms.values() if hasattr(term, "beta")), None)
    return Reward() if term is None else Reward(float(term.beta), getattr(term, "reduction", "sum"))


@dataclass(frozen=True)
class PairStatistics:
    """Per-record statistics of the pairs of a table, each [M].

    Args:
        example: Index of the record within the table.
        chosen: Reward of the chosen answer, ``beta * R``.
        rejected: Reward of the rejected answer.
        chosen_logp: Summed log-probability of the chosen answer.
        rejected_logp: Summed log-probability of the rejected answer.
        length_gap: Tokens of the chosen minus tokens of the rejected answer.
        kl: Distance from the reference per token of the chosen answer, the mean of ``d**2 / 2`` with ``d`` the token's
            log-ratio: an estimate of KL(policy || reference) where the answer is one that the policy would give.
    """

    example: Tensor
    chosen: Tensor
    rejected: Tensor
    chosen_logp: Tensor
    rejected_logp: Tensor
    length_gap: Tensor
    kl: Tensor

    @property
    def margin(self) -> Tensor:
        """Reward margin, [M]."""
        return self.chosen - self.rejected


@torch.no_grad()
def pair_statistics(table: ScoreTable, reward: Reward, media: str = CLEAN) -> PairStatistics:
    """Statistics of every record that has both a chosen and a rejected row under a media variant."""
    better, worse = table.aligned(View(CHOSEN, media), View(REJECTED, media))
    drift = torch.zeros_like(table.logp) if table.ref_logp is None else table.logp - table.ref_logp
    ratios = table.logp if table.ref_logp is None else drift

    def summed(values: Tensor, rows: Tensor) -> Tensor:
        return reduce_tokens(values[rows], table.mask[rows].to(values.dtype))

    def log_ratio(rows: Tensor) -> Tensor:
        return reduce_tokens(ratios[rows], table.weight[rows] * table.mask[rows], reward.reduction)

    tokens = table.mask.sum(-1)
    return PairStatistics(
        example=table.example[better],
        chosen=reward.beta * log_ratio(better),
        rejected=reward.beta * log_ratio(worse),
        chosen_logp=summed(table.logp, better),
        rejected_logp=summed(table.logp, worse),
        length_gap=(tokens[better] - tokens[worse]).float(),
        kl=summed(drift**2 / 2, better) / tokens[better].clamp(min=1),
    )


def right(margin: Tensor) -> Tensor:
    """1 where the chosen answer has the larger reward, one half for a tie, as all are before the first step."""
    return (margin > 0).float() + 0.5 * (margin == 0).float()


def step_metrics(statistics: PairStatistics) -> dict[str, Tensor]:
    """Per-record values under the names that are logged; each is averaged over the optimizer step."""
    both_fell = (statistics.chosen < 0) & (statistics.rejected < 0)
    return {
        "rewards/chosen": statistics.chosen,
        "rewards/rejected": statistics.rejected,
        "rewards/margins": statistics.margin,
        "rewards/accuracies": right(statistics.margin),
        "logps/chosen": statistics.chosen_logp,
        "logps/rejected": statistics.rejected_logp,
        "diagnostics/displacement": both_fell.float(),
        "diagnostics/length_gap": statistics.length_gap,
        "diagnostics/kl": statistics.kl,
    }


class Meter:
    """Means of logged values over everything since the last reading, over all processes."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds per-record values, each [M]."""
        for name, value in values.items():
            pair = torch.stack(
                [value.detach().double().sum().float(), torch.tensor(float(len(value))).to(value.device)]
            )
            self._sums[name] = self._sums.get(name, torch.zeros_like(pair)) + pair

    def read(self, reduce: object) -> dict[str, float]:
        """Means by name, and forgets.

        Args:
            reduce: Function that adds a tensor up over processes (``accelerator.reduce``).
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)
        stacked: Tensor = reduce(torch.stack([self._sums[name] for name in names]), reduction="sum")  # type: ignore[operator]
        self._sums.clear()
        return {name: float(total / count) for name, (total, count) in zip(names, stacked, strict=True) if count > 0}
