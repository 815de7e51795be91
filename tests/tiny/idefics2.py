"""Idefics2: each image as four quarters and the whole, of any size; a resampler to a fixed number of tokens; Mistral.

The processor writes `<fake_token_around_image>` around every part, one where two meet, and a space between the last one
and a word that follows.
"""

from typing import Any

import torch
from transformers import (
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessor,
    Idefics2Processor,
    LlamaTokenizer,
    MistralConfig,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

SHORTEST_EDGE, LONGEST_EDGE, PATCH_SIZE, LATENTS = 16, 32, 4, 4
SLIDING_WINDOW = 24
"""Shorter than every prompt, in all layers (of which there are four, so that the last token still feels two images)."""

# As in HuggingFaceM4/idefics2-8b (chat_template.json). Parts in their order, nothing trimmed; the space after a role is
# left out when its turn starts with an image. `<s>` is not written here but added by the tokenizer. Content that is a
# plain string has no parts, so it is an error or nothing.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].capitalize() ~ (':' if message['content'][0]['type'] == 'image' else ': ') }}"
    "{% for part in message['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<image>' if part['type'] == 'image' else '' }}"
    "{% endfor %}"
    "{{ '<end_of_utterance>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 20 tokens, and marks. `overrides` are fields of the `MistralConfig`."""
    processor = Idefics2Processor(
        image_processor=Idefics2ImageProcessor(
            size={"shortest_edge": SHORTEST_EDGE, "longest_edge": LONGEST_EDGE}, do_image_splitting=True
        ),
        tokenizer=_tokenizer(),
        image_seq_len=LATENTS,
        chat_template=TEMPLATE,
    )
    tokenizer = processor.tokenizer
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": SLIDING_WINDOW,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text_config = MistralConfig(**text | overrides)
    config = Idefics2Config(
        text_config=text_config,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": LONGEST_EDGE,
            "patch_size": PATCH_SIZE,
        },
        perceiver_config={
            "hidden_size": text_config.hidden_size,
            "rms_norm_eps": text_config.rms_norm_eps,
            "resampler_n_latents": LATENTS,
            "resampler_depth": 2,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        image_token_id=processor.image_token_id,
    )
    model = build_model(
        Idefics2ForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["</s>", "<end_of_utterance>"])
    return Tiny("idefics2", model, processor, end_of_turn="<end_of_utterance>")


def _tokenizer() -> LlamaTokenizer:
    """Mistral's, padded with `<unk>` on the left; the processor adds its three tokens itself."""
    ids, merges = tokenizers._learn("llama")
    return LlamaTokenizer(vocab=dict(ids), merges=merges, add_bos_token=True, pad_token="<unk>", padding_side="left")
