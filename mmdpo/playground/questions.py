"""POPE questions about scenes: for each item one about something present and one about something absent.

The absent one is chosen as in POPE (arXiv 2305.10355): at random, the most frequent of all (popular), or the one that
co-occurs most with what is there (adversarial). In this world objects co-occur with backgrounds, which lists of objects
do not hold; so the adversarial question is about what is met most on the same background, known by construction: its
usual object, or where that is there, something native. `shared.pope_questions` builds questions for any other
data, from annotations alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmdpo.playground.language import Language, Scene
from mmdpo.playground.text import LANGUAGE


def pope_questions(
    scenes: Sequence[Scene], kind: str, seed: int, language: Language = LANGUAGE, key: str = "image"
) -> list[dict[str, Any]]:
    """Questions in the official form, ``{"question_id", "image", "text", "label"}``, ids from 1.

    Args:
        scenes: The images or clips, among which `popular` counts.
        kind: How the absent object is chosen.
        seed: Of the present object asked about, and of the absent one where several are equally good.
        language: How the world is spoken of.
        key: Under which key the file's name stands.
    """
    rng = random.Random(f"{kind} questions {seed}")
    frequency = Counter(noun for scene in scenes for noun in scene.objects)
    questions: list[dict[str, Any]] = []
    for scene in scenes:
        absent = [noun for noun in language.nouns if noun not in scene.objects]
        rng.shuffle(absent)
        place = language.places[scene.background]
        likely = {
            "random": Counter[str](),
            "popular": frequency,
            "adversarial": Counter({place.usual: 2, place.natives[0]: 1, place.natives[1]: 1}),
        }[kind]
        asked = (rng.choice(scene.objects), "yes"), (max(absent, key=likely.__getitem__), "no")
        for noun, label in asked:
            text = language.question(noun)
            questions.append({"question_id": len(questions) + 1, key: scene.file_name, "text": text, "label": label})
    return questions
