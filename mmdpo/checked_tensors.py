"""Safetensors files under a checksum: values, names, precisions, shapes and what is told of them, all of it.

The checksum stands in the header, which it covers too: it is taken of the header as it is without it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

SUM = "crc32"


class Damaged(ValueError):
    """Bytes that are no such file, or not those that were written."""


def to_bytes(tensors: Mapping[str, Tensor], told: Mapping[str, str] | None = None) -> bytes:
    """A file's bytes.

    Args:
        tensors: The tensors by name, each contiguous and on the CPU.
        told: What else the file says.
    """
    told = dict(told or {})
    plain = save(dict(tensors), told)
    return save(dict(tensors), {**told, SUM: _checksum(_header(plain), plain)})


def from_bytes(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and what else the file says.

    Raises:
        Damaged: They are not the bytes that were written.
    """
    try:
        header = _header(data)
        told: dict[str, str] = header["__metadata__"]
        if told.pop(SUM) != _checksum(header, data):
            raise ValueError("its checksum is another one")
        return load(data), told
    except Exception as error:  # safetensors and JSON raise classes of their own
        raise Damaged(str(error) or type(error).__name__) from error


def _header(data: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(data[8 : _start(data)])
    header.setdefault("__metadata__", {})
    return header


def _checksum(header: Mapping[str, Any], data: bytes) -> str:
    of_header = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    return str(zlib.crc32(memoryview(data)[_start(data) :], of_header))


def _start(data: bytes) -> int:
    """Where the values begin: behind the header, whose length the first 8 bytes are."""
    return 8 + int.from_bytes(data[:8], "little")
