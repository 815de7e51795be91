"""Gemma 4 (the small ones, E2B and E4B): inputs of each layer's own, layers that share keys and values, a window.

An image has between `<|image>` and `<image|>` as many tokens as fit its shape, at most 70 here: the image processor
allows no smaller number. The published checkpoints hear, too; this one has no audio tower, as the large ones.
"""

from typing import Any
from unittest import mock

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import (
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4TextConfig,
    Gemma4VideoProcessor,
    Gemma4VisionConfig,
    GemmaTokenizer,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

PATCH_SIZE, POOLING, IMAGE_TOKENS = 4, 2, 70
SLIDING_WINDOW = 8
"""Shorter than every prompt and than an image."""
LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
NAMED = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "sot_token": "<|turn>",
    "eot_token": "<turn|>",
    "soc_token": "<|channel>",
    "eoc_token": "<channel|>",
    "think_token": "<|think|>",
    "escape_token": '<|"|>',
    "str_token": "<|tool_response>",
    "etr_token": "<tool_response|>",
    "stc_token": "<|tool_call>",
    "etc_token": "<tool_call|>",
    "std_token": "<|tool>",
    "etd_token": "<tool|>",
}

# As in google/gemma-4-E4B-it (chat_template.jinja), without the parts for tools and for `enable_thinking`. Every text
# is trimmed, answers too, whose thoughts (`<|channel>` to `<channel|>`) are dropped; each part of a system turn is
# followed by a space. Not sure: the first revision wrote two line feeds on both sides of an image, later ones do not.
TEMPLATE = (
    "{% macro spoken(text) %}"
    "{% set kept = namespace(text='') %}"
    "{% for piece in text.split('<channel|>') %}"
    "{% set kept.text = kept.text ~ piece.split('<|channel>')[0] %}"
    "{% endfor %}"
    "{{ kept.text | trim }}"
    "{% endmacro %}"
    "{{ bos_token }}"
    "{% set has_system = messages[0]['role'] in ('system', 'developer') %}"
    "{% if has_system %}"
    "{{ '<|turn>system\n' }}"
    "{% if messages[0]['content'] is string %}{{ messages[0]['content'] | trim }}"
    "{% else %}{% for part in messages[0]['content'] %}{{ part['text'] | trim ~ ' ' }}{% endfor %}"
    "{% endif %}"
    "{{ '<turn|>\n' }}"
    "{% endif %}"
    "{% for message in (messages[1:] if has_system else messages) %}"
    "{% set answer = message['role'] == 'assistant' %}"
    "{{ '<|turn>' ~ ('model' if answer else message['role']) ~ '\n' }}"
    "{% if message['content'] is string %}"
    "{{ spoken(message['content']) if answer else message['content'] | trim }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ spoken(part['text']) if answer else part['text'] | trim }}"
    "{% elif part['type'] in ('image', 'audio', 'video') %}{{ '<|' ~ part['type'] ~ '|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<turn|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image of usual shape is about 64 tokens. `overrides` are fields of the `Gemma4TextConfig`."""
    processor = make_processor(TEMPLATE)
    text = {
        **text_fields(processor),
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
    }
    config = make_config(processor, text | overrides, use_clipped_linears=True)
    model = make_model(config, processor, seed=seed, dtype=dtype, attn_implementation=attn_implementation)
    return Tiny("gemma4", model, processor, end_of_turn="<turn|>")


def make_processor(template: str) -> Gemma4Processor:
    """The processor of small and large checkpoints, with one of their two templates."""
    sizes = {"patch_size": PATCH_SIZE, "pooling_kernel_size": POOLING, "max_soft_tokens": IMAGE_TOKENS}
    return Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(**sizes),
        tokenizer=_tokenizer(),
        video_processor=Gemma4VideoProcessor(**sizes),
        chat_template=template,
        image_seq_length=IMAGE_TOKENS,
    )


def text_fields(processor: Gemma4Processor) -> dict[str, Any]:
    """The fields of the text model that small and large checkpoints have."""
    tokenizer = processor.tokenizer
    return {
        "vocab_size": len(tokenizer),
        "vocab_size_per_layer_input": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": len(LAYER_TYPES),
        "layer_types": LAYER_TYPES,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "global_head_dim": 32,
        "hidden_size_per_layer_input": 0,
        "sliding_window": SLIDING_WINDOW,
        # Low enough to be felt at the scale of a tiny model's logits (published: 30).
        "final_logit_softcapping": 10.0,
        "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def make_config(processor: Gemma4Processor, text: dict[str, Any], **vision: Any) -> Gemma4Config:
    """The config of the whole model around the text model's fields, with the image tower's own facts."""
    tokenizer = processor.tokenizer
    return Gemma4Config(
        text_config=Gemma4TextConfig(**text),
        vision_config=Gemma4VisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            patch_size=PATCH_SIZE,
            pooling_kernel_size=POOLING,
            position_embedding_size=IMAGE_TOKENS * POOLING,
            **vision,
        ),
        image_token_id=tokenizer.image_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        audio_token_id=tokenizer.audio_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_index=tokenizer.eoa_token_id,
        video_token_id=processor.video_token_id,
    )


def make_model(config: Gemma4Config, processor: Gemma4Processor, **choices: Any) -> Gemma4ForConditionalGeneration:
    """The model, with what `redraw` leaves too small or empty made felt."""
    model = build_model(Gemma4ForConditionalGeneration, config, **choices)
    tower = model.model.vision_tower
    with torch.no_grad():
        # A table of two axes, drawn for the size of an axis's whole table instead of one row's. (A power of two, so
        # that builds of one seed still agree across dtypes.)
        tower.patch_embedder.position_embedding_table.mul_(64)
        for name, buffer in tower.named_buffers():
            if name.endswith(("put_min", "put_max")):
                buffer.fill_(-2.0 if name.endswith("min") else 2.0)
    _let_pooler_compute_in_float64(tower.pooler)
    set_generation(model, processor.tokenizer, ["<eos>", "<turn|>", "<|tool_response>"])
    return model


def _let_pooler_compute_in_float64(pooler: nn.Module) -> None:
    """Give the pooler's weights, made from integers, the precision of what they weigh, for `exact_float64`."""
    pool, one_hot = pooler._avg_pool_by_positions, nn.functional.one_hot

    def exact(hidden_states: torch.Tensor, *args: Any) -> Any:
        with mock.patch.object(nn.functional, "one_hot", lambda *indices: one_hot(*indices).to(hidden_states.dtype)):
            return pool(hidden_states, *args)

    pooler._avg_pool_by_positions = exact


def _tokenizer() -> GemmaTokenizer:
    """Gemma's with the marks of the fourth generation; `<bos>` is written by the template alone."""
    ids, merges = tokenizers._learn("gemma")
    tokenizer = GemmaTokenizer(
        vocab=dict(ids), merges=merges, add_bos_token=False, padding_side="left", extra_special_tokens=NAMED
    )
    tokenizer.add_tokens([AddedToken("\n" * run, special=False, normalized=False) for run in range(1, 5)])
    return tokenizer
