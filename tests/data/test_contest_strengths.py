"""Strengths of many answers: from the pairs that met alone, the same numbers as from the full table."""

from __future__ import annotations

import tracemalloc
from random import Random

import numpy as np
import pytest

from data_builders.voting import strengths as contest_strengths
from data_builders.voting.strengths import StrengthTally, rated
from data_builders.voting.tallies import Contest, Judgement, Vote
from mmdpo.media import Media

COLUMNS = ("a", "b")


def contests(answers: int, games: int, seed: int = 0) -> list[Contest]:
    """Votes on pairs of answers drawn by seed, each pair once; the last two answers meet each other alone."""
    random, made = Random(seed), dict[tuple[str, str], Contest]()
    while len(made) < games:
        first, second = sorted(random.sample(range(answers - 2), 2))
        votes = tuple(Vote(random.choice((1, 1, 0, -1))) for _ in range(random.randint(1, 3)))
        pair = f"answer {first}", f"answer {second}"
        made[pair] = Contest((Judgement(len(made) + 1, Media("0.png"), "Which?", pair, votes),))
    pair = f"answer {answers - 2}", f"answer {answers - 1}"
    return [*made.values(), Contest((Judgement(0, Media("0.png"), "Which?", pair, (Vote(1),)),))]


def test_sparse_and_dense_tables_give_the_same_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    given = contests(30, 120)
    full, sparse = StrengthTally(), StrengthTally()
    expected = rated(given, COLUMNS, full)
    monkeypatch.setattr(contest_strengths, "DENSE", 0)
    found = rated(given, COLUMNS, sparse)
    assert [caption.text for caption in found] == [caption.text for caption in expected]
    np.testing.assert_allclose([one.score for one in found], [one.score for one in expected], atol=1e-9)
    assert sparse == full and full.triples > 0 and full.circular_triples > 0 and full.unconnected == 1
    assert [one.group for one in found] == [one.group for one in expected]


def test_an_arena_takes_memory_for_the_pairs_that_met() -> None:
    """A table of 2,000 answers by 2,000 takes 32 MB, and the fit several of them."""
    given = contests(2000, 6000)
    tracemalloc.start()
    captions = rated(given, COLUMNS, StrengthTally())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(captions) > 1900
    assert peak < 24e6
