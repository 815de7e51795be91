"""Which answers of a record are scored, under which media: the views of an objective, resolved for one record.

Needs no model: ``mmdpo check`` counts with it what each loss term can use before anything heavy is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmdpo.encoding.companions import Companions
from mmdpo.records import Candidate, Record
from mmdpo.views import CHOSEN, CLEAN, EVERY, MISMATCHED, PARTNER, REJECTED, SWAP, ScoreTable, View


@dataclass(frozen=True)
class PlannedRow:
    """One answer to score.

    Args:
        view: Which candidate and media variant it is; never :data:`~mmdpo.views.EVERY`.
        answer: The answer itself, of this record or of a companion.
        score: Its rating, turned so that more is better; NaN without one.
        label: 1 for desirable, -1 for undesirable, 0 where neither is said.
    """

    view: View
    answer: Candidate
    score: float
    label: int


@dataclass(frozen=True)
class Plan:
    """The rows of one record.

    Args:
        rows: In the order of their media variants.
        partner: The record whose media ``swap`` shows; None if no view asks for it, or there is none.
    """

    rows: tuple[PlannedRow, ...]
    partner: Record | None = None


def media_names(views: Sequence[View]) -> tuple[str, ...]:
    """Media variants of some views, the clean one first."""
    return (CLEAN, *sorted({view.media for view in views} - {CLEAN}))


def plan(record: Record, views: Sequence[View], companions: Companions) -> Plan:
    """The rows of a record; views that it does not have are left out."""
    wanted = {one for view in views for one in _resolved(view, record)}
    companion = any(view.media == SWAP or view.candidate == PARTNER for view in wanted)
    # the partner's answer stands under this record's question, so that must be its question too
    answers = any(view.candidate == PARTNER for view in wanted)
    partner = companions.partner(record, same_question=answers) if companion else None
    rows = []
    for variant in media_names(views):
        if (variant != CLEAN and not any(record.media.values())) or (variant == SWAP and partner is None):
            continue  # terms count the records that have their views
        for view in sorted(view for view in wanted if view.media == variant):
            answer = _answer(view, record, partner, companions)
            if answer is not None:
                own = view.candidate >= 0
                score = oriented_score(record, answer) if own else math.nan
                rows.append(PlannedRow(view, answer, score, _label(record, view.candidate) if own else 0))
    return Plan(tuple(rows), partner)


def oriented_score(record: Record, candidate: Candidate) -> float:
    """A candidate's score, turned so that more is better; its rank where the record has ranks alone; NaN without.

    Scores and ranks are never mixed within a record: they are numbers of different scales.
    """
    scores, ranks = ([getattr(c, name) for c in record.candidates] for name in ("score", "rank"))
    complete = None not in scores or (None in ranks and any(value is not None for value in scores))
    value = candidate.score if complete else candidate.rank
    if value is None or record.higher_is_better is None:
        return math.nan
    return float(value) if record.higher_is_better else -float(value)


def outline(records: Sequence[Record], views: Sequence[View], companions: Companions) -> ScoreTable:
    """The score table of some records without log-probabilities (NaN), one token an answer: enough to count units."""
    names = media_names(views)
    planned = [(number, row) for number, record in enumerate(records) for row in plan(record, views, companions).rows]
    unknown = torch.full((len(planned), 1), torch.nan)
    return ScoreTable(
        logp=unknown,
        ref_logp=unknown,
        mask=torch.ones(len(planned), 1, dtype=torch.bool),
        weight=torch.ones(len(planned), 1),
        marks=torch.tensor([[bool(row.answer.spans)] for _, row in planned], dtype=torch.bool).view(-1, 1),
        example=torch.tensor([number for number, _ in planned], dtype=torch.long),
        candidate=torch.tensor([row.view.candidate for _, row in planned], dtype=torch.long),
        media=torch.tensor([names.index(row.view.media) for _, row in planned], dtype=torch.long),
        score=torch.tensor([row.score for _, row in planned]),
        label=torch.tensor([row.label for _, row in planned], dtype=torch.long),
        media_names=names,
    )


def _resolved(view: View, record: Record) -> list[View]:
    """A view as the record has it: every candidate by its number, nothing for a candidate that is not there."""
    if view.candidate == EVERY:
        return [View(number, view.media) for number in range(len(record.candidates))]
    return [view] if view.candidate < len(record.candidates) else []


def _answer(view: View, record: Record, partner: Record | None, companions: Companions) -> Candidate | None:
    if view.candidate == PARTNER:
        return None if partner is None else _best(partner)
    if view.candidate == MISMATCHED:
        return companions.mismatched(record)
    return record.candidates[view.candidate]


def _best(record: Record) -> Candidate:
    """The answer with the highest rating; the first where not all are rated."""
    scores = [oriented_score(record, candidate) for candidate in record.candidates]
    return record.candidates[CHOSEN if any(map(math.isnan, scores)) else scores.index(max(scores))]


def _label(record: Record, candidate: int) -> int:
    """A candidate's own label, else its place in a pair."""
    label = record.candidates[candidate].label
    if label is not None:
        return 1 if label else -1
    return {CHOSEN: 1, REJECTED: -1}[candidate] if record.form == "pair" else 0
