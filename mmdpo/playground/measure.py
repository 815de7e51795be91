"""Measures captions against their scenes, which are known exactly here: no synonyms, no parsing of plurals.

The demo and every published number use the real evals (`mmdpo.evals`); this is what accepting a base model needs, and
the rate that only this world can know: how often the usual object is named although it is absent.

    python -m mmdpo.playground.measure [--audio] [--model DIR] [--scenes 2000] [--seed 0]
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmdpo.answering.loading import encoder_of
from mmdpo.evals.pope import KINDS
from mmdpo.generate import GenerationSettings, generate
from mmdpo.models.load import load_pretrained
from mmdpo.playground.audio.worlds import SOUNDS
from mmdpo.playground.language import Language, Scene, answer
from mmdpo.playground.questions import pope_questions
from mmdpo.playground.worlds import PICTURES, World
from mmdpo.records import Media, Record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionCounts:
    """What one caption names.

    Attributes:
        usual: Whether it names the place's usual thing although that is absent.
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
        """Captions that name the absent usual thing / captions."""
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


def measure_captions(
    of_scenes: Sequence[Scene], captions: Sequence[str], language: Language = PICTURES.language
) -> CaptionMeasures:
    """Counts what each caption names, for the scene at the same place."""
    return CaptionMeasures(
        tuple(_count(scene, language.named_objects(text)) for scene, text in zip(of_scenes, captions, strict=True))
    )


def _count(scene: Scene, named: Sequence[str]) -> CaptionCounts:
    absent = [noun for noun in named if noun not in scene.objects]
    return CaptionCounts(
        usual=scene.usual in absent,
        other=any(noun != scene.usual for noun in absent),
        mentions=len(named),
        absent_mentions=len(absent),
        found=len(set(named) & set(scene.objects)),
        present=len(scene.objects),
    )


def greedy_replies(
    model: Any, processor: Any, of_scenes: Sequence[Scene], prompts: Sequence[str], world: World = PICTURES
) -> list[str]:
    """The model's greedy reply to each prompt about the scene at the same place."""
    records = [
        Record(
            id=f"{number}",
            prompt=world.prompt(prompt),
            candidates=(),
            media={world.plural: (Media(data=world.file(scene)),)},
        )
        for number, (scene, prompt) in enumerate(zip(of_scenes, prompts, strict=True))
    ]
    settings = GenerationSettings(max_new_tokens=48, batch_size=100)
    return [answers[0].text for answers in generate(model, encoder_of(model, processor, None), records, settings)]


def question_accuracy(
    model: Any, processor: Any, of_scenes: Sequence[Scene], kind: str, world: World = PICTURES
) -> float:
    """Share of the POPE questions of this kind that the model answers right, word for word."""
    rows = pope_questions(of_scenes, kind, seed=0, language=world.language)
    by_file = {scene.file_name: scene for scene in of_scenes}
    shown = [by_file[row["image"]] for row in rows]
    replies = greedy_replies(model, processor, shown, [row["text"] for row in rows], world)
    right = (reply == answer(row["label"] == "yes") for reply, row in zip(replies, rows, strict=True))
    return sum(right) / len(rows)


def measure(folder: str, world: World, count: int, seed: int) -> dict[str, float]:
    """Everything there is to measure of a base model on held-out scenes.

    Args:
        folder: The model, or the name of one that ships.
        world: Where its scenes come from.
        count: How many scenes.
        seed: Their seed.
    """
    model, processor = load_pretrained(folder)
    held_out = world.scenes(count, seed, "heldout")
    prompts = [world.language.caption_prompt] * count
    captions = greedy_replies(model, processor, held_out, prompts, world)
    measures = measure_captions(held_out, captions, world.language)
    names = ("usual_object_rate", "other_absent_rate", "chair_i", "chair_s", "recall")
    return {name: getattr(measures, name) for name in names} | {
        f"pope_{kind}": question_accuracy(model, processor, held_out, kind, world) for kind in KINDS
    }


def main() -> None:
    """Command line: measures a base model on held-out scenes."""
    parser = argparse.ArgumentParser(description="Measure a playground model on held-out scenes.")
    parser.add_argument("--audio", action="store_true", help="the world of sounds instead of that of pictures")
    parser.add_argument("--model", help="folder of the model (default: the shipped one)")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    world = SOUNDS if given.audio else PICTURES
    for name, value in measure(given.model or world.model, world, given.scenes, given.seed).items():
        logger.info("%-20s %.4f", name, value)


if __name__ == "__main__":
    main()
