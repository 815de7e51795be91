"""Digests of what numbers on disk depend on: weights, processor settings, configurations, libraries, code."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LIBRARIES = ("torch", "transformers")
"""What computes; their versions are ingredients."""
_UNREAD = {
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "use_cache",
}
"""Entries of a configuration that change no number, or that another ingredient tells (precision)."""


def digest_of(value: Any) -> str:
    """16 hex digits of anything that JSON can write, in an order of its own."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def digest_of_tensors(named: Iterable[tuple[str, Any]]) -> str:
    """32 hex digits of the bytes of some tensors, by name; names are those of a model without adapters.

    Args:
        named: Names and values, as in a state dictionary; what is no tensor is left out.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, values in sorted(named, key=lambda entry: entry[0]):
        if not isinstance(values, Tensor):
            continue
        plain = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        digest.update(f"{plain} {tuple(values.shape)} {values.dtype} ".encode())
        digest.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def processor_settings(processor: Any) -> list[Any]:
    """What a processor and its parts say of themselves: sizes, means, normalisation and the like."""
    inner = ("image_processor", "feature_extractor", "video_processor")
    parts = [processor, *(getattr(processor, name, None) for name in inner)]
    return [part.to_dict() for part in parts if hasattr(part, "to_dict")]


def library_versions() -> str:
    """The versions of :data:`LIBRARIES`, in words."""
    return " ".join(f"{name} {version(name)}" for name in LIBRARIES)


def plain_config(config: Any) -> Any:
    """A model's configuration without its path, versions and precision, at any depth."""
    values = config.to_dict() if hasattr(config, "to_dict") else config
    if isinstance(values, Mapping):
        return {name: plain_config(value) for name, value in values.items() if name not in _UNREAD}
    return [plain_config(value) for value in values] if isinstance(values, list | tuple) else values


def digest_of_code(modules: Iterable[nn.Module]) -> str:
    """A digest of the files of the modules' classes, those of :data:`LIBRARIES` left out; ``none`` without any."""
    files = set()
    for kind in {type(module) for module in modules}:
        if kind.__module__.split(".")[0] not in LIBRARIES:
            try:
                files.add(inspect.getsourcefile(kind) or "")
            except (OSError, TypeError):
                continue  # typed into an interpreter
    digests = sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if Path(file).is_file())
    return digest_of(digests) if digests else "none"
