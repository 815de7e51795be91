"""Pictures that look nearly the same: perceptual hashes that are close, confirmed by the grey values.

Copies at another size, as poor JPEG, in grey, brighter or darker have nearly the hash of the original. A cropped copy
has that of a part of it: so each picture is hashed as a whole and in parts (`WINDOWS`), and a part of one is compared
with the whole of the other. Where one has a strip of text at its top or bottom, the rest is compared with that rest.
docs/data_care.md says how many copies are found so, and of which kind.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from mmdpo.errors import MMDPOError
from mmdpo.media import Media, open_image

NEAR = 6
"""Bits of 64 that the perceptual hashes of near copies may differ in."""
ALIKE = 0.8
"""Correlation of two 16 x 16 grey pictures from which on close hashes are two copies of a picture."""
_BANDS = NEAR + 1  # of two hashes that differ in NEAR bits, one of so many bands is the same in both
_THREADS = 4
_WINDOW = 64  # pictures that are decoded before their hashes are taken
_FINE, _KEPT = 64, 32  # sides of the grey picture that the hashes are taken of, and of the one that is kept
_FLAT = 4.0  # standard deviation of grey values, of 255, below which there is nothing to correlate
_FLAT_ALIKE = 14.0  # mean difference of the grey values of two such pictures

Box = tuple[float, float, float, float]


def _windows() -> tuple[Box, ...]:
    """The whole; what stays of a crop by 5 to 20% about the middle and into each corner, and by a tenth of a side."""
    boxes: list[Box] = [(0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.8), (0.0, 0.2, 1.0, 1.0)]
    for cut in (0.05, 0.1, 0.15, 0.2):
        places = [(cut / 2, cut / 2), (0.0, 0.0), (cut, 0.0), (0.0, cut), (cut, cut)]
        boxes += [(left, top, left + 1 - cut, top + 1 - cut) for left, top in places]
    return (*boxes, (0.0, 0.0, 0.9, 1.0), (0.1, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.9), (0.0, 0.1, 1.0, 1.0))


WINDOWS = _windows()
"""Parts of a picture that are hashed: left, top, right, bottom as shares of its sides."""
_WHOLE, _SAME = 0, (1, 2)  # places in WINDOWS: the whole, and the parts that are compared with the same part


class Look(NamedTuple):
    """A picture as it is compared.

    Args:
        codes: [len(WINDOWS)] the perceptual hash of each part, 64 bits.
        grey: [32, 32] its grey values, 0 to 255.
    """

    codes: NDArray[np.uint64]
    grey: NDArray[np.uint8]

    @property
    def code(self) -> int:
        """The hash of the whole."""
        return int(self.codes[_WHOLE])

    @classmethod
    def of(cls, picture: Image.Image) -> Look:
        """How a picture looks."""
        fine = picture.convert("L").resize((_FINE, _FINE), Image.Resampling.LANCZOS)
        parts = np.stack([np.asarray(_part(fine, box, _KEPT)) for box in WINDOWS])
        return cls(perceptual_hashes(parts), parts[_WHOLE])


def perceptual_hashes(greys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Of each grey picture, which of its 64 lowest frequencies are stronger than their median.

    They are those of `imagehash.phash`, all at once: that takes four times as long as to decode a photo.

    Args:
        greys: [n, 32, 32] grey values.

    Returns:
        [n] hashes, the lowest frequency in the highest bit.
    """
    low = dctn(greys.astype(np.float64), axes=(1, 2))[:, :8, :8].reshape(len(greys), 64)
    bits = np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)
    return bits.view(">u8").ravel().astype(np.uint64)


