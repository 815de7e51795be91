"""LFM2-VL: short convolutions along the row in most layers; images as they are, or in tiles with a coarse view last.

The facts are those of LiquidAI/LFM2-VL-3B.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    PreTrainedTokenizerFast,
    Siglip2VisionConfig,
)

from tiny import qwen_family, tokenizers
from tiny.base import Tiny, build_model, set_generation

TILE, PATCH_SIZE = 16, 4
MOST_TILES = 4
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|image_start|>",
    "<|image_end|>",
    "<|img_thumbnail|>",
    "<image>",
    *(f"<|img_row_{row}_col_{column}|>" for row in range(1, MOST_TILES + 1) for column in range(1, MOST_TILES + 1)),
]

# Parts in their order, no default system turn, nothing trimmed.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 4 to 24 tokens by its size, and marks. `overrides` are fields of the `Lfm2Config`."""
    tokenizer = _tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "conv", "full_attention", "conv"],
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Lfm2VlConfig(
        text_config=Lfm2Config(**text | overrides),
        vision_config=Siglip2VisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_patches=16,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=48,
    )
    processor = Lfm2VlProcessor(
        image_processor=Lfm2VlImageProcessor(
            encoder_patch_size=PATCH_SIZE,
            tile_size=TILE,
            max_tiles=MOST_TILES,
            min_image_tokens=4,
            max_image_tokens=9,
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    model = build_model(
        Lfm2VlForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, tokenizer, ["<|im_end|>"])
    return Tiny("lfm2_vl", model, processor, end_of_turn="<|im_end|>")


def _tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, `<|startoftext|>` in front."""
    ids, merges = qwen_family.byte_vocabulary()
    backend = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    bos = "<|startoftext|>"
    backend.add_special_tokens(["<|pad|>", bos])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token="<|im_end|>", pad_token="<|pad|>", padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer
