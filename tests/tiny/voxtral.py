"""Voxtral: Whisper's tower on windows of a clip, stacked frames through a two-layer projector, Llama.

The processor pads every clip to whole windows and the tower masks nothing, so each clip takes the tokens of a window
(or two, three, ...) however short it is; several windows are several rows of `input_features`, and nothing is cut.

Two things are not the family's own. The published window of 30 s stands in the processor's code: `ShortWindowProcessor`
changes that constant alone. The tokenizer is that of `mistral-common`, which writes prompts without a template, tells
the number of placeholders and hands the clips on; `MistralTokenizer` does the same without the package. Unlike the
real one it takes decoded clips under the key `audio` (not encoded files under `path`, `url` or `base64`), has a chat
template, and lets a conversation end with an answer.
"""

import math
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import (
    AutoProcessor,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VoxtralConfig,
    VoxtralEncoderConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

WINDOW_SECONDS, RATE, STACK, MEL_BINS = 2, 16_000, 4, 16
"""Published: 30 s and 128 bins; 100 spectrum frames a second become 50 in the tower and, four stacked, 12.5 tokens."""
WINDOW_FRAMES = 100 * WINDOW_SECONDS
WINDOW_TOKENS = WINDOW_FRAMES // 2 // STACK

# By id, as in `tekken.json` of mistralai/Voxtral-Mini-3B-2507, except that those of tools, images and filling-in have
# no names here. The processor's placeholder is id 24.
CONTROL = [f"<SPECIAL_{rank}>" for rank in range(26)]
CONTROL[:5] = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
CONTROL[11] = "<pad>"
CONTROL[17:19] = ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
CONTROL[24:26] = ["[AUDIO]", "[BEGIN_AUDIO]"]

# What mistral-common 1.13 writes for a tokenizer of version 11: parts in their order, nothing between them, no
# generation prompt, answers without the spaces at their end.
TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% set turn = namespace(text='') %}"
    "{% if message['content'] is string %}{% set turn.text = message['content'] %}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% set turn.text = turn.text ~ ('[BEGIN_AUDIO][AUDIO]' if part['type'] == 'audio' else part['text']) %}"
    "{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' ~ turn.text ~ '[/SYSTEM_PROMPT]' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST]' ~ turn.text ~ '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ turn.text.rstrip(' ') ~ eos_token }}"
    "{% else %}{{ raise_exception('The roles are system, user and assistant, not ' ~ message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
)


class MistralTokenizer(PreTrainedTokenizerFast):
    """A byte-level tokenizer that does with clips what mistral-common does: see the module's text."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> "MistralTokenizer":
        """The same vocabulary and template; automatic loading knows the plain class alone."""
        return cls(
            tokenizer_object=tokenizer.backend_tokenizer,
            **tokenizer.special_tokens_map,
            padding_side="left",
            chat_template=tokenizer.chat_template,
        )

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """Write conversations, clips as the placeholders of their windows, and hand them on; text stays text."""
        if not kwargs.get("tokenize", True):
            return super().apply_chat_template(conversation, **kwargs)
        batched = not isinstance(conversation[0], dict)
        clips = [
            part["audio"]
            for messages in (conversation if batched else [conversation])
            for message in messages
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] == "audio" and "audio" in part
        ]
        if not clips:
            return super().apply_chat_template(conversation, **kwargs | {"sanitize_control_tokens": True})
        rows = super().apply_chat_template(conversation, return_dict=False, sanitize_control_tokens=True)
        placeholder = self.convert_tokens_to_ids("[AUDIO]")
        counts = iter(WINDOW_TOKENS * math.ceil(len(clip) / (WINDOW_SECONDS * RATE)) for clip in clips)
        ids = [
            [copy for token in row for copy in [token] * (next(counts) if token == placeholder else 1)]
            for row in (rows if batched else [rows])
        ]
        encoded = self.pad({"input_ids": ids if batched else ids[0]}, padding=kwargs.get("padding", False))
        encoded["audio"] = clips
        return encoded


class ShortWindowProcessor(VoxtralProcessor):
    """The family's processor with another window; a tokenizer loaded from files gets back what it does with clips."""

    audio_kwargs = VoxtralProcessor.audio_kwargs | {
        "pad_to_multiple_of": WINDOW_SECONDS * RATE,
        "max_source_positions": WINDOW_FRAMES,
    }

    def __init__(self, feature_extractor: WhisperFeatureExtractor, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__(feature_extractor, MistralTokenizer.of(tokenizer))
        self.chat_template = tokenizer.chat_template


AutoProcessor.register(VoxtralConfig, ShortWindowProcessor, exist_ok=True)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Control tokens first, then bytes; `</s>` ends an answer."""
    ids, merges = tokenizers._learn("bytes")
    vocabulary = {token: rank for rank, token in enumerate(CONTROL)}
    vocabulary |= {token: len(CONTROL) + rank for rank, token in enumerate(sorted(ids, key=ids.__getitem__))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = tokenizers._bytes_of_words()
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": CONTROL})
    return tokenizer


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; every begun 2 s of sound are 25 tokens. `overrides` are fields of the `LlamaConfig`."""
    tokenizer = _tokenizer()
    text = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = VoxtralConfig(
        text_config=LlamaConfig(**text | overrides),
        audio_config=VoxtralEncoderConfig(
            num_mel_bins=MEL_BINS,
            hidden_size=32,
            intermediate_size=STACK * 32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_source_positions=WINDOW_FRAMES // 2,
        ),
        audio_token_id=tokenizer.convert_tokens_to_ids("[AUDIO]"),
    )
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, sampling_rate=RATE, chunk_length=WINDOW_SECONDS)
    processor = ShortWindowProcessor(extractor, tokenizer)
    model = build_model(
        VoxtralForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["</s>"])
    return Tiny("voxtral", model, processor, end_of_turn="</s>")
