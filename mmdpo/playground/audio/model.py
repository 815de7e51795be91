"""A tiny Whisper-backed language model with a real processor, built in memory; trained weights ship beside it.

Everything is what a large one has: a composed model (`mmdpo.models.composed`) of Whisper's encoder, reading real
log-mel windows at 16 kHz, and a Llama. Only the sizes are small: windows of two seconds, 20 tokens a clip, 1.2M
parameters, and a vocabulary of the world's words.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mmdpo.modalities.whisper import SAMPLES_PER_FRAME, WhisperFeatures
from mmdpo.models.composed import compose
from mmdpo.playground.audio.text import LANGUAGE
from mmdpo.playground.audio.world import RATE, SECONDS
from mmdpo.playground.tokenizer import LONGEST_ROW, build_tokenizer

WIDTH: Final = 128
STACK: Final = 5
"""Encoder frames of 20 ms for one token."""
# The usual 0.02 suits widths of thousands; at this width the encoder stays deaf for long.
_INITIAL_SCALE: Final = WIDTH**-0.5
# As the tiny LLaVA's; what stands in a turn's content is the placeholder of the clip, then the text.
_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ message['role'] | upper }}:{{ ' ' }}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build(seed: int = 0) -> tuple[Any, Any]:
    """The untrained model, float32, and its processor.

    Args:
        seed: Seed of all weights.
    """
    tokenizer = build_tokenizer(LANGUAGE.vocabulary())
    tokenizer.chat_template = _CHAT_TEMPLATE
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LONGEST_ROW,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        initializer_range=_INITIAL_SCALE,
    )
    whisper = WhisperFeatures(
        config={
            "d_model": WIDTH,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 3 * WIDTH,
            "num_mel_bins": 80,
            "max_source_positions": RATE * SECONDS // SAMPLES_PER_FRAME,
            "init_std": _INITIAL_SCALE,
        },
        stack=STACK,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        llm = LlamaForCausalLM(text)
    model, processor = compose(
        llm, {"audio": whisper}, tokenizer=tokenizer, placeholders={"audio": "<audio>"}, seed=seed
    )
    model.generation_config.update(max_new_tokens=48)
    return model, processor
