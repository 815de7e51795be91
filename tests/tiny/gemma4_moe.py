"""Gemma 4 (the large ones; 26B-A4B): experts, image blocks that see both ways in windowed layers, values from keys."""

from typing import Any

import torch

from tiny import gemma4
from tiny.base import Tiny

# As in google/gemma-4-31B-it: the prompt ends with an empty thought, unless `enable_thinking` is set.
TEMPLATE = gemma4.TEMPLATE.replace("{{ '<|turn>model\n' }}", "{{ '<|turn>model\n<|channel>thought\n<channel|>' }}")


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image of usual shape is about 64 tokens. `overrides` are fields of the `Gemma4TextConfig`."""
    processor = gemma4.make_processor(TEMPLATE)
    text = {
        **gemma4.text_fields(processor),
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "use_bidirectional_attention": "vision",
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
    }
    config = gemma4.make_config(processor, text | overrides, standardize=True)
    config._experts_implementation = "eager"  # the faster ones do not take float64
    model = gemma4.make_model(config, processor, seed=seed, dtype=dtype, attn_implementation=attn_implementation)
    return Tiny("gemma4_moe", model, processor, end_of_turn="<turn|>")
