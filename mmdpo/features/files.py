"""Features of media items as files: one safetensors file an item, written once, the longest unused removed.

    FOLDER/FINGERPRINT/ingredients.json       what the features depend on beside the item, for people
    FOLDER/FINGERPRINT/AB/ABCD....safetensors the features of one item, named after its content

A file is complete from the moment when it has its name, so any number of processes may read and write one folder; two
that make the same item write the same bytes. A file that cannot be read, or whose bytes are not those that were
written (:mod:`mmdpo.checked_tensors`), is removed with a warning, and its item is computed again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from mmdpo.checked_tensors import from_bytes, to_bytes
from mmdpo.jsonfiles import write_json

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
ROOM = 0.9
"""Share of the limit that is left in use when files had to make room: not every new file removes an old one."""
STALE = 3600.0
"""Seconds after which an unfinished file belongs to a process that was killed."""


class UnknownPart(TypeError):
    """What an encoder gave holds something that is neither tensor, container nor plain value."""


@dataclass(frozen=True)
class Packed:
    """Nested tensors, flat.

    Args:
        structure: How they are nested, as JSON has it; a tensor stands there by its number and its precision.
        tensors: The tensors by number.
    """

    structure: Any
    tensors: dict[str, Tensor]

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(values.nbytes for values in self.tensors.values())


def pack(tree: Any, dtype: torch.dtype | None = None) -> Packed:
    """Copies nested tensors to the CPU's memory.

    Args:
        tree: Tensors in lists, tuples, dictionaries and outputs of transformers; plain values; classes of such.
        dtype: Precision of wider floating-point tensors; as they are by default.

    Raises:
        UnknownPart: It holds anything else.
    """
    tensors: dict[str, Tensor] = {}

    def node(value: Any) -> Any:
        if isinstance(value, Tensor):
            name, narrow = str(len(tensors)), value.detach()
            if dtype is not None and narrow.is_floating_point() and narrow.dtype.itemsize > dtype.itemsize:
                narrow = narrow.to(dtype)
            # a copy of its own: what an item has is often a view of what the whole batch has
            tensors[name] = narrow.to("cpu", copy=True, memory_format=torch.contiguous_format)
            return {"tensor": name, "dtype": str(value.dtype).removeprefix("torch.")}
        if isinstance(value, ModelOutput):
            return {"output": _name_of(type(value)), "of": {k: node(v) for k, v in value.items()}}
        if isinstance(value, Mapping):
            return {"dict": {str(k): node(v) for k, v in value.items()}}
        if isinstance(value, list | tuple):
            return {"tuple" if isinstance(value, tuple) else "list": [node(v) for v in value]}
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        if isinstance(value, type):
            return {"class": _name_of(value)}
        raise UnknownPart(f"a {type(value).__name__}")

    return Packed(node(tree), tensors)


def unpack(packed: Packed, device: torch.device | str) -> Any:
    """Nested tensors as they were, in their own precision, on a device.

    Raises:
        UnknownPart: The structure names a class that is none of transformers' outputs.
    """

    def value(node: Any) -> Any:
        kind = next(iter(node))
        if kind == "tensor":
            return packed.tensors[node["tensor"]].to(device, getattr(torch, node["dtype"]))
        if kind == "output":
            return _class_of(node["output"])(**{k: value(v) for k, v in node["of"].items()})
        if kind == "dict":
            return {k: value(v) for k, v in node["dict"].items()}
        if kind in ("list", "tuple"):
            return (tuple if kind == "tuple" else list)(value(v) for v in node[kind])
        return _class_of(node["class"]) if kind == "class" else node["value"]

    return value(packed.structure)


_PLAIN: dict[str, type] = {"Tensor": Tensor, "list": list, "tuple": tuple}


def _name_of(kind: type) -> str:
    if kind in _PLAIN.values():
        return kind.__name__
    name = f"{kind.__module__}:{kind.__qualname__}"
    _class_of(name)
    return name


def _class_of(name: str) -> Any:
    """A class by its name in a file: an output class of transformers, and nothing else that a file could name."""
    if name in _PLAIN:
        return _PLAIN[name]
    module, _, qualified = name.partition(":")
    found = getattr(importlib.import_module(module), qualified, None) if module.startswith("transformers.") else None
    if not (isinstance(found, type) and issubclass(found, ModelOutput)):
        raise UnknownPart(name)
    return found


class _File(NamedTuple):
    used: float
    size: int
    path: Path


class FeatureFiles:
    """A folder of features.

    Args:
        folder: Where they are, or will be.
        limit: Bytes of all files in it, those of other models too; those longest unused make room.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._writes = True
        self._told = False
        self._used: int | None = None  # bytes in the folder at the last look, plus what this process wrote since
        self._written = 0

    def describe(self, fingerprint: str, ingredients: Mapping[str, str]) -> None:
        """Leaves in the folder of a fingerprint what it was made of."""
        path = self.folder / fingerprint / "ingredients.json"
        with contextlib.suppress(OSError):  # a folder that can only be read is a cache too
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file():
                write_json(path, ingredients)

    def read(self, fingerprint: str, key: str) -> Packed | None:
        """An item's features; None where they are not there, or their file is damaged."""
        path = self._path(fingerprint, key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("cached features in %s cannot be read (%s); they are computed again", path, error)
            return None
        try:
            tensors, told = from_bytes(data)
            packed = Packed(json.loads(told["structure"]), tensors)
            unpack(packed, "meta")
        except Exception as error:  # whatever makes it unreadable, it can be computed again
            logger.warning("cached features in %s are damaged (%s); they are computed again", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        self.touch(fingerprint, key)
        return packed

    def touch(self, fingerprint: str, key: str) -> None:
        """Says that an item is in use, wherever its features are read from."""
        with contextlib.suppress(OSError):  # the file is gone, or the folder can only be read
            os.utime(self._path(fingerprint, key))

    def write(self, fingerprint: str, key: str, packed: Packed) -> None:
        """Keeps an item's features, unless they are there or the folder cannot be written."""
        path = self._path(fingerprint, key)
        if not self._writes or path.exists():
            return
        data = to_bytes(packed.tensors, {"structure": json.dumps(packed.structure)})
        if len(data) > self.limit:
            if not self._told:
                what = "features are not kept on disk: an item needs %d bytes, and features.disk_gb allows %d for all"
                logger.warning(what, len(data), self.limit)
            self._told = True
            return
        unfinished = path.with_name(f".{key}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data)
            unfinished.replace(path)
        except OSError as error:
            self._writes = False
            logger.warning("features are not kept on disk from here on: %s", error)
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            return
        self._make_room(len(data))

    def _path(self, fingerprint: str, key: str) -> Path:
        return self.folder / fingerprint / key[:2] / f"{key}{SUFFIX}"

    def _make_room(self, new: int) -> None:
        """Removes the files that were not used for longest, where the limit is passed.

        What other processes write is seen every time when this one has written a twentieth of the limit.
        """
        self._written += new
        if self._used is not None and self._used + new <= self.limit and self._written <= self.limit // 20:
            self._used += new
            return
        files = sorted(self._files())
        self._used, self._written = sum(file.size for file in files), 0
        if self._used <= self.limit:
            return
        for file in files:
            if self._used <= ROOM * self.limit:
                break
            with contextlib.suppress(OSError):  # another process may have removed it
                file.path.unlink()
            self._used -= file.size

    def _files(self) -> Iterator[_File]:
        """All finished files of the folder; unfinished ones of processes that are gone are removed."""
        for path in self.folder.glob("*/*/*"):
            with contextlib.suppress(OSError):
                found = path.stat()
                if path.suffix == SUFFIX:
                    yield _File(found.st_mtime, found.st_size, path)
                elif path.suffix == ".tmp" and time.time() - found.st_mtime > STALE:
                    path.unlink()
