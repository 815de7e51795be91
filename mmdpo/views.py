"""What a loss term asks for and what it is given: views and the score table. Types only.

A view is one candidate answer under one media variant. A term declares the views it needs; the collator builds exactly
their union; the scorer fills a table with one row per (record, view).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

CLEAN = "clean"
"""The media as they are in the record."""
NONE = "none"
"""No media at all: their parts are left out of the prompt."""
SWAP = "swap"
"""The media of the record's partner: another record with as many items."""

CHOSEN, REJECTED = 0, 1
MISMATCHED = -1
"""An answer to another record's prompt, drawn by seed (KTO's reference point)."""
PARTNER = -2
"""The best answer of the record whose media the variant ``swap`` shows (SymMPO, S-VCO)."""
EVERY = -3
"""In a view that a term asks for: every candidate of the record."""

_NAMES = {"chosen": CHOSEN, "rejected": REJECTED, "mismatched": MISMATCHED, "partner": PARTNER, "every": EVERY}

Reduction = Literal["sum", "mean"]


@dataclass(frozen=True, order=True)
class View:
    """One candidate answer under one media variant.

    Args:
        candidate: The record's candidate index (0 is the chosen answer of a pair, 1 the rejected one), or
            :data:`MISMATCHED`, :data:`PARTNER` or :data:`EVERY`.
        media: ``"clean"``, ``"none"``, ``"swap"``, or a corruption that the record's modality knows, with its strength
            after a colon if it is not the usual one (``"diffusion:250"``).
    """

    candidate: int
    media: str = CLEAN

    @classmethod
    def parse(cls, text: str, media: str = CLEAN) -> View:
        """Reads ``"chosen"``, ``"rejected/crop"``, ``"2/diffusion:250"`` or ``"partner/swap"``.

        Args:
            text: Candidate (a name or a number), and its media variant after a slash.
            media: The variant of a text without a slash.

        Raises:
            ValueError: The candidate is no name and no number.
        """
        candidate, _, variant = text.partition("/")
        if candidate not in _NAMES and not candidate.isdecimal():
            raise ValueError(
                f"{text!r} names no candidate; use {', '.join(_NAMES)} or a number, for example chosen/crop"
            )
        return cls(_NAMES[candidate] if candidate in _NAMES else int(candidate), variant or media)

    def __str__(self) -> str:
        names = {number: name for name, number in _NAMES.items()}
        name = names.get(self.candidate, str(self.candidate))
        return name if self.media == CLEAN else f"{name}/{self.media}"


@dataclass(frozen=True)
class ScoreTable:
    """Per-token log-probabilities of every (record, view) of a batch, one row each.

    Shapes: N rows, T tokens of the longest answer. Log-probabilities are natural logarithms (nats).

    Args:
        logp: [N, T] log-probabilities of the answer tokens under the policy; 0 where ``mask`` is False.
        mask: [N, T] True where an answer token is.
        weight: [N, T] token weights (1 unless the data give others).
        marks: [N, T] True on marked tokens: changed, corrected or hallucinated segments.
        example: [N] index of the record within this table.
        candidate: [N] candidate index, or :data:`MISMATCHED` or :data:`PARTNER`.
        media: [N] index into ``media_names``.
        score: [N] rating of the candidate, larger is better; NaN where there is none.
        label: [N] 1 for a desirable answer, -1 for an undesirable one, 0 where neither is said.
        media_names: Names of the media variants.
        ref_logp: [N, T] ``logp`` under the reference, or None when no term needs a reference.
        statistics: Further per-token statistics that terms declared, each [N, T]: ``logit``, ``entropy``,
            ``sum_squared_probability``, ``token_kl``.
        ref_statistics: The same under the reference (``token_kl`` has none).
        state: Running values of the term that reads the table, each a scalar.
    """

    logp: Tensor
    mask: Tensor
    weight: Tensor
    marks: Tensor
    example: Tensor
    candidate: Tensor
    media: Tensor
    score: Tensor
    label: Tensor
    media_names: tuple[str, ...]
    ref_logp: Tensor | None = None
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    ref_statistics: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, float] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Tensor]:
        """Every [N] and [N, T] column that is a field of its own, but the reference's."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if torch.is_tensor(value) and name != "ref_logp"}

    def where(self, view: View) -> Tensor:
        """[N] True on the rows of a view."""
        if view.media not in self.media_names:
            return self.example < 0
        under = self.media == self.media_names.index(view.media)
        return under & (self.candidate >= 0 if view.candidate == EVERY else self.candidate == view.candidate)

    def aligned(self, *views: View) -> tuple[Tensor, ...]:
        """Row indices of each view, restricted to the records that have all of them, in the same record order.

        Returns:
            One [M] index tensor per view; entry m of each belongs to the same record.
        """
        rows = [self.where(view).nonzero().squeeze(1) for view in views]
        rows = [index[self.example[index].argsort(stable=True)] for index in rows]
        common = self.example[rows[0]]
        for index in rows[1:]:
            common = common[torch.isin(common, self.example[index])]
        return tuple(index[torch.isin(self.example[index], common)] for index in rows)

    def lists(self, media: str = CLEAN) -> tuple[Tensor, Tensor]:
        """Rows of all candidates of each record that has two or more under a media variant.

        Returns:
            [M, K] row indices in candidate order, filled up with 0, and [M, K] True where there is a candidate.
        """
        rows = self.where(View(EVERY, media)).nonzero().squeeze(1)
        rows = rows[self.candidate[rows].argsort(stable=True)]
        rows = rows[self.example[rows].argsort(stable=True)]
        _, inverse, counts = self.example[rows].unique_consecutive(return_inverse=True, return_counts=True)
        width = int(counts.max()) if len(counts) else 0
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[inverse]
        index = rows.new_zeros(len(counts), width)
        index[inverse, place] = rows
        present = torch.arange(width, device=rows.device)[None] < counts[:, None]
        return index[counts > 1], present[counts > 1]

    def select(self, rows: Tensor) -> ScoreTable:
        """The table of some rows only, given as indices or as a [N] mask."""
        return replace(
            self,
            **{name: values[rows] for name, values in self.columns.items()},  # type: ignore[arg-type]
            ref_logp=None if self.ref_logp is None else self.ref_logp[rows],
            statistics={name: values[rows] for name, values in self.statistics.items()},
            ref_statistics={name: values[rows] for name, values in self.ref_statistics.items()},
        )
