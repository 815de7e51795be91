"""Which captions of a picture become pairs or lists."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal, TypeVar

from pydantic import Field

from data_builders.base import BuilderConfig, Ledger
from data_builders.splits import seeded_order
from mmdpo.media import Media


class PairingConfig(BuilderConfig):
    """What decides which candidates become records, in every builder that has scores.

    Args:
        higher_is_better: Direction of the scores; never guessed.
        pairing: `best_worst` makes one pair, `adjacent` pairs neighbours in the order, `all` every two; `list` makes
            one record of all candidates, best first.
        min_margin: Smallest distance of the two scores, of a list of its first and last. Ties are never paired.
        max_pairs_per_image: Cap over all prompts of a picture; the pairs with the largest margin stay.
        balance_length: Leave out pairs, those with the smallest margins first, until the longer answer is chosen as
            often as the shorter one; of large tables in each part of the pictures that memory holds.
    """

    higher_is_better: bool
    pairing: Literal["best_worst", "all", "adjacent", "list"] = "best_worst"
    min_margin: float = Field(0.0, ge=0.0)
    max_pairs_per_image: int | None = Field(None, ge=1)
    balance_length: bool = False


RankingType = TypeVar("RankingType")
_TOLERANCE = 1e-9  # means of the same ratings in another order differ in the last bits


@dataclass(frozen=True, slots=True)
class Rating:
    """One person's rating of one caption of one picture.

    Args:
        row: Number of its row in the table.
        column: Its column, where a row holds several ratings.
        media: The picture.
        prompt: What the caption answers.
        caption: The text, without white space around it.
        rater: Who rated; where the table does not say, a name made from the place of the rating.
        rater_is_named: Whether the table says who rated; a place is no person, since lists are often sorted.
        value: The rating.
        source: Who wrote the caption.
        weight: How much it counts.
        aspect: What was rated, where there are several aspects.
    """

    row: int
    column: str | None
    media: Media
    prompt: str
    caption: str
    rater: str
    rater_is_named: bool
    value: float
    source: str | None
    weight: float = 1.0
    aspect: str | None = None


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of one picture with all its ratings and their aggregate.

    Args:
        ratings: Its ratings.
        score: Their aggregate.
        aspects: The aggregate of each aspect, where there are several.
        group: Captions of one picture and prompt whose scores cannot be compared are of different groups.
    """

    ratings: tuple[Rating, ...]
    score: float
    aspects: tuple[tuple[str, float], ...] = ()
    group: int = 0

    @property
    def text(self) -> str:
        """The caption."""
        return self.ratings[0].caption

    @property
    def prompt(self) -> str:
        """What it answers."""
        return self.ratings[0].prompt

    @property
    def media(self) -> Media:
        """The picture."""
        return self.ratings[0].media

    @property
    def source(self) -> str | None:
        """Who wrote it."""
        return self.ratings[0].source


@dataclass(frozen=True, slots=True)
class Ranking:
    """Two or more captions of one picture that become a record, best first.

    Args:
        captions: The captions; of two, the chosen and the rejected one.
        id: A name made from the content, so that it is the same in every build.
    """

    captions: tuple[Caption, ...]
    id: str

    @classmethod
    def of(cls, captions: Sequence[Caption]) -> Ranking:
        """The ranking of some captions in their order."""
        first = captions[0]
        content = [first.media.identity, first.prompt, *(caption.text for caption in captions)]
        return cls(tuple(captions), hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16])

    @property
    def margin(self) -> float:
        """Distance of the first and the last score, in rating units."""
        return abs(self.captions[0].score - self.captions[-1].score)


@dataclass
class PairTally:
    """What became of every two captions of the same picture and prompt.

    Args:
        n: How many there are.
        ties: Equal scores.
        below_margin: Closer than `min_margin`.
        equal_captions: The same words apart from case and white space.
        not_selected: Left out by `pairing` or by `max_pairs_per_image`.
        length_balance: Left out by `balance_length`.
        used: Pairs made; every two captions of a list.
    """

    n: int = 0
    ties: int = 0
    below_margin: int = 0
    equal_captions: int = 0
    not_selected: int = 0
    length_balance: int = 0
    used: int = 0


def make_records(captions: Sequence[Caption], rules: PairingConfig, ledger: Ledger, tally: PairTally) -> list[Ranking]:
    """The pairs or lists of every picture; captions that are in none go to the ledger.

    Of tied captions, a hash of the seed and the text decides which one stands for the others. When a picture has more
    pairs than its cap, those with the largest margin stay.

    Args:
        captions: The captions of some pictures, each picture whole.
        rules: What becomes a record.
        ledger: Gets every rating.
        tally: Counts every two captions.
    """
    images: dict[str, dict[tuple[str, int], list[Caption]]] = defaultdict(lambda: defaultdict(list))
    for caption in captions:
        images[caption.media.identity][caption.prompt, caption.group].append(caption)
    made: list[Ranking] = []
    usable: set[tuple[int, int]] = set()
    for prompts in images.values():
        groups = list(prompts.values())
        possible = {pair for group in groups for pair in _usable(group, rules, tally)}
        proposed = [ranking for group in groups for ranking in _proposed(group, rules, possible)]
        proposed.sort(key=lambda ranking: _strongest(ranking, rules.seed))
        taken = proposed[: rules.max_pairs_per_image]
        tally.not_selected += len(possible) - sum(_pairs_in(ranking, possible) for ranking in taken)
        made += taken
        usable |= possible
    kept = balanced(made, _lengths, lambda one: _strongest(one, rules.seed)) if rules.balance_length else made
    tally.length_balance += sum(_pairs_in(ranking, usable) for ranking in made)
    for ranking in kept:
        tally.used += _pairs_in(ranking, usable)
        tally.length_balance -= _pairs_in(ranking, usable)
    _account(images, made, kept, usable, ledger)
    return kept


