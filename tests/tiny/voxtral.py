"""Voxtral: Whisper's tower on windows of a clip, stacked frames through a two-layer projector, Llama.

The processor pads every clip to whole windows and the tower masks nothing, so each clip takes the tokens of a window
(or two, three, ...) however short it is; several windows are several rows of `input_features`, and nothing is cut.

The processor is the one that `load_pretrained` gives for a published checkpoint, made of a `tekken.json` of the
published form: a small vocabulary behind the published control tokens.
"""

import atexit
import base64
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    VoxtralConfig,
    VoxtralEncoderConfig,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mmdpo.models.mistral_common import TekkenTokenizer, TekkenVoxtralProcessor
from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

WINDOW_SECONDS, RATE, STACK, MEL_BINS = 2, 16_000, 4, 16
"""Published: 30 s and 128 bins; 100 spectrum frames a second become 50 in the tower and, four stacked, 12.5 tokens."""
WINDOW_FRAMES = 100 * WINDOW_SECONDS
WINDOW_TOKENS = WINDOW_FRAMES // 2 // STACK

NAMED = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    3: "[INST]",
    4: "[/INST]",
    5: "[AVAILABLE_TOOLS]",
    6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]",
    8: "[/TOOL_RESULTS]",
    9: "[TOOL_CALLS]",
    10: "[IMG]",
    11: "<pad>",
    12: "[IMG_BREAK]",
    13: "[IMG_END]",
    14: "[PREFIX]",
    15: "[MIDDLE]",
    16: "[SUFFIX]",
    17: "[SYSTEM_PROMPT]",
    18: "[/SYSTEM_PROMPT]",
    19: "[TOOL_CONTENT]",
    24: "[AUDIO]",
    25: "[BEGIN_AUDIO]",
    32: "[ARGS]",
    33: "[CALL_ID]",
    34: "[TRANSCRIBE]",
}
"""Control tokens by id. Names: `SpecialTokens` of mistral-common 1.13 (`tokens/tokenizers/base.py`). Ids: `Tekkenizer.
DEPRECATED_SPECIAL_TOKENS` there up to 19, and `get_special_tokens` in the tests of its repository above."""
CONTROL = [NAMED.get(rank, f"<SPECIAL_{rank}>") for rank in range(40)]
"""The published files have 1000; the last ones here have no entry in the file, as there."""
PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
"""How a text is cut before merging: as in the published files, a space goes with the signs that follow it."""


def tekken(version: str = "v11") -> dict[str, Any]:
    """What a `tekken.json` holds: single bytes first, then merges in their order, control tokens apart."""
    ids, _ = tokenizers._learn("bytes")
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    learnt = [bytes(byte_of[character] for character in token) for token in sorted(ids, key=ids.__getitem__)]
    vocabulary = [bytes([byte]) for byte in range(256)] + [token for token in learnt if len(token) > 1]
    return {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(vocabulary),
            "default_vocab_size": len(CONTROL) + len(vocabulary),
            "default_num_special_tokens": len(CONTROL),
            "version": version,
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(vocabulary)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(CONTROL[:37])
        ],
        "audio": {
            "sampling_rate": RATE,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": MEL_BINS, "hop_length": 160, "window_size": 400},
            "chunk_length_s": float(WINDOW_SECONDS),
        },
    }


@functools.cache
def _tokenizer_file() -> Path:
    """The file, there until the process ends: saving the processor copies it."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    file = Path(folder.name) / "tekken.json"
    file.write_text(json.dumps(tekken()), encoding="utf-8")
    return file


def extractor() -> WhisperFeatureExtractor:
    """Whisper's, with a short window and few bins."""
    return WhisperFeatureExtractor(feature_size=MEL_BINS, sampling_rate=RATE, chunk_length=WINDOW_SECONDS)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; every begun 2 s of sound are 25 tokens. `overrides` are fields of the `LlamaConfig`."""
    tokenizer = TekkenTokenizer.from_file(_tokenizer_file())
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
    processor = TekkenVoxtralProcessor(extractor(), tokenizer)
    model = build_model(
        VoxtralForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["</s>"])
    return Tiny("voxtral", model, processor, end_of_turn="</s>")
