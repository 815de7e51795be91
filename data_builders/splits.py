"""Splits in which no media item stands twice."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from mmdpo.records import Record, Records

_BY_ID = "record:"  # behind every name of media, so that it names no group


class MediaGroups:
    """Which records belong together: they share media, directly or through others, or one is the other's partner.

    Records without media are grouped by their prompt. The smallest key names a group, whatever the order of the
    records.
    """

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._first: list[str] = []
        self._sources: list[str] = []
        self._partners: set[str] = set()

    def add(self, record: Record) -> None:
        """Takes the next record."""
        first, *others = _keys(record)
        for other in others:
            self.join(first, other)
        partner = record.meta.get("partner")
        if partner is not None:
            self._partners.add(str(partner))
            self.join(first, _BY_ID + str(partner))
        self._first.append(first)
        self._sources.append(source_of(record))

    def join(self, key: str, other: str) -> None:
        """Makes one group of two."""
        low, high = sorted((self._root(key), self._root(other)))
        self._parent[high] = low

    def join_partners(self, records: Iterable[Record]) -> None:
        """Joins the records that others name as their partner (``meta.partner``); call it when all were added.

        Args:
            records: All of them; not looked at where none names a partner.
        """
        for record in records if self._partners else ():
            if record.id in self._partners:
                self.join(_keys(record)[0], _BY_ID + record.id)

    def names(self) -> list[str]:
        """The name of the group of each record, in their order."""
        return [self._root(key) for key in self._first]

    def splits(self, share: float, seed: int, *, by_source: bool = False) -> list[str]:
        """`train` or `validation` for each record, in their order; `by_source` takes the same share of each source."""
        names = self.names()
        chosen = stratified_groups(names, self._sources if by_source else [""] * len(names), share, seed)
        return ["validation" if group in chosen else "train" for group in names]

    def note(self, share: float) -> list[str]:
        """What a person should know where the groups are so few that the validation split takes more than its share."""
        count = len(set(self.names()))
        taken = _validation_groups(count, share)
        if not taken or round(share * count):
            return []
        return [
            f"validation takes 1 of only {count} groups of media ({taken / count:.0%}, not {share:.0%}), and a number "
            "over one group says little: validation=0 trains on all"
        ]

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
    return set(names[: _validation_groups(len(names), share)])


def _validation_groups(count: int, share: float) -> int:
    return max(0, min(max(1, round(share * count)), count - 1)) if share > 0 else 0


def stratified_groups(groups: Sequence[str], strata: Sequence[str], share: float, seed: int) -> set[str]:
    """The groups of the validation split, as many as `chosen_groups` takes, the same share of every stratum.

    What rounding leaves over goes to the strata that it took most from. With one stratum, the groups are those of
    `chosen_groups`.

    Args:
        groups: The group of each record.
        strata: The stratum of each record; a group belongs to the one that most of its records have.
        share: Share of the groups.
        seed: Another seed takes other groups.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for group, stratum in zip(groups, strata, strict=True):
        counts[group][stratum] += 1
    members: dict[str, list[str]] = defaultdict(list)
    for group, found in counts.items():
        members[min(found, key=lambda stratum: (-found[stratum], stratum))].append(group)
    wanted = _validation_groups(len(counts), share)
    exact = {stratum: wanted * len(inside) / max(1, len(counts)) for stratum, inside in members.items()}
    taken = {stratum: int(value) for stratum, value in exact.items()}
    by_rest = sorted(exact, key=lambda stratum: (taken[stratum] - exact[stratum], seeded_order(seed, stratum)))
    for stratum in by_rest[: wanted - sum(taken.values())]:
        taken[stratum] += 1
    return {
        group
        for stratum, inside in members.items()
        for group in sorted(inside, key=lambda name: seeded_order(seed, name))[: taken[stratum]]
    }


def source_of(record: Record) -> str:
    """The stratum of a record: the source in its `meta`, else the sources of its answers together."""
    told = record.meta.get("source")
    sources = sorted({candidate.source or "" for candidate in record.candidates})
    return sys.intern(told if isinstance(told, str) else "\x1f".join(sources))  # few different ones, for every record


def media_groups(records: Iterable[Record]) -> list[str]:
    """For each record the name of its group: records that share media, directly or through others."""
    groups = MediaGroups()
    records = list(records)
    for record in records:
        groups.add(record)
    groups.join_partners(records)
    return groups.names()


def seeded_order(seed: int, *key: str) -> str:
    """A sort key that looks random, is the same on every machine, and depends on nothing but its arguments."""
    return hashlib.sha256("\x1f".join((str(seed), *key)).encode("utf-8", "surrogatepass")).hexdigest()


def _keys(record: Record) -> list[str]:
    media = [item.identity for _, item in record.media_items()]
    return media or ["prompt:" + json.dumps(record.prompt, ensure_ascii=False, sort_keys=True)]
