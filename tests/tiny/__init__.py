"""Tiny models of real families with their real processors, made from configs in memory: no hub, no files.

`FAMILIES[name](seed=0, dtype=torch.float32, attn_implementation="sdpa", **text_config_fields)` gives a `Tiny`.
"""

from collections.abc import Callable

from tiny import gemma3, idefics3, llava, llava_next, qwen2_5_vl, qwen3_5
from tiny.base import Message, Tiny, append_ids, assistant, encode, exact_float64, system, user

FAMILIES: dict[str, Callable[..., Tiny]] = {
    "llava": llava.build,
    "llava_next": llava_next.build,
    "qwen2_5_vl": qwen2_5_vl.build,
    "qwen3_5": qwen3_5.build,
    "gemma3": gemma3.build,
    "idefics3": idefics3.build,
}

__all__ = ["FAMILIES", "Message", "Tiny", "append_ids", "assistant", "encode", "exact_float64", "system", "user"]