def _ordered(group: Sequence[Caption], rules: PairingConfig) -> list[Caption]:
    """Best first."""
    sign = -1.0 if rules.higher_is_better else 1.0
    return sorted(group, key=lambda caption: (round(sign * caption.score, 9), seeded_order(rules.seed, caption.text)))


def _proposed(group: Sequence[Caption], rules: PairingConfig, usable: set[tuple[int, int]]) -> list[Ranking]:
    order = _ordered(group, rules)
    if len(order) < 2:
        return []
    if rules.pairing == "list":
        distinct: dict[str, Caption] = {}
        for caption in order:
            distinct.setdefault(_plain(caption.text), caption)
        ranked = list(distinct.values())
        return [Ranking.of(ranked)] if (id(ranked[0]), id(ranked[-1])) in usable else []
    if rules.pairing == "best_worst":  # from the outside in, so that of tied captions the first and the last are taken
        pairs = [(better, worse) for place, better in enumerate(order) for worse in order[:place:-1]]
    else:
        pairs = list(pairwise(order) if rules.pairing == "adjacent" else combinations(order, 2))
    kept = [Ranking.of(pair) for pair in pairs if (id(pair[0]), id(pair[1])) in usable]
    return widest(kept, lambda ranking: ranking.margin) if rules.pairing == "best_worst" else kept


def widest(pairs: Sequence[RankingType], margin: Callable[[RankingType], float]) -> list[RankingType]:
    """The pair with the largest margin, of several the first; none of none."""
    return [max(pairs, key=lambda pair: round(margin(pair), 9))] if pairs else []


def _usable(group: Sequence[Caption], rules: PairingConfig, tally: PairTally) -> Iterator[tuple[int, int]]:
    """Every two captions that may become a pair, the better one first; the others are counted."""
    for better, worse in combinations(_ordered(group, rules), 2):
        margin = abs(better.score - worse.score)
        tally.n += 1
        if margin <= _TOLERANCE:
            tally.ties += 1
        elif margin < rules.min_margin - _TOLERANCE:
            tally.below_margin += 1
        elif _plain(better.text) == _plain(worse.text):
            tally.equal_captions += 1
        else:
            yield id(better), id(worse)


def _pairs_in(ranking: Ranking, usable: set[tuple[int, int]]) -> int:
    return sum((id(a), id(b)) in usable for a, b in combinations(ranking.captions, 2))


def balanced(
    rankings: Sequence[RankingType],
    lengths: Callable[[RankingType], tuple[int, int]],
    order: Callable[[RankingType], tuple[float, str]],
) -> list[RankingType]:
    """As many rankings whose first caption is longer than the last one as whose first is shorter.

    Args:
        rankings: The rankings.
        lengths: Words of the first and of the last caption.
        order: Those that come first in it stay.
    """
    signs = [(first > last) - (first < last) for first, last in map(lengths, rankings)]
    sides = [[place for place, sign in enumerate(signs) if sign == side] for side in (1, -1)]
    fewer, more = sorted(sides, key=len)
    more.sort(key=lambda place: order(rankings[place]))
    left_out = set(more[len(fewer) :])
    return [ranking for place, ranking in enumerate(rankings) if place not in left_out]


def _lengths(ranking: Ranking) -> tuple[int, int]:
    return len(ranking.captions[0].text.split()), len(ranking.captions[-1].text.split())


def _strongest(ranking: Ranking, seed: int) -> tuple[float, str]:
    """Largest margin first."""
    return -round(ranking.margin, 9), seeded_order(seed, ranking.id)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _account(
    images: Mapping[str, Mapping[tuple[str, int], Sequence[Caption]]],
    made: Sequence[Ranking],
    kept: Sequence[Ranking],
    usable: set[tuple[int, int]],
    ledger: Ledger,
) -> None:
    used = {id(caption) for ranking in kept for caption in ranking.captions}
    unbalanced = {id(caption) for ranking in made for caption in ranking.captions}
    could = {key for pair in usable for key in pair}
    for group in (group for prompts in images.values() for group in prompts.values()):
        for caption in group:
            for rating in caption.ratings:
                if id(caption) in used:
                    ledger.use(rating.row)
                elif len(group) == 1:
                    ledger.set_aside("single_caption", rating.row, caption.text, column=rating.column)
                elif id(caption) in unbalanced:
                    ledger.set_aside("length_balance", rating.row, caption.score, column=rating.column)
                else:
                    reason = "not_selected" if id(caption) in could else "no_margin"
                    ledger.set_aside(reason, rating.row, caption.score, column=rating.column)
