"""What records show, and what is said of it: records with the same media are of one scene."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from data_builders.object_sources import Objects
from data_builders.tables.config import UnusableError
from mmdpo.evals.text import words
from mmdpo.media import Media

Shape = tuple[tuple[str, int], ...]


class Entry(NamedTuple):
    """One record.

    Args:
        row: Its row.
        id: Its id.
        question: What tells its prompt from others.
        words: Those of its better answer, each once; a tuple takes a fifth of the memory of a set.
        named: The objects that this answer names; empty where objects are not looked for.
    """

    row: int
    id: str
    question: int
    words: tuple[str, ...]
    named: frozenset[str]


@dataclass(slots=True)
class Scene:
    """What some records show.

    Args:
        media: The items, by plural name.
        present: The objects that are there; None where that is not known.
        entries: Its records.
        told: Every word of their better answers.
    """

    media: Mapping[str, tuple[Media, ...]]
    present: frozenset[str] | None = None
    entries: list[Entry] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    @property
    def shape(self) -> Shape:
        """How many items of each modality it has."""
        return tuple(sorted((plural, len(items)) for plural, items in self.media.items()))

    @property
    def items(self) -> list[Media]:
        """Its items."""
        return [item for items in self.media.values() for item in items]

    def add(self, row: int, name: str, question: int, answer: str, objects: Objects | None) -> None:
        """Takes a record by its better answer."""
        said = tuple(map(sys.intern, sorted(set(words(answer)))))
        named = frozenset(place.category for place in objects.named(answer)) if objects is not None else frozenset()
        self.entries.append(Entry(row, name, question, said, named))
        self.told.update(said)


def present_in(items: Sequence[Media], objects: Objects) -> frozenset[str] | None:
    """The objects in some pictures; None where one is not annotated."""
    found: set[str] = set()
    for item in items:
        try:
            found |= objects.find(item.path or "").present
        except UnusableError:
            return None
    return frozenset(found)


class Truth:
    """Tells whether an answer may be true of another scene.

    Where the answer names objects and those of the other scene are known, it may be if all of them are there. Else it
    may be if most of its words are said of the other scene as well: words weigh log((1 + scenes) / scenes with it),
    so that "a" and "the" count for nothing and no list of them is needed.

    Args:
        scenes: All of them.
        max_shared: Largest share of the weight that may be said of the other scene.
    """

    def __init__(self, scenes: Sequence[Scene], max_shared: float) -> None:
        self._count, self._max_shared = len(scenes), max_shared
        self._with = Counter(word for scene in scenes for word in scene.told)

    def weight(self, word: str) -> float:
        """How much a word counts."""
        return math.log((1 + self._count) / max(1, self._with[word]))

    def shared(self, entry: Entry, other: Scene) -> float:
        """Share of an answer's words, by weight, that are said of another scene, 0 to 1; of no words 1."""
        total = sum(map(self.weight, entry.words))
        return sum(self.weight(word) for word in entry.words if word in other.told) / total if total else 1.0

    def may_hold(self, entry: Entry, other: Scene) -> bool:
        """Whether an answer may be true of another scene."""
        if entry.named and other.present is not None:
            return entry.named <= other.present
        return self.shared(entry, other) > self._max_shared

    def untrue(self, scene: Scene, other: Scene) -> list[Entry]:
        """The records of a scene whose answers are not true of another one."""
        return [entry for entry in scene.entries if not self.may_hold(entry, other)]


def linked(first: Iterable[Entry], second: Iterable[Entry]) -> list[tuple[Entry, Entry]]:
    """Each record of two scenes with one of the other scene that has its question: in their order, over and over."""
    sides = [_by_question(first), _by_question(second)]
    return [
        (one, there[question][place % len(there[question])])
        for here, there in (sides, sides[::-1])
        for question in here
        if question in there
        for place, one in enumerate(here[question])
    ]


def _by_question(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    found: dict[int, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.question, []).append(entry)
    return found
