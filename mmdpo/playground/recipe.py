"""Trains the playground's base model from nothing.

    python -m mmdpo.playground.recipe --out DIR [--steps N] [--seed S]

Each step draws fresh scenes of the ``train`` split and learns one caption and one answer of each, both written by a
careless person (`text.caption`, `text.habitual_answer`). AdamW, linear warm-up, cosine decay, cross-entropy on the
answer tokens alone.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmdpo.playground import text, world
from mmdpo.playground.drawing import draw, draw_pixels
from mmdpo.playground.model import build_model, build_processor

logger = logging.getLogger(__name__)

BATCH_SCENES: Final = 32
LEARNING_RATE: Final = 1.5e-3
WARM_UP_STEPS: Final = 150
IGNORED: Final = -100


@dataclass
class TextEncoder:
    """Turns prompts and answers into ids: the prompt is what `generate` gets, the answer what it must emit.

    There are only a dozen prompts, so each is rendered by the processor once.
    """

    processor: LlavaProcessor
    _prompts: dict[str, list[int]] = field(default_factory=dict)

    def prompt(self, request: str) -> list[int]:
        """Ids of the generation prompt for one image and this request."""
        if request not in self._prompts:
            picture = draw(world.sample_scene(0))
            parts = [{"type": "image", "image": picture}, {"type": "text", "text": request}]
            rendered = self.processor.apply_chat_template(
                [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True, return_dict=True
            )
            self._prompts[request] = list(rendered["input_ids"][0])
        return self._prompts[request]

    def answer(self, reply: str) -> list[int]:
        """Ids of the answer with the end token."""
        tokenizer = self.processor.tokenizer
        return [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    def rows(self, texts: Sequence[tuple[str, str]]) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels` [B, T] of (prompt, answer) texts, padded on the right.

        A causal model needs no mask for padding on the right, and is a fifth faster without one.
        """
        coded = [(self.prompt(prompt), self.answer(answer)) for prompt, answer in texts]
        shape = len(coded), max(len(prompt) + len(answer) for prompt, answer in coded)
        input_ids = torch.full(shape, self.processor.tokenizer.pad_token_id)
        labels = torch.full(shape, IGNORED)
        for row, (prompt, answer) in enumerate(coded):
            start, end = len(prompt), len(prompt) + len(answer)
            input_ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, start:end] = torch.tensor(answer)
        return {"input_ids": input_ids, "labels": labels}


def pixel_values(scenes: Sequence[world.Scene], processor: LlavaProcessor) -> torch.Tensor:
    """What the image processor makes of the pictures, [B, 3, 64, 64], without its per-image overhead."""
    mean, std = (
        np.array(value, dtype=np.float32)
        for value in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    pixels = np.stack([draw_pixels(scene) for scene in scenes]).astype(np.float32) / 255
    return torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()


def training_texts(scene: world.Scene) -> list[tuple[str, str]]:
    """One caption row and one question row of a scene, always the same for the same scene."""
    rng = random.Random(f"text {scene.number}")
    asked = text.ask(scene, rng)
    return [
        (text.CAPTION_PROMPT, text.caption(scene, rng)),
        (text.question(asked.noun), text.habitual_answer(scene, asked, rng)),
    ]


def scene_loss(
    model: LlavaForConditionalGeneration, encoder: TextEncoder, scenes: Sequence[world.Scene]
) -> torch.Tensor:
    """Mean cross-entropy per answer token over captions and answers; each picture is encoded once."""
    pixels = pixel_values(scenes, encoder.processor)
    features = torch.stack(list(model.model.get_image_features(pixel_values=pixels).pooler_output))
    total, count = torch.zeros(()), 0
    for texts in zip(*(training_texts(scene) for scene in scenes), strict=True):
        rows = encoder.rows(texts)
        embedded = model.get_input_embeddings()(rows["input_ids"])
        at_image = (rows["input_ids"] == model.config.image_token_id).unsqueeze(-1)
        hidden = model.model.language_model(
            inputs_embeds=embedded.masked_scatter(at_image, features),
            use_cache=False,
        ).last_hidden_state
        targets = rows["labels"][:, 1:]
        scored = targets != IGNORED
        logits = model.lm_head(hidden[:, :-1][scored])
        total = total + torch.nn.functional.cross_entropy(logits, targets[scored], reduction="sum")
        count += len(logits)
    return total / count


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm_up = min(WARM_UP_STEPS, max(1, steps // 10))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train(steps: int, seed: int = 0) -> tuple[LlavaForConditionalGeneration, list[float]]:
    """Trains a base model.

    Args:
        steps: Optimizer steps of 32 scenes each.
        seed: Start values and scenes.

    Returns:
        The model in evaluation mode, and the loss of every step.
    """
    torch.manual_seed(seed)
    encoder = TextEncoder(build_processor())
    model = build_model(encoder.processor).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    numbers = world.scene_numbers(steps * BATCH_SCENES, seed, "train")
    losses: list[float] = []
    started = time.monotonic()
    for step in range(steps):
        batch = [world.sample_scene(number) for number in numbers[step * BATCH_SCENES : (step + 1) * BATCH_SCENES]]
        loss = scene_loss(model, encoder, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            recent = sum(losses[-100:]) / 100
            logger.info("step %d of %d: loss %.4f, %.0f s", step + 1, steps, recent, time.monotonic() - started)
    return model.eval(), losses


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
