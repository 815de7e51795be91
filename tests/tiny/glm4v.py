"""GLM-4V: positions in three rows on half of each head, four norms a layer, video frames as images with their second.

The chat template and the special tokens are those of zai-org/GLM-4.1V-9B-Thinking; of the special tokens only the names
are used. The template ends no answer: what ends it is the next turn's `<|user|>` (`</answer>` after a thought, or
`<|observation|>` before a tool's reply), and `<|endoftext|>`, the first of the published stop ids, is never rendered.
Not sure of: `</answer>` as the name of the fourth stop id (151348).
"""

from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    PreTrainedTokenizerFast,
)

from tiny import qwen_family, tokenizers
from tiny.base import Tiny, build_model, set_generation

PATCH_SIZE = 4
PIXELS = {"shortest_edge": 2 * 16 * 16, "longest_edge": 2 * 32 * 32}
"""Least and most pixels of an image, which counts as two frames: 4 to 16 tokens of 8 x 8 pixels."""
VIDEO_PIXELS = {"shortest_edge": 2 * 8 * 8, "longest_edge": 4 * 16 * 16}
"""Least and most pixels of a whole video: up to 8 tokens."""

SPECIAL = [
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|image|>",
    "<|video|>",
]
ADDED = ["<think>", "</think>", "<answer>", "</answer>"]
STOP_TOKENS = ["<|endoftext|>", "<|user|>", "<|observation|>", "</answer>"]

# Parts of a user turn in their order; no end of turn anywhere. Answers and system turns are written as they are: a list
# of parts comes out as Python's text of that list, so their content has to be a plain string.
CHAT_TEMPLATE = (
    "{{ '[gMASK]<sop>' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|system|>\n' ~ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' ~ (message['metadata'] or '') ~ '\n' ~ message['content'] }}"
    "{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' or 'video' in part %}{{ '<|begin_of_video|><|video|><|end_of_video|>' }}"
    "{% elif part['type'] == 'image' or 'image' in part %}{{ '<|begin_of_image|><|image|><|end_of_image|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 4 to 16 tokens by its size, a video up to 4 tokens and a second for two frames.

    `overrides` are fields of the `Glm4vTextConfig`.
    """
    tokenizer = _tokenizer()
    text = {
        # The published embedding matrix has more rows than the tokenizer has tokens, too.
        "vocab_size": len(tokenizer) + 6,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [2, 3, 3],
            "partial_rotary_factor": 0.5,
        },
        "eos_token_id": tokenizer.convert_tokens_to_ids(STOP_TOKENS),
        "pad_token_id": tokenizer.pad_token_id,
    }
    names = {"image": "<|image|>", "video": "<|video|>"} | {
        f"{kind}_{mark}": f"<|{mark.replace('start', 'begin')}_of_{kind}|>"
        for kind in ("image", "video")
        for mark in ("start", "end")
    }
    config = Glm4vConfig(
        text_config=text | overrides,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "image_size": 32,
            "patch_size": PATCH_SIZE,
            "out_hidden_size": (text | overrides)["hidden_size"],
        },
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    processor = Glm4vProcessor(
        image_processor=Glm4vImageProcessor(patch_size=PATCH_SIZE, size=PIXELS),
        tokenizer=tokenizer,
        video_processor=Glm4vVideoProcessor(patch_size=PATCH_SIZE, size=VIDEO_PIXELS),
        chat_template=CHAT_TEMPLATE,
    )
    model = build_model(
        Glm4vForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    model.model.visual.embeddings.register_forward_pre_hook(_as_precise_as_weights)
    set_generation(model, tokenizer, STOP_TOKENS)
    return Tiny("glm4v", model, processor, end_of_turn="<|user|>")


def _as_precise_as_weights(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Coordinates in the precision that the position table is cast to.

    The table is sampled in float32, which `exact_float64` keeps in float64; coordinates, made from integers, would stay
    behind, and sampling takes no two precisions. Elsewhere nothing changes.
    """
    precision = module.position_embedding.weight.to(torch.float32).dtype
    *others, rows, columns = inputs
    return (*others, rows.to(precision), columns.to(precision))


def _tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, no token in front, padded on the left."""
    ids, merges = qwen_family.byte_vocabulary()
    backend = Tokenizer(models.BPE(vocab=ids, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED])
    return tokenizer
