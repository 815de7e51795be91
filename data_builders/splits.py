"""Splits in which no media item stands twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from mmdpo.records import Record, Records


class MediaGroups:
    """Which records share media, directly or through others; records without media are grouped by their prompt.

    The smallest key names a group, whatever the order of the records.
    """

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._first: list[str] = []

    def add(self, record: Record) -> None:
        """Takes the next record."""
        first, *others = _keys(record)
        for other in others:
            self.join(first, other)
        self._first.append(first)

    def join(self, key: str, other: str) -> None:
        """Makes one group of two."""
        low, high = sorted((self._root(key), self._root(other)))
        self._parent[high] = low

    def names(self) -> list[str]:
        """The name of the group of each record, in their order."""
        return [self._root(key) for key in self._first]

    def _root(self, key: str) -> str:
        path = []
        while (above := self._parent.setdefault(key, key)) != key:
            path.append(key)
            key = above
        for below in path:  # so that long chains are walked once
            self._parent[below] = key
        return key


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
    held_out = chosen_groups(groups, share, seed)
    splits = {
        "train": [record for record, group in zip(records, groups, strict=True) if group not in held_out],
        "validation": [record for record, group in zip(records, groups, strict=True) if group in held_out],
    }
    return {name: Records(part, records.media_root) for name, part in splits.items() if part}


def chosen_groups(groups: Iterable[str], share: float, seed: int) -> set[str]:
    """The groups of the validation split; see `split_by_media`."""
    names = sorted(set(groups), key=lambda group: seeded_order(seed, group))
    count = min(max(1, round(share * len(names))), len(names) - 1) if share > 0 else 0
    return set(names[:count])


def media_groups(records: Iterable[Record]) -> list[str]:
    """For each record the name of its group: records that share media, directly or through others."""
    groups = MediaGroups()
    for record in records:
        groups.add(record)
    return groups.names()


def seeded_order(seed: int, *key: str) -> str:
    """A sort key that looks random, is the same on every machine, and depends on nothing but its arguments."""
    return hashlib.sha256("\x1f".join((str(seed), *key)).encode("utf-8", "surrogatepass")).hexdigest()


def _keys(record: Record) -> list[str]:
    media = [item.identity for _, item in record.media_items()]
    return media or ["prompt:" + json.dumps(record.prompt, ensure_ascii=False, sort_keys=True)]
