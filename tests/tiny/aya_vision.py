"""Aya Vision: tiles with the coarse view last, named in ordinary text between placeholders; Cohere 2 with a window.

An image in the text is `<|START_OF_IMG|>`, each tile `TILE_1`, `TILE_2`, ... and its placeholders, `TILE_GLOBAL` and
the placeholders of the coarse view, `<|END_OF_IMG|>`.
"""

from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Cohere2Config,
    CohereTokenizer,
    GotOcr2ImageProcessor,
    SiglipVisionConfig,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

TILE, PATCH_SIZE, SHUFFLE, MOST_TILES = 16, 4, 2, 4
SLIDING_WINDOW = 8
"""Shorter than every prompt."""
FIRST = ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>", "<EOP_TOKEN>"]
TURNS = [
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
]
IMAGES = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "<image>"]

# As in CohereLabs/aya-vision-8b (chat_template.json), whose default system turn is a long one; this one is short.
# Parts in their order, nothing trimmed. Not sure: whether answers stand between `<|START_RESPONSE|>` and
# `<|END_RESPONSE|>`, as those of its text model (CohereLabs/c4ai-command-r7b-12-2024) do; here they do not.
TEMPLATE = (
    "{% macro turn(role, content) %}"
    "{{ '<|START_OF_TURN_TOKEN|><|' ~ role ~ '_TOKEN|>' }}"
    "{% if content is string %}{{ content }}"
    "{% else %}"
    "{% for part in content %}"
    "{{ part['text'] if part['type'] == 'text' else '<image>' if part['type'] == 'image' else '' }}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|END_OF_TURN_TOKEN|>' }}"
    "{% endmacro %}"
    "{{ bos_token }}"
    "{% if messages[0]['role'] != 'system' %}{{ turn('SYSTEM', 'You are Aya.') }}{% endif %}"
    "{% for message in messages %}"
    "{{ turn({'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[message['role']], message['content']) }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 4 to 20 tokens by its shape, and marks. `overrides` are of the `Cohere2Config`."""
    tokenizer = _tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "sliding_window": SLIDING_WINDOW,
        # As published; `AyaVisionForConditionalGeneration` does not apply it.
        "logit_scale": 0.25,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AyaVisionConfig(
        text_config=Cohere2Config(**text | overrides),
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=TILE,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        ),
        downsample_factor=SHUFFLE,
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    processor = AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessor(size={"height": TILE, "width": TILE}, max_patches=MOST_TILES),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        img_size=TILE,
        downsample_factor=SHUFFLE,
        chat_template=TEMPLATE,
    )
    model = build_model(
        AyaVisionForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<|END_OF_TURN_TOKEN|>"])
    return Tiny("aya_vision", model, processor, end_of_turn="<|END_OF_TURN_TOKEN|>")


def _tokenizer() -> CohereTokenizer:
    """Cohere's: bytes, digits apart, `<BOS_TOKEN>` in front; the names of tiles are tokens, but not special ones."""
    learnt, merges = tokenizers._learn("bytes")
    ids = {token: index for index, token in enumerate([*FIRST, *learnt])}
    tokenizer = CohereTokenizer(vocab=ids, merges=merges, add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [*TURNS, *IMAGES]})
    names = ["TILE_GLOBAL", *(f"TILE_{tile}" for tile in range(1, 13))]
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in names])
    return tokenizer
