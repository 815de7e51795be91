"""Trains the playground's base model from nothing.

    python -m mmdpo.playground.recipe --out DIR [--steps N] [--seed S]

Each step draws fresh scenes of the ``train`` split and learns one caption and one answer of each, both written by a
careless person (`Language.texts`). AdamW, linear warm-up, cosine decay, cross-entropy on the
answer tokens alone.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmdpo.playground import world
from mmdpo.playground.drawing import draw, draw_pixels
from mmdpo.playground.model import build_model, build_processor
from mmdpo.playground.text import LANGUAGE
from mmdpo.playground.training import BATCH_SCENES, TextEncoder, answer_loss, fit


def pixel_values(scenes: Sequence[world.Scene], processor: LlavaProcessor) -> torch.Tensor:
    """What the image processor makes of the pictures, [B, 3, 64, 64], without its per-image overhead."""
    mean, std = (
        np.array(value, dtype=np.float32)
        for value in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    pixels = np.stack([draw_pixels(scene) for scene in scenes]).astype(np.float32) / 255
    return torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()


def scene_loss(
    model: LlavaForConditionalGeneration, encoder: TextEncoder, scenes: Sequence[world.Scene]
) -> torch.Tensor:
    """Mean cross-entropy per answer token over captions and answers; each picture is encoded once."""
    pixels = pixel_values(scenes, encoder.processor)
    features = torch.stack(list(model.model.get_image_features(pixel_values=pixels).pooler_output))
    return answer_loss(model, encoder, features, [LANGUAGE.texts(scene) for scene in scenes])


def text_encoder() -> TextEncoder:
    """Texts to the model's ids."""
    return TextEncoder(build_processor(), "image", draw(world.sample_scene(0)))


def train(steps: int, seed: int = 0) -> tuple[LlavaForConditionalGeneration, list[float]]:
    """Trains a base model.

    Args:
        steps: Optimizer steps of 32 scenes each.
        seed: Start values and scenes.

    Returns:
        The model in evaluation mode, and the loss of every step.
    """
    torch.manual_seed(seed)
    encoder = text_encoder()
    model = build_model(encoder.processor)
    numbers = world.scene_numbers(steps * BATCH_SCENES, seed, "train")

    def loss_of(step: int) -> torch.Tensor:
        batch = numbers[step * BATCH_SCENES : (step + 1) * BATCH_SCENES]
        return scene_loss(model, encoder, [world.sample_scene(number) for number in batch])

    return model, fit(model, steps, loss_of)


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Writes model and processor as `from_pretrained` reads them (safetensors)."""
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description="Train the playground's base model from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model, _ = train(arguments.steps, arguments.seed)
    save(model, arguments.out)


if __name__ == "__main__":
    main()
