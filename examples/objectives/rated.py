"""What all arms learn from: the same rated captions and answers, as pairs, ranked lists or single labelled answers.

Every scene has at most four different captions of the base model and both answers to a yes/no question, each rated by
three simulated people. A form leaves out what it cannot use.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from data_builders.running.build import build
from mmdpo.evals.shared.pope_questions import write_questions
from mmdpo.jsonfiles import write_json
from mmdpo.playground.demo import Plan, ratings_config, sample_captions, shuffled
from mmdpo.playground.files import write_annotations, write_ratings_table, write_synonyms
from mmdpo.playground.language import Scene
from mmdpo.playground.questions import pope_questions
from mmdpo.playground.raters import Rating, rate_captions, rate_yes_no, raters
from mmdpo.playground.worlds import PICTURES
from mmdpo.records import Candidate, Media, Record, Records, save_records

CAPTIONS = 4
"""Different captions of a scene that are rated: K of the ranked lists."""
DRAWN = 8
"""Captions drawn for a scene until there are so many different ones."""
MARGIN = 1.0
"""Smallest distance between best and worst, in points of the scale from 1 to 5, of a pair or list."""
DESIRABLE = 4.0
"""Mean rating from which a single answer is desirable."""


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Args:
        scenes: Rated scenes of each seed.
        test: Held-out scenes of each seed.
        rated_test: Those of them whose captions are rated too: the held-out pairs.
        prompts: Prompts of an optimizer step.
        steps: Optimizer steps of a run.
    """

    scenes: int = 400
    test: int = 500
    rated_test: int = 400
    prompts: int = 16
    steps: int = 80


def make_data(folder: Path, seed: int, size: Size) -> dict[str, int]:
    """Writes the ratings of a seed, the records of each form, and the held-out scenes.

    Returns:
        How many answers were rated, and what each form makes of them.
    """
    scenes = PICTURES.scenes(size.scenes, seed, "preference")
    PICTURES.write_media(folder / "images", scenes)
    captions = rated_captions(scenes, folder / "images", seed)
    ratings = captions + rated_answers(scenes, seed)
    made = {
        "pairs": make_pairs(ratings, folder, "pairs", seed),
        "shuffled": make_pairs(shuffled(ratings, seed), folder, "shuffled", seed),
        "lists": Records(map(as_list, useful(grouped(ratings))), folder / "images"),
        "answers": Records(single_answers(grouped(ratings)), folder / "images"),
    }
    for name in ("lists", "answers"):
        save_records(made[name], folder / name)
    make_heldout(folder / "heldout", seed, size)
    desirable = sum(bool(record.candidates[0].label) for record in made["answers"])
    return {name: len(records) for name, records in made.items()} | {"desirable": desirable}


def rated_captions(scenes: Sequence[Scene], images: Path, seed: int) -> list[Rating]:
    """Three people's ratings of the first different captions that the base model gives of each scene."""
    plan = Plan(seed=seed, captions=DRAWN)
    people = raters(seed)
    drawn = sample_captions(plan, scenes, images)
    return [
        rating
        for scene, texts in zip(scenes, drawn, strict=True)
        for rating in rate_captions(scene, list(dict.fromkeys(texts))[:CAPTIONS], people)
    ]


def rated_answers(scenes: Sequence[Scene], seed: int) -> list[Rating]:
    """Three people's ratings of both answers to one yes/no question about each scene."""
    people = raters(seed)
    asked = [PICTURES.language.ask(scene, random.Random(f"question {seed} {scene.number}")) for scene in scenes]
    return [rating for scene, one in zip(scenes, asked, strict=True) for rating in rate_yes_no(scene, one, people)]


def make_pairs(ratings: Sequence[Rating], folder: Path, name: str, seed: int) -> Records:
    """Best against worst of each prompt, by the builder that a user would take."""
    write_ratings_table(folder / f"{name}.csv", ratings)
    config = ratings_config(Plan(seed=seed), folder) | {
        "data": str(folder / f"{name}.csv"),
        "min_margin": MARGIN,
        "validation": 0.0,
    }
    return build("ratings", config, folder / name).records


@dataclass(frozen=True)
class Rated:
    """The answers to one prompt about one picture with their mean ratings, best first."""

    file: str
    prompt: str
    answers: tuple[tuple[str, float], ...]


def grouped(ratings: Sequence[Rating]) -> list[Rated]:
    """One entry for each picture and prompt."""
    points: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in ratings:
        points[row.file, row.prompt][row.caption].append(row.rating)
    return [
        Rated(file, prompt, tuple(sorted(((t, fmean(v)) for t, v in texts.items()), key=lambda answer: -answer[1])))
        for (file, prompt), texts in points.items()
    ]


def useful(prompts: Sequence[Rated]) -> list[Rated]:
    """Those whose best and worst answers are as far apart as those of a pair must be."""
    return [one for one in prompts if one.answers[0][1] - one.answers[-1][1] >= MARGIN - 1e-9]


def as_list(rated: Rated) -> Record:
    """All answers to a prompt, best first, with their ratings."""
    return _record(rated, "list", [Candidate(text, score=score) for text, score in rated.answers])


def single_answers(prompts: Sequence[Rated]) -> list[Record]:
    """Each answer by itself, desirable or not: nobody compared it with another."""
    return [
        _record(one, f"{place}", [Candidate(text, label=score >= DESIRABLE - 1e-9)])
        for one in prompts
        for place, (text, score) in enumerate(one.answers)
    ]


def _record(rated: Rated, name: str, candidates: Sequence[Candidate]) -> Record:
    return Record(
        id=f"{rated.file}/{rated.prompt}/{name}",
        prompt=PICTURES.prompt(rated.prompt),
        candidates=tuple(candidates),
        media={PICTURES.plural: (Media(path=rated.file),)},
        higher_is_better=True,
    )


def make_heldout(folder: Path, seed: int, size: Size) -> None:
    """Scenes to measure on: what is in them, adversarial questions, and pairs of rated captions."""
    scenes = PICTURES.scenes(size.test, seed, "heldout")
    PICTURES.write_media(folder / "images", scenes)
    write_annotations(folder / "objects.json", scenes)
    write_synonyms(folder / "synonyms.txt", PICTURES.language.nouns)
    write_questions(pope_questions(scenes, "adversarial", seed), folder / "questions.json")
    make_pairs(rated_captions(scenes[: size.rated_test], folder / "images", seed), folder, "pairs", seed)
    write_json(folder / "usual.json", {Path(s.file_name).stem: s.usual if s.usual_is_absent else None for s in scenes})
