"""The models that are measured: real architectures at real or small sizes. Weights are random; speed is not theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmdpo.errors import ConfigError, did_you_mean

Family = Literal["llava", "llava_onevision", "qwen2_5_vl"]


@dataclass(frozen=True)
class Shape:
    """A model, the images that it gets, and the length of its prompts.

    Args:
        family: Which classes.
        text: Fields of the language model's config.
        vision: Fields of the tower's config.
        pixels: (width, height) of the images.
        image_tokens: Placeholders that such an image takes.
        tower_tokens: Positions that the tower computes for it.
        prefix: Tokens of image and question together.
        device: Where the shape is meant to run.
        checkpointing: Whether activations are recomputed unless told otherwise.
        lora_rank: Rank of the adapter on all linear layers of the language model.
    """

    family: Family
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    pixels: tuple[int, int]
    image_tokens: int
    tower_tokens: int
    prefix: int
    device: Literal["cpu", "cuda"] = "cuda"
    checkpointing: bool = True
    lora_rank: int = 64


_CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_QWEN_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


def _small(vocabulary: int) -> Shape:
    """LLaVA-1.5's images and prompts in front of a language model that a CPU trains in seconds a step."""
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    }
    vision = _CLIP_LARGE | {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 256,
    }
    return Shape("llava", text, vision, (336, 336), 576, 577, 616, "cpu", checkpointing=False, lora_rank=16)


def _qwen(**text: int) -> Shape:
    common = {"max_position_embeddings": 32768, "rope_parameters": _QWEN_ROPE}
    vision = _QWEN_TOWER | {"out_hidden_size": text["hidden_size"]}
    return Shape("qwen2_5_vl", common | text, vision, (1120, 700), 1000, 4000, 1050)


_QWEN_ROPE = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
_TINY_TEXT = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_TINY_VISION = _CLIP_LARGE | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "projection_dim": 64,
}

SHAPES: dict[str, Shape] = {
    "tiny": Shape("llava", _TINY_TEXT, _TINY_VISION, (56, 56), 16, 17, 32, "cpu", checkpointing=False, lora_rank=4),
    "small-2k": _small(2048),
    "small-32k": _small(32064),
    "llava-1.5-7b": Shape(
        "llava",
        {
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
        },
        _CLIP_LARGE,
        (336, 336),
        576,
        577,
        616,
    ),
    "llava-onevision-7b": Shape(
        "llava_onevision",
        {
            "vocab_size": 152000,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
        },
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
            "vision_use_head": False,
        },
        (384, 384),
        1485,
        1458,
        1530,
    ),
    "qwen2.5-vl-3b": _qwen(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2.5-vl-7b": _qwen(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    ),
}
"""``tiny`` is for trying whether a measurement runs; its numbers say nothing."""


def get_shape(name: str) -> Shape:
    """The shape of a name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in SHAPES:
        raise ConfigError(
            f"there is no shape {name!r}",
            why="A measurement needs a model.",
            fix=did_you_mean(name, SHAPES),
        )
    return SHAPES[name]


def with_pixels(shape: Shape, side: int) -> Shape:
    """The shape with square images of another size; the question stays as long as it is.

    Raises:
        ConfigError: Its images are cut or packed by their size, or the side is no multiple of its patches.
    """
    patch = shape.vision["patch_size"]
    if shape.family != "llava" or side % patch:
        raise ConfigError(
            f"images of {side} pixels a side do not go with this shape ({shape.family}, patches of {patch})",
            why="The number of image tokens would not follow from it.",
            fix=f"Use a shape of the llava family, and a multiple of {patch}.",
        )
    tokens = (side // patch) ** 2
    prefix = shape.prefix - shape.image_tokens + tokens
    vision = {**shape.vision, "image_size": side}
    sizes = {"image_tokens": tokens, "tower_tokens": tokens + 1, "prefix": prefix}
    return replace(shape, vision=vision, pixels=(side, side), **sizes)
