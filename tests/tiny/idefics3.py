"""Idefics3: images cut into tiles with a coarse view after them, marks of row and column between, pixel shuffle."""

from typing import Any

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
)

from tiny import templates, tokenizers
from tiny.base import Tiny, build_model, set_generation

TILE, PATCH_SIZE, SHUFFLE = 16, 4, 2
TILE_TOKENS = (TILE // PATCH_SIZE // SHUFFLE) ** 2


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 12 or 20 tokens by its shape, and marks. `overrides` are fields of `LlamaConfig`."""
    tokenizer = tokenizers.idefics3()
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(size={"longest_edge": 2 * TILE}, max_image_size={"longest_edge": TILE}),
        tokenizer=tokenizer,
        image_seq_len=TILE_TOKENS,
        chat_template=templates.IDEFICS3,
    )
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Idefics3Config(
        text_config=LlamaConfig(**text | overrides),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": TILE,
            "patch_size": PATCH_SIZE,
        },
        image_token_id=processor.image_token_id,
        scale_factor=SHUFFLE,
    )
    model = build_model(
        Idefics3ForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<|end_of_text|>", "<end_of_utterance>"])
    return Tiny("idefics3", model, processor, end_of_turn="<end_of_utterance>")
