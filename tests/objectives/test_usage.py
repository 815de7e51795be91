"""Which records a term is taken of: those with lists, those with ratings where it reads ratings."""

from __future__ import annotations

from typing import Any

import pytest

from mmdpo.encoding.companions import Companions
from mmdpo.objectives import make_objective
from mmdpo.records import Candidate, Record
from mmdpo.training.objective_checks import objective_problems, ranks_alone, usage


def record(n: int, scores: list[float | None] | None = None, ranks: list[int | None] | None = None) -> Record:
    """A record with three answers."""
    answers = tuple(
        Candidate(f"Answer {k} of {n}", score=scores[k] if scores else None, rank=ranks[k] if ranks else None)
        for k in range(3)
    )
    prompt = [{"role": "user", "content": [{"type": "text", "text": f"Question {n}"}]}]
    return Record(id=f"r{n}", prompt=prompt, media={}, candidates=answers, higher_is_better=bool(scores))


SCORED = record(0, scores=[3.0, 2.0, 1.0])
RANKED = record(1, ranks=[1, 2, 3])
BOTH = record(2, scores=[3.0, 2.0, 1.0], ranks=[3, 2, 1])
HALF = record(3, scores=[3.0, None, None])
HALF_AND_RANKS = record(4, scores=[3.0, None, None], ranks=[3, 2, 1])


def counted(loss: Any, records: list[Record]) -> dict[str, list[bool]]:
    found = usage(make_objective(loss), records, Companions(records, 0))
    return {name: used.tolist() for name, used in found.terms.items()}


def test_ranks_stand_in_where_scores_are_not_complete() -> None:
    found = [ranks_alone(each) for each in (SCORED, RANKED, BOTH, HALF, HALF_AND_RANKS)]
    assert found == [False, True, False, False, True]


def test_short_lists_do_not_count_the_first_record() -> None:
    """Lists of 1, 3 and 2 candidates: the first has none."""
    records = [record(n, scores=[3.0, 2.0, 1.0]) for n in range(3)]
    cut = [Record(**{**vars(r), "candidates": r.candidates[:k]}) for r, k in zip(records, (1, 3, 2), strict=True)]
    assert counted("plackett_luce", cut) == {"plackett_luce": [False, True, True]}


@pytest.mark.parametrize("loss", ["infonca", "nca", "lipo", "mm_dpo", "odpo"])
def test_ranks_are_no_ratings(loss: str) -> None:
    assert counted(loss, [SCORED, RANKED, BOTH, HALF_AND_RANKS]) == {loss: [True, False, True, False]}
    assert not list(objective_problems(make_objective(loss), [SCORED, RANKED]))  # it is set aside
    (problem,) = objective_problems(make_objective(loss), [RANKED])
    assert "ranks alone, which have no distances" in problem.what


def test_ranks_are_no_severities() -> None:
    severe = Record(**{**vars(record(0, scores=[0.0, 1.0, 2.0])), "higher_is_better": False})
    assert counted("hsa_dpo", [severe, RANKED]) == {"hsa_dpo": [True, False]}


@pytest.mark.parametrize("loss", ["plackett_luce", "pairwise_all", "s_dpo", "dpo"])
def test_terms_that_read_the_order_alone_take_ranks(loss: str) -> None:
    assert counted(loss, [SCORED, RANKED]) == {loss: [True, True]}


def test_records_of_ranks_that_another_term_would_keep_are_refused() -> None:
    """They would be in the table, and their ranks be taken for ratings."""
    (problem,) = objective_problems(make_objective({"infonca": {}, "dpo": {}}), [SCORED, RANKED, BOTH])
    assert "loss.infonca" in problem.what and "1 record that other terms use, such as 'r1'" in problem.what
    assert problem.why and problem.fix
    assert not list(objective_problems(make_objective({"infonca": {}, "dpo": {}}), [SCORED, BOTH]))
