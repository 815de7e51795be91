"""POPE questions about scenes: for each image one about something present and one about something absent.

The absent one is chosen as in POPE (arXiv 2305.10355): at random, the most frequent of all (popular), or the one that
co-occurs most with what is there (adversarial). In this world objects co-occur with backgrounds, which lists of objects
do not hold; so the adversarial question is about what is met most on the same background, known by construction: its
usual object, or where that is there, something native. `mmdpo.evals.pope_questions` builds questions for any other
data, from annotations alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmdpo.playground.text import question
from mmdpo.playground.world import BACKGROUNDS, OBJECTS, Scene


def pope_questions(scenes: Sequence[Scene], kind: str, seed: int) -> list[dict[str, Any]]:
    """Questions in the official form, ``{"question_id", "image", "text", "label"}``, ids from 1.

    Args:
        scenes: The images, among which `popular` counts.
        kind: How the absent object is chosen.
        seed: Of the present object asked about, and of the absent one where several are equally good.
    """
    rng = random.Random(f"{kind} questions {seed}")
    frequency = Counter(noun for scene in scenes for noun in scene.objects)
    questions: list[dict[str, Any]] = []
    for scene in scenes:
        absent = [noun for noun in OBJECTS if noun not in scene.objects]
        rng.shuffle(absent)
        place = BACKGROUNDS[scene.background]
        likely = {
            "random": Counter[str](),
            "popular": frequency,
            "adversarial": Counter({place.usual: 2, place.natives[0]: 1, place.natives[1]: 1}),
        }[kind]
        asked = (rng.choice(scene.objects), "yes"), (max(absent, key=likely.__getitem__), "no")
        for noun, label in asked:
            row = {"question_id": len(questions) + 1, "image": scene.file_name, "text": question(noun), "label": label}
            questions.append(row)
    return questions
