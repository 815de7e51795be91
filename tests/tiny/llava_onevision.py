"""LLaVA-OneVision with Qwen2: tiles with learnt row ends for the only image of a prompt, one view for each of several.

Videos are one pooled view for each frame and one learnt vector at the end. The facts are those of
llava-hf/llava-onevision-qwen2-0.5b-ov-hf. Its tower is SigLIP without a head, of which the last layer is read before
the final norm: that norm's two vectors are in the model and change nothing.
"""

from typing import Any

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)

from tiny import qwen_family
from tiny.base import Tiny, build_model, set_generation

IMAGE_SIZE, PATCH_SIZE = 16, 8
VIEW_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
GRIDS = [[16, 16], [16, 32], [32, 16], [32, 32]]
"""Sizes (height, width) that an image may be cut into, in tiles of 16 pixels."""
MOST_TILES = "anyres_max_2"
"""Larger images are scaled down to so many tiles' tokens after the tower (published: 9), here those of four tiles."""

# Images of a turn first, then its videos, then every text after a line feed. A role is followed by a space and the line
# feed of its first text, except in the generation prompt, which has no space: it is no prefix of a rendered answer.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' ~ message['role'] ~ ' ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' ~ part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; a single image is 8 to 18 tokens by its shape, one of several 5, a video of n frames n + 1.

    `overrides` are fields of the `Qwen2Config`.
    """
    tokenizer = qwen_family.tokenizer(special=["<|im_start|>", "<|im_end|>", "<image>", "<video>"])
    text = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**text | overrides),
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=GRIDS,
        vision_aspect_ratio=MOST_TILES,
    )
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=GRIDS),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=VIEW_TOKENS,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=MOST_TILES,
        chat_template=CHAT_TEMPLATE,
    )
    model = build_model(
        LlavaOnevisionForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, qwen_family.STOP_TOKENS)
    return Tiny("llava_onevision", model, processor, end_of_turn="<|im_end|>")
