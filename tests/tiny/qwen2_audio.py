"""Qwen2-Audio: a Whisper-like tower on a window of fixed length, two frames averaged, one linear layer, Qwen2.

The tower always reads the whole window and masks what lies behind the clip. Clips longer than the window are cut by
the feature extractor without a word, and a clip of one token is read by an older path of the model.
"""

from typing import Any

import torch
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

WINDOW_SECONDS, MEL_BINS = 2, 16
"""The published window is 30 s of 128 bins; 100 spectrum frames a second become 25 tokens."""
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]

# Parts in their order, clips counted over the conversation and each followed by a line feed; a default system turn.
# A part counts as a clip when it merely *has* the key `audio`, with whatever value; turns of plain strings are written
# as they are. Source: `chat_template.json` of Qwen/Qwen2-Audio-7B-Instruct, which `Qwen2AudioProcessor` ships as its
# default, too.
TEMPLATE = (
    "{% set seen = namespace(clips=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' or 'audio' in part or 'audio_url' in part %}"
    "{% set seen.clips = seen.clips + 1 %}"
    "{{ 'Audio ' ~ seen.clips ~ ': <|audio_bos|><|AUDIO|><|audio_eos|>\n' }}"
    "{% elif 'text' in part %}{{ part['text'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _tokenizer() -> Qwen2Tokenizer:
    """Qwen2's bytes with Qwen-Audio's marks."""
    ids, merges = tokenizers._learn("bytes")
    tokenizer = Qwen2Tokenizer(vocab=dict(ids), merges=merges, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; a second of sound is 25 tokens. `overrides` are fields of the `Qwen2Config`."""
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
    config = Qwen2AudioConfig(
        text_config=Qwen2Config(**text | overrides),
        audio_config=Qwen2AudioEncoderConfig(
            num_mel_bins=MEL_BINS,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=48,
            d_model=32,
            max_source_positions=extractor.nb_max_frames // 2,
        ),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    processor = Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer, chat_template=TEMPLATE)
    model = build_model(
        Qwen2AudioForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<|im_end|>", "<|endoftext|>"])
    return Tiny("qwen2_audio", model, processor, end_of_turn="<|im_end|>")
