"""PaliGemma: a fixed number of image tokens, a prefix that sees both ways, an answer that does not, no chat template.

The processor takes `images` and a text with one `<image>` for each; it writes `<bos>` after the last image and a line
feed after the text (google/paligemma-3b-pt-224). `token_type_ids` are 0 for this prefix. An answer goes in as `suffix`:
type 1, ended by `<eos>`, the only token that stops generation.
"""

from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    GemmaConfig,
    GemmaTokenizer,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedConfig,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from tiny import tokenizers
from tiny.base import Tiny, build_model, set_generation

IMAGE_SIZE, PATCH_SIZE = 24, 8
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2


def build(
    seed: int = 0, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa", **overrides: Any
) -> Tiny:
    """Build the pair; an image is 9 tokens. `overrides` are fields of the `GemmaConfig`."""
    processor = make_processor()
    config = make_config(processor, GemmaConfig(**text_fields(processor) | overrides))
    model = build_model(
        PaliGemmaForConditionalGeneration, config, seed=seed, dtype=dtype, attn_implementation=attn_implementation
    )
    set_generation(model, processor.tokenizer, ["<eos>"])
    return Tiny("paligemma", model, processor, end_of_turn="<eos>")


def make_processor() -> PaliGemmaProcessor:
    """The processor, which adds `<image>` and the 1152 tokens of places and shapes to the tokenizer itself."""
    image_processor = SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    image_processor.image_seq_length = IMAGE_TOKENS
    return PaliGemmaProcessor(image_processor=image_processor, tokenizer=_tokenizer())


def text_fields(processor: PaliGemmaProcessor) -> dict[str, Any]:
    """The fields that the text models of both generations have."""
    tokenizer = processor.tokenizer
    return {
        # The published embedding matrix has more rows than the tokenizer has tokens, too.
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def make_config(processor: PaliGemmaProcessor, text_config: PreTrainedConfig) -> PaliGemmaConfig:
    """The config of the whole model around a text model's."""
    return PaliGemmaConfig(
        text_config=text_config,
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        ),
        image_token_index=processor.image_token_id,
        vocab_size=text_config.vocab_size,
        hidden_size=text_config.hidden_size,
        projection_dim=text_config.hidden_size,
        pad_token_id=text_config.pad_token_id,
    )


def _tokenizer() -> GemmaTokenizer:
    """Gemma's, with runs of line feeds as tokens of their own."""
    ids, merges = tokenizers._learn("gemma")
    tokenizer = GemmaTokenizer(vocab=dict(ids), merges=merges)
    tokenizer.add_tokens([AddedToken("\n" * run, special=False, normalized=False) for run in range(1, 5)])
    return tokenizer
