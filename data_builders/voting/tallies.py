"""What votes on pairs of captions say: pooled, counted and decided; `vote_measures` says how far the voters agree.

Nothing here knows where the votes were read or what the captions describe, so every builder of votes can use it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from data_builders.base import BuilderConfig, Ledger
from mmdpo.media import Media

FIRST, TIE, SECOND = 1, 0, -1
"""A vote: the first caption is better, neither is, or the second is."""

SOUND_REASONS = ("equal_captions", "too_few_votes", "tie", "below_margin", "below_agreement")
"""Reasons that say nothing bad of a row; `--strict` allows them."""

_TOLERANCE = 1e-9  # shares are quotients of small integers, thresholds are decimals


class VoteRules(BuilderConfig):
    """What decides which votes make a pair, in every builder of votes.

    Args:
        min_votes: Votes that two captions need, ties included.
        min_margin: Smallest distance of their shares of the votes, 0 to 1. Equal shares never make a pair.
        min_agreement: Smallest share of the votes, ties included, that the better caption needs.
    """

    min_votes: int = Field(1, ge=1)
    min_margin: float = Field(0.0, ge=0.0, le=1.0)
    min_agreement: float = Field(0.0, ge=0.0, le=1.0)


@dataclass(frozen=True)
class Vote:
    """One person's comparison of two captions.

    Args:
        value: `FIRST`, `TIE` or `SECOND`.
        voter: Who voted, where the table says so.
        column: Its column, where a row holds several votes.
    """

    value: int
    voter: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class Judgement:
    """The votes of one row on two captions of one clip or picture.

    Args:
        row: Number of the row.
        media: What the captions describe.
        prompt: What they answer.
        captions: The first and the second one, without white space around them.
        votes: What people said of them.
        sources: Who wrote each caption, where it is known.
        kind: What sort of pair it is, where the table says so.
        references: Further captions that people wrote.
        is_turned: Whether the row has the captions in the other order.
    """

    row: int
    media: Media
    prompt: str
    captions: tuple[str, str]
    votes: tuple[Vote, ...]
    sources: tuple[str | None, str | None] = (None, None)
    kind: str | None = None
    references: tuple[str, ...] = ()
    is_turned: bool = False

    @property
    def turned(self) -> Judgement:
        """The same judgement with the captions in the other order."""
        (first, second), (source, other) = self.captions, self.sources
        votes = tuple(replace(vote, value=-vote.value) for vote in self.votes)
        return replace(
            self, captions=(second, first), sources=(other, source), votes=votes, is_turned=not self.is_turned
        )


@dataclass(frozen=True)
class Contest:
    """All votes on the same two captions of one clip or picture.

    Args:
        judgements: One for each row, all with the captions in the same order.
    """

    judgements: tuple[Judgement, ...]

    @property
    def shares(self) -> tuple[float, float]:
        """Which share of all votes, ties included, each caption has."""
        values = [vote.value for vote in self.votes]
        return values.count(FIRST) / len(values), values.count(SECOND) / len(values)

    @property
    def votes(self) -> list[Vote]:
        """Every vote."""
        return [vote for judgement in self.judgements for vote in judgement.votes]

    @property
    def best_first(self) -> Contest:
        """The contest with the caption that has more votes in front."""
        first, second = self.shares
        return self if first >= second else Contest(tuple(judgement.turned for judgement in self.judgements))

    def refused(self, rules: VoteRules) -> str | None:
        """Why no pair is made of it, as docs/data.md names the reasons; None when one is."""
        low, high = sorted(self.shares)
        if len(self.votes) < rules.min_votes:
            return "too_few_votes"
        if high == low:
            return "tie"
        if high - low < rules.min_margin - _TOLERANCE:
            return "below_margin"
        if high < rules.min_agreement - _TOLERANCE:
            return "below_agreement"
        return None


@dataclass
class ContestTally:
    """What became of every two captions that were voted on.

    Args:
        n: How many there are.
        ties: Equal shares of the votes.
        too_few_votes: Fewer votes than `min_votes`.
        below_margin: Shares closer than `min_margin`.
        below_agreement: A smaller winning share than `min_agreement`.
        used: Pairs made.
    """

    n: int = 0
    ties: int = 0
    too_few_votes: int = 0
    below_margin: int = 0
    below_agreement: int = 0
    used: int = 0


def different(first: str, second: str) -> bool:
    """Whether two captions differ in more than case and white space."""
    return first.casefold().split() != second.casefold().split()


def pool(judgements: Iterable[Judgement], ledger: Ledger) -> list[Contest]:
    """Joins the rows on the same two captions, in whichever order they stand; equal captions go to the ledger.

    A voter whom the table names has one vote on two captions, the first; unnamed votes are different people's.
    """
    contests: dict[tuple[str, str, frozenset[str]], list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        first, second = judgement.captions
        if different(first, second):
            contests[judgement.media.identity, judgement.prompt, frozenset((first, second))].append(judgement)
        else:
            ledger.set_aside("equal_captions", judgement.row, first)
    return [Contest(rows) for given in contests.values() if (rows := _without_repeats(given, ledger))]


def _without_repeats(given: Sequence[Judgement], ledger: Ledger) -> tuple[Judgement, ...]:
    first_votes: dict[str, Vote] = {}
    kept = []
    for judgement in given:
        judgement = judgement if judgement.captions == given[0].captions else judgement.turned
        votes = []
        for vote in judgement.votes:
            earlier = vote if vote.voter is None else first_votes.setdefault(vote.voter, vote)
            if earlier is vote:
                votes.append(vote)
                continue
            reason = "duplicate_vote" if earlier.value == vote.value else "conflicting_vote"
            message = f"{vote.voter!r} voted on these captions before"
            ledger.set_aside(reason, judgement.row, vote.value, column=vote.column, message=message)
        if votes:
            kept.append(replace(judgement, votes=tuple(votes)))
    return tuple(kept)


def decide(contests: Iterable[Contest], rules: VoteRules, ledger: Ledger) -> tuple[list[Contest], ContestTally]:
    """The contests that make a pair, the better caption first; the rows of the others go to the ledger."""
    tally = Counter[str]()
    decided = []
    for contest in contests:
        reason = contest.refused(rules)
        tally[reason or "used"] += 1
        for judgement in contest.judgements:
            if reason is None:
                ledger.use(judgement.row)
            else:
                first, second = contest.shares
                message = f"{first:.0%} and {second:.0%} of {len(contest.votes)} votes"
                ledger.set_aside(reason, judgement.row, len(contest.votes), message=message)
        if reason is None:
            decided.append(contest.best_first)
    ties = tally.pop("tie", 0)
    return decided, ContestTally(n=tally.total() + ties, ties=ties, **tally)
