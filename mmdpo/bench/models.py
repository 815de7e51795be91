"""Builds the measured models with random weights, and processors that need no download."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    SiglipVisionConfig,
)

from mmdpo.bench.shapes import Family, Shape
from mmdpo.playground.tokenizer import build_tokenizer, chat_template

WORDS = tuple(f"w{number}" for number in range(200))
"""What questions and answers are made of; each is one token."""
_PLACEHOLDERS: dict[Family, str] = {
    "llava": "<image>\n",
    "llava_onevision": "<image>\n",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
}
_SPECIAL = ("<video>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_CLASSES: dict[Family, type[PreTrainedModel]] = {
    "llava": LlavaForConditionalGeneration,
    "llava_onevision": LlavaOnevisionForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
}
_GRIDS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]


def build_processor(shape: Shape) -> Any:
    """The family's own processor class around a tokenizer of whole words."""
    tokenizer = _tokenizer(shape)
    # TRL adds no first token that its template does not write, so the template writes it
    template = "{{ bos_token }}" + chat_template("image").replace("<image>\n", _PLACEHOLDERS[shape.family])
    if shape.family == "qwen2_5_vl":
        return Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(),
            chat_template=template,
        )
    side, patch = shape.vision["image_size"], shape.vision["patch_size"]
    if shape.family == "llava_onevision":
        size = {"height": side, "width": side}
        return LlavaOnevisionProcessor(
            image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=_GRIDS),
            tokenizer=tokenizer,
            video_processor=LlavaOnevisionVideoProcessor(size=size),
            num_image_tokens=(side // patch) ** 2,
            vision_feature_select_strategy="full",
            chat_template=template,
        )
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def build_model(
    shape: Shape,
    tokenizer: PreTrainedTokenizerFast,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    seed: int = 0,
) -> Any:
    """The model with random weights of a seed, made on its device.

    Args:
        shape: What to build.
        tokenizer: Of :func:`build_processor`.
        device: ``"meta"`` gives the parameters' shapes alone.
        dtype: Precision of the weights.
        attention: ``transformers``' name of the attention kernel.
        seed: The same seed gives the same weights on the same kind of device.
    """
    config = build_config(shape, tokenizer)
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = _CLASSES[shape.family]._from_config(config, dtype=dtype, attn_implementation=attention)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config.update(bos_token_id=tokenizer.bos_token_id, **ids)
    return model.eval()


def build_config(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The model's configuration."""

    def token(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(name))

    if shape.family == "qwen2_5_vl":
        return Qwen2_5_VLConfig(
            text_config=dict(shape.text),
            vision_config=dict(shape.vision),
            tie_word_embeddings=shape.text.get("tie_word_embeddings", False),
            image_token_id=token("<|image_pad|>"),
            video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
        )
    if shape.family == "llava_onevision":
        return LlavaOnevisionConfig(
            text_config=Qwen2Config(**shape.text),
            vision_config=SiglipVisionConfig(**shape.vision),
            image_token_index=token("<image>"),
            video_token_index=token("<video>"),
            image_grid_pinpoints=_GRIDS,
            tie_word_embeddings=False,
        )
    return LlavaConfig(
        text_config=LlamaConfig(**shape.text, pad_token_id=tokenizer.pad_token_id),
        vision_config=CLIPVisionConfig(**shape.vision),
        image_token_index=token("<image>"),
        image_seq_length=shape.image_tokens,
        tie_word_embeddings=False,
    )


def _tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    # a placeholder of its own would take the place of those that Qwen's processor looks for
    tokenizer = build_tokenizer(WORDS, None if shape.family == "qwen2_5_vl" else "image")
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.model_max_length = shape.text["max_position_embeddings"]
    return tokenizer
