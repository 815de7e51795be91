"""From votes on pairs of answers to one strength for each answer (Bradley and Terry 1952, Biometrika 39:324).

P(i beats j) = sigmoid(s_i - s_j), a tie is half a win for each. Every answer also wins and loses half a game against an
opponent of strength 0 (`judging.ranking`), so that an answer that never lost has a finite strength, and few votes
give small differences. Differences of strengths are log-odds, the quantity that DPO's own model of preference is about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from data_builders.base import Ledger
from data_builders.rating.pairing import Caption, Rating
from data_builders.voting.tallies import FIRST, TIE, Contest
from mmdpo.evals.judging.ranking import strengths
from mmdpo.evals.stats import Array

Wins: TypeAlias = Array | csr_array

DENSE = 200
"""Answers of one question up to which a full table is faster; the table of an arena with 10,000 would take 800 MB."""


@dataclass
class StrengthTally:
    """What was compared.

    Args:
        questions: Media with a prompt that have votes.
        answers: Their distinct answers.
        unconnected: Questions whose answers fall into parts that were never compared; a part is ranked by itself.
        triples: Three answers of which every two have a better one by votes.
        circular_triples: Those of them in which the first beats the second, the second the third, the third the first;
            a quarter of all triples where voters throw coins (Kendall and Babington Smith 1940, Biometrika 31:324).
    """

    questions: int = 0
    answers: int = 0
    unconnected: int = 0
    triples: int = 0
    circular_triples: int = 0


def by_question(contests: Iterable[Contest]) -> list[list[Contest]]:
    """The contests of each medium and prompt."""
    questions: dict[tuple[str, str], list[Contest]] = defaultdict(list)
    for contest in contests:
        first = contest.judgements[0]
        questions[first.media.identity, first.prompt].append(contest)
    return list(questions.values())


def with_votes(contests: Sequence[Contest], min_votes: int, ledger: Ledger) -> list[Contest]:
    """The contests of answers with enough votes; the rows of the others go to the ledger.

    Without an answer that has too few, others may have too few as well: it is looked again until none has.
    """
    kept = list(contests)
    while True:
        votes: dict[str, int] = defaultdict(int)
        for contest in kept:
            for text in contest.judgements[0].captions:
                votes[text] += len(contest.votes)
        poor = [contest for contest in kept if _fewest(contest, votes) < min_votes]
        if not poor:
            return kept
        for contest in poor:
            for judgement in contest.judgements:
                ledger.set_aside("too_few_votes", judgement.row, _fewest(contest, votes))
        kept = [contest for contest in kept if _fewest(contest, votes) >= min_votes]


def rated(contests: Sequence[Contest], columns: tuple[str, str], tally: StrengthTally) -> list[Caption]:
    """The answers of one question with their strengths; answers that nothing connects are of different groups.

    A rating of the answer is what one row says of it: its share of the row's votes, a tie as half, and how many these
    are as its weight.

    Args:
        contests: All contests of the question, one or more.
        columns: The columns of the first and of the second answer.
        tally: Counts what was compared.
    """
    texts = sorted({text for contest in contests for text in contest.judgements[0].captions})
    place = {text: number for number, text in enumerate(texts)}
    cells: list[tuple[int, int, float]] = []
    ratings: list[list[Rating]] = [[] for _ in texts]
    for contest in contests:
        i, j = (place[text] for text in contest.judgements[0].captions)
        values = [vote.value for vote in contest.votes]
        ties = values.count(TIE) / 2
        won = values.count(FIRST) + ties
        cells += [(i, j, won), (j, i, len(values) - won)]
        for rating in _ratings(contest, columns):
            ratings[place[rating.caption]].append(rating)
    wins = _table(cells, len(texts))
    parts, part_of = connected_components(wins + wins.T, directed=False)
    tally.questions += 1
    tally.answers += len(texts)
    tally.unconnected += parts > 1
    _count_triples(wins, tally)
    captions: list[Caption] = []
    for part in range(parts):
        members = np.flatnonzero(part_of == part)
        found = strengths(wins[members][:, members]).tolist()
        captions += [
            Caption(tuple(ratings[member]), score, group=part)
            for member, score in zip(members.tolist(), found, strict=True)
        ]
    return captions


def _ratings(contest: Contest, columns: tuple[str, str]) -> Iterator[Rating]:
    for judgement in contest.judgements:
        names = columns[::-1] if judgement.is_turned else columns
        share = 0.5 + sum(vote.value for vote in judgement.votes) / (2 * len(judgement.votes))
        for side, points in enumerate((share, 1 - share)):
            yield Rating(
                row=judgement.row,
                column=names[side],
                media=judgement.media,
                prompt=judgement.prompt,
                caption=judgement.captions[side],
                rater="",
                rater_is_named=False,
                value=points,
                source=judgement.sources[side],
                weight=float(len(judgement.votes)),
            )


def _fewest(contest: Contest, votes: dict[str, int]) -> int:
    return min(votes[text] for text in contest.judgements[0].captions)


def _table(cells: Sequence[tuple[int, int, float]], answers: int) -> Wins:
    """[answers, answers] how often each won against each; of many answers, the pairs that met alone."""
    first, second, won = (np.array(values) for values in zip(*cells, strict=True))
    table = csr_array((won.astype(np.float64), (first, second)), shape=(answers, answers))
    return table if answers > DENSE else table.toarray()


def _count_triples(wins: Wins, tally: StrengthTally) -> None:
    beats = (wins > wins.T).astype(np.int64)
    decided = beats + beats.T
    # a triangle is six closed walks of three steps; a cycle is three, one from each answer
    tally.triples += int(((decided @ decided) * decided).sum()) // 6
    tally.circular_triples += int(((beats @ beats) * beats.T).sum()) // 3
