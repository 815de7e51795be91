"""Tiny models of real families with their real processors, made from configs in memory: no hub, no files.

`FAMILIES[name](seed=0, dtype=torch.float32, attn_implementation="sdpa", **text_config_fields)` gives a `Tiny`.
Each family is the module of its name, imported when it is built: a new family is one file and one word here.
"""

import functools
import importlib
from collections.abc import Callable

import torch

from tiny.base import Message, Tiny, append_ids, assistant, encode, exact_float64, system, user

CORE = ("llava", "llava_next", "qwen2_5_vl", "qwen3_5", "gemma3", "idefics3")
"""One of each kind (fixed, tiled, packed, recurrent, windowed, two-dimensional tiles); most tests run on these."""
IMAGES = (
    *CORE,
    "llava_onevision",
    "vipllava",
    "qwen2_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "glm4v",
    "internvl",
    "idefics2",
    "smolvlm",
    "paligemma",
    "paligemma2",
    "gemma4",
    "gemma4_moe",
    "mistral3",
    "aya_vision",
    "mllama",
    "lfm2_vl",
    "ovis2",
)
"""Families that take images."""
AUDIO = ("qwen2_audio", "voxtral", "granite_speech", "audioflamingo3", "qwen2_5_omni", "qwen3_omni_moe")
"""Families that take audio (the omni models take images too)."""


def _build(
    name: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
    **text_config_fields: object,
) -> Tiny:
    module = importlib.import_module(f"tiny.{name}")
    built: Tiny = module.build(seed, dtype, attn_implementation, **text_config_fields)
    return built


FAMILIES: dict[str, Callable[..., Tiny]] = {name: functools.partial(_build, name) for name in (*IMAGES, *AUDIO)}

__all__ = [
    "AUDIO",
    "CORE",
    "FAMILIES",
    "IMAGES",
    "Message",
    "Tiny",
    "append_ids",
    "assistant",
    "encode",
    "exact_float64",
    "system",
    "user",
]
