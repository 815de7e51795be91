"""What numbers were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mmdpo.errors import ConfigError


def checked_device(device: str) -> str:
    """The device, if it is there.

    Raises:
        ConfigError: It is a GPU, and torch sees none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "no GPU is visible to torch, and --device is cuda",
            why="The measurement would run on something else than what was asked for.",
            fix="Use --device cpu, or a machine with a GPU.",
        )
    return device


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    packages = ("torch", "transformers", "peft", "accelerate", "mmdpo")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor_name(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
    return found | {name: version(name) for name in packages}


def _processor_name() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
