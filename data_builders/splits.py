"""Splits in which no media item stands twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from mmdpo.records import Record, Records


def split_by_media(records: Records, share: float, seed: int = 0) -> dict[str, Records]:
    """Splits records into `train` and `validation` so that no media item is in both.

    Records that share a media item, by content hash where it is known, stay together, also through a third record.
    Records without media are grouped by their prompt. Which groups are taken depends on the seed and on the groups
    themselves, not on the order of the records.

    Args:
        records: What to split.
        share: Share of the groups for validation; at least one group when it is above 0 and there are two.
        seed: Another seed gives another split.

    Returns:
        The splits that are not empty, records in their old order.
    """
    groups = media_groups(records)
    names = sorted(set(groups), key=lambda group: seeded_order(seed, group))
    count = min(max(1, round(share * len(names))), len(names) - 1) if share > 0 else 0
    held_out = set(names[:count])
    splits = {
        "train": [record for record, group in zip(records, groups, strict=True) if group not in held_out],
        "validation": [record for record, group in zip(records, groups, strict=True) if group in held_out],
    }
    return {name: Records(part, records.media_root) for name, part in splits.items() if part}


def media_groups(records: Iterable[Record]) -> list[str]:
    """For each record the name of its group: records that share media, directly or through others."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    keys_of = [_keys(record) for record in records]
    for first, *others in keys_of:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low  # the smallest key names the group, whatever the order of the records
    return [root(keys[0]) for keys in keys_of]


def seeded_order(seed: int, *key: str) -> str:
    """A sort key that looks random, is the same on every machine, and depends on nothing but its arguments."""
    return hashlib.sha256("\x1f".join((str(seed), *key)).encode("utf-8", "surrogatepass")).hexdigest()


def _keys(record: Record) -> list[str]:
    media = [item.identity for _, item in record.media_items()]
    return media or ["prompt:" + json.dumps(record.prompt, ensure_ascii=False, sort_keys=True)]
