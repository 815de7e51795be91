"""Audio Flamingo 3: a Whisper-like tower on windows of a clip, one after the other, a two-layer projector, Qwen2.

A prompt takes one clip at most: the processor refuses two. A clip of several windows is several rows of
`input_features`; what lies behind `max_audio_len` is cut with no more than a log line.
"""

from typing import Any

import torch
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3EncoderConfig,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    Qwen2Config,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

WINDOW_SECONDS, LONGEST_SECONDS, MEL_BINS = 1, 3, 16
"""Published: windows of 30 s, clips of at most 600 s, 128 bins; 100 spectrum frames a second become 25 tokens."""

# One mark for all clips of a turn, in front of its texts, wherever the clips stood. Source: the conversion script that
# wrote nvidia/audio-flamingo-3-hf (`convert_audioflamingo3_to_hf.py` of huggingface/transformers).
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{% for message in messages if message['content'] is not none %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% set turn = namespace(mark='', text='') %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' or 'audio' in part %}{% set turn.mark = '<sound>' %}"
    "{% elif part['type'] == 'text' or 'text' in part %}{% set turn.text = turn.text ~ part['text'] %}"
    "{% endif %}"
    "{% endfor %}"
    "{{ turn.mark ~ turn.text }}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _tokenizer() -> Qwen2Tokenizer:
    """Qwen2's bytes with the mark of a sound."""
    ids, merges = tokenizers._learn("bytes")
    tokenizer = Qwen2Tokenizer(vocab=dict(ids), merges=merges, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<sound>"]})
    return tokenizer


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; a second of sound is 25 tokens and one window. `overrides` are fields of the `Qwen2Config`."""
    tokenizer = _tokenizer()
    extractor = WhisperFeatureExtractor(
        feature_size=MEL_BINS, chunk_length=WINDOW_SECONDS, return_attention_mask=True, padding_side="right"
    )
    text = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AudioFlamingo3Config(
        text_config=Qwen2Config(**text | overrides),
        audio_config=AudioFlamingo3EncoderConfig(
            num_mel_bins=MEL_BINS,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            hidden_size=32,
            max_source_positions=extractor.nb_max_frames // 2,
        ),
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )
    processor = AudioFlamingo3Processor(
        feature_extractor=extractor, tokenizer=tokenizer, chat_template=TEMPLATE, max_audio_len=LONGEST_SECONDS
    )
    model = build_model(
        AudioFlamingo3ForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<|im_end|>", "<|endoftext|>"])
    return Tiny("audioflamingo3", model, processor, end_of_turn="<|im_end|>")
