"""Puts a feature cache under a model: what its features depend on, where they are kept, and while a model answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdpo.config import FeaturesSection, RunConfig
from mmdpo.errors import ModelError
from mmdpo.features.cache import GIB, CachedFeatures, FeatureCache, Place
from mmdpo.features.encode_once import FeatureStore
from mmdpo.features.files import FeatureFiles
from mmdpo.fingerprints import (
    digest_of,
    digest_of_code,
    digest_of_tensors,
    library_versions,
    plain_config,
    processor_settings,
)
from mmdpo.models.families import facts_of
from mmdpo.models.load import part_of
from mmdpo.policy import encode_once, inner_of

FORMAT = 2
"""Raised when what is stored, or how it is computed here, changes its meaning."""


def ingredients(model: Any, processor: Any, place: Place) -> dict[str, str]:
    """What features depend on beside the item, each with a fingerprint.

    Args:
        model: The model, wrapped by PEFT or not; adapters count as they are switched now.
        processor: Its processor.
        place: What is kept.

    Returns:
        ``weights`` (of encoders, and of projectors where their output is kept), ``adapter`` (whether one is switched on
        in them), ``config`` of the model, ``processor`` (pixel settings and the like), ``numerics`` (precision,
        attention, device), ``code`` (of modules that are in no library), ``versions`` (of the libraries), ``place`` and
        ``format``. Autocast is an ingredient of each item, as it may change from pass to pass.
    """
    inner = inner_of(model)
    facts = facts_of(inner)
    parts = {"encoder", "projector"} if place == "all" else {"encoder"}
    modules = [(name, one) for name, one in inner.named_modules() if part_of(f"{name}.weight", facts) in parts]
    adapted = [(name, one) for name, one in modules if hasattr(one, "active_adapters") and hasattr(one, "base_layer")]
    active = [
        f"{name} {one.active_adapters} {one.merged_adapters}" for name, one in adapted if not one.disable_adapters
    ]
    named = [
        (name, values)
        for name, values in inner.state_dict().items()
        if part_of(name, facts) in parts and (active or "lora_" not in name)
    ]
    tensors = [values for _, values in named if isinstance(values, Tensor)]
    dtypes = sorted({str(values.dtype).removeprefix("torch.") for values in tensors})
    kinds = sorted({values.device.type for values in tensors})
    return {
        "weights": digest_of_tensors(named),
        "adapter": digest_of(active) if active else "none",
        "config": digest_of(plain_config(inner.config)),
        "processor": digest_of(processor_settings(processor)),
        "numerics": " ".join([*dtypes, *_attention(inner.config), *kinds]),
        "code": digest_of_code(module for _, module in modules),
        "versions": library_versions(),
        "place": place,
        "format": str(FORMAT),
    }


def _attention(config: Any) -> list[str]:
    """The attention kernels of the encoders; the model's own where it names no encoders."""
    parts = {name: getattr(config, name, None) for name in getattr(config, "sub_configs", {})}
    kernels = [f"{n} {p._attn_implementation}" for n, p in sorted(parts.items()) if p is not None and "text" not in n]
    return kernels or [str(config._attn_implementation)]


def open_cache(section: FeaturesSection, folder: Path | None) -> FeatureCache:
    """An empty cache in memory, in front of a folder where there is one."""
    files = None if folder is None else FeatureFiles(folder, int(section.disk_gb * GIB))
    return FeatureCache(int(section.memory_gb * GIB), files, stored_as(section))


def stored_as(section: FeaturesSection) -> torch.dtype | None:
    """The precision in which wider features are kept; None for that in which they were computed."""
    return torch.bfloat16 if section.dtype == "bfloat16" else None


def folder_of(config: RunConfig) -> Path:
    """Where a run keeps features on disk."""
    return Path(config.features.folder or f"{config.data.path.rstrip('/')}.features")


def cache_for_answers(section: FeaturesSection, folder: Path | None = None) -> FeatureCache | None:
    """A cache for models that answer, before and after training: in memory, unless it is asked for on disk."""
    if section.cache == "off":
        return None
    return open_cache(section, folder if section.cache == "disk" else None)


def cached_as(cache: FeatureCache, model: Any, processor: Any, place: Place) -> CachedFeatures:
    """A cache as a model uses it."""
    told = ingredients(model, processor, place) | {"stored": str(cache.dtype or "as computed")}
    fingerprint = digest_of(told)
    if cache.files is not None:
        cache.files.describe(fingerprint, told)
    return CachedFeatures(cache, fingerprint, place)


@contextlib.contextmanager
def answers_from(cache: FeatureCache | None, model: Any, processor: Any) -> Iterator[None]:
    """While a model answers: nothing of it trains, so projected features may be kept, whatever training leaves frozen.

    Args:
        cache: The cache; None leaves everything as it is.
        model: The model, wrapped by PEFT or not, with its adapters switched as they will stay.
        processor: Its processor.
    """
    inner = inner_of(model)
    if cache is None or not _scores(inner):
        yield
        return
    store: FeatureStore = inner.mmdpo_scoring.features
    before = store.frozen, store.cached
    store.clear()
    store.frozen, store.cached = "all", cached_as(cache, model, processor, "all")
    try:
        yield
    finally:
        store.frozen, store.cached = before
        store.clear()


def _scores(inner: Any) -> bool:
    """Whether a model has a feature store, or could be given one; a head that is no linear layer does not score."""
    if hasattr(inner, "mmdpo_scoring"):
        return True
    try:
        encode_once(inner, facts_of(inner))
    except ModelError:
        del inner.mmdpo_scoring  # set before the head was looked at
        return False
    return True
