"""Features across steps: of each item what its frozen encoder gave, in memory and on disk.

What is kept belongs to an item's content and to everything else that it was computed from, its fingerprint
(:mod:`mmdpo.feature_caching`). So policy, reference, validation, epochs, benchmarks and other runs may share one cache:
what was made otherwise is not found.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mmdpo.features.files import FeatureFiles, Packed, UnknownPart, pack, unpack

logger = logging.getLogger(__name__)
GIB = 2**30
TOUCH = 60.0
"""Seconds after which an item that is read from memory is said to be in use on disk again."""
Place = Literal["all", "tower"]
"""What is kept: projected features where encoder and projector are frozen, else what the frozen encoder gives."""


class FeatureCache:
    """Features by fingerprint and content; those longest unused make room.

    Args:
        memory: Bytes to keep in the CPU's memory.
        files: Where they are kept on disk too; None for memory alone.
        dtype: Precision in which wider features are kept; None for that in which they were computed.

    Attributes:
        hits: How many items were found.
        misses: How many were not.
    """

    def __init__(
        self, memory: int = 2 * GIB, files: FeatureFiles | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.memory, self.files, self.dtype = memory, files, dtype
        self.hits = self.misses = 0
        self.used = 0
        self._kept: OrderedDict[tuple[str, str], Packed] = OrderedDict()
        self._touched: dict[tuple[str, str], float] = {}  # of those in memory, when their file was last said to be used
        self._told = False

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, fingerprint: str, key: str, device: torch.device | str) -> Any:
        """What was kept of an item, on a device; None where there is nothing."""
        packed = self._kept.get((fingerprint, key))
        if packed is not None:
            self._kept.move_to_end((fingerprint, key))
            self._touch(fingerprint, key)
        elif self.files is not None and (packed := self.files.read(fingerprint, key)) is not None:
            self._remember(fingerprint, key, packed)
        if packed is None:
            self.misses += 1
            return None
        self.hits += 1
        return unpack(packed, device)

    def put(self, fingerprint: str, key: str, tree: Any, device: torch.device | str) -> Any:
        """Keeps what was computed of an item.

        Returns:
            What :meth:`get` will give: rounded to the cache's precision, so that the first use is no other.
        """
        try:
            packed = pack(tree, self.dtype)
        except UnknownPart as error:
            self._tell(f"features are not kept: the encoder's output holds {error}")
            return tree
        self._remember(fingerprint, key, packed)
        if self.files is not None:
            self.files.write(fingerprint, key, packed)
        return tree if self.dtype is None else unpack(packed, device)

    def rounded(self, tree: Any, device: torch.device | str) -> Any:
        """What is not kept, in the precision of what is."""
        return tree if self.dtype is None else unpack(pack(tree, self.dtype), device)

    def _remember(self, fingerprint: str, key: str, packed: Packed) -> None:
        before = self._kept.pop((fingerprint, key), None)
        self.used -= 0 if before is None else before.bytes
        if packed.bytes > self.memory:
            if self.files is None:
                needed = f"an item needs {packed.bytes} bytes, and features.memory_gb allows {self.memory} for all"
                self._tell(f"features are not kept: {needed}")
            return
        self._kept[fingerprint, key] = packed
        self.used += packed.bytes
        while self.used > self.memory:
            item, unused = self._kept.popitem(last=False)
            self._touched.pop(item, None)
            self.used -= unused.bytes

    def _touch(self, fingerprint: str, key: str) -> None:
        """Says now and then that an item is in use: its file must not seem unused while memory gives it."""
        now = time.monotonic()
        if self.files is not None and now - self._touched.get((fingerprint, key), -TOUCH) >= TOUCH:
            self._touched[fingerprint, key] = now
            self.files.touch(fingerprint, key)

    def _tell(self, what: str) -> None:
        if not self._told:
            logger.warning(what)
        self._told = True


@dataclass(frozen=True)
class CachedFeatures:
    """A cache as one model uses it.

    Args:
        cache: Where features are kept.
        fingerprint: Digest of everything but the item that they depend on.
        place: What of the model is kept.
    """

    cache: FeatureCache
    fingerprint: str
    place: Place

    def get(self, modality: str, key: str, device: torch.device) -> Any:
        """What was kept of an item, by its content; None where there is nothing."""
        return self.cache.get(self.fingerprint, _item(modality, key, device), device)

    def put(self, modality: str, key: str, tree: Any, device: torch.device, *, lasting: bool = True) -> Any:
        """Keeps what was computed of an item, if it can come back, and gives it as it will be given from now on."""
        if not lasting:
            return self.cache.rounded(tree, device)
        return self.cache.put(self.fingerprint, _item(modality, key, device), tree, device)


def _item(modality: str, key: str, device: torch.device) -> str:
    """32 hex digits of an item and of the precision that autocast sets at this moment."""
    mixed = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    told = f"{modality} {key} {mixed} {torch.get_float32_matmul_precision()}"
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
