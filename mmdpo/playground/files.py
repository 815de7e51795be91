"""Writes what a user would have on disk: pictures, a ratings table, object annotations and object names."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from mmdpo.playground.drawing import draw
from mmdpo.playground.raters import Rating
from mmdpo.playground.world import OBJECTS, Scene


def write_scene_images(folder: Path, scenes: Sequence[Scene]) -> list[Path]:
    """Draws each scene to ``folder/scene_NUMBER.png``.

    Returns:
        The paths, in the order of the scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / scene.file_name for scene in scenes]
    for path, scene in zip(paths, scenes, strict=True):
        draw(scene).save(path)
    return paths


def write_ratings_table(path: Path, ratings: Sequence[Rating]) -> None:
    """Writes a CSV with the columns image, prompt, caption, rating, rater; a higher rating is better."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Rating)])
        writer.writeheader()
        writer.writerows(asdict(rating) for rating in ratings)


def write_annotations(path: Path, scenes: Sequence[Scene]) -> None:
    """Writes what is in each picture as JSON, ``{image file name: [objects]}``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({scene.file_name: list(scene.objects) for scene in scenes}) + "\n", encoding="utf-8")


def write_synonyms(path: Path) -> None:
    """Writes the object names in the form of CHAIR's synonym file: one line per object, its names between commas."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in OBJECTS), encoding="utf-8")
