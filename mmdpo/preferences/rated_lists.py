"""From records to rated lists: what people said of each answer, turned so that more is better."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from data_builders.splits import media_groups
from mmdpo.encoding.planning import oriented_score
from mmdpo.errors import DataError
from mmdpo.media import MediaError
from mmdpo.records import Candidate, Record, Records, prompt_text


@dataclass(frozen=True)
class RatedLists:
    """Records that a preference can be read from.

    Args:
        rows: Each as `mmdpo.evals.preferences` reads it.
        records: The same, as they can be scored.
        flags: What was set aside.
    """

    rows: list[dict[str, Any]]
    records: Records
    flags: list[str]


def joined(records: Records) -> Records:
    """Pairs of one prompt and the same media as one list of all their answers, for ratings on one scale.

    A pair stays as it is where its answers have no scores, or where an answer has two: then the scores are no ratings
    of the answers alone.
    """
    lists: dict[Any, dict[str, Candidate]] = {}
    members: dict[Any, list[Record]] = {}
    unfit: set[Any] = set()
    for record in records:
        key = (str(record.prompt), tuple(item.identity for _, item in record.media_items()), record.higher_is_better)
        members.setdefault(key, []).append(record)
        for candidate in record.candidates:
            known = lists.setdefault(key, {}).setdefault(candidate.text, candidate)
            if known.score is None or known.score != candidate.score or record.higher_is_better is None:
                unfit.add(key)
    return Records(
        (
            record
            for key, own in members.items()
            for record in (own if key in unfit else [replace(own[0], candidates=tuple(lists[key].values()))])
        ),
        records.media_root,
    )


def rated_lists(records: Records) -> RatedLists:
    """The rated lists among some records.

    Raises:
        DataError: None of them has two rated answers and its media.
    """
    rows, kept, unrated, absent = [], [], 0, 0
    for record, group in zip(records, media_groups(records), strict=True):
        # the order of a pair is what people preferred, whatever scores it carries
        ratings = [1.0, 0.0] if record.form == "pair" else [oriented_score(record, c) for c in record.candidates]
        if len(ratings) < 2 or any(map(math.isnan, ratings)):
            unrated += 1
        elif not _media_are_there(records, record):
            absent += 1
        else:
            media = {plural: [item.path or item.identity for item in items] for plural, items in record.media.items()}
            texts = [candidate.text for candidate in record.candidates]
            row = {"id": record.id, "group": group, "prompt": prompt_text(record), "media": media}
            rows.append({**row, "candidates": texts, "ratings": ratings})
            kept.append(record)
    if not rows:
        raise DataError(
            f"none of the {len(records)} records has two rated answers and its media ({absent} lack a file)",
            why="There is no preference to agree with.",
            fix="Give pairs, or lists with a score or a rank for every candidate and higher_is_better.",
        )
    told = [(unrated, "unrated: {} records without two rated answers"), (absent, "absent_media: {} records")]
    flags = [sentence.format(count) + " are set aside" for count, sentence in told if count]
    return RatedLists(rows, Records(kept, records.media_root), flags)


def _media_are_there(records: Records, record: Record) -> bool:
    try:
        for _, item in record.media_items():
            if item.data is None:
                records.media_path(item)
    except MediaError:
        return False
    return True
