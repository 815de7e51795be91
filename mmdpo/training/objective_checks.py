"""What an objective can make of some records, before any model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdpo.encoding.companions import Companions
from mmdpo.encoding.planning import outline
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.modalities.base import check_variant
from mmdpo.objectives import Objective, Term
from mmdpo.records import Record
from mmdpo.records.checks import lacks_direction, ratings_of
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
    """Tells, without a model, what each term can use.

    A record that has ranks alone is none for a term that reads ratings: ranks have no distances.
    """
    return _usage(objective, outline(records, objective.views, companions), records)


def _usage(objective: Objective, table: ScoreTable, records: Sequence[Record]) -> Usage:
    scored = torch.tensor([not ranks_alone(record) for record in records], dtype=torch.bool)
    taken = {name: _taken(term, table, len(records)) for name, term in objective.terms.items()}
    return Usage(
        {name: taken[name] & scored if term.needs_scores else taken[name] for name, term in objective.terms.items()}
    )


def _taken(term: Term, table: ScoreTable, records: int) -> Tensor:
    """[records] True where the term would be taken of a record if that is trained on."""
    taken = torch.zeros(records, dtype=torch.bool)
    taken[term.examples(table)] = True
    return taken


def ranks_alone(record: Record) -> bool:
    """Whether the ratings of a record are ranks, which stand in where scores are not complete."""
    scores, ranks = ([getattr(c, name) for c in record.candidates] for name in ("score", "rank"))
    complete = all(value is not None for value in scores)
    ranked = [value for value in ranks if value is not None]
    return not complete and bool(ranked) and (len(ranked) == len(ranks) or all(value is None for value in scores))


def objective_problems(objective: Objective, records: Sequence[Record], seed: int = 0) -> Iterator[MMDPOError]:
    """Everything because of which an objective cannot be trained on some records.

    Args:
        objective: The objective.
        records: The records.
        seed: Seed of the draws.

    Yields:
        An error for each media variant that a modality does not have, and for each term that uses no record at all, or
        that would compute something else on these records than it says.
    """
    unknown = list(_unknown_variants(objective, records))
    yield from unknown
    if unknown or not records:
        return
    companions = Companions(records, seed)
    table = outline(records, objective.views, companions)
    used = _usage(objective, table, records)
    counts = used.counts
    marked = any(c.spans for record in records for c in record.candidates)
    for name, term in objective.terms.items():
        if getattr(term, "reads_marks", False) and not marked:
            yield ConfigError(
                f"loss.{name} weights marked tokens, and no candidate of the {len(records)} records has a mark",
                why="Every token would count the same: the run would not train what its configuration says.",
                fix="Set data.marks: difference to mark what differs, or give spans with the records (docs/marks.md).",
            )
        elif counts[name] == 0:
            yield ConfigError(
                f"loss.{name} can use none of the {len(records)} records: {_reason(term, records, companions)}",
                why="The term would be 0 in every step, and the run would not train what its configuration says.",
                fix="Use data that have what it needs, or another loss (mmdpo ls losses says what each needs).",
            )
        elif reason := _lacking(term, table) or _ranks_among(term, table, records, used):
            yield ConfigError(
                f"loss.{name} cannot be computed on the {len(records)} records: {reason}",
                why="Something else would stand in for it: the run would not train what its configuration says.",
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


def _reason(term: Term, records: Sequence[Record], companions: Companions) -> str:
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
    if any(reads_partner(view) for view in views) and (without := _without_partner(records, companions)):
        return f"it reads the partner of a record ({_listed(views)}), and {without}"
    ratings = _rating_problem(term, records)
    return f"it needs {term.needs or _listed(views)}" + (f", and {ratings}" if ratings else "")


def reads_partner(view: View) -> bool:
    """Whether a view shows something of the record's partner."""
    return view.candidate == PARTNER or view.media == SWAP


def _without_partner(records: Sequence[Record], companions: Companions) -> str | None:
    """Why no record has a partner; None if any has one."""
    if any(companions.partner(record) is not None for record in records):
        return None
    said = ((record.id, companions.partner_problem(record)) for record in records)
    wrong = next((f"record {name!r}: {problem}" for name, problem in said if problem), None)
    return wrong or "no two records have as many items of each modality, and other ones"


def _rating_problem(term: Term, records: Sequence[Record]) -> str | None:
    """What is wrong with the ratings that a term needs; None where they are as it needs them."""
    if "score" not in term.needs and "rated" not in term.needs:
        return None
    rated = [r for r in records if any(c.score is not None or c.rank is not None for c in r.candidates)]
    if not rated:
        return "no candidate has a score"
    if all(lacks_direction(record) for record in rated):
        return "higher_is_better is not said"
    if term.needs_scores and all(map(ranks_alone, rated)):
        return "the candidates have ranks alone, which have no distances"
    if not any(ratings_of(record) for record in rated):
        return "no record has one for each candidate"
    return "the candidates of every record are rated the same" if all(map(_tied, rated)) else None


def _tied(record: Record) -> bool:
    return len(set(ratings_of(record))) < 2


def _lacking(term: Term, table: ScoreTable) -> str | None:
    """What a term that uses records lacks all the same, in words; None where it has everything."""
    absent = [view for view in term.views() if not bool(table.where(view).any())]
    return f"it reads {_listed(absent)}, and no record has that" if absent else None


def _ranks_among(term: Term, table: ScoreTable, records: Sequence[Record], used: Usage) -> str | None:
    """Whether records with ranks alone are trained on for another term, where this one would take ranks for ratings."""
    if not term.needs_scores:
        return None
    taken = _taken(term, table, len(records))
    wrong = [
        record
        for place, record in enumerate(records)
        if bool(taken[place]) and ranks_alone(record) and used.used(place)
    ]
    if not wrong:
        return None
    return (
        f"it needs {term.needs}, and {_counted(len(wrong), 'record')} that other terms use, such as {wrong[0].id!r}, "
        "have ranks alone, which have no distances"
    )


def _listed(views: Iterable[View]) -> str:
    return ", ".join(map(str, views))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)
