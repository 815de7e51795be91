"""A tiny real LLaVA with a real processor, built in memory, and the shipped weights of one that was trained.

Everything is the class that a 7B LLaVA uses: `LlavaForConditionalGeneration` (CLIP tower, Llama text) and
`LlavaProcessor` (CLIP image processor, fast tokenizer, chat template). Only the sizes are small: about 1.5M parameters,
16 image tokens of 16x16 pixels, and a vocabulary of the world's words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from mmdpo.errors import ModelError
from mmdpo.playground.text import LANGUAGE
from mmdpo.playground.tokenizer import build_tokenizer, chat_template
from mmdpo.playground.world import IMAGE_SIZE

PATCH_SIZE: Final = 16
WIDTH: Final = 128
CHAT_TEMPLATE: Final = chat_template("image")
# The usual 0.02 suits widths of thousands; at this width the tower then stays blind for more than a thousand steps.
_INITIAL_SCALE: Final = WIDTH**-0.5
_WEIGHTS: Final = Path(__file__).parent / "weights"


def load_base() -> Path:
    """The folder of the shipped base model, for ``from_pretrained``.

    Raises:
        ModelError: The installation lacks the weights.
    """
    if not (_WEIGHTS / "model.safetensors").is_file():
        raise ModelError(
            f"the playground's weights are not in {_WEIGHTS}",
            why="The demo starts from a trained base model, which is part of the package.",
            fix="Install mmdpo again, or train them: python -m mmdpo.playground.recipe --out DIR",
        )
    return _WEIGHTS


def build_processor() -> LlavaProcessor:
    """The processor: 64x64 images to 16 image tokens, chat template as LLaVA-1.5's."""
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(LANGUAGE.vocabulary(), "image"),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """The untrained model for `build_processor`'s vocabulary, float32, about 1.5M parameters.

    Seed torch before the call for the same start.
    """
    tokenizer = processor.tokenizer
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        initializer_range=_INITIAL_SCALE,
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=WIDTH,
        initializer_range=_INITIAL_SCALE,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=48,
    )
    return model
