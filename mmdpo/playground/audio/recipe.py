"""Trains the base model of the world of sounds from nothing.

    python -m mmdpo.playground.audio.recipe --out DIR [--steps N] [--seed S]

Each step learns one caption and one answer of each of 32 clips of the ``train`` split, both written by a careless
person (`Language.texts`). Making a clip and its log-mel windows costs as much as learning from it, so a number of clips
is made once and shown several times, each time with other texts.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmdpo.media.audio import Audio
from mmdpo.playground.audio.model import build
from mmdpo.playground.audio.sounds import render
from mmdpo.playground.audio.text import LANGUAGE
from mmdpo.playground.audio.world import RATE, Scene, sample_scene, scenes
from mmdpo.playground.training import BATCH_SCENES, TextEncoder, answer_loss, fit

logger = logging.getLogger(__name__)

CLIPS: Final = 8_000
"""How many different clips are made."""
STEPS: Final = 1500


def clip(scene: Scene) -> Audio:
    """A scene as the processor takes it."""
    return Audio(render(scene), RATE)


def encoder_inputs(processor: Any, of_scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """What the processor makes of the clips: ``input_features`` [B, 1, 80, 200], ``lengths`` [B, 1]."""
    prepared = [processor.encoders["audio"].prepare(clip(scene)) for scene in of_scenes]
    return {name: torch.cat([entry[name] for entry in prepared]) for name in prepared[0]}


def text_encoder(processor: Any) -> TextEncoder:
    """Texts to the model's ids."""
    return TextEncoder(processor, "audio", clip(sample_scene(0)))


def clip_loss(model: Any, encoder: TextEncoder, inputs: dict[str, Tensor], texts: Sequence[Any]) -> Tensor:
    """Mean cross-entropy per answer token over captions and answers; each clip is encoded once."""
    features = torch.stack(list(model.model.get_media_features("audio", **inputs).pooler_output))
    return answer_loss(model, encoder, features, texts)


def train(steps: int, seed: int = 0, clips: int = CLIPS) -> tuple[Any, Any, list[float]]:
    """Trains a base model.

    Args:
        steps: Optimizer steps of 32 clips each.
        seed: Start values and scenes.
        clips: How many different clips.

    Returns:
        The model in evaluation mode, its processor, and the loss of every step.
    """
    model, processor = build(seed)
    encoder = text_encoder(processor)
    known = scenes(clips, seed, "train")
    made = encoder_inputs(processor, known)
    made["input_features"] = made["input_features"].half()  # half the memory; Whisper itself runs in half precision
    logger.info("%d clips are made", clips)
    order = _shuffled(clips, seed)

    def loss_of(step: int) -> Tensor:
        del step
        picked = [next(order) for _ in range(BATCH_SCENES)]
        index = torch.tensor([number for number, _ in picked])
        inputs = {"input_features": made["input_features"][index].float(), "lengths": made["lengths"][index]}
        return clip_loss(model, encoder, inputs, [LANGUAGE.texts(known[number], turn) for number, turn in picked])

    return model, processor, fit(model, steps, loss_of)


def _shuffled(count: int, seed: int) -> Iterator[tuple[int, int]]:
    """(number, turn) of every clip, again and again, each turn in another order."""
    turn = 0
    while True:
        order = list(range(count))
        random.Random(f"turn {turn} {seed}").shuffle(order)
        yield from ((number, turn) for number in order)
        turn += 1


def save(model: Any, processor: Any, folder: Path) -> None:
    """Writes model and processor as `from_pretrained` reads them: weights in float16, computed with in float32."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description="Train the base model of the world of sounds from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model, processor, _ = train(arguments.steps, arguments.seed)
    save(model, processor, arguments.out)


if __name__ == "__main__":
    main()