def looks(items: Iterable[Media], root: Path | None) -> Iterator[tuple[Media, Look | None]]:
    """Each picture as it is compared, decoded in parallel; None for what is absent or cannot be opened."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for window in _blocks(items):
            yield from zip(window, pool.map(lambda item: _look(item, root), window), strict=True)


class NearCopies:
    """Finds the pictures of which another one is a near copy, in memory of about 3 kB for each.

    Pictures of nearly one shade all have the same hash, whatever their shade: they are compared by it alone.
    """

    def __init__(self) -> None:
        self._greys: list[NDArray[np.uint8]] = []
        self._plain: list[int] = []
        self._hashed: list[int] = []
        self._wholes, self._parts = _Codes(), _Codes()
        self._same = [_Codes() for _ in _SAME]

    def add(self, look: Look) -> int:
        """Takes a picture; its number."""
        number = len(self._greys)
        self._greys.append(look.grey)
        if look.grey.std() < 2 * _FLAT:
            self._plain.append(number)
        if look.grey.std() < _FLAT:
            return number
        self._hashed.append(number)
        self._wholes.extend(look.codes[:1])
        self._parts.extend(look.codes[1:])
        for codes, place in zip(self._same, _SAME, strict=True):
            codes.extend(look.codes[place : place + 1])
        return number

    def all_near(self, look: Look) -> list[int]:
        """The numbers of all pictures that it is nearly the same as, or a part of, or that are a part of it."""
        found = set(self._of_its_shade(look))
        if look.grey.std() < _FLAT:
            return sorted(found)
        for place, own, other in self._close(look):
            number = self._hashed[place]
            if number not in found and _correspond(look.grey, WINDOWS[own], self._greys[number], WINDOWS[other]):
                found.add(number)
        return sorted(found)

    def near(self, look: Look) -> int | None:
        """The number of the first picture that it is nearly the same as."""
        return next(iter(self.all_near(look)), None)

    def _of_its_shade(self, look: Look) -> Iterator[int]:
        """Pictures of one shade that have the shade of this one; one of the two may have a little contrast."""
        own = look.grey.std()
        if own >= 2 * _FLAT or not self._plain:
            return
        greys = np.stack([self._greys[number] for number in self._plain])
        apart = np.abs(greys.astype(np.int16) - look.grey).mean(axis=(1, 2))
        flat = np.minimum(greys.std(axis=(1, 2)), own) < _FLAT
        yield from (self._plain[place] for place in np.flatnonzero(flat & (apart <= _FLAT_ALIKE)).tolist())

    def _close(self, look: Look) -> Iterator[tuple[int, int, int]]:
        """Pictures with a close hash: place in `_hashed`, which part of `look`, which part of the picture."""
        for place, code in enumerate(look.codes.tolist()):
            yield from ((number, place, _WHOLE) for number in self._wholes.near(code))
        for number in self._parts.near(look.code):
            picture, part = divmod(number, len(WINDOWS) - 1)
            yield picture, _WHOLE, part + 1
        for codes, place in zip(self._same, _SAME, strict=True):
            yield from ((number, place, place) for number in codes.near(int(look.codes[place])))


def are_alike(a: Look, b: Look) -> bool:
    """Whether one of two pictures is a near copy of the other."""
    index = NearCopies()
    index.add(a)
    return index.near(b) is not None


def join_near_copies(pictures: Iterable[Media], root: Path | None, join: Callable[[str, str], None]) -> int:
    """Joins every picture with those that it is a near copy of.

    Args:
        pictures: The pictures, each once.
        root: Folder of their files.
        join: Is given both identities.

    Returns:
        How many were joined with an earlier one.
    """
    index, names, joined = NearCopies(), list[str](), 0
    for item, look in looks(pictures, root):
        if look is None:
            continue
        numbers = index.all_near(look)
        for number in numbers:
            join(names[number], item.identity)
        joined += bool(numbers)
        names.append(item.identity)
        index.add(look)
    return joined


class _Codes:
    """Hashes that can be asked for those near another one: the numbers of each by what stands in each band."""

    def __init__(self) -> None:
        self._codes = array("Q")
        self._bands: list[dict[int, array[int]]] = [defaultdict(lambda: array("I")) for _ in range(_BANDS)]

    def extend(self, codes: NDArray[np.uint64]) -> None:
        for code in codes.tolist():
            for band, part in zip(self._bands, _parts_of(code), strict=True):
                band[part].append(len(self._codes))
            self._codes.append(code)

    def near(self, code: int) -> list[int]:
        """The numbers of the hashes that differ in at most NEAR bits."""
        listed = [band[part] for band, part in zip(self._bands, _parts_of(code), strict=True) if part in band]
        if not listed:
            return []
        numbers = np.concatenate([np.frombuffer(one, np.uint32) for one in listed])
        found = np.frombuffer(self._codes, np.uint64)[numbers]
        close = numbers[np.bitwise_count(found ^ np.uint64(code)) <= NEAR]
        return np.unique(close).tolist() if len(close) else []


def _parts_of(code: int) -> Iterator[int]:
    """The bands of a hash: 64 bits in as many parts as it takes."""
    for low, high in pairwise(_EDGES):
        yield code >> low & (1 << high - low) - 1


_EDGES = [64 * number // _BANDS for number in range(_BANDS + 1)]


def _blocks(items: Iterable[Media]) -> Iterator[list[Media]]:
    block: list[Media] = []
    for item in items:
        block.append(item)
        if len(block) == _WINDOW:
            yield block
            block = []
    yield block


def _look(item: Media, root: Path | None) -> Look | None:
    try:
        return Look.of(open_image(item, root))
    except MMDPOError:  # absent or damaged: counted where media are checked
        return None


def _part(picture: Image.Image, box: Box, side: int) -> Image.Image:
    width, height = picture.size
    inside = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return picture.resize((side, side), Image.Resampling.LANCZOS, box=inside)


def _correspond(grey: NDArray[np.uint8], box: Box, other: NDArray[np.uint8], other_box: Box) -> bool:
    """Whether the grey values of two parts go together, however bright each is."""
    a, b = (
        np.asarray(_part(Image.fromarray(values), part, 16), np.float64)
        for values, part in ((grey, box), (other, other_box))
    )
    if min(a.std(), b.std()) < _FLAT:  # a part of one shade, and every shade is somewhere in many pictures
        return False
    return bool(np.corrcoef(a.ravel(), b.ravel())[0, 1] >= ALIKE)
