"""What to watch while training: rewards, displacement, length gap, distance from the reference, use of the media."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmdpo.objectives import Objective
from mmdpo.objectives.feedback import Feedback
from mmdpo.objectives.listwise import ListTerm
from mmdpo.objectives.regular import KL_ESTIMATORS
from mmdpo.objectives.terms import Pair, RatioTerm, reduce_tokens
from mmdpo.views import CHOSEN, CLEAN, EVERY, REJECTED, ScoreTable, View


@dataclass(frozen=True)
class Reward:
    """The rewards that are reported: ``beta * R`` of a term of the objective, and the answers that it compares.

    Args:
        term: The term, with its weights of tokens and its reference; plain DPO by default.
    """

    term: RatioTerm = Pair()  # noqa: RUF009  (frozen)

    @property
    def beta(self) -> float:
        """The term's factor."""
        return float(self.term.beta)

    def of(self, table: ScoreTable, rows: Tensor) -> Tensor:
        """[M] rewards of the answers in some rows; without a reference of their log-probabilities alone."""
        return self.beta * self.term.ratio(table, rows)

    def of_pairs(self, table: ScoreTable, better: Tensor, worse: Tensor) -> tuple[Tensor, Tensor]:
        """[M] rewards of both answers of pairs; LD-DPO counts the end of the longer one differently."""
        if isinstance(self.term, Pair) and self.term.tail != 1:
            table = self.term._shortened(table, (better, worse))
        return self.of(table, better), self.of(table, worse)

    def pairs(self, table: ScoreTable, media: str = CLEAN) -> tuple[Tensor, Tensor]:
        """[M] rows of the better and the worse answer of each record that has both under a media variant.

        They are what the term makes of them: the best and the worst of a list, a desirable and an undesirable answer,
        else the first two candidates.
        """
        if isinstance(self.term, ListTerm) and not self.term.order:
            lists = replace(self.term, media=media).lists(table)
            index, known, grade = lists.index, lists.present, lists.grade
        elif isinstance(self.term, Feedback):
            index, known = table.lists(media)
            grade = table.label[index].float()
            known = known & (grade != 0)
        else:
            better, worse = table.aligned(View(CHOSEN, media), View(REJECTED, media))
            return better, worse
        if not len(index):
            return table.example[:0], table.example[:0]
        best, worst = grade.masked_fill(~known, -torch.inf).max(1), grade.masked_fill(~known, torch.inf).min(1)
        apart = best.values > worst.values
        better, worse = (index.gather(1, place[:, None])[apart, 0] for place in (best.indices, worst.indices))
        return better, worse

    def chosen(self, table: ScoreTable) -> Tensor:
        """[M] rows of the answers that are to become likelier, with their media; single ones too."""
        if isinstance(self.term, Feedback):
            return (table.where(View(EVERY)) & (table.label > 0)).nonzero().squeeze(1)
        if isinstance(self.term, ListTerm) and not self.term.order:
            return self.pairs(table)[0]
        return table.where(View(CHOSEN)).nonzero().squeeze(1)


def reward_of(objective: Objective) -> Reward:
    """Rewards as in the first term that has a beta, else as in plain DPO."""
    term = next((term for term in objective.terms.values() if hasattr(term, "beta")), None)
    if term is None or isinstance(term, RatioTerm):
        return Reward() if term is None else Reward(term)
    return Reward(Pair(beta=float(term.beta), reduction=getattr(term, "reduction", "sum")))


