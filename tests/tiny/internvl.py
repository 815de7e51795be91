"""InternVL3: images cut into tiles with a coarse view after them, a scaled residual tower, pixel shuffle, Qwen2."""

from typing import Any

import torch
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    Qwen2Config,
    Qwen2Tokenizer,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

TILE, PATCH_SIZE, MOST_TILES = 16, 4, 4
TILE_TOKENS = (TILE // PATCH_SIZE // 2) ** 2
ADDED = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>", "<video>"]

# As in OpenGVLab/InternVL3-1B-hf (chat_template.jinja). Parts in their order, a line feed after each image, no default
# system turn, nothing trimmed, plain-string content as it is.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 4 to 20 tokens by its shape. `overrides` are fields of the `Qwen2Config`.

    Published checkpoints stretch their rotary positions beyond 32768 tokens, which no row here has.
    """
    tokenizer = _tokenizer()
    text = {
        # The published embedding matrix has more rows than the tokenizer has tokens, too.
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
    config = InternVLConfig(
        text_config=Qwen2Config(**text | overrides),
        vision_config=InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            attention_bias=True,
            image_size=TILE,
            patch_size=PATCH_SIZE,
        ),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=TILE_TOKENS,
        tie_word_embeddings=False,
    )
    size = {"height": TILE, "width": TILE}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, max_patches=MOST_TILES),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=TILE_TOKENS,
        chat_template=TEMPLATE,
    )
    model = build_model(
        InternVLForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<|im_end|>"])
    return Tiny("internvl", model, processor, end_of_turn="<|im_end|>")


def _tokenizer() -> Qwen2Tokenizer:
    """Qwen2's with InternVL's marks: an image is `<img>`, its context tokens, `</img>`."""
    ids, merges = tokenizers._learn("bytes")
    tokenizer = Qwen2Tokenizer(
        vocab=dict(ids),
        merges=merges,
        eos_token="<|im_end|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    tokenizers._with_qwen_tokens(tokenizer, tokenizers.QWEN2_ADDED)
    tokenizer.add_special_tokens({"additional_special_tokens": ADDED}, replace_extra_special_tokens=False)
    return tokenizer
