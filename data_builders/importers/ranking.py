"""Answers in an order: best first, none twice, and as ranks on their way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_builders.importers.unusable import Unusable
from mmdpo.records import Candidate, Record
from mmdpo.records.checks import ratings_of


def best_first(candidates: Sequence[Candidate], dropped: list[Unusable], *, higher_is_better: bool) -> list[Candidate]:
    """Rated answers in their order; equal ones keep their places.

    Args:
        candidates: The answers, each with a score or each with a rank.
        dropped: Gets the answers that stand there twice.
        higher_is_better: Direction of the scores or ranks.

    Raises:
        Unusable: Fewer than two are left, or none is better than another.
    """
    ratings: dict[str, set[float]] = {}
    for candidate in candidates:
        ratings.setdefault(candidate.text.strip(), set()).add(_rating(candidate))
    kept: dict[str, Candidate] = {}
    for candidate in candidates:
        text = candidate.text.strip()
        if len(ratings[text]) > 1:
            dropped.append(Unusable("conflicting_rating", "one answer has two ratings", text, column="answer"))
        elif text in kept:
            dropped.append(Unusable("equal_candidates", "the same answer stands there twice", text, column="answer"))
        else:
            kept[text] = candidate
    if len(kept) < 2:
        raise Unusable(
            "single_candidate", f"{len(kept)} of {len(candidates)} answers can be used, and a preference needs two"
        )
    if len(set(map(_rating, kept.values()))) == 1:
        raise Unusable("tie", "all answers are rated the same")
    return sorted(kept.values(), key=_rating, reverse=higher_is_better)


def rank_of(value: Any) -> int | None:
    """A rank, which is a whole number; None where it is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def ranks_of(record: Record, first: int) -> list[int]:
    """The rank of each answer, the lowest for the best.

    Args:
        record: The record. A pair is in the order in which it stands; others need ranks or scores.
        first: Rank of the best where the record has no ranks of this direction.

    Raises:
        Unusable: Its answers are in no order.
    """
    ranks = [candidate.rank for candidate in record.candidates if candidate.rank is not None]
    in_place = record.higher_is_better is False and len(ranks) == len(record.candidates)
    if in_place and len(set(ranks)) > 1:
        return ranks
    if len(record.candidates) == 2:
        return [first, first + 1]
    ratings = ratings_of(record)
    order = sorted(set(ratings), reverse=True)
    if len(record.candidates) < 2 or len(order) < 2:
        raise Unusable("no_order", f"the {len(record.candidates)} answers of the record are in no order")
    return [first + order.index(rating) for rating in ratings]


def _rating(candidate: Candidate) -> float:
    value = candidate.score if candidate.score is not None else candidate.rank
    assert value is not None
    return value
