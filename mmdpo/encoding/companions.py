"""Other records that a record's views show: the partner whose media it is given, the answer that is not its own.

Both are drawn by seed and record ids, so that they are the same in every process and epoch, for policy and reference,
and in whatever order the records stand.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections.abc import Callable, Sequence

from mmdpo.corruptions import generator_for
from mmdpo.records import Candidate, Record

Shape = tuple[tuple[str, int], ...]
"""How many items of each modality a record has."""
Ring = list[tuple[float, int]]
"""Places of records in the order of numbers that are drawn for them once and for all."""


class Companions:
    """Draws partners and mismatched answers from the records of one split.

    Every record has a fixed random place on a circle. A draw takes a random place and goes round to the first record
    that fits: when a record is left out, only the draws that met it change.

    Args:
        records: The records of the split.
        seed: Seed of the draws.
    """

    def __init__(self, records: Sequence[Record], seed: int = 0) -> None:
        self._records = records
        self._light: Sequence[Record] = getattr(records, "records", records)  # without the bytes of their media
        self._seed = seed
        self._place = {record.id: place for place, record in enumerate(self._light)}
        self._media = [_media(record) for record in self._light]
        self._questions = [_question(record) for record in self._light]
        self._everyone: Ring = sorted((self._number(record.id, "place"), n) for n, record in enumerate(self._light))
        self._same_shape: dict[Shape, Ring] = {}
        self._same_question: dict[tuple[Shape, str], Ring] = {}
        for number, place in self._everyone:
            shape, question = _shape(self._light[place]), self._questions[place]
            self._same_shape.setdefault(shape, []).append((number, place))
            self._same_question.setdefault((shape, question), []).append((number, place))

    def partner(self, record: Record, *, same_question: bool = False) -> Record | None:
        """The record whose media ``swap`` shows: the one that ``meta.partner`` names, else one drawn by seed.

        It has as many items of each modality, and other media. None if there is none, or not the one that is named;
        :meth:`partner_problem` says why.

        Args:
            record: The record.
            same_question: Draw only among records with the same prompt: the partner's answer is to be an answer to it.
        """
        own = self._own_media(record)
        if not own or self.partner_problem(record) is not None:
            return None
        named = _named_partner(record)
        if named is not None:
            return self._records[self._place[named]]
        shape = _shape(record)
        asked = self._same_question.get((shape, _question(record)), [])
        ring = asked if same_question else self._same_shape.get(shape, [])
        place = self._draw(record, "partner", ring, lambda n: self._media[n] != own)
        return None if place is None else self._records[place]

    def partner_problem(self, record: Record) -> str | None:
        """Why a record with media cannot have the partner that ``meta.partner`` names; None where nothing is wrong."""
        named, own = _named_partner(record), self._own_media(record)
        if named is None or not own:
            return None
        said = f"meta.partner names {named!r}"
        if named not in self._place:
            return f"{said}, which is not among the records that are used with it"
        place = self._place[named]
        wanted, found = _shape(record), _shape(self._light[place])
        if wanted != found:
            return f"{said}, which has {_counted(found)}, and the record has {_counted(wanted)}"
        return f"{said}, which has the same media" if self._media[place] == own else None

    def mismatched(self, record: Record) -> Candidate | None:
        """The first answer to another prompt or about other media; None if there is none.

        Another rating of the same thing has a record of its own, and its answer would match.
        """
        texts = {candidate.text for candidate in record.candidates}
        asked = (_question(record), self._own_media(record))

        def fits(n: int) -> bool:
            return (self._questions[n], self._media[n]) != asked and self._light[n].candidates[0].text not in texts

        place = self._draw(record, "mismatched", self._everyone, fits)
        return None if place is None else self._light[place].candidates[0]

    def _draw(self, record: Record, purpose: str, ring: Ring, fits: Callable[[int], bool]) -> int | None:
        """The first other record that fits, going round from a random place."""
        start = bisect(ring, (self._number(record.id, purpose), -1))
        turned = (ring[(start + step) % len(ring)][1] for step in range(len(ring)))
        return next((n for n in turned if self._light[n].id != record.id and fits(n)), None)

    def _number(self, record_id: str, purpose: str) -> float:
        return float(generator_for(record_id, purpose, 0, self._seed).random())

    def _own_media(self, record: Record) -> tuple[str, ...]:
        """What tells a record's media: as this split's records say it, with or without the bytes."""
        place = self._place.get(record.id)
        return _media(record) if place is None else self._media[place]


def _named_partner(record: Record) -> str | None:
    named = record.meta.get("partner")
    return None if named is None else str(named)


def _question(record: Record) -> str:
    return json.dumps(record.prompt, ensure_ascii=False, sort_keys=True)


def _media(record: Record) -> tuple[str, ...]:
    return tuple(item.identity for _, item in record.media_items())


def _shape(record: Record) -> Shape:
    return tuple(sorted((name, len(items)) for name, items in record.media.items() if items))


def _counted(shape: Shape) -> str:
    return ", ".join(f"{count} {name if count > 1 else name.removesuffix('s')}" for name, count in shape) or "no media"
