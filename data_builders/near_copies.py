"""Pictures that look nearly the same: perceptual hashes that are close, confirmed by the grey values.

On 259 photos of COCO and Flickr8k, the hashes of two different ones differ in 14 bits or more; those of a photo and its
copy at half the size, in grey, or as a poor JPEG in 2 at most. A copy that is cropped by a tenth is mostly not found.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.media import Media, open_image

NEAR = 6
"""Bits of 64 that the perceptual hashes of near copies may differ in."""
ALIKE = 14
"""Mean difference of two 16 x 16 grey pictures, of 255, up to which close hashes are two copies of a picture."""
_BANDS = NEAR + 1  # of two hashes that differ in NEAR bits, one of so many bands is the same in both
_THREADS = 4
_WINDOW = 256  # pictures that are decoded before their hashes are taken


class Look(NamedTuple):
    """A picture as it is compared.

    Args:
        code: Its perceptual hash, 64 bits.
        grey: [256] its 16 x 16 grey values, 0 to 255.
    """

    code: int
    grey: NDArray[np.uint8]


def require_imagehash(what: str) -> None:
    """Refuses what cannot be done without it.

    Raises:
        ConfigError: imagehash is not installed.
    """
    if not can_look():
        raise ConfigError(
            f"{what} needs the package imagehash",
            why="It gives two pictures that look alike hashes that are alike.",
            fix="pip install 'mmdpo[data]'",
        )


def can_look() -> bool:
    """Whether pictures can be compared here."""
    return importlib.util.find_spec("imagehash") is not None


def looks(items: Iterable[Media], root: Path | None) -> Iterator[tuple[Media, Look | None]]:
    """Each picture as it is compared, decoded in parallel; None for what is absent or cannot be opened."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for window in _windows(items):
            yield from zip(window, pool.map(lambda item: _look(item, root), window), strict=True)


class NearCopies:
    """Finds the picture of which another one is a near copy, in memory of about 400 bytes for each."""

    def __init__(self) -> None:
        self._looks: list[Look] = []
        self._bands: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(_BANDS)]

    def add(self, look: Look) -> int:
        """Takes a picture; its number."""
        number = len(self._looks)
        self._looks.append(look)
        for band, part in zip(self._bands, _parts(look.code), strict=True):
            band[part].append(number)
        return number

    def near(self, look: Look) -> int | None:
        """The number of the first picture that it is nearly the same as."""
        found = sorted(
            {n for band, part in zip(self._bands, _parts(look.code), strict=True) for n in band.get(part, ())}
        )
        return next((number for number in found if _are_alike(look, self._looks[number])), None)


def join_near_copies(pictures: Iterable[Media], root: Path | None, join: Callable[[str, str], None]) -> int:
    """Joins every picture with the first one that it is a near copy of.

    Args:
        pictures: The pictures, each once.
        root: Folder of their files.
        join: Is given both identities.

    Returns:
        How many were joined with another one.
    """
    index, names, joined = NearCopies(), list[str](), 0
    for item, look in looks(pictures, root):
        if look is None:
            continue
        number = index.near(look)
        if number is not None:
            join(names[number], item.identity)
            joined += 1
        names.append(item.identity)
        index.add(look)
    return joined


def _windows(items: Iterable[Media]) -> Iterator[list[Media]]:
    window: list[Media] = []
    for item in items:
        window.append(item)
        if len(window) == _WINDOW:
            yield window
            window = []
    yield window


def _look(item: Media, root: Path | None) -> Look | None:
    import imagehash

    try:
        picture = open_image(item, root)
    except MMDPOError:  # absent or damaged: counted where media are checked
        return None
    grey: Any = picture.convert("L").resize((16, 16))
    return Look(int(str(imagehash.phash(picture)), 16), np.asarray(grey, np.uint8).ravel())


def _parts(code: int) -> Iterator[int]:
    """The bands of a hash: 64 bits in as many parts as it takes."""
    edges = [64 * number // _BANDS for number in range(_BANDS + 1)]
    for low, high in pairwise(edges):
        yield code >> low & (1 << high - low) - 1


def _are_alike(a: Look, b: Look) -> bool:
    is_near = (a.code ^ b.code).bit_count() <= NEAR
    return is_near and float(np.abs(a.grey.astype(np.int16) - b.grey).mean()) <= ALIKE
