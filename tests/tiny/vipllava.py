"""ViP-LLaVA: as LLaVA-1.5, but the projector normalises and reads several layers of the tower side by side.

The facts are those of llava-hf/vip-llava-7b-hf. Its template ends no answer and `</s>` alone stops generation.
"""

from typing import Any

import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

IMAGE_SIZE, PATCH_SIZE = 24, 8
LAYERS = [-2, -3, 1]
"""Layers of the tower that the projector reads (published: -2, -5, -8, -11 and 6 of 24)."""

# Images of a turn first, then its texts without anything between them; no end token anywhere. The first part of a
# system turn goes in front as it is. An answer follows a space that the generation prompt does not have.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'][0]['text'] }}"
    "{% else %}{{ '###' ~ ('Human' if message['role'] == 'user' else message['role'].title()) ~ ': ' }}"
    "{% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '###Assistant:' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 9 tokens. `overrides` are fields of the `LlamaConfig`."""
    tokenizer = tokenizers.llava()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = VipLlavaConfig(
        text_config=LlamaConfig(**text | overrides),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            projection_dim=32,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=LAYERS,
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    model = build_model(
        VipLlavaForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["</s>"])
    return Tiny("vipllava", model, processor, end_of_turn="</s>")
