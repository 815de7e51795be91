"""What a loss term asks for and what it is given: views and the score table. Types only.

A view is one candidate answer under one media variant. A term declares the views it needs; the collator builds exactly
their union; the scorer fills a table with one row per (record, view).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

CLEAN = "clean"
"""The media as they are in the record."""

CHOSEN, REJECTED = 0, 1


@dataclass(frozen=True, order=True)
class View:
    """One candidate answer under one media variant.

    Args:
        candidate: The record's candidate index (0 is the chosen answer of a pair, 1 the rejected one).
        media: ``"clean"``, or the name of a corruption that the record's modality knows.
    """

    candidate: int
    media: str = CLEAN


@dataclass(frozen=True)
class ScoreTable:
    """Per-token log-probabilities of every (record, view) of a batch, one row each.

    Shapes: N rows, T tokens of the longest answer. Log-probabilities are natural logarithms (nats).

    Args:
        logp: [N, T] log-probabilities of the answer tokens under the policy; 0 where ``mask`` is False.
        mask: [N, T] True where an answer token is.
        weight: [N, T] token weights (1 unless spans are marked).
        example: [N] index of the record within this table.
        candidate: [N] candidate index.
        media: [N] index into ``media_names``.
        score: [N] rating of the candidate, NaN where there is none.
        media_names: Names of the media variants.
        ref_logp: [N, T] the same under the reference, or None when no term needs a reference.
        statistics: Further per-token statistics that terms declared, each [N, T].
    """

    logp: Tensor
    mask: Tensor
    weight: Tensor
    example: Tensor
    candidate: Tensor
    media: Tensor
    score: Tensor
    media_names: tuple[str, ...]
    ref_logp: Tensor | None = None
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    def where(self, view: View) -> Tensor:
        """[N] True on the rows of a view."""
        if view.media not in self.media_names:
            return self.example < 0
        return (self.candidate == view.candidate) & (self.media == self.media_names.index(view.media))

    def aligned(self, *views: View) -> tuple[Tensor, ...]:
        """Row indices of each view, restricted to the records that have all of them, in the same record order.

        Returns:
            One [M] index tensor per view; entry m of each belongs to the same record.
        """
        rows = [self.where(view).nonzero().squeeze(1) for view in views]
        rows = [index[self.example[index].argsort(stable=True)] for index in rows]
        keep = rows[0]
        for other in rows[1:]:
            keep = keep[(self.example[keep][:, None] == self.example[other][None, :]).any(1)]
        wanted = self.example[keep]
        return tuple(
            index[(self.example[index][:, None] == wanted[None, :]).any(1)] if index is not keep else keep
            for index in rows
        )

    def select(self, rows: Tensor) -> ScoreTable:
        """The table of some rows only, given as indices or as a [N] mask."""
        columns = ("logp", "mask", "weight", "example", "candidate", "media", "score")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in columns},
            ref_logp=None if self.ref_logp is None else self.ref_logp[rows],
            statistics={name: values[rows] for name, values in self.statistics.items()},
        )

    def with_logp(self, logp: Tensor) -> ScoreTable:
        """The same rows with other policy log-probabilities (used by the two-pass step)."""
        return replace(self, logp=logp)


Reduction = Literal["sum", "mean"]
