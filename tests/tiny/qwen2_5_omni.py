"""Qwen2.5-Omni's thinker: images as Qwen2.5-VL reads them, sounds in windows of attention, positions in three rows.

A clip is cut into windows, each with its own positions and attention; frames of padding never reach the tower. The
parameter `audio_tower.audio_bos_eos_token` is part of the published weights and of no computation.
"""

from typing import Any

import torch
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

PATCH_SIZE = 4
PIXELS = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
"""Least and most pixels of an image, by area (the names are the processor's): 4 to 16 tokens of 8 x 8 pixels."""
LONGEST_SECONDS, MEL_BINS, HALF_WINDOW = 2, 16, 10
"""Published: 300 s, 128 bins, and 100, for windows of 2 s; here a window is 20 spectrum frames or 0.2 s."""
NAMED = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}

# Parts in their order, nothing between them unless items are to be counted; a default system turn. A part counts as an
# item when it merely *has* its key. Source: `chat_template.json` of Qwen/Qwen2.5-Omni-7B.
TEMPLATE = (
    "{% set seen = namespace(image=0, audio=0, video=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{% set seen.image = seen.image + 1 %}"
    "{{ ('Picture ' ~ seen.image ~ ': ' if add_vision_id else '') ~ '<|vision_bos|><|IMAGE|><|vision_eos|>' }}"
    "{% elif part['type'] == 'audio' or 'audio' in part or 'audio_url' in part %}"
    "{% set seen.audio = seen.audio + 1 %}"
    "{{ ('Audio ' ~ seen.audio ~ ': ' if add_audio_id else '') ~ '<|audio_bos|><|AUDIO|><|audio_eos|>' }}"
    "{% elif part['type'] == 'video' or 'video' in part %}"
    "{% set seen.video = seen.video + 1 %}"
    "{{ ('Video ' ~ seen.video ~ ': ' if add_vision_id else '') ~ '<|vision_bos|><|VIDEO|><|vision_eos|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _tokenizer() -> Qwen2Tokenizer:
    """Qwen2's bytes with the marks of images, sounds and videos, which the processor asks for by name."""
    ids, merges = tokenizers._learn("bytes")
    tokenizer = Qwen2Tokenizer(vocab=dict(ids), merges=merges, eos_token="<|im_end|>", extra_special_tokens=NAMED)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *NAMED.values()]})
    return tokenizer


def _config(tokenizer: Qwen2Tokenizer, overrides: dict[str, Any]) -> Qwen2_5OmniThinkerConfig:
    text = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | overrides
    return Qwen2_5OmniThinkerConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": PATCH_SIZE,
            "window_size": 4 * PATCH_SIZE,
            "fullatt_block_indexes": [1],
            "out_hidden_size": text["hidden_size"],
        },
        audio_config={
            "num_mel_bins": MEL_BINS,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "d_model": 32,
            "max_source_positions": HALF_WINDOW,
            "n_window": HALF_WINDOW,
            "output_dim": text["hidden_size"],
        },
        image_token_index=tokenizer.image_token_id,
        audio_token_index=tokenizer.audio_token_id,
        video_token_index=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
        audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
    )


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 4 to 16 tokens by its size, a second of sound 25. `overrides`: the text config's."""
    tokenizer = _tokenizer()
    config = _config(tokenizer, overrides)
    processor = Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH_SIZE, size=PIXELS),
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH_SIZE, size=PIXELS),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=MEL_BINS, chunk_length=LONGEST_SECONDS, return_attention_mask=True, padding_side="right"
        ),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    model = build_model(
        Qwen2_5OmniThinkerForConditionalGeneration,
        config,
        seed=seed,
        dtype=dtype,
        attn_implementation=attn_implementation,
    )
    set_generation(model, tokenizer, ["<|im_end|>", "<|endoftext|>"])
    return Tiny("qwen2_5_omni", model, processor, end_of_turn="<|im_end|>")
