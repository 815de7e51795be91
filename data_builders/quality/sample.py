"""What the checks read: at most some thousand records, drawn by a hash, and the comparisons that they hold."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from data_builders.splits import media_groups, seeded_order
from mmdpo.evals.text import words
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, prompt_text
from mmdpo.records.checks import ratings_of

LIMIT = 20_000
"""Records that are looked at closely; counts are over all."""
EMBEDDED = 128 * 2**20
"""Bytes of their embedded media that are kept, whole items with the smallest hashes."""


class Drawn(NamedTuple):
    """A record that was drawn.

    Args:
        place: Its number among all records of all splits.
        split: Its split.
        record: The record.
    """

    place: int
    split: str
    record: Record


class Comparison(NamedTuple):
    """One answer that is better than another one to the same prompt.

    Args:
        group: Media group of the record, the unit of resampling.
        better: The preferred answer.
        worse: The other one.
        record: Where it comes from.
    """

    group: str
    better: Candidate
    worse: Candidate
    record: Record


@dataclass(frozen=True)
class Sample:
    """The drawn records in their order.

    Args:
        drawn: The records.
        total: How many there are altogether.
        media_root: Folder of their media.
    """

    drawn: Sequence[Drawn]
    total: int
    media_root: Path | None = None

    @property
    def records(self) -> list[Record]:
        """The records alone."""
        return [one.record for one in self.drawn]

    @cached_property
    def groups(self) -> list[str]:
        """The media group of each record."""
        return media_groups(self.records)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every pair, and of every list the best answer against each worse one."""
        return [
            Comparison(group, better, worse, record)
            for group, record in zip(self.groups, self.records, strict=True)
            for better, worse in best_against_rest(record)
        ]

    @cached_property
    def labelled(self) -> list[tuple[str, Record, bool]]:
        """The single answers that are labelled: media group, record, whether the answer is desirable."""
        return [
            (group, record, bool(record.candidates[0].label))
            for group, record in zip(self.groups, self.records, strict=True)
            if record.form == "unpaired" and record.candidates[0].label is not None
        ]

    @cached_property
    def answers(self) -> list[tuple[Record, Candidate]]:
        """Every answer with its record."""
        return [(record, candidate) for record in self.records for candidate in record.candidates]


class Draw:
    """Keeps the records with the smallest hashes of seed, split and id; the same ones in whatever order they come.

    Args:
        seed: Another seed draws others.
        limit: How many are kept.
        light: Whether of their embedded media no more than `EMBEDDED` bytes are kept.
    """

    def __init__(self, seed: int, limit: int = LIMIT, *, light: bool = False) -> None:
        self._seed, self._limit, self._is_light = seed, limit, light
        self._bytes: dict[str, bytes] = {}
        self._room, self._below = EMBEDDED, "g"  # behind every hash
        self._heap: list[tuple[int, int, Drawn]] = []
        self.total = 0

    def add(self, record: Record, split: str) -> None:
        """Takes the next record."""
        order = -int(seeded_order(self._seed, split, record.id)[:16], 16)  # the largest hash is the first to go
        entry = (order, -self.total, Drawn(self.total, split, self._light(record) if self._is_light else record))
        self.total += 1
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def sample(self, media_root: Path | None) -> Sample:
        """What was drawn, in the records' order."""
        drawn = sorted((entry[2] for entry in self._heap), key=lambda one: one.place)
        return Sample([one._replace(record=self._whole(one.record)) for one in drawn], self.total, media_root)

    def _light(self, record: Record) -> Record:
        """The record without the bytes of its media, of which those with the smallest hashes are kept here."""
        for _, item in record.media_items():
            if item.data is not None and item.identity not in self._bytes and item.identity < self._below:
                self._bytes[item.identity] = item.data
                self._room -= len(item.data)
        while self._room < 0:
            self._below = max(self._bytes)
            self._room += len(self._bytes.pop(self._below))
        return _exchanged(record, lambda item: item if item.data is None else Media(item.path, item.identity))

    def _whole(self, record: Record) -> Record:
        return _exchanged(record, lambda item: replace(item, data=item.data or self._bytes.get(item.identity)))


def _exchanged(record: Record, change: Callable[[Media], Media]) -> Record:
    return replace(record, media={name: tuple(map(change, items)) for name, items in record.media.items()})


def best_against_rest(record: Record) -> list[tuple[Candidate, Candidate]]:
    """Of a pair the pair; of a list the best answer with each that is rated worse; of a single answer nothing."""
    if record.form == "pair":
        return [(record.chosen, record.rejected)]
    rated = ranked(record)
    return [(rated[0][1], candidate) for value, candidate in rated[1:] if value < rated[0][0]]


def preferred(record: Record) -> str | None:
    """The chosen answer, the best of a list, a single answer that nobody called undesirable."""
    if record.form == "unpaired":
        return None if record.candidates[0].label is False else record.candidates[0].text
    pairs = best_against_rest(record)
    return pairs[0][0].text if pairs else None


def ranked(record: Record) -> list[tuple[float, Candidate]]:
    """The rated answers of a list with their rating, turned so that more is better, best first."""
    rated = tuple(candidate for candidate in record.candidates if (candidate.score, candidate.rank) != (None, None))
    values = ratings_of(Record(record.id, record.prompt, rated, higher_is_better=record.higher_is_better))
    return sorted(zip(values, rated, strict=False), key=lambda item: -item[0])


def all_orders(record: Record, longest: int = 12) -> Iterator[tuple[Candidate, Candidate]]:
    """Every two answers of which one is better, the better one first, of lists up to so many answers."""
    if record.form == "pair":
        yield record.chosen, record.rejected
        return
    rated = ranked(record)[:longest]
    for place, (value, better) in enumerate(rated):
        yield from ((better, worse) for other, worse in rated[place + 1 :] if other < value)


def unit_of(record: Record) -> str:
    """Prompt and media: what answers must share to be compared."""
    media = [item.identity for _, item in record.media_items()]
    return json.dumps([record.prompt, media], ensure_ascii=False, sort_keys=True)


@lru_cache(maxsize=4 * LIMIT)
def words_of(text: str) -> tuple[str, ...]:
    """`mmdpo.evals.text.words`, which several checks ask for of the same answers."""
    return tuple(words(text))


def plain(text: str) -> str:
    """Case and white space apart."""
    return " ".join(text.casefold().split())


def shown(records: Iterable[Record], count: int) -> list[dict[str, object]]:
    """The first records as pages show them."""
    return [
        {
            "id": record.id,
            "media": {name: [item.path for item in items] for name, items in record.media.items()},
            "prompt": prompt_text(record),
            "answers": [candidate.text for candidate in record.candidates],
            "scores": [candidate.score for candidate in record.candidates],
        }
        for record, _ in zip(records, range(count), strict=False)
    ]
