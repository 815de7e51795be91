"""An untrained LLaVA that says yes and no, photos, and eighteen questions about each, as POPE asks them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFilter
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from mmdpo.playground.model import CHAT_TEMPLATE
from mmdpo.playground.text import LANGUAGE
from mmdpo.playground.tokenizer import build_tokenizer
from mmdpo.records import Media, Record, user_message

OBJECTS = ("star", "boat", "tree", "house", "sun", "lake")
COLOURS = ("red", "yellow", "blue")
PATCH = 14
HEAD = 64
"""Width of an attention head."""
ROOM = 512
"""Positions of the model beside those of an image."""
QUESTION = 64
"""More of them than template and question take."""


def speaking_model(pixels: int, width: int, layers: int) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """An untrained LLaVA for images of so many pixels a side, with the playground's words, and its processor.

    Args:
        pixels: A side of its images.
        width: Of tower and language model.
        layers: Of each.
    """
    tokens = (pixels // PATCH) ** 2
    tokenizer = build_tokenizer(LANGUAGE.vocabulary(), "image")
    tokenizer.model_max_length = tokens + ROOM
    size = {"size": {"shortest_edge": pixels}, "crop_size": {"height": pixels, "width": pixels}}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(**size),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    shape: dict[str, int] = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": width // HEAD}
    scale = width**-0.5  # the usual 0.02 suits widths of thousands; here all answers would be alike
    config = LlavaConfig(
        text_config=LlamaConfig(
            **shape,
            vocab_size=len(tokenizer),
            num_hidden_layers=layers,
            max_position_embeddings=tokens + ROOM,
            initializer_range=scale,
        ),
        vision_config=CLIPVisionConfig(
            **shape, num_hidden_layers=layers, image_size=pixels, patch_size=PATCH, initializer_range=scale
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=tokens,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model, processor


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Blurred shapes of random colours, 640 x 480, as JPEG files of a photo's size."""
    paths = []
    for number in range(count):
        draws = random.Random(number)
        photo = Image.new("RGB", (640, 480))
        pen = ImageDraw.Draw(photo)
        for _ in range(400):
            x, y, size = draws.randrange(-50, 640), draws.randrange(-50, 480), draws.randrange(10, 150)
            red, green, blue = draws.randbytes(3)
            pen.ellipse((x, y, x + size, y + draws.randrange(10, 150)), fill=(red, green, blue))
        paths.append(folder / f"{number}.jpg")
        photo.filter(ImageFilter.GaussianBlur(1)).save(paths[-1], quality=90)
    return paths


def questions(photos: Sequence[Path]) -> list[Record]:
    """Eighteen questions about each photo."""
    return [
        Record(
            f"{photo.name}/{colour}/{thing}",
            (user_message(f"Is there a {colour} {thing} in the image?", images=1),),
            (),
            {"images": (Media(path=photo.name),)},
        )
        for photo in photos
        for thing in OBJECTS
        for colour in COLOURS
    ]
