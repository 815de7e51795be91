"""Pictures that stand there twice: the same file under two names, and near copies by a perceptual hash."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from data_builders.care.near_copies import NearCopies, looks
from data_builders.quality.findings import finding, listed
from data_builders.quality.sample import Sample
from mmdpo.media import Media

MOST = 2_000
"""Pictures that are opened."""
_EXAMPLES = 6


def duplicate_media(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The same content under several names, and near copies; those that stand in several splits are a leak."""
    names: dict[str, set[str]] = defaultdict(set)
    splits: dict[str, set[str]] = defaultdict(set)
    pictures: dict[str, Media] = {}
    for one in sample.drawn:
        for plural, item in one.record.media_items():
            splits[item.identity].add(one.split)
            if item.sha256 is not None and item.path is not None:
                names[item.identity].add(item.path)
            if plural == "images":
                pictures.setdefault(item.identity, item)
    if not splits:
        return None, []
    copies = sum(len(paths) - 1 for paths in names.values())
    numbers: dict[str, Any] = {"media": len(splits), "same_content": copies}
    message = f"{copies:,} files have the content of another one under a second name; they count as one."
    if not pictures:
        numbers["near_copies"] = None
        message += " Near copies are looked for among images alone."
        return numbers, [finding("duplicate_media", None, message)]
    near = _near_copies(pictures, sample)
    if isinstance(near, str):
        numbers["near_copies"] = None
        return numbers, [finding("duplicate_media", None, f"{message} Near copies were not looked for: {near}.")]
    opened, pairs = near
    across = [(a, b) for a, b in pairs if splits[a.identity] != splits[b.identity]]
    involved = {item.identity for pair in pairs for item in pair}
    numbers |= {
        "opened": opened,
        "near_copies": len(involved),
        "across_splits": len(across),
        "examples": [[a.path, b.path] for a, b in (across or pairs)[:_EXAMPLES]],
    }
    value = len(involved) / opened
    message += (
        f" Of {opened:,} pictures that were opened ({len(pictures):,} there are), {len(involved):,} look nearly like "
        "another one."
    )
    found = [finding("duplicate_media", value, message, n=opened)]
    if len({one.split for one in sample.drawn}) > 1:
        leak = f"{len(across):,} pairs of near copies stand on two sides of the split"
        leak += f", such as {listed([str(item.path) for item in across[0]])}." if across else "."
        found.append(finding("leaking_media", len(across) / opened, leak, n=opened))
    return numbers, found


def _near_copies(pictures: dict[str, Media], sample: Sample) -> tuple[int, list[tuple[Media, Media]]] | str:
    """How many pictures could be opened, and which two are near copies; or why nothing was looked at."""
    held = [key for key, item in pictures.items() if item.data is not None]  # of embedded ones not all are kept
    drawn = [pictures[key] for key in sorted(held or pictures)][:MOST]  # hashes: as good as drawn by chance
    seen = [(item, look) for item, look in looks(drawn, sample.media_root) if look is not None]
    if len(seen) < max(2, len(drawn) / 2):  # that few say nothing of the others
        return f"{len(seen)} of {len(drawn)} pictures could be opened"
    index, pairs = NearCopies(), list[tuple[Media, Media]]()
    for item, look in seen:
        pairs += [(seen[number][0], item) for number in index.all_near(look)]
        index.add(look)
    return len(seen), pairs
