"""Pairs out of imported lists whose answers are rated or ranked, by the rules of `data_builders.rating.pairing`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from data_builders.base import Ledger
from data_builders.rating.pairing import Caption, PairingConfig, PairTally, Rating, make_records
from mmdpo.media import Media
from mmdpo.records import Candidate, Record


def pairs_of(record: Record, rules: dict[str, Any], ledger: Ledger, tally: PairTally) -> Iterator[Record]:
    """The pairs of a record; the record itself where its answers have neither scores nor ranks.

    Answers that are in no pair go to the ledger, as single values of the row, or with the row where no pair is made.

    Args:
        record: A record whose `meta.row` is the row that it was made of.
        rules: `pairing`, `min_margin` and `seed` of a `PairingConfig`; the direction is the record's.
        ledger: Gets every answer.
        tally: Counts every two answers.
    """
    values = [_value(candidate) for candidate in record.candidates]
    if record.higher_is_better is None or None in values:
        ledger.use(record.meta["row"])
        yield record
        return
    about = Media(sha256=record.id)  # what is compared are answers of one record
    captions = [
        Caption((_rating(place, candidate, value, about, record),), value)
        for place, (candidate, value) in enumerate(zip(record.candidates, values, strict=True))
        if value is not None
    ]
    config = PairingConfig(higher_is_better=record.higher_is_better, **rules)
    places = {id(caption): place for place, caption in enumerate(captions)}
    for ranking in make_records(captions, config, ledger, tally):
        chosen = [places[id(caption)] for caption in ranking.captions]
        meta = {**record.meta, "margin": ranking.margin, "list": record.id}
        if isinstance(ratings := record.meta.get("ratings"), list) and len(ratings) == len(captions):
            meta["ratings"] = [ratings[place] for place in chosen]
        yield replace(record, id=ranking.id, candidates=tuple(record.candidates[place] for place in chosen), meta=meta)


def _value(candidate: Candidate) -> float | None:
    return candidate.score if candidate.score is not None else candidate.rank


def _rating(place: int, candidate: Candidate, value: float, about: Media, record: Record) -> Rating:
    column = f"answer {place + 1}"
    return Rating(record.meta["row"], column, about, record.id, candidate.text, "", True, value, candidate.source)
