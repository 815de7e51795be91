"""What the tiny Qwen vision-language families share: tokenizer, special tokens, sizes of media, Qwen3-VL's template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

from tiny import tokenizers

PATCH_SIZE = 4
PIXELS = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
"""Least and most pixels of an image, by area (the names are the processor's): 4 to 16 tokens of 8 x 8 pixels."""
FRAME_PIXELS = {"shortest_edge": 8 * 8, "longest_edge": 16 * 16}
"""Least and most pixels of a frame where the video processor counts each frame: up to 4 tokens for two frames."""
VIDEO_PIXELS = {"shortest_edge": 2 * 8 * 8, "longest_edge": 4 * 16 * 16}
"""Least and most pixels of a whole video where the video processor counts all frames together: up to 8 tokens."""
STOP_TOKENS = ["<|im_end|>", "<|endoftext|>"]
"""What ends generation in the published generation configs, in their order."""

# Parts in their order, no default system turn. Only a system turn at the start is rendered: later ones vanish. Media in
# an answer or a system turn vanish, too. Without the published parts for tools. As in Qwen/Qwen3-VL-4B-Instruct and
# Qwen/Qwen3-VL-30B-A3B-Instruct.
QWEN3_VL = (
    "{% macro texts(content) %}"
    "{% if content is string %}{{ content }}"
    "{% else %}{% for part in content if 'text' in part %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% endmacro %}"
    "{% set seen = namespace(image=0, video=0) %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' or message['role'] == 'system' and loop.first %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\n' ~ texts(message['content']) ~ '<|im_end|>\n' }}"
    "{% elif message['role'] == 'user' %}"
    "{{ '<|im_start|>user\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{% set seen.image = seen.image + 1 %}"
    "{{ ('Picture ' ~ seen.image ~ ': ' if add_vision_id else '') ~ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'video' or 'video' in part %}"
    "{% set seen.video = seen.video + 1 %}"
    "{{ ('Video ' ~ seen.video ~ ': ' if add_vision_id else '') ~ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids by token and merges in order, of raw bytes without any special token."""
    model = json.loads(tokenizers.qwen2_5_vl().backend_tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def tokenizer(added: Sequence[str] = (), special: Sequence[str] = tokenizers.QWEN2_SPECIAL[1:]) -> Qwen2Tokenizer:
    """Qwen2's tokenizer class with `special` tokens and `added` ones that are not special.

    Args:
        special: all but `<|endoftext|>`, which pads; by default those of the vision models.
    """
    ids, merges = byte_vocabulary()
    made = Qwen2Tokenizer(vocab=ids, merges=merges, eos_token="<|im_end|>")
    made.add_special_tokens({"additional_special_tokens": list(special)})
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return made


def media_token_ids(made: Qwen2Tokenizer) -> dict[str, Any]:
    """The ids of media tokens under the names that the configs give them."""
    return {
        "image_token_id": made.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": made.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": made.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": made.convert_tokens_to_ids("<|vision_end|>"),
    }


def qwen3_vl_tokenizer() -> Qwen2Tokenizer:
    """Qwen3's: Qwen2's with marks of tools and thoughts that are added but not special."""
    return tokenizer(added=tokenizers.QWEN3_5_ADDED)


def qwen3_vl_processor(made: Qwen2Tokenizer) -> Qwen3VLProcessor:
    """Qwen3-VL's processor, the same for dense and expert models: each pair of video frames follows its time."""
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=PATCH_SIZE, size=PIXELS, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
        ),
        tokenizer=made,
        video_processor=Qwen3VLVideoProcessor(patch_size=PATCH_SIZE, size=VIDEO_PIXELS, cap_pixels_per_frame=False),
        chat_template=QWEN3_VL,
    )


def qwen3_vl_configs(made: Qwen2Tokenizer, overrides: dict[str, Any]) -> dict[str, Any]:
    """The parts of a Qwen3-VL config: two early layers of the tower are added to the first two of the language model.

    Args:
        overrides: fields of the text config, on top of what all Qwen3-VL models have.
    """
    text: dict[str, Any] = {
        # The published embedding matrix has more rows than the tokenizer has tokens, too.
        "vocab_size": len(made) + 7,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        # The published sizes have heads that together are wider than the hidden state, too.
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
        "eos_token_id": made.eos_token_id,
        "pad_token_id": made.pad_token_id,
    } | overrides
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": PATCH_SIZE,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        "out_hidden_size": text["hidden_size"],
    }
    return {"text_config": text, "vision_config": vision, **media_token_ids(made)}
