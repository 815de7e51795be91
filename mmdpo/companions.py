"""Other records that a record's views show: the partner whose media it is given, the answer that is not its own.

Both are drawn by seed and record id, so that they are the same in every process and epoch, and for policy and
reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmdpo.corruptions import generator_for
from mmdpo.records import Candidate, Record

Shape = tuple[tuple[str, int], ...]


class Companions:
    """Draws partners and mismatched answers from the records of one split.

    Args:
        records: The records of the split.
        seed: Seed of the draws.
    """

    def __init__(self, records: Sequence[Record], seed: int = 0) -> None:
        self._records = records
        self._seed = seed
        light = getattr(records, "records", records)  # without reading the bytes of their media
        self._ids = [record.id for record in light]
        self._place = {name: place for place, name in enumerate(self._ids)}
        self._media = [tuple(item.identity for _, item in record.media_items()) for record in light]
        self._same_shape: dict[Shape, list[int]] = {}
        for place, record in enumerate(light):
            self._same_shape.setdefault(_shape(record), []).append(place)

    def partner(self, record: Record) -> Record | None:
        """The record whose media ``swap`` shows: the one that ``meta.partner`` names, else one drawn by seed.

        It has as many items of each modality, and other media. None if there is none.
        """
        named = self._place.get(str(record.meta.get("partner", "")))
        if named is not None and named in self._same_shape.get(_shape(record), ()):
            return self._records[named]
        own = tuple(item.identity for _, item in record.media_items())
        if not own:
            return None
        place = self._draw(record, "partner", self._same_shape.get(_shape(record), []), lambda n: self._media[n] != own)
        return None if place is None else self._records[place]

    def mismatched(self, record: Record) -> Candidate | None:
        """The first answer of another record, which is none of this record's own; None if there is none."""
        own = {candidate.text for candidate in record.candidates}
        light = getattr(self._records, "records", self._records)
        everyone = range(len(self._ids))
        place = self._draw(record, "mismatched", everyone, lambda n: light[n].candidates[0].text not in own)
        return None if place is None else light[place].candidates[0]

    def _draw(self, record: Record, purpose: str, places: Sequence[int], fits: Callable[[int], bool]) -> int | None:
        """The first place that fits, going round from one drawn by seed."""
        if not places:
            return None
        start = int(generator_for(record.id, purpose, 0, self._seed).integers(len(places)))
        turned = (places[(start + step) % len(places)] for step in range(len(places)))
        return next((n for n in turned if self._ids[n] != record.id and fits(n)), None)


def _shape(record: Record) -> Shape:
    return tuple(sorted((name, len(items)) for name, items in record.media.items() if items))
