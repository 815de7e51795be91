"""A tiny Llama with random weights and a tokenizer of whole words, saved to a folder: a stand-in for a real LLM."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mmdpo.playground.tokenizer import LONGEST_ROW, build_tokenizer

ROLES = ("User", "Assistant", "System")
"""Words of the chat template that a composed model gives a language model without one."""


def save_tiny_llm(texts: Iterable[str], folder: Path, *, width: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """Makes a language model that knows nothing but has every word of some texts, and saves it with its tokenizer.

    Args:
        texts: Everything that prompts and answers will say; other words become ``<unk>``.
        folder: Where to.
        width: Length of a hidden state, a multiple of 16.
        layers: Transformer layers.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)} - {":"})
    tokenizer = build_tokenizer([*words, *(role for role in ROLES if role not in words)])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        max_position_embeddings=LONGEST_ROW,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=width**-0.5,  # the usual 0.02 suits widths of thousands
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
