"""Builds POPE questions from any object annotations, as the official main.py does (see `mmdpo.evals.pope`)."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.evals.pope import KINDS


def build_questions(
    annotations: Mapping[str, Sequence[str]],
    kind: str,
    *,
    seed: int = 0,
    per_image: int = 3,
    min_objects: int | None = None,
) -> list[dict[str, Any]]:
    """Yes/no questions about present and absent objects, in turn.

    The first ``per_image`` objects of an image are asked as present. Each is followed by one absent object: any at
    random, or the most frequent in the data (popular), or the one seen most often with the present object just asked
    (adversarial); where no object qualifies, any at random. An image that shows nearly every object of the data gets
    fewer pairs, for want of absent objects; yes and no stay balanced.

    Args:
        annotations: Image -> names of the objects in it.
        kind: ``random``, ``popular`` or ``adversarial``.
        seed: Of the random choices.
        per_image: Present objects asked per image, and as many absent ones.
        min_objects: Images with fewer objects are left out; by default ``per_image``, as in the paper.

    Returns:
        ``{"question_id", "image", "text", "label"}`` per question, ids from 1.

    Raises:
        ConfigError: The kind is unknown.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"unknown kind of POPE questions {kind!r}", why=did_you_mean(kind, KINDS), fix="Use one of the three kinds."
        )
    least = per_image if min_objects is None else min_objects
    distinct = {image: list(dict.fromkeys(objects)) for image, objects in annotations.items()}
    images = {image: objects for image, objects in distinct.items() if len(objects) >= max(least, 1)}
    frequency = Counter(name for objects in images.values() for name in objects)
    partners: dict[str, Counter[str]] = {name: Counter() for name in frequency}
    for objects in images.values():
        for name in objects:
            partners[name].update(other for other in objects if other != name)
    popular = [name for name, _ in frequency.most_common()]
    generator = random.Random(seed)
    questions: list[dict[str, Any]] = []
    for image, objects in images.items():
        absent = [name for name in frequency if name not in objects]
        for present in objects[:per_image]:
            if not absent:
                break
            ranked = {
                "random": [],
                "popular": popular,
                "adversarial": [name for name, _ in partners[present].most_common()],
            }[kind]
            negative = next((name for name in ranked if name in absent), None) or generator.choice(absent)
            absent.remove(negative)
            for name, label in ((present, "yes"), (negative, "no")):
                questions.append(
                    {"question_id": len(questions) + 1, "image": image, "text": _question(name), "label": label}
                )
    return questions


def write_questions(questions: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes questions in the official form, one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(question) + "\n" for question in questions), encoding="utf-8")


def _question(name: str) -> str:
    article = "an" if name[:1].lower() in set("aeiou") else "a"
    return f"Is there {article} {name} in the image?"
