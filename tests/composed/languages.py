"""Tiny causal language models of several kinds, composed models made of them, and clips to feed them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from mmdpo.media.audio import Audio
from mmdpo.modalities.embeddings import Embeddings
from mmdpo.modalities.whisper import WhisperFeatures
from mmdpo.models.composed import compose
from tiny import tokenizers
from tiny.base import redraw

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    # tied, windowed, and both ends of the logits bent: wrong by far when the softcap is forgotten
    "gemma2": {
        **SMALL,
        "head_dim": 8,
        "final_logit_softcapping": 2.0,
        "sliding_window": 8,
        "tie_word_embeddings": True,
    },
    "cohere": {**SMALL, "logit_scale": 0.25},
    "granite": {**SMALL, "logits_scaling": 3.0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    },
    # a bias on the output layer
    "phi": {**SMALL, "num_key_value_heads": 4},
}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "num_mel_bins": 80,
    "max_source_positions": 50,
}
"""A tiny Whisper with windows of one second."""


def language_model(kind: str = "llama", *, seed: int = 0, padding_rows: int = 0, **fields: Any) -> tuple[Any, Any]:
    """A random language model whose logits mean something, and its tokenizer."""
    tokenizer = tokenizers.llava()
    values = KINDS.get(kind, SMALL) | fields
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer) + padding_rows, **special | values)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        redraw(model)
    return model.eval(), tokenizer


def clip(seconds: float, rate: int = 16_000, seed: int = 0) -> Audio:
    """Noise of a length."""
    generator = np.random.default_rng(seed)
    return Audio((0.1 * generator.standard_normal(round(seconds * rate))).astype(np.float32), rate)


def vectors(count: int, seed: int = 0, dim: int = 6) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Precomputed embeddings [count, dim]."""
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def composed(kind: str = "llama", *, seed: int = 0, **options: Any) -> tuple[Any, Any]:
    """A language model with a tiny Whisper for audio and precomputed embeddings of events."""
    llm, tokenizer = language_model(kind)
    encoders = {"audio": WhisperFeatures(config=WHISPER, stack=4), "event": Embeddings(dim=6)}
    return compose(llm, encoders, tokenizer=tokenizer, seed=seed, **options)


def turn(*parts: Any) -> list[dict[str, Any]]:
    """One user turn: strings are text, `Audio` audio, arrays events."""

    def part(value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        kind = "audio" if isinstance(value, Audio) else "event"
        return {"type": kind, kind: value}

    return [{"role": "user", "content": [part(value) for value in parts]}]


def encode(processor: Any, conversation: Any, **options: Any) -> dict[str, Tensor]:
    """What `generate` is given."""
    return dict(
        processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
        )
    )
