"""Ratings of captions become preference pairs: `mmdpo build ratings`.

    table --read--> ratings --check--> one score per caption --pair--> records
                       |                      |                  |
                       `---- set aside, with the row and the reason

Every row ends in one of two places: in the records, or in the ledger.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_builders.agreement import agreement, rater_means
from data_builders.base import Builder, BuildResult, Ledger
from data_builders.pairing import Caption, Pair, Rating, make_pairs
from data_builders.quality import measure
from data_builders.rating_rows import read_ratings
from data_builders.ratings_config import RatingsConfig
from data_builders.splits import split_by_media
from data_builders.tables import matches, read_table, require_columns
from mmdpo.media import Media, MediaError, open_image, read_bytes
from mmdpo.modalities.base import modality_of
from mmdpo.records import Candidate, Record, Records, media_field, user_message
from mmdpo.registry import builders

SOUND_REASONS = ("too_few_raters", "single_caption", "no_margin", "not_selected")
"""Reasons that say nothing bad of a row; `--strict` allows them."""

_DECODING_THREADS = 4


@builders.register("ratings")
class Ratings(Builder[RatingsConfig]):
    """Preference pairs from a table of image, caption, rating and rater."""

    Config = RatingsConfig

    def build(self, config: RatingsConfig) -> BuildResult:
        """See `Builder.build`."""
        ledger = Ledger(SOUND_REASONS)
        table = read_table(config.data, kind=config.format, rows=config.rows)
        require_columns(table, [*config.columns.settings(), *(("where", column) for column in config.where)])
        rows = [row for row in table if row.problem or matches(row, config.where)]
        ratings = read_ratings(rows, config, ledger)
        media_root = config.media_root or config.data.parent
        ratings = _with_media(ratings, media_root, config, ledger)
        ratings, repeated = _without_repeats(ratings, ledger)
        captions = _captions(ratings, config, ledger)
        pairs, tally = make_pairs(captions, config, ledger)
        records = Records([_record(pair, config) for pair in pairs], media_root)
        splits = split_by_media(records, config.validation, config.seed)
        quality = {
            "source": str(config.data),
            **ledger.account(),
            "rows_filtered_out": len(table) - len(rows),
            "repeated_rows": repeated,
            "notes": _notes(len(table) - len(rows), records),
            "ratings": {
                "n": len(ratings),
                "captions": len(captions),
                "images": len({rating.media.identity for rating in ratings}),
                "scale": [config.scale.min, config.scale.max],
                "higher_is_better": config.higher_is_better,
            },
            "raters": rater_means(ratings),
            "agreement": agreement(ratings),
            "possible_pairs": vars(tally),
            "splits": {name: len(part) for name, part in splits.items()},
            "records": measure(records, seed=config.seed),
        }
        return BuildResult(splits, quality, ledger)


def _notes(filtered_out: int, records: Records) -> list[str]:
    """What a person should know beside the counts."""
    photos = {item.identity: item.sha256 is None for record in records for _, item in record.media_items()}
    absent = sum(photos.values())
    notes = []
    if filtered_out:
        notes.append(f"{filtered_out} further rows did not match `where`")
    if absent:
        notes.append(
            f"{absent} of {len(photos)} images are absent (media: optional): their pairs are text and path alone, "
            "and training sets them aside until the images are there"
        )
    return notes


def _with_media(ratings: list[Rating], root: Path, config: RatingsConfig, ledger: Ledger) -> list[Rating]:
    """The ratings whose picture is there and whole, with its content hash; with `optional`, also where it is absent."""
    distinct = list(dict.fromkeys(rating.media for rating in ratings))
    with ThreadPoolExecutor(_DECODING_THREADS) as pool:
        checked = dict(zip(distinct, pool.map(lambda media: _check(media, root, config), distinct), strict=True))
    kept = []
    for rating in ratings:
        result = checked[rating.media]
        if isinstance(result, Media):
            kept.append(replace(rating, media=result))
        else:
            ledger.set_aside(result.kind, rating.row, rating.media.name, column=rating.column, message=result.what)
    return kept


def _check(media: Media, root: Path, config: RatingsConfig) -> Media | MediaError:
    try:
        data = read_bytes(media, root)
        if config.modality == "image":
            open_image(Media(media.path, data=data), None, max_pixels=config.max_pixels)
        else:
            modality_of(media_field(config.modality)).load(Media(media.path, data=data), None)
    except MediaError as error:
        return media if error.kind == "missing_media" and config.media == "optional" else error
    return replace(media, sha256=Media(data=data).identity)


def _without_repeats(ratings: list[Rating], ledger: Ledger) -> tuple[list[Rating], int]:
    """Each rater's first rating of each caption of each picture, and how many rows repeat an earlier one.

    Without a rater column, rows that are alike cannot be told from raters who agree: they are counted and kept.
    """
    first: dict[tuple[str, ...], Rating] = {}
    seen: set[tuple[object, ...]] = set()
    repeated: set[int] = set()
    kept = []
    for rating in ratings:
        content = (
            rating.media.identity,
            rating.prompt,
            rating.caption,
            rating.column,
            rating.rater if rating.rater_is_named else None,
            rating.value,
        )
        if content in seen:
            repeated.add(rating.row)
        seen.add(content)
        earlier = first.setdefault((rating.media.identity, rating.prompt, rating.caption, rating.rater), rating)
        if earlier is rating:
            kept.append(rating)
        else:
            same = earlier.value == rating.value
            reason = "duplicate_row" if same else "conflicting_rating"
            message = f"{rating.rater!r} rated this caption in row {earlier.row} already, with {earlier.value:g}"
            ledger.set_aside(reason, rating.row, rating.value, column=rating.column, message=message)
    return kept, len(repeated)


def _captions(ratings: Iterable[Rating], config: RatingsConfig, ledger: Ledger) -> list[Caption]:
    """One score per caption of a picture and prompt."""
    groups: dict[tuple[str, str, str], list[Rating]] = defaultdict(list)
    for rating in ratings:
        groups[rating.media.identity, rating.prompt, rating.caption].append(rating)
    aggregate = statistics.fmean if config.aggregate == "mean" else statistics.median
    captions = []
    for given in groups.values():
        if len(given) < config.min_raters:
            for rating in given:
                ledger.set_aside("too_few_raters", rating.row, len(given), column=rating.column)
        else:
            captions.append(Caption(tuple(given), float(aggregate([rating.value for rating in given]))))
    return captions


def _record(pair: Pair, config: RatingsConfig) -> Record:
    meta: Mapping[str, Any] = {
        "builder": "ratings",
        "margin": pair.margin,
        "ratings": [[rating.value for rating in caption.ratings] for caption in pair],
        "raters": [[rating.rater for rating in caption.ratings] for caption in pair],
        "rows": [[rating.row for rating in caption.ratings] for caption in pair],
    }
    plural = media_field(config.modality)
    return Record(
        id=pair.id,
        prompt=(user_message(pair.chosen.prompt, **{plural: 1}),),
        candidates=tuple(Candidate(caption.text, score=caption.score, source=caption.source) for caption in pair),
        media={plural: (pair.chosen.media,)},
        higher_is_better=config.higher_is_better,
        meta=meta,
    )
