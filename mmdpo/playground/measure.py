"""Measures captions against their scenes, which are known exactly here: no synonyms, no parsing of plurals.

The demo and every published number use the real evals (`mmdpo.evals`); this is what accepting a base model needs, and
the rate that only this world can know: how often the usual object is named although it is absent.

    python -m mmdpo.playground.measure [--model DIR] [--scenes 2000] [--seed 0]
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from mmdpo.evals.pope import KINDS
from mmdpo.playground.drawing import draw
from mmdpo.playground.model import load_base
from mmdpo.playground.questions import pope_questions
from mmdpo.playground.text import CAPTION_PROMPT, answer, named_objects
from mmdpo.playground.world import Scene, scenes

logger = logging.getLogger(__name__)

_BATCH: Final = 100


@dataclass(frozen=True)
class CaptionCounts:
    """What one caption names.

    Attributes:
        usual: Whether it names the background's usual object although that is absent.
        other: Whether it names anything else that is absent.
        mentions: Objects named, repeats counted.
        absent_mentions: Those of them that are absent.
        found: Different present objects that are named.
        present: Objects that are there.
    """

    usual: bool
    other: bool
    mentions: int
    absent_mentions: int
    found: int
    present: int


@dataclass(frozen=True)
class CaptionMeasures:
    """The counts of each caption, in the order given, and their summaries as fractions."""

    counts: tuple[CaptionCounts, ...]

    @property
    def usual_object_rate(self) -> float:
        """Captions that name the absent usual object / captions."""
        return sum(count.usual for count in self.counts) / len(self.counts)

    @property
    def other_absent_rate(self) -> float:
        """Captions that name another absent object / captions."""
        return sum(count.other for count in self.counts) / len(self.counts)

    @property
    def chair_s(self) -> float:
        """Captions that name any absent object / captions (arXiv 1809.02156)."""
        return sum(count.absent_mentions > 0 for count in self.counts) / len(self.counts)

    @property
    def chair_i(self) -> float:
        """Mentions of absent objects / mentions (arXiv 1809.02156); 0 where nothing is mentioned."""
        mentions = sum(count.mentions for count in self.counts)
        return sum(count.absent_mentions for count in self.counts) / mentions if mentions else 0.0

    @property
    def recall(self) -> float:
        """Present objects that are named / present objects."""
        return sum(count.found for count in self.counts) / sum(count.present for count in self.counts)


def measure_captions(of_scenes: Sequence[Scene], captions: Sequence[str]) -> CaptionMeasures:
    """Counts what each caption names, for the scene at the same place."""
    return CaptionMeasures(tuple(_count(scene, text) for scene, text in zip(of_scenes, captions, strict=True)))


def _count(scene: Scene, caption: str) -> CaptionCounts:
    named = named_objects(caption)
    absent = [noun for noun in named if noun not in scene.objects]
    return CaptionCounts(
        usual=scene.usual in absent,
        other=any(noun != scene.usual for noun in absent),
        mentions=len(named),
        absent_mentions=len(absent),
        found=len(set(named) & set(scene.objects)),
        present=len(scene.objects),
    )


@torch.inference_mode()
def greedy_replies(
    model: PreTrainedModel, processor: ProcessorMixin, of_scenes: Sequence[Scene], prompts: Sequence[str]
) -> list[str]:
    """The model's greedy reply to each prompt about the scene at the same place."""
    replies: list[str] = []
    for start in range(0, len(of_scenes), _BATCH):
        part = slice(start, start + _BATCH)
        chats = [
            [{"role": "user", "content": [{"type": "image", "image": draw(scene)}, {"type": "text", "text": prompt}]}]
            for scene, prompt in zip(of_scenes[part], prompts[part], strict=True)
        ]
        batch = processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        ids = model.generate(**batch.to(model.device), do_sample=False)
        replies += processor.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return replies


def question_accuracy(
    model: PreTrainedModel, processor: ProcessorMixin, of_scenes: Sequence[Scene], kind: str
) -> float:
    """Share of the POPE questions of this kind that the model answers right, word for word."""
    rows = pope_questions(of_scenes, kind, seed=0)
    by_image = {scene.file_name: scene for scene in of_scenes}
    shown = [by_image[row["image"]] for row in rows]
    replies = greedy_replies(model, processor, shown, [row["text"] for row in rows])
    right = (reply == answer(row["label"] == "yes") for reply, row in zip(replies, rows, strict=True))
    return sum(right) / len(rows)


def main() -> None:
    """Command line: measures a base model on held-out scenes."""
    parser = argparse.ArgumentParser(description="Measure a playground model on held-out scenes.")
    parser.add_argument("--model", type=Path, help="folder of the model (default: the shipped one)")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = arguments.model or load_base()
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    held_out = scenes(arguments.scenes, arguments.seed, "heldout")
    measures = measure_captions(held_out, greedy_replies(model, processor, held_out, [CAPTION_PROMPT] * len(held_out)))
    for name in ("usual_object_rate", "other_absent_rate", "chair_i", "chair_s", "recall"):
        logger.info("%-20s %.4f", name, getattr(measures, name))
    for kind in KINDS:
        logger.info("%-20s %.4f", f"pope_{kind}", question_accuracy(model, processor, held_out, kind))


if __name__ == "__main__":
    main()
