"""Qwen3-VL: features of early layers of the tower added inside the language model, video frames with written times.

The facts are those of Qwen/Qwen3-VL-4B-Instruct.
"""

from typing import Any

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tiny import qwen_family
from tiny.base import Tiny, build_model, set_generation


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 4 to 16 tokens by its size, a video 4 tokens and a written time for two frames.

    `overrides` are fields of the `Qwen3VLTextConfig`.
    """
    tokenizer = qwen_family.qwen3_vl_tokenizer()
    config = Qwen3VLConfig(**qwen_family.qwen3_vl_configs(tokenizer, overrides))
    model = build_model(
        Qwen3VLForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, qwen_family.STOP_TOKENS)
    return Tiny("qwen3_vl", model, qwen_family.qwen3_vl_processor(tokenizer), end_of_turn="<|im_end|>")
