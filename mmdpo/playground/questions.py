"""POPE questions about scenes: for each image one about something present and one about something absent.

The absent one is drawn as in POPE (arXiv 2305.10355): at random, the most frequent of all (popular), or the one that
co-occurs most with what is there (adversarial). What objects co-occur with in this world is the background, which object
annotations do not name; so the adversarial question counts what is met on the same background, and is mostly about the
usual object. `mmdpo.evals.pope_questions` builds questions for any other data from its annotations alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from mmdpo.playground.text import question
from mmdpo.playground.world import BACKGROUNDS, OBJECTS, Scene

Kind = Literal["random", "popular", "adversarial"]


def pope_questions(scenes: Sequence[Scene], kind: Kind, seed: int) -> list[dict[str, Any]]:
    """Questions in the official form, ``{"question_id", "image", "text", "label"}``, ids from 1.

    Args:
        scenes: The images, which are also where frequencies are counted.
        kind: How the absent object is chosen.
        seed: Of the present object asked about, and of the absent one where it is random.
    """
    rng = random.Random(f"{kind} questions {seed}")
    everywhere = Counter(noun for scene in scenes for noun in scene.objects)
    on = {name: Counter(n for s in scenes if s.background == name for n in s.objects) for name in BACKGROUNDS}
    questions: list[dict[str, Any]] = []
    for scene in scenes:
        absent = [noun for noun in OBJECTS if noun not in scene.objects]
        counts = {"random": Counter[str](), "popular": everywhere, "adversarial": on[scene.background]}[kind]
        rng.shuffle(absent)
        asked = (rng.choice(scene.objects), "yes"), (max(absent, key=counts.__getitem__), "no")
        for noun, label in asked:
            row = {"question_id": len(questions) + 1, "image": scene.file_name, "text": question(noun), "label": label}
            questions.append(row)
    return questions