@dataclass(frozen=True)
class Drift:
    """How far answers have moved from the reference, each [M]; tokens count alike, whatever weights a loss gives them.

    Args:
        chosen: Summed log-ratio of the chosen answer, in nats.
        rejected: The same of the rejected answer.
        per_token: Mean log-ratio of the chosen answer's tokens.
        kl: Mean over the chosen answer's tokens of each of :data:`~mmdpo.objectives.regular.KL_ESTIMATORS`: estimates
            of KL(policy || reference) where the answer is one that the policy would give.
    """

    chosen: Tensor
    rejected: Tensor
    per_token: Tensor
    kl: Mapping[str, Tensor] = field(default_factory=dict)


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
        drift: Distance from the reference; None without one.
    """

    example: Tensor
    chosen: Tensor
    rejected: Tensor
    chosen_logp: Tensor
    rejected_logp: Tensor
    length_gap: Tensor
    drift: Drift | None

    @property
    def margin(self) -> Tensor:
        """Reward margin, [M]."""
        return self.chosen - self.rejected


@torch.no_grad()
def pair_statistics(table: ScoreTable, reward: Reward, media: str = CLEAN) -> PairStatistics:
    """Statistics of every record that has both a chosen and a rejected row under a media variant."""
    better, worse = reward.pairs(table, media)
    chosen, rejected = reward.of_pairs(table, better, worse)
    tokens = table.mask.sum(-1)
    return PairStatistics(
        example=table.example[better],
        chosen=chosen,
        rejected=rejected,
        chosen_logp=_summed(table, table.logp, better),
        rejected_logp=_summed(table, table.logp, worse),
        length_gap=(tokens[better] - tokens[worse]).float(),
        drift=None if table.ref_logp is None else _drift(table, table.logp - table.ref_logp, better, worse),
    )


def _drift(table: ScoreTable, ratios: Tensor, better: Tensor, worse: Tensor) -> Drift:
    def per_token(values: Tensor) -> Tensor:
        return reduce_tokens(values[better], table.mask[better].to(values.dtype), "mean")

    return Drift(
        chosen=_summed(table, ratios, better),
        rejected=_summed(table, ratios, worse),
        per_token=per_token(ratios),
        kl={name: per_token(estimate(ratios)) for name, estimate in KL_ESTIMATORS.items()},
    )


def _summed(table: ScoreTable, values: Tensor, rows: Tensor) -> Tensor:
    return reduce_tokens(values[rows], table.mask[rows].to(values.dtype))


@dataclass(frozen=True)
class MediaStatistics:
    """What the media do for the chosen answers, each [M]; a record is there once for each variant.

    Args:
        example: Index of the record within the table.
        margin: Reward of the chosen answer with its media minus its reward under the variant.
        gain: Nats by which the media make the chosen answer more likely than under the variant.
    """

    example: Tensor
    margin: Tensor
    gain: Tensor


@torch.no_grad()
def media_statistics(table: ScoreTable, reward: Reward, variants: Sequence[str]) -> MediaStatistics:
    """Statistics of every chosen answer that is scored with its media and under a variant of them."""
    rows = reward.chosen(table)
    pairs = []
    for media in variants:
        shown = table.where(View(EVERY, media)).nonzero().squeeze(1)
        same = table.example[rows][:, None] == table.example[shown]
        same &= table.candidate[rows][:, None] == table.candidate[shown]
        here, there = same.nonzero(as_tuple=True)
        pairs.append((rows[here], shown[there]))
    clean, other = (torch.cat(part) for part in zip(*pairs, strict=True))
    return MediaStatistics(
        example=table.example[clean],
        margin=reward.of(table, clean) - reward.of(table, other),
        gain=_summed(table, table.logp, clean) - _summed(table, table.logp, other),
    )


def media_variants(objective: Objective) -> tuple[str, ...]:
    """Media variants under which an objective scores the chosen answer."""
    chosen = {view.media for view in objective.views if view.candidate in (CHOSEN, EVERY)}
    return tuple(sorted(chosen - {CLEAN}))


def right(margin: Tensor) -> Tensor:
    """1 where the chosen answer has the larger reward, one half for a tie, as all are before the first step."""
    return (margin > 0).float() + 0.5 * (margin == 0).float()


def step_metrics(statistics: PairStatistics) -> dict[str, Tensor]:
    """Per-record values of pairs under the names that are logged, for :meth:`mmdpo.training.meter.Meter.add`.

    Returns:
        [M] values whose mean is logged, and [M, 2] values whose correlation is.
    """
    metrics = {
        "rewards/chosen": statistics.chosen,
        "rewards/rejected": statistics.rejected,
        "rewards/margins": statistics.margin,
        "rewards/accuracies": right(statistics.margin),
        "logps/chosen": statistics.chosen_logp,
        "logps/rejected": statistics.rejected_logp,
        "diagnostics/length_gap": statistics.length_gap,
        "diagnostics/length_correlation": torch.stack([statistics.length_gap, statistics.margin], -1),
    }
    drift = statistics.drift
    if drift is not None:
        metrics |= {
            "diagnostics/displacement": ((drift.chosen < 0) & (drift.rejected < 0)).float(),
            "diagnostics/chosen_drop": (drift.chosen < 0).float(),
            "diagnostics/chosen_change": drift.per_token,
        }
        metrics |= {f"diagnostics/kl_{name}": values for name, values in drift.kl.items()}
    return metrics


@torch.no_grad()
def training_metrics(table: ScoreTable, objective: Objective) -> dict[str, Tensor]:
    """Everything that a training step logs of a table, as :func:`step_metrics`.

    The names depend on the objective and the reference alone, so that all processes have the same.
    """
    reward = reward_of(objective)
    metrics = step_metrics(pair_statistics(table, reward))
    variants = media_variants(objective)
    if variants:
        media = media_statistics(table, reward, variants)
        metrics |= {
            "diagnostics/media_margin": media.margin,
            "diagnostics/media_accuracy": right(media.margin),
            "diagnostics/media_gain": media.gain,
        }
    if any(getattr(term, "reads_marks", False) for term in objective.terms.values()):
        rows = table.where(View(EVERY))
        mask = table.mask[rows].float()
        metrics["diagnostics/marked_tokens"] = reduce_tokens(table.marks[rows].float(), mask, "mean")
    return metrics
