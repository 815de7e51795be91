"""Score tables from numbers per answer: what a test writes down is what the formula of a paper speaks of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmdpo.objectives import Objective
from mmdpo.views import ScoreTable, View

NAN = float("nan")
RUBBISH = -99.0
"""What padding holds: no term may read it."""


@dataclass(frozen=True)
class Answer:
    """One row of a table; all per-token values have the length of ``logp``.

    Args:
        example: Number of the record.
        view: ``"chosen"``, ``"2/crop"``, ``"mismatched"``.
        logp: Log-probability of each token under the policy.
        ref: The same under the reference; the policy's where none is given.
        weight: Weights of the tokens, 1 by default.
        marks: Marked tokens, none by default.
        score: Rating, larger is better.
        label: 1, -1 or 0.
        statistics: Further statistics of each token.
        ref_statistics: The same under the reference.
    """

    example: int
    view: str
    logp: Sequence[float]
    ref: Sequence[float] | None = None
    weight: Sequence[float] | None = None
    marks: Sequence[bool] | None = None
    score: float = NAN
    label: int = 0
    statistics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ref_statistics: Mapping[str, Sequence[float]] = field(default_factory=dict)


def spread(total: float, length: int = 4) -> list[float]:
    """Tokens of an answer that sum to a total, no two alike."""
    shares = range(1, length + 1)
    return [total * share / sum(shares) for share in shares]


def table(answers: Iterable[Answer], dtype: torch.dtype = torch.float64, reference: bool = True) -> ScoreTable:
    """The table of some answers, with one column of padding at least; the policy's columns take gradients.

    Args:
        answers: The rows, in their order.
        dtype: Of log-probabilities, weights and statistics; ratings are float64.
        reference: False leaves out what belongs to the reference.
    """
    rows = list(answers)
    views = [View.parse(row.view) for row in rows]
    media_names = tuple(sorted({view.media for view in views} | {"clean"}))
    width = max((len(row.logp) for row in rows), default=0) + 1

    def padded(values: Iterable[Sequence[float]], fill: float, dtype: torch.dtype = dtype) -> Tensor:
        filled = [[*row, *[fill] * (width - len(row))] for row in values]
        return torch.tensor(filled, dtype=dtype).view(len(filled), width)

    def gathered(of: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, Tensor]:
        columns = list(of)
        names = {name for column in columns for name in column}
        return {
            name: padded([column.get(name, [1.0] * 0) for column in columns], 1.0).requires_grad_()
            for name in sorted(names)
        }

    return ScoreTable(
        logp=padded([row.logp for row in rows], RUBBISH).requires_grad_(),
        ref_logp=padded([row.logp if row.ref is None else row.ref for row in rows], 2 * RUBBISH).requires_grad_()
        if reference
        else None,
        mask=padded([[1.0] * len(row.logp) for row in rows], 0.0, torch.bool),
        weight=padded([row.weight or [1.0] * len(row.logp) for row in rows], 7.0),
        marks=padded([row.marks or [False] * len(row.logp) for row in rows], 1.0, torch.bool),
        example=torch.tensor([row.example for row in rows], dtype=torch.long),
        candidate=torch.tensor([view.candidate for view in views], dtype=torch.long),
        media=torch.tensor([media_names.index(view.media) for view in views], dtype=torch.long),
        score=torch.tensor([row.score for row in rows], dtype=torch.float64),
        label=torch.tensor([row.label for row in rows], dtype=torch.long),
        media_names=media_names,
        statistics=gathered(row.statistics for row in rows),
        ref_statistics=gathered(row.ref_statistics for row in rows) if reference else {},
    )


def loss_of(objective: Objective, of: ScoreTable) -> Tensor:
    """The loss of a table that is a whole optimizer step."""
    return objective(of, objective.counts(of))[0]


def sums_by_row(gradient: Tensor, of: ScoreTable) -> list[float]:
    """Gradient of the sum of each row's log-probabilities, after checking that all its tokens have the same."""
    found = []
    for row, mask in zip(gradient, of.mask, strict=True):
        inside = row[mask]
        torch.testing.assert_close(inside, inside[:1].expand_as(inside), rtol=1e-12, atol=1e-14)
        assert not row[~mask].any(), "padding has a gradient"
        found.append(inside[0].item())
    return found
