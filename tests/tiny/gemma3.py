"""Gemma 3: layers with a sliding window, image blocks that see both ways, `token_type_ids` that say where they are."""

from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

from tiny import templates, tokenizers
from tiny.base import Tiny, build_model, set_generation

IMAGE_SIZE, PATCH_SIZE, IMAGE_TOKENS = 24, 4, 9
SLIDING_WINDOW = 8
"""Shorter than every prompt and, by one, than an image: the window cuts image blocks, too."""


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 9 tokens between marks. `overrides` are fields of the `Gemma3TextConfig`."""
    tokenizer = tokenizers.gemma3()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        "sliding_window": SLIDING_WINDOW,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**text | overrides),
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        ),
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer=tokenizer,
        chat_template=templates.GEMMA3,
        image_seq_length=IMAGE_TOKENS,
    )
    model = build_model(
        Gemma3ForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<eos>", "<end_of_turn>"])
    return Tiny("gemma3", model, processor, end_of_turn="<end_of_turn>")
