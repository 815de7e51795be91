"""Qwen2-VL: as Qwen2.5-VL, but its tower attends in every layer to the whole image and counts no seconds.

The chat template and the special tokens are those of Qwen/Qwen2-VL-7B-Instruct; the text that the template renders is
the same as Qwen2.5-VL's, the tokenizer lacks the latter's tokens for tools and code.
"""

from typing import Any

import torch
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from tiny import qwen_family, templates
from tiny.base import Tiny, build_model, set_generation


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 4 to 16 tokens by its size, a video 4 tokens for two frames.

    `overrides` are fields of the `Qwen2VLTextConfig`.
    """
    tokenizer = qwen_family.tokenizer()
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
    config = Qwen2VLConfig(
        text_config=text | overrides,
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": (text | overrides)["hidden_size"],
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": qwen_family.PATCH_SIZE,
        },
        **qwen_family.media_token_ids(tokenizer),
    )
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=qwen_family.PATCH_SIZE, size=qwen_family.PIXELS),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(
            patch_size=qwen_family.PATCH_SIZE, size=qwen_family.FRAME_PIXELS, cap_pixels_per_frame=False
        ),
        chat_template=templates.QWEN2_5_VL,
    )
    model = build_model(
        Qwen2VLForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, qwen_family.STOP_TOKENS)
    return Tiny("qwen2_vl", model, processor, end_of_turn="<|im_end|>")
