"""Which of the similar scenes are partners: no copies, with an answer that is not true of the other one.

Two scenes are each other's partner. So every answer is preferred as often as it is rejected, nothing can be learned
from the words alone, and no split has to part two partners or grow beyond them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from data_builders.base import Ledger, Work
from data_builders.care.near_copies import Look
from data_builders.counterfactual_config import CounterfactualConfig
from data_builders.partners.likeness import Alike, are_copies
from data_builders.partners.scenes import Entry, Scene, Truth, linked
from data_builders.tables.config import text_of
from data_builders.tables.reading import require_columns
from data_builders.tables.sources import open_source

_DIGITS = 4
_TOLD = {
    "not_similar": "nothing with its question is similar enough",
    "near_copy": "everything similar is a copy of it",
    "answer_holds": "its answer may be true of what is similar, or the other way round",
    "partner_taken": "what is similar has another partner",
    "other_question": "its partner was asked something else",
}


class Pairing:
    """Makes partners of scenes.

    Args:
        scenes: The scenes.
        seen: The look of every picture of each scene.
        truth: Tells whether an answer may be true of another scene.

    Attributes:
        made: Row -> what the `meta` of its record is to say.
    """

    def __init__(self, scenes: Sequence[Scene], seen: Sequence[Sequence[Look] | None], truth: Truth) -> None:
        self.made: dict[int, dict[str, Any]] = {}
        self._scenes, self._seen, self._truth = scenes, seen, truth
        self._outcomes: dict[int, set[str]] = defaultdict(set)
        self._tried: Counter[int] = Counter()
        self._refused: Counter[str] = Counter()
        self._partner: dict[int, int] = {}
        self._similarities: list[float] = []

    def fits(self, one: Alike) -> bool:
        """Whether two scenes may be partners; why not is noted."""
        if are_copies(self._seen[one.first], self._seen[one.second]):
            reason = "near_copy"
        elif not linked(*self._untrue(one)):
            reason = "answer_holds"
        else:
            return True
        self._refused[reason] += 1
        for place in (one.first, one.second):
            self._tried[place] += 1
            self._outcomes[place].add(reason)
        return False

    def join(self, one: Alike, late: int | None) -> None:
        """Makes two scenes partners; or one of them, which was left over, a partner of the other."""
        first, second = self._untrue(one)
        if late is not None:
            first, second = (
                entries if place == late else [entry for entry in entries if entry.row in self.made]
                for place, entries in ((one.first, first), (one.second, second))
            )
        rows = {entry.row for entry in first}
        for entry, partner in linked(first, second):
            if entry.row in self.made:  # of the scene that has another partner
                continue
            other = one.second if entry.row in rows else one.first
            self.made[entry.row] = {"partner": partner.id, "shared": self._shared(entry, other)}
            if one.similarity is not None:
                self.made[entry.row]["similarity"] = round(one.similarity, _DIGITS)
        for place, other in ((one.first, one.second), (one.second, one.first)):
            if late in (None, place):
                self._partner[place] = other
        if one.similarity is not None:
            self._similarities.append(one.similarity)

    def account(self, alike: Sequence[Alike], ledger: Ledger) -> None:
        """Every record to the ledger: it has a partner, or why it has none."""
        similar = Counter(place for one in alike for place in (one.first, one.second))
        for place, scene in enumerate(self._scenes):
            for entry in scene.entries:
                if entry.row in self.made:
                    ledger.use(entry.row)
                    continue
                reason = self._reason(place, entry, similar[place])
                ledger.set_aside(reason, entry.row, entry.id, message=_TOLD[reason])

    def numbers(self, alike: Sequence[Alike]) -> dict[str, Any]:
        """For `quality.json`: how many scenes have a partner, how similar it is, what was refused."""
        return {
            "scenes": len(self._scenes),
            "with_partner": len(self._partner),
            "similar_pairs": len(alike),
            "refused_pairs": dict(sorted(self._refused.items())),
            "similarity": quartiles(self._similarities),
            "shared_words": quartiles([told["shared"] for told in self.made.values()]),
        }

    def _untrue(self, one: Alike) -> tuple[list[Entry], list[Entry]]:
        first, second = self._scenes[one.first], self._scenes[one.second]
        return self._truth.untrue(first, second), self._truth.untrue(second, first)

    def _shared(self, entry: Entry, other: int) -> float:
        return round(self._truth.shared(entry, self._scenes[other]), _DIGITS)

    def _reason(self, place: int, entry: Entry, similar: int) -> str:
        partner = self._partner.get(place)
        if partner is not None:
            is_asked = any(other.question == entry.question for other in self._scenes[partner].entries)
            return "answer_holds" if is_asked else "other_question"
        if not similar:
            return "not_similar"
        if self._tried[place] < similar:
            return "partner_taken"
        return "answer_holds" if "answer_holds" in self._outcomes[place] else "near_copy"


def given_pairs(scenes: Sequence[Scene], config: CounterfactualConfig, work: Work) -> list[Alike]:
    """The pairs of a table, in its order. What it names is a path, the last part of one, or the id of a record.

    Rows that name something else, or what several scenes are called, are counted in a note.

    Raises:
        ConfigError: There is no such table or column.
        DataError: It cannot be read.
    """
    places: dict[str, set[int]] = defaultdict(set)
    for place, scene in enumerate(scenes):
        names = {entry.id for entry in scene.entries}
        for item in scene.items:
            names |= {item.path, PurePosixPath(item.path).name, PurePosixPath(item.path).stem} if item.path else set()
        for name in names:
            places[name].add(place)
    found: dict[tuple[int, int], Alike] = {}
    rows = unknown = 0
    for table in open_source(config.pairs or ""):
        require_columns(table, [("pair_columns", column) for column in config.pair_columns])
        for row in table:
            rows += 1
            named = [places.get(text_of(row.cells.get(column)) or "", set()) for column in config.pair_columns]
            ends = sorted({place for one in named for place in one})
            if [len(one) for one in named] == [1, 1] and len(ends) == 2:
                found.setdefault((ends[0], ends[1]), Alike(None, *ends))
            else:
                unknown += 1
    if unknown:
        work.notes.append(f"{unknown} of {rows} rows of {str(config.pairs)!r} do not name two pictures of the records")
    return [one for one in found.values() if scenes[one.first].shape == scenes[one.second].shape]


def quartiles(values: Sequence[float]) -> dict[str, float] | None:
    """Smallest, quartiles and largest of some numbers; None of none."""
    if not values:
        return None
    names = ("min", "q25", "median", "q75", "max")
    return dict(
        zip(names, (round(float(q), _DIGITS) for q in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])), strict=True)
    )
