"""Qwen3-Omni's thinker: experts, early tower layers added inside the language model, sounds in chunks of a second.

Clips are padded to the longest of a prompt and never cut. The last chunk of a clip is padded in front of convolutions
that have no mask, so what a clip shorter than a second becomes depends on the clips beside it. The processor's count
of tokens holds for chunks of 100 spectrum frames alone, so these keep their published length.
"""

from typing import Any

import torch
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeThinkerTextExperts

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

PATCH_SIZE = 4
PIXELS = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
"""Least and most pixels of an image, by area (the names are the processor's): 4 to 16 tokens of 8 x 8 pixels."""
MEL_BINS, HALF_CHUNK, ATTENTION_FRAMES = 16, 50, 100
"""Published: 128 bins, chunks of 2 x 50 spectrum frames that become 13 tokens, attention within 800 frames."""
NAMED = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}

# No default system turn; parts in their order, in every turn. Thoughts are kept, and written even when empty, in
# answers after the last question that is a plain string; questions of parts do not count, so the thoughts of answers to
# them vanish. Source: `chat_template.json` of Qwen/Qwen3-Omni-30B-A3B-Instruct, without its parts for tools. Not sure:
# whether the Instruct model's differs from the Thinking model's, of which this rule was read.
TEMPLATE = (
    "{% set last = namespace(question=messages | length - 1) %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' and message['content'] is string %}"
    "{% set last.question = loop.index0 %}"
    "{% endif %}"
    "{% endfor %}"
    "{% for message in messages %}"
    "{% set turn = namespace(text='', thought='') %}"
    "{% if message['content'] is string %}{% set turn.text = message['content'] %}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{% set turn.text = turn.text ~ '<|vision_start|><|image_pad|><|vision_end|>' %}"
    "{% elif part['type'] == 'audio' or 'audio' in part or 'audio_url' in part %}"
    "{% set turn.text = turn.text ~ '<|audio_start|><|audio_pad|><|audio_end|>' %}"
    "{% elif part['type'] == 'video' or 'video' in part %}"
    "{% set turn.text = turn.text ~ '<|vision_start|><|video_pad|><|vision_end|>' %}"
    "{% elif 'text' in part %}{% set turn.text = turn.text ~ part['text'] %}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}"
    "{% if message['reasoning_content'] is string %}{% set turn.thought = message['reasoning_content'] %}"
    "{% elif '</think>' in turn.text %}"
    "{% set turn.thought = turn.text.split('</think>')[0].split('<think>')[-1] %}"
    "{% set turn.text = turn.text.split('</think>')[-1].lstrip('\n') %}"
    "{% endif %}"
    "{% if loop.index0 > last.question and (loop.last or turn.thought) %}"
    "{% set turn.text = '<think>\n' ~ turn.thought.strip('\n') ~ '\n</think>\n\n' ~ turn.text.lstrip('\n') %}"
    "{% endif %}"
    "{% endif %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\n' ~ turn.text ~ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _tokenizer() -> Qwen2Tokenizer:
    """Qwen2's bytes with the marks of images, sounds and videos, which the processor asks for by name."""
    ids, merges = tokenizers._learn("bytes")
    tokenizer = Qwen2Tokenizer(vocab=dict(ids), merges=merges, eos_token="<|im_end|>", extra_special_tokens=NAMED)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *NAMED.values()]})
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def _config(tokenizer: Qwen2Tokenizer, overrides: dict[str, Any]) -> Qwen3OmniMoeThinkerConfig:
    text = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | overrides
    return Qwen3OmniMoeThinkerConfig(
        text_config=text,
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": PATCH_SIZE,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
            "out_hidden_size": text["hidden_size"],
        },
        audio_config={
            "num_mel_bins": MEL_BINS,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "d_model": 32,
            "max_source_positions": HALF_CHUNK,
            "n_window": HALF_CHUNK,
            "n_window_infer": ATTENTION_FRAMES,
            "downsample_hidden_size": 8,
            "output_dim": text["hidden_size"],
        },
        image_token_id=tokenizer.image_token_id,
        audio_token_id=tokenizer.audio_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
        audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
    )


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 4 to 16 tokens by its size, a second of sound 13. `overrides`: the text config's."""
    tokenizer = _tokenizer()
    config = _config(tokenizer, overrides)
    config._experts_implementation = "eager"  # the grouped product knows no float64
    normal = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    processor = Qwen3OmniMoeProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH_SIZE, size=PIXELS, **normal),
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH_SIZE, size=PIXELS, **normal),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=MEL_BINS, return_attention_mask=True, padding_side="right"
        ),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    model = build_model(
        Qwen3OmniMoeThinkerForConditionalGeneration,
        config,
        seed=seed,
        dtype=dtype,
        attn_implementation=attn_implementation,
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Qwen3OmniMoeThinkerTextExperts):
                # Redrawing took both dimensions of an expert for its input; a power of two rounds nothing.
                module.gate_up_proj.mul_(8.0)
                module.down_proj.mul_(8.0)
    set_generation(model, tokenizer, ["<|im_end|>", "<|endoftext|>"])
    return Tiny("qwen3_omni_moe", model, processor, end_of_turn="<|im_end|>")
