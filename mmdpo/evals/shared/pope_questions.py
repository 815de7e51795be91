"""Builds POPE questions from any object annotations, as the official main.py does (see `mmdpo.evals.pope`)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError, DataError, did_you_mean
from mmdpo.evals.pope import KINDS
from mmdpo.evals.shared.coco import read_coco
from mmdpo.evals.shared.files import read_json, read_rows, read_text
from mmdpo.jsonfiles import write_json_lines


def build_questions(
    annotations: Mapping[str, Sequence[str]],
    kind: str,
    *,
    seed: int = 0,
    per_image: int = 3,
    min_objects: int | None = None,
    images: int | None = None,
    shuffle: bool = False,
    template: str = "Is there {object} in the image?",
    media_key: str = "image",
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
        images: How many of the remaining images are drawn (500 in the paper); None takes all. The frequencies are
            those among the drawn images, and the same seed draws the same for all three kinds.
        shuffle: Whether the present objects are asked in random order. Wanted where the annotations are sorted by
            name, as CHAIR's table is: else only names from the start of the alphabet are asked as present.
        template: The question; ``{object}`` is the name with its article, ``{name}`` the bare name.
        media_key: Key of the image in a question; ``audio`` for sounds.

    Returns:
        ``{"question_id", "image", "text", "label"}`` per question, ids from 1.

    Raises:
        ConfigError: The kind is unknown, the template has no place for the object, or there are too few images.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"unknown kind of POPE questions {kind!r}", why=did_you_mean(kind, KINDS), fix="Use one of the three kinds."
        )
    if "{object}" not in template and "{name}" not in template:
        raise ConfigError(
            f"the template {template!r} has no place for the object",
            why="Every question would be the same.",
            fix="Write {object}, or {name} for the name without its article.",
        )
    generator = random.Random(seed)
    chosen = _chosen(annotations, per_image if min_objects is None else min_objects, images, shuffle, generator)
    questions: list[dict[str, Any]] = []
    for image, name, label in _pairs(chosen, kind, per_image, generator):
        text = template.replace("{object}", _with_article(name)).replace("{name}", name)
        questions.append({"question_id": len(questions) + 1, media_key: image, "text": text, "label": label})
    return questions


def read_objects(path: Path) -> dict[str, list[str]]:
    """Object annotations from a file or folder.

    Args:
        path: JSON (also gzipped) ``{image: [objects]}``; JSON lines ``{"image", "objects"}``, the official form of
            segmentations; or a folder with COCO's ``instances_*.json``, whose categories come sorted by name.

    Raises:
        DataError: It is of none of these forms.
    """
    if path.is_dir():
        images = read_coco(path, ("instances",))
        return {image.file_name: sorted(image.categories) for image in images.values()}
    rows = _rows_or_table(path)
    if not rows or not all(
        isinstance(each, list) and all(isinstance(o, str) and o for o in each) for each in rows.values()
    ):
        raise DataError(
            f"{str(path)!r} holds no lists of object names",
            why="Questions are made from the names of the objects in each image.",
            fix='Write {"a.jpg": ["dog", "car"]}, or lines {"image": "a.jpg", "objects": ["dog", "car"]}.',
        )
    return rows


def write_questions(questions: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes questions in the official form, one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, questions)


def _chosen(
    annotations: Mapping[str, Sequence[str]],
    least: int,
    images: int | None,
    shuffle: bool,
    generator: random.Random,
) -> dict[str, list[str]]:
    """The images that questions are made about, with their different objects in the order in which they are asked."""
    distinct = {image: list(dict.fromkeys(objects)) for image, objects in annotations.items()}
    enough = {image: objects for image, objects in distinct.items() if len(objects) >= max(least, 1)}
    if images is not None:
        if len(enough) < images:
            raise ConfigError(
                f"{images} images are asked for, {len(enough)} of {len(distinct)} have {max(least, 1)} objects or more",
                why="Smaller images are left out.",
                fix="Ask for fewer images, or set min_objects.",
            )
        enough = {image: enough[image] for image in generator.sample(list(enough), images)}
    if shuffle:
        return {image: generator.sample(objects, len(objects)) for image, objects in enough.items()}
    return enough


def _pairs(
    images: Mapping[str, Sequence[str]], kind: str, per_image: int, generator: random.Random
) -> Iterator[tuple[str, str, str]]:
    """Image, object and label of each question: a present object, then an absent one."""
    frequency = Counter(name for objects in images.values() for name in objects)
    popular = [name for name, _ in frequency.most_common()]
    partners = _partners(images)
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
            yield image, present, "yes"
            yield image, negative, "no"


def _partners(images: Mapping[str, Sequence[str]]) -> dict[str, Counter[str]]:
    """Object -> how often each other object is in an image with it."""
    partners: dict[str, Counter[str]] = {name: Counter() for objects in images.values() for name in objects}
    for objects in images.values():
        for name in objects:
            partners[name].update(other for other in objects if other != name)
    return partners


def _rows_or_table(path: Path) -> dict[str, Any]:
    text = read_text(path).strip()
    first = text.split("\n", 1)[0]
    if text.startswith("[") or '"objects"' in first:
        rows = read_rows(path)
        found = {str(row["image"]): row.get("objects") for row in rows if isinstance(row.get("image"), str)}
        if len(found) < len(rows):
            raise DataError(
                f"{str(path)!r} has {len(rows)} entries of {len(found)} images",
                why="An object that is missing from one of two entries would be asked about as absent.",
                fix='Write one entry for each image, {"image": "a.jpg", "objects": ["dog", "car"]}.',
            )
        return found
    table = read_json(path)
    return table if isinstance(table, dict) else {str(path): None}


def _with_article(name: str) -> str:
    return f"{'an' if name[:1].lower() in set('aeiou') else 'a'} {name}"
