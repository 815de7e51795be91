"""Ratings of captions become preference records: `mmdpo build ratings`.

    tables --read--> ratings --media, repeats--> one score per caption --pair--> records
                        |                              |                  |
                        `---- set aside, with the row and the reason -----'

Every row ends in one of two places: in the records, or in the ledger. Ratings are read one by one and then taken a part
of the pictures at a time, so that memory does not grow with the tables.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_builders.base import Builder, Ledger, Work
from data_builders.rating.agreement import RatingArrays, agreement, rater_means
from data_builders.rating.pairing import Caption, PairTally, Ranking, Rating, make_records
from data_builders.rating.rater_scales import RaterScales
from data_builders.rating.rows import RatingReader
from data_builders.ratings_config import RatingsConfig
from data_builders.tables.config import absence_note, checked_media, identity_of, table_rows, unnamed_note, with_media
from data_builders.tables.spool import Spool, as_lists
from mmdpo.records import Candidate, Record, media_field, user_message
from mmdpo.registry import builders


@builders.register("ratings")
class Ratings(Builder[RatingsConfig]):
    """Preference pairs or lists from a table of image, caption, rating and rater."""

    Config = RatingsConfig
    sound_reasons = ("too_few_raters", "single_caption", "no_margin", "not_selected", "length_balance")

    def media_root(self, config: RatingsConfig) -> Path:
        """Folder that the records' media paths are relative to."""
        return config.root

    def records(self, config: RatingsConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        spool = Spool(work.scratch / "ratings.jsonl", *as_lists(Rating))
        reader = RatingReader(config, work.ledger)
        for row in table_rows(config, config.columns.settings(), work):
            spool.extend(reader.read(row))
        checked = checked_media((rating.media for rating in spool), config, work)
        scales = RaterScales.of(spool) if config.standardise == "rater" else None
        arrays = {aspect: RatingArrays() for aspect in (*config.columns.aspects, None)}
        tally, repeated, ratings, captions, unnamed = PairTally(), set[int](), 0, 0, 0
        images, paired = 0, dict[str, bool]()
        for part in spool.parts(lambda rating: identity_of(rating.media, checked)):
            usable = list(_named(with_media(part, checked, work.ledger)))
            usable = _without_repeats(usable, work.ledger, repeated)
            ratings += len(usable)
            unnamed += sum(not rating.rater_is_named for rating in usable)
            images += len({rating.media.identity for rating in usable})  # none is in two parts
            groups = _by_caption(usable)
            for group in groups:
                for aspect, given in _by_aspect(group).items():
                    arrays[aspect].add(given)
            scored = [caption for group in groups if (caption := _caption(group, config, scales, work.ledger))]
            captions += len(scored)
            for ranking in make_records(scored, config, work.ledger, tally):
                media = ranking.captions[0].media
                paired[media.identity] = media.sha256 is None
                yield _record(ranking, config)
        work.notes += absence_note(paired, config.modality) + ([] if scales is None else scales.notes())
        work.notes += unnamed_note(unnamed, ratings, "ratings")
        work.quality |= {
            "source": config.source,
            "repeated_rows": len(repeated),
            "ratings": {
                "n": ratings,
                "captions": captions,
                "images": images,
                "scale": [config.scale.min, config.scale.max],
                "higher_is_better": config.higher_is_better,
            },
            "possible_pairs": vars(tally),
            **_agreement(arrays),
        }


def _agreement(arrays: Mapping[str | None, RatingArrays]) -> dict[str, Any]:
    """Agreement over all ratings, or of each aspect and that of the first for all."""
    used = {aspect: some for aspect, some in arrays.items() if len(some.sizes)}
    if not used:
        return {"raters": [], "agreement": agreement([])}
    found = {aspect: agreement(some) for aspect, some in used.items()}
    first = next(iter(used))
    if first is None:
        return {"raters": rater_means(used[None]), "agreement": found[None]}
    return {"raters": rater_means(used[first]), "agreement": {**found[first], "aspect": first, "by_aspect": found}}


def _named(ratings: Iterable[Rating]) -> Iterator[Rating]:
    """Raters whom the table does not name are called by the place of their rating."""
    place: Counter[tuple[str, str, str]] = Counter()
    last: dict[tuple[str, str, str], int] = {}
    for rating in ratings:
        if rating.rater:
            yield rating
            continue
        key = (rating.media.identity, rating.prompt, rating.caption)
        place[key] += last.get(key) != rating.row
        last[key] = rating.row
        yield replace(rating, rater=f"{rating.column or 'rating'} of row {place[key]}")


def _without_repeats(ratings: Iterable[Rating], ledger: Ledger, repeated: set[int]) -> list[Rating]:
    """Each rater's first rating of each caption of each picture; notes which rows repeat an earlier one.

    Without a rater column, rows that are alike cannot be told from raters who agree: they are counted and kept.
    """
    first: dict[tuple[str | None, ...], Rating] = {}
    seen: set[tuple[object, ...]] = set()
    kept = []
    for rating in ratings:
        about = (rating.media.identity, rating.prompt, rating.caption)
        content = (*about, rating.column, rating.rater if rating.rater_is_named else None, rating.value, rating.aspect)
        if content in seen:
            repeated.add(rating.row)
        seen.add(content)
        earlier = first.setdefault((*about, rating.rater, rating.aspect), rating)
        if earlier is rating:
            kept.append(rating)
        else:
            same = earlier.value == rating.value
            reason = "duplicate_row" if same else "conflicting_rating"
            message = f"{rating.rater!r} rated this caption in row {earlier.row} already, with {earlier.value:g}"
            ledger.set_aside(reason, rating.row, rating.value, column=rating.column, message=message)
    return kept


def _by_caption(ratings: Iterable[Rating]) -> list[list[Rating]]:
    groups: dict[tuple[str, str, str], list[Rating]] = defaultdict(list)
    for rating in ratings:
        groups[rating.media.identity, rating.prompt, rating.caption].append(rating)
    return list(groups.values())


def _by_aspect(given: Iterable[Rating]) -> dict[str | None, list[Rating]]:
    aspects: dict[str | None, list[Rating]] = defaultdict(list)
    for rating in given:
        aspects[rating.aspect].append(rating)
    return aspects


def _caption(
    given: Sequence[Rating], config: RatingsConfig, scales: RaterScales | None, ledger: Ledger
) -> Caption | None:
    """The caption with one score; None where too few people rated one of its aspects."""
    aspects = _by_aspect(given)
    wanted: Sequence[str | None] = tuple(config.columns.aspects) or (None,)
    fewest = min(len(aspects.get(aspect, ())) for aspect in wanted)
    if fewest < config.min_raters or not any(rating.weight for rating in given):
        for rating in given:
            ledger.set_aside("too_few_raters", rating.row, fewest, column=rating.column)
        return None
    scores = {aspect: _aggregate(aspects[aspect], config, scales) for aspect in wanted}
    if None in scores:
        return Caption(tuple(given), scores[None])
    weights = {aspect: config.aspects.get(aspect, 1.0) for aspect in config.columns.aspects}
    total = sum(weights.values())
    score = sum(weights[aspect] * scores[aspect] for aspect in weights) / total
    return Caption(tuple(given), score, tuple((aspect, scores[aspect]) for aspect in weights))


def _aggregate(given: Sequence[Rating], config: RatingsConfig, scales: RaterScales | None) -> float:
    values = [rating.value if scales is None else scales.standardised(rating) for rating in given]
    if config.aggregate == "median":
        return float(statistics.median(values))
    return statistics.fmean(values, [rating.weight for rating in given])


def _record(ranking: Ranking, config: RatingsConfig) -> Record:
    captions = ranking.captions
    meta: dict[str, Any] = {
        "builder": "ratings",
        "margin": ranking.margin,
        "ratings": [[rating.value for rating in caption.ratings] for caption in captions],
        "raters": [[rating.rater for rating in caption.ratings] for caption in captions],
        "rows": [[rating.row for rating in caption.ratings] for caption in captions],
    }
    if captions[0].aspects:
        meta["aspects"] = [dict(caption.aspects) for caption in captions]
    plural = media_field(config.modality)
    return Record(
        id=ranking.id,
        prompt=(user_message(captions[0].prompt, **{plural: 1}),),
        candidates=tuple(Candidate(caption.text, score=caption.score, source=caption.source) for caption in captions),
        media={plural: (captions[0].media,)},
        higher_is_better=config.higher_is_better,
        meta=meta,
    )
