"""Which captions of a picture become pairs."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal, NamedTuple

from pydantic import Field

from data_builders.base import BuilderConfig, Ledger
from data_builders.splits import seeded_order
from mmdpo.media import Media


class PairingConfig(BuilderConfig):
    """What decides which candidates become pairs, in every builder that has scores.

    Args:
        higher_is_better: Direction of the scores; never guessed.
        pairing: `best_worst` makes one pair, `adjacent` pairs neighbours in the order, `all` every two.
        min_margin: Smallest distance of the two scores. Ties are never paired.
        max_pairs_per_image: Cap over all prompts of a picture; the pairs with the largest margin stay.
    """

    higher_is_better: bool
    pairing: Literal["best_worst", "all", "adjacent"] = "best_worst"
    min_margin: float = Field(0.0, ge=0.0)
    max_pairs_per_image: int | None = Field(None, ge=1)


_TOLERANCE = 1e-9  # means of the same ratings in another order differ in the last bits


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Caption:
    """A caption of one picture with all its ratings and their aggregate."""

    ratings: tuple[Rating, ...]
    score: float

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


class Pair(NamedTuple):
    """A better and a worse caption of one picture."""

    chosen: Caption
    rejected: Caption

    @property
    def margin(self) -> float:
        """Distance of the scores, in rating units."""
        return abs(self.chosen.score - self.rejected.score)

    @property
    def id(self) -> str:
        """A name made from the content, so that it is the same in every build."""
        content = [self.chosen.media.identity, self.chosen.prompt, self.chosen.text, self.rejected.text]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclass
class PairTally:
    """What became of every two captions of the same picture and prompt.

    Args:
        n: How many there are.
        ties: Equal scores.
        below_margin: Closer than `min_margin`.
        equal_captions: The same words apart from case and white space.
        not_selected: Left out by `pairing` or by `max_pairs_per_image`.
        used: Pairs made.
    """

    n: int = 0
    ties: int = 0
    below_margin: int = 0
    equal_captions: int = 0
    not_selected: int = 0
    used: int = 0


def make_pairs(captions: Sequence[Caption], rules: PairingConfig, ledger: Ledger) -> tuple[list[Pair], PairTally]:
    """The pairs of every picture; captions that are in none go to the ledger.

    Of tied captions, a hash of the seed and the text decides which one stands for the others. When a picture has more
    pairs than its cap, those with the largest margin stay.
    """
    images: dict[str, dict[str, list[Caption]]] = defaultdict(lambda: defaultdict(list))
    for caption in captions:
        images[caption.media.identity][caption.prompt].append(caption)
    tally = PairTally()
    pairs: list[Pair] = []
    for prompts in images.values():
        groups = list(prompts.values())
        usable = {(id(better), id(worse)) for group in groups for better, worse in _usable(group, rules, tally)}
        proposed = [pair for group in groups for pair in _proposed(group, rules)]
        made = [pair for pair in proposed if (id(pair.chosen), id(pair.rejected)) in usable]
        made.sort(key=lambda pair: (-round(pair.margin, 9), seeded_order(rules.seed, pair.id)))
        made = made[: rules.max_pairs_per_image]
        tally.used += len(made)
        tally.not_selected += len(usable) - len(made)
        pairs += made
        for group in groups:
            _account(group, made, usable, ledger)
    return pairs, tally


def _ordered(group: Sequence[Caption], rules: PairingConfig) -> list[Caption]:
    """Best first."""
    sign = -1.0 if rules.higher_is_better else 1.0
    return sorted(group, key=lambda caption: (round(sign * caption.score, 9), seeded_order(rules.seed, caption.text)))


def _proposed(group: Sequence[Caption], rules: PairingConfig) -> list[Pair]:
    order = _ordered(group, rules)
    if len(order) < 2:
        return []
    if rules.pairing == "best_worst":
        return [Pair(order[0], order[-1])]
    proposed = pairwise(order) if rules.pairing == "adjacent" else combinations(order, 2)
    return [Pair(better, worse) for better, worse in proposed]


def _usable(group: Sequence[Caption], rules: PairingConfig, tally: PairTally) -> Iterator[Pair]:
    """Every two captions that may become a pair, the better one first; the others are counted."""
    for better, worse in combinations(_ordered(group, rules), 2):
        pair = Pair(better, worse)
        tally.n += 1
        if pair.margin <= _TOLERANCE:
            tally.ties += 1
        elif pair.margin < rules.min_margin - _TOLERANCE:
            tally.below_margin += 1
        elif _plain(better.text) == _plain(worse.text):
            tally.equal_captions += 1
        else:
            yield pair


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _account(group: Sequence[Caption], made: Sequence[Pair], usable: set[tuple[int, int]], ledger: Ledger) -> None:
    used = {id(caption) for pair in made for caption in pair}
    could = {key for pair in usable for key in pair}
    for caption in group:
        for rating in caption.ratings:
            if id(caption) in used:
                ledger.use(rating.row)
            elif len(group) == 1:
                ledger.set_aside("single_caption", rating.row, caption.text, column=rating.column)
            else:
                reason = "not_selected" if id(caption) in could else "no_margin"
                ledger.set_aside(reason, rating.row, caption.score, column=rating.column)
