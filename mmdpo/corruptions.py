"""Seeded media variants: the same corrupted item for policy and reference, from run to run and from epoch to epoch.

The functions themselves belong to their modality's file; here is what they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

Corruption = Callable[[Any, np.random.Generator], Any]
"""Maps a decoded item and a generator to the corrupted item."""


def generator_for(record_id: str, variant: str, item: int, seed: int = 0) -> np.random.Generator:
    """Random generator that depends on nothing but the record, the variant, the item's place and the seed."""
    digest = hashlib.sha256(f"{seed}/{record_id}/{variant}/{item}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
