"""Ovis2: the tower picks from a visual vocabulary, whose embeddings stand in for image tokens and for the marks around.

The facts are those of thisisiron/Ovis2-1B-hf, its template as the conversion script in huggingface/transformers has it.
Not sure of: the stop ids, taken from Qwen2.5-Instruct, on which it is built.
"""

from typing import Any

import torch
from transformers import (
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2ImageProcessor,
    Ovis2Processor,
    Qwen2Config,
)

from tiny import qwen_family, tokenizers
from tiny.base import Tiny, build_model, set_generation

TILE, PATCH_SIZE, STRIDE = 16, 4, 2
TILE_TOKENS = (TILE // PATCH_SIZE // STRIDE) ** 2
MOST_TILES = 4
IMAGE_TOKEN = "<IMG_ATOM>"
MARKS = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
"""Tokens whose embeddings the model replaces with the last rows of its visual vocabulary."""

# Parts in their order, a line feed after an image. The default system turn comes always, also before another one.
CHAT_TEMPLATE = (
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 4 to 20 tokens by its size, and marks. `overrides` are fields of `Qwen2Config`."""
    tokenizer = qwen_family.tokenizer(
        tokenizers.QWEN2_ADDED, special=[*tokenizers.QWEN2_SPECIAL[1:], IMAGE_TOKEN, *MARKS]
    )
    text = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    } | overrides
    config = Ovis2Config(
        text_config=Qwen2Config(**text),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": TILE,
            "patch_size": PATCH_SIZE,
            "hidden_stride": STRIDE,
            "vocab_size": 40,
        },
        hidden_size=text["hidden_size"],
        vocab_size=text["vocab_size"],
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(MARKS),
    )
    processor = Ovis2Processor(
        image_processor=Ovis2ImageProcessor(
            crop_to_patches=True, max_patches=MOST_TILES, size={"height": TILE, "width": TILE}
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        image_seq_length=TILE_TOKENS,
    )
    model = build_model(
        Ovis2ForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, qwen_family.STOP_TOKENS)
    return Tiny("ovis2", model, processor, end_of_turn="<|im_end|>")
