"""Pictures that stand there twice: the same file under two names, and near copies by a perceptual hash."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_builders.quality.findings import finding, listed
from data_builders.quality.sample import Sample
from mmdpo.errors import MMDPOError
from mmdpo.media import Media, open_image

MOST = 2_000
"""Pictures that are opened."""
NEAR = 6
"""Bits of 64 that the hashes of near copies may differ in."""
_ALIKE = 14.0
"""Mean difference of two 16 x 16 grey pictures, of 255, up to which a meeting of hashes is confirmed."""
_THREADS = 4
_EXAMPLES = 6
_BLOCK = 500


class Seen(NamedTuple):
    """A picture as it is compared.

    Args:
        media: The picture.
        code: Its perceptual hash.
        small: [256] its 16 x 16 grey values.
    """

    media: Media
    code: int
    small: NDArray[np.float64]


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
    near = _near_copies(pictures, sample) if pictures else "there are no pictures"
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
    if importlib.util.find_spec("imagehash") is None:
        return "the package imagehash is not installed (pip install 'mmdpo[data]')"
    drawn = [pictures[key] for key in sorted(pictures)][:MOST]  # identities are hashes: as good as drawn by chance
    with ThreadPoolExecutor(_THREADS) as pool:
        seen = [one for one in pool.map(lambda item: _seen(item, sample), drawn) if one is not None]
    if len(seen) < 2:
        return f"{len(seen)} of {len(drawn)} pictures could be opened"
    codes = np.array([one.code for one in seen], np.uint64)
    pairs = []
    for start in range(0, len(seen), _BLOCK):
        distance = np.bitwise_count(codes[start : start + _BLOCK, None] ^ codes[None, :])
        for row, column in zip(*np.nonzero(distance <= NEAR), strict=True):
            a, b = seen[start + row], seen[column]
            if start + row < column and float(np.abs(a.small - b.small).mean()) <= _ALIKE:
                pairs.append((a.media, b.media))
    return len(seen), pairs


def _seen(item: Media, sample: Sample) -> Seen | None:
    import imagehash

    try:
        picture = open_image(item, sample.media_root)
    except MMDPOError:  # counted elsewhere: as a problem, or as absent
        return None
    small = np.asarray(picture.convert("L").resize((16, 16)), np.float64).ravel()
    return Seen(item, int(str(imagehash.phash(picture)), 16), small)
