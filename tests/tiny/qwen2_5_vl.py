"""Qwen2.5-VL: images of any size as packed patches with a grid, positions in three rows (time, height, width)."""

from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from tiny import templates, tokenizers
from tiny.base import Tiny, build_model, set_generation

PATCH_SIZE = 4
PIXELS = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
"""Least and most pixels of an image, by area (the names are the processor's): 4 to 16 tokens of 8 x 8 pixels."""
FRAME_PIXELS = {"shortest_edge": 8 * 8, "longest_edge": 16 * 16}
"""Least and most pixels of a video's frame: up to 4 tokens for two frames."""


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 4 to 16 tokens by its size. `overrides` are fields of the `Qwen2_5_VLTextConfig`."""
    tokenizer = tokenizers.qwen2_5_vl()
    text = {
        # The published embedding matrix has more rows than the tokenizer has tokens, too.
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Qwen2_5_VLConfig(
        text_config=text | overrides,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": PATCH_SIZE,
            "window_size": 4 * PATCH_SIZE,
            "fullatt_block_indexes": [1],
            "out_hidden_size": (text | overrides)["hidden_size"],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH_SIZE, size=PIXELS),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH_SIZE, size=FRAME_PIXELS, cap_pixels_per_frame=False),
        chat_template=templates.QWEN2_5_VL,
    )
    model = build_model(
        Qwen2_5_VLForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<|im_end|>", "<|endoftext|>"])
    return Tiny("qwen2_5_vl", model, processor, end_of_turn="<|im_end|>")
