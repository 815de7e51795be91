"""Lists by hand: ties are never compared, half-rated lists are left out, ranks are the policy's."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from mmdpo.objectives import make_objective
from mmdpo.objectives.listwise import Ranking
from mmdpo.views import ScoreTable, View
from objectives.tables import NAN, Answer, loss_of, spread, table


def candidates(ratios: list[float], scores: list[float] | None = None, example: int = 0) -> list[Answer]:
    """Candidates with these log-ratios."""
    given = scores or [NAN] * len(ratios)
    return [
        Answer(example, str(k), spread(ratio - 5, 2 + k), spread(-5, 2 + k), score=score)
        for k, (ratio, score) in enumerate(zip(ratios, given, strict=True))
    ]


def loss(config: dict[str, Any], *answers: Answer) -> float:
    return loss_of(make_objective({"it": {"beta": 1.0, **config}}), table(answers)).item()


def test_tied_candidates_each_win_against_the_worse_ones_alone() -> None:
    """Two of grade 3, one of 1: two factors of two candidates each."""
    answers = candidates([1.0, 0.25, -0.5], [3.0, 3.0, 1.0])
    expected = math.log1p(math.exp(-0.5 - 1.0)) + math.log1p(math.exp(-0.5 - 0.25))
    assert loss({"term": "ranking"}, *answers) == pytest.approx(expected, rel=1e-12)
    assert loss({"term": "ranking", "top": 1}, *answers) == pytest.approx(expected, rel=1e-12)


def test_ties_at_the_end_are_both_beaten() -> None:
    answers = candidates([1.0, 0.25, -0.5], [3.0, 1.0, 1.0])
    expected = math.log(math.exp(1.0) + math.exp(0.25) + math.exp(-0.5)) - 1.0
    assert loss({"term": "ranking"}, *answers) == pytest.approx(expected, rel=1e-12)


def test_the_first_factors() -> None:
    answers = candidates([0.5, 1.0, -1.0, 0.0], [1.0, 4.0, 2.0, 3.0])  # best first: 1.0, 0.0, -1.0, 0.5
    rest = [1.0, 0.0, -1.0, 0.5]
    factors = [math.log(sum(map(math.exp, rest[k:]))) - rest[k] for k in range(3)]
    for top in (1, 2, 3, 4, None):
        found = loss({"term": "ranking", "top": top}, *answers)
        assert found == pytest.approx(sum(factors[:top]), rel=1e-12)


def test_lambda_weights() -> None:
    """Grades 3, 1, 1 with rewards -1, 2, 0: ranks 3, 1, 2, and the tie is not compared."""
    answers = candidates([-1.0, 2.0, 0.0], [3.0, 1.0, 1.0])
    discount = {rank: 1 / math.log(1 + rank) for rank in (1, 2, 3)}
    expected = (8 - 2) * (discount[1] - discount[3]) * math.log1p(math.exp(3.0))
    expected += (8 - 2) * (discount[2] - discount[3]) * math.log1p(math.exp(1.0))
    assert loss({"term": "lipo"}, *answers) == pytest.approx(expected, rel=1e-12)


def test_lambda_weights_have_no_gradient() -> None:
    of = table(candidates([-1.0, 2.0], [1.0, 0.0]))
    (gradient,) = torch.autograd.grad(loss_of(make_objective({"lipo": {"beta": 1.0}}), of), of.logp)
    weight = (2 - 1) * (1 / math.log(2) - 1 / math.log(3))
    assert gradient[0, 0].item() == pytest.approx(-weight / (1 + math.exp(-3.0)), rel=1e-12)


def test_pairs_of_ties_are_not_in_the_mean_either() -> None:
    answers = candidates([1.0, 0.25, -0.5], [3.0, 3.0, 1.0])
    pairs = [math.log1p(math.exp(-1.5)), math.log1p(math.exp(-0.75))]
    assert loss({"term": "all_pairs"}, *answers) == pytest.approx(sum(pairs) / 2, rel=1e-12)
    assert loss({"term": "amp"}, *answers) == pytest.approx((sum(pairs) - 1.0 - 0.25) / 2, rel=1e-12)


LISTS = [
    *candidates([0.5, 0.0], [1.0, 2.0], example=0),
    *candidates([0.5, 0.0], example=1),  # unrated: as they stand
    *candidates([0.5, 0.0, 1.0], [1.0, NAN, 2.0], example=2),  # half rated
    *candidates([0.5, 0.0], [2.0, 2.0], example=3),  # all alike
    *candidates([0.5], [2.0], example=4),  # nothing to compare with
]


@pytest.mark.parametrize(("name", "count"), [("plackett_luce", 2), ("pairwise_all", 2), ("infonca", 1), ("lipo", 1)])
def test_lists_that_are_left_out(name: str, count: int) -> None:
    objective = make_objective({name: {"beta": 1.0}})
    of = table(LISTS)
    assert objective.counts(of).tolist() == [count]
    kept = table([row for row in LISTS if row.example < count])
    assert loss_of(objective, of).item() == pytest.approx(loss_of(objective, kept).item(), rel=1e-12)


def test_lists_of_a_table() -> None:
    rows = [
        Answer(n, view, [-1.0])
        for n, view in [(1, "2"), (0, "1"), (1, "0"), (2, "0"), (1, "5"), (0, "0"), (0, "partner"), (0, "0/crop")]
    ]
    index, present = table(rows).lists()
    assert [list(row) for row in zip(index.tolist(), present.tolist(), strict=True)] == [
        [[5, 1, 0], [True, True, False]],
        [[2, 0, 4], [True, True, True]],
    ]


def test_rows_of_views() -> None:
    rows = [(1, "1"), (0, "1"), (1, "0"), (3, "0"), (0, "0"), (3, "1/crop"), (0, "1/crop"), (1, "partner")]
    of: ScoreTable = table(Answer(n, view, [-1.0]) for n, view in rows)
    assert [found.tolist() for found in of.aligned(View(0), View(1))] == [[4, 2], [1, 0]]
    assert [found.tolist() for found in of.aligned(View(1, "crop"), View(0))] == [[6, 5], [4, 3]]
    assert [found.tolist() for found in of.aligned(View(0), View(0, "unheard"))] == [[], []]
    assert of.where(View(-3)).tolist() == [True] * 5 + [False] * 3
    assert of.where(View(-2)).nonzero().tolist() == [[7]]


def test_a_ranking_of_views_ignores_ratings() -> None:
    answers = [
        Answer(0, view, spread(ratio - 5), spread(-5), score=3.0)
        for view, ratio in [("chosen", 1.0), ("chosen/crop", 0.0)]
    ]
    found = loss({"term": "ranking", "order": ["chosen/crop", "chosen"]}, *answers)
    assert found == pytest.approx(math.log1p(math.exp(1.0)), rel=1e-12)
    assert Ranking(order=("chosen/crop", "chosen")).views() == (View(0, "crop"), View(0))


def test_records_that_a_list_term_is_taken_of_are_those_with_a_list() -> None:
    """Short lists are filled with row 0, which is the record of one candidate here."""
    of = table([*candidates([0.5], [2.0]), *candidates([1.0, 0.5, 0.0], example=1), *candidates([1.0, 0.0], example=2)])
    (term,) = make_objective("plackett_luce").terms.values()
    assert term.rows(of)[2].tolist() == [3, 0]
    assert term.examples(of).tolist() == [1, 2]
    assert term.examples(of.select(of.example < 0)).tolist() == []


def marked(answers: list[Answer], *which: int) -> list[Answer]:
    return [replace(a, marks=[k in which] + [False] * (len(a.logp) - 1)) for k, a in enumerate(answers)]


@pytest.mark.parametrize("name", ["plackett_luce", "pairwise_all"])
def test_lists_without_a_mark_are_left_out_where_marked_tokens_alone_count(name: str) -> None:
    with_marks = marked(candidates([1.0, 0.5, 0.0]), 1)
    of = table([*with_marks, *candidates([1.0, 0.0], example=1)])
    objective = make_objective({name: {"beta": 1.0, "unmarked": 0}})
    assert objective.counts(of).tolist() == [1] and next(iter(objective.terms.values())).examples(of).tolist() == [0]
    assert loss_of(objective, of).item() == loss_of(objective, table(with_marks)).item()


@pytest.mark.parametrize("per", ["answer", "record"])
def test_answers_without_a_mark_are_left_out_where_marked_tokens_alone_count(per: str) -> None:
    """Of three answers one has a mark, on its first token: log-ratio 0.1 of it; the others would give log 2 each."""
    answers = [
        Answer(n, view, [-1.0, -1.0], [-1.1, -3.0], marks=[n == 0 and view == "chosen", False], label=label)
        for n, view, label in [(0, "chosen", 1), (0, "rejected", -1), (1, "chosen", 1)]
    ]
    objective = make_objective({"feedback": {"beta": 1.0, "link": "sigmoid", "unmarked": 0, "per": per}})
    assert objective.counts(table(answers)).tolist() == [1]
    assert loss_of(objective, table(answers)).item() == pytest.approx(math.log1p(math.exp(-0.1)), rel=1e-12)


def test_the_reference_point_is_that_of_marked_tokens_too() -> None:
    """z0 = 0.5, the marked token of one mismatched answer; the other, without a mark, is not one of log-ratio 0."""
    answers = [
        Answer(0, "chosen", [-1.0, -1.0], [-1.1, -3.0], marks=[True, False], label=1),
        Answer(0, "mismatched", [-1.0, -1.0], [-1.5, -3.0], marks=[True, False]),
        Answer(1, "mismatched", [-1.0, -1.0], [-1.7, -3.0]),
    ]
    found = loss_of(make_objective({"kto": {"beta": 1.0, "unmarked": 0}}), table(answers)).item()
    assert found == pytest.approx(1 - 1 / (1 + math.exp(-(0.1 - 0.5))), rel=1e-12)
