"""What an objective can make of some records, before any model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdpo.companions import Companions
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.modalities.base import check_variant
from mmdpo.objectives import Objective, Term
from mmdpo.planning import outline
from mmdpo.records import Record
from mmdpo.views import CLEAN, EVERY, MISMATCHED, PARTNER, SWAP, ScoreTable, View


@dataclass(frozen=True)
class Usage:
    """Which records each term is taken of.

    Args:
        terms: [records] True where a term uses a record, by the term's name.
    """

    terms: Mapping[str, Tensor]

    @property
    def counts(self) -> dict[str, int]:
        """Number of records by term."""
        return {name: int(used.sum()) for name, used in self.terms.items()}

    def used(self, place: int) -> bool:
        """Whether any term uses a record."""
        return any(bool(used[place]) for used in self.terms.values())


def usage(objective: Objective, records: Sequence[Record], companions: Companions) -> Usage:
    """Counts, without a model, what each term can use."""
    table = outline(records, objective.views, companions)
    return Usage({name: _used(term, table, len(records)) for name, term in objective.terms.items()})


def _used(term: Term, table: ScoreTable, records: int) -> Tensor:
    used = torch.zeros(records, dtype=torch.bool)
    for rows in term.rows(table):
        used[table.example[rows]] = True
    return used


def objective_problems(objective: Objective, records: Sequence[Record], seed: int = 0) -> Iterator[MMDPOError]:
    """Everything because of which an objective cannot be trained on some records.

    Args:
        objective: The objective.
        records: The records.
        seed: Seed of the draws.

    Yields:
        An error for each media variant that a modality does not have, and for each term that uses no record at all.
    """
    unknown = list(_unknown_variants(objective, records))
    yield from unknown
    if unknown or not records:
        return
    for name, term in objective.terms.items():
        if getattr(term, "reads_marks", False) and not any(c.spans for record in records for c in record.candidates):
            yield ConfigError(
                f"loss.{name} weights marked tokens, and no candidate of the {len(records)} records has a mark",
                why="Every token would count the same: the run would not train what its configuration says.",
                fix="Set data.marks: difference to mark what differs, or give spans with the records (docs/marks.md).",
            )
            return
    found = usage(objective, records, Companions(records, seed))
    for name, count in found.counts.items():
        if count == 0:
            term = objective.terms[name]
            yield ConfigError(
                f"loss.{name} can use none of the {len(records)} records: {_reason(term, records)}",
                why="The term would be 0 in every step, and the run would not train what its configuration says.",
                fix="Use data that have what it needs, or another loss (mmdpo ls losses says what each needs).",
            )


def _unknown_variants(objective: Objective, records: Sequence[Record]) -> Iterator[MMDPOError]:
    plurals = {plural for record in records for plural, items in record.media.items() if items}
    for variant in sorted({view.media for view in objective.views}):
        for plural in sorted(plurals):
            try:
                check_variant(plural, variant)
            except ConfigError as error:
                yield error


def _reason(term: Term, records: Sequence[Record]) -> str:
    """Why a term uses no record, in words."""
    views = term.views()
    if any(view.media != CLEAN for view in views) and not any(any(r.media.values()) for r in records):
        return f"it compares media ({_listed(views)}), and no record has any"
    if any(view.candidate in (MISMATCHED, PARTNER) or view.media == SWAP for view in views) and len(records) < 2:
        return f"it reads other records ({_listed(views)}), and there is one alone"
    largest = max(len(record.candidates) for record in records)
    needed = max((view.candidate + 1 for view in views if view.candidate >= 0), default=1)
    if largest < needed:
        return f"it reads {_listed(views)}, and no record has more than {_counted(largest, 'candidate')}"
    if any(view.candidate == EVERY for view in views) and largest < 2 and "candidates" in term.needs:
        return f"it needs {term.needs}, and every record has one candidate alone"
    ratings = [[_rating(c.score, c.rank) for c in r.candidates] for r in records]
    if term.needs and not any(value is not None for values in ratings for value in values):
        return f"it needs {term.needs}, and no candidate has a score"
    if term.needs and all(len(set(values)) == 1 for values in ratings):
        return f"it needs {term.needs}, and the candidates of every record are rated the same"
    return f"it needs {term.needs or _listed(views)}"


def _rating(score: float | None, rank: int | None) -> float | None:
    return score if score is not None else rank


def _listed(views: Iterable[View]) -> str:
    return ", ".join(map(str, views))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)
