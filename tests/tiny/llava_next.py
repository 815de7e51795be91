"""LLaVA-NeXT with Mistral: tiles by aspect ratio, rows of tiles ended by a learnt vector, `image_sizes`."""

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    MistralConfig,
)

from tiny import templates, tokenizers
from tiny.base import Tiny, build_model, set_generation

IMAGE_SIZE, PATCH_SIZE = 16, 8
GRIDS = [[16, 32], [32, 16], [32, 32]]
"""Sizes (height, width) that an image may be cut into, in tiles of 16 pixels."""


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 8 to 24 tokens by its shape. `overrides` are fields of the `MistralConfig`."""
    tokenizer = tokenizers.llava_next()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "sliding_window": None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlavaNextConfig(
        text_config=MistralConfig(**text | overrides),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            projection_dim=32,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRIDS,
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": IMAGE_SIZE},
            crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            image_grid_pinpoints=GRIDS,
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=templates.LLAVA_NEXT_MISTRAL,
    )
    model = build_model(
        LlavaNextForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["</s>"])
    return Tiny("llava_next", model, processor, end_of_turn="</s>")
