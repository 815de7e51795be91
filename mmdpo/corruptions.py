"""Seeded media variants: the same corrupted item for policy and reference, from run to run and from epoch to epoch.

The functions themselves belong to their modality's file; here is what they share: strengths, draws, and a cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from mmdpo.errors import ConfigError

Corruption = Callable[[Any, np.random.Generator], Any]
"""Maps a decoded item and a generator to the corrupted item. A :class:`Graded` is one that takes a strength as well."""

CACHE_BYTES = 256 * 2**20
"""Memory for corrupted items: about 290 photos of 640 x 480, or 70 minutes of sound at 16 kHz."""


@dataclass(frozen=True)
class Strength:
    """What the number of a variant such as ``"blur:4"`` means.

    Args:
        usual: The value of a variant without a number.
        low: Smallest value.
        high: Largest value.
        meaning: What is measured, with its unit.
        whole: Only whole numbers are meant.
    """

    usual: float
    low: float
    high: float
    meaning: str
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.usual:g} ({self.low:g} to {self.high:g}): {self.meaning}"


@dataclass(frozen=True)
class Graded:
    """A corruption that takes a strength.

    Args:
        apply: Maps a decoded item, a generator and a strength to the corrupted item. What it draws must not depend on
            the strength, so that variants of one record that differ in nothing else can be compared.
        strength: What the number means.
    """

    apply: Callable[[Any, np.random.Generator, float], Any]
    strength: Strength

    def __call__(self, item: Any, generator: np.random.Generator) -> Any:
        """The corrupted item at the usual strength."""
        return self.apply(item, generator, self.strength.usual)

    def at(self, strength: float) -> Graded:
        """The same corruption with another usual strength."""
        return replace(self, strength=replace(self.strength, usual=strength))


def summary(corruption: Corruption) -> str:
    """What a corruption does: the first line of its docstring; empty where it has none."""
    return (inspect.getdoc(getattr(corruption, "apply", corruption)) or "").partition("\n")[0]


def split_variant(variant: str) -> tuple[str, str | None]:
    """Name and strength of ``"blur:4"``; the strength of ``"blur"`` is None."""
    name, colon, strength = variant.partition(":")
    return name, strength if colon else None


def with_strength(corruption: Corruption, variant: str) -> Corruption:
    """A corruption at the strength that its variant gives, if it gives one.

    Raises:
        ConfigError: The corruption takes none, or the strength is no number or outside its range.
    """
    name, given = split_variant(variant)
    if given is None:
        return corruption
    if not isinstance(corruption, Graded):
        raise ConfigError(
            f"media variant {variant!r} has a strength, and {name!r} takes none",
            why="There is nothing in it that could be more or less.",
            fix=f"Write {name!r} alone.",
        )
    known = corruption.strength
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not known.low <= value <= known.high or (known.whole and not value.is_integer()):
        kind = "a whole number" if known.whole else "a number"
        raise ConfigError(
            f"media variant {variant!r} has the strength {given!r}",
            why=f"It is {kind} from {known.low:g} to {known.high:g}: {known.meaning}.",
            fix=f"Write {name}:{known.usual:g}, or {name!r} alone for the same.",
        )
    return corruption.at(value)


def at_extremes(corruptions: Mapping[str, Corruption]) -> dict[str, Corruption]:
    """All corruptions by variant: as they are, and at the smallest and largest strength of those that take one."""
    found = dict(corruptions)
    for name, corruption in corruptions.items():
        if isinstance(corruption, Graded):
            ends = (corruption.strength.low, corruption.strength.high)
            found |= {f"{name}:{end:g}": corruption.at(end) for end in ends}
    return found


def generator_for(
    record_id: str, variant: str, item: int, seed: int = 0, epoch: int | None = None
) -> np.random.Generator:
    """Random generator that depends on nothing but its arguments, in any process and run.

    Args:
        record_id: Id of the record.
        variant: Name of the variant, without a strength.
        item: Place of the item in its list.
        seed: Seed of the run.
        epoch: Only for draws that are to differ from epoch to epoch.
    """
    start = f"{seed}" if epoch is None else f"{seed}@{epoch}"
    digest = hashlib.sha256(f"{start}/{record_id}/{variant}/{item}".encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


class ItemCache:
    """Items that were made once, by what they depend on; when the limit is reached no more are kept.

    What came first stays: training reads all records in a new order in each epoch, so that of a set that does not fit
    those longest unused are as likely to be needed next as any other, and making room would lose hits.

    Args:
        limit: Bytes of all kept items together, by :func:`size_of`.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.used = 0
        self._items: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The item of a key, made where it is not there; one that no longer fits is not kept."""
        if key in self._items:
            return self._items[key]
        item = make()
        size = size_of(item)
        if self.used + size <= self.limit:
            self._items[key] = item
            self.used += size
        return item


def size_of(item: Any) -> int:
    """Bytes of an item's content: of its pixels and arrays, wherever they lie in it."""
    if isinstance(item, Image.Image):
        return item.width * item.height * len(item.getbands())
    if hasattr(item, "nbytes"):  # of NumPy and torch
        return int(item.nbytes)
    if isinstance(item, Mapping):
        return sum(size_of(part) for part in item.values())
    if isinstance(item, list | tuple):
        return sum(size_of(part) for part in item)
    if dataclasses.is_dataclass(item):
        return sum(size_of(getattr(item, field.name)) for field in dataclasses.fields(item))
    return sys.getsizeof(item)
