"""Qwen3.5: three layers of gated linear attention for every layer of full attention; otherwise as Qwen's others."""

from typing import Any

import torch
from transformers import (
    Qwen2VLImageProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tiny import templates, tokenizers
from tiny.base import Tiny, build_model, set_generation

PATCH_SIZE = 4
PIXELS = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
"""Least and most pixels of an image, by area (the names are the processor's): 4 to 16 tokens of 8 x 8 pixels."""


def build(
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
    thinking: bool = False,
    **overrides: Any,
) -> Tiny:
    """Build the pair; an image is 4 to 16 tokens by its size. `overrides` are fields of the `Qwen3_5TextConfig`.

    Args:
        thinking: take the chat template of the larger models, whose prompt ends inside an open thought.
    """
    tokenizer = tokenizers.qwen3_5()
    text = {
        # The published embedding matrix has more rows than the tokenizer has tokens, too.
        "vocab_size": len(tokenizer) + 7,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
            "partial_rotary_factor": 1.0,
        },
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Qwen3_5Config(
        text_config=text | overrides,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": PATCH_SIZE,
            "num_position_embeddings": 64,
            "out_hidden_size": (text | overrides)["hidden_size"],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=PATCH_SIZE, size=PIXELS, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=PATCH_SIZE, size=PIXELS),
        chat_template=templates.QWEN3_5_THINKING if thinking else templates.QWEN3_5,
    )
    model = build_model(
        Qwen3_5ForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<|im_end|>", "<|endoftext|>"])
    return Tiny("qwen3_5", model, processor, end_of_turn="<|im_end|>")
