"""Writes what a user would have on disk: pictures, a ratings table, annotations and the names of what can be there."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from mmdpo.playground.language import Scene
from mmdpo.playground.raters import Rating
from mmdpo.playground.world import OBJECTS
from mmdpo.playground.worlds import PICTURES


def write_scene_images(folder: Path, scenes: Sequence[Scene]) -> list[Path]:
    """Draws each scene to ``folder/scene_NUMBER.png``; the paths, in the order of the scenes."""
    return PICTURES.write_media(folder, scenes)


def write_ratings_table(path: Path, ratings: Sequence[Rating], column: str = "image") -> None:
    """Writes a CSV with the columns image (or as `column` says), prompt, caption, rating, rater; higher is better."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([column, "prompt", "caption", "rating", "rater"])
        writer.writerows(astuple(rating) for rating in ratings)


def write_annotations(path: Path, scenes: Sequence[Scene]) -> None:
    """Writes what is in each picture or clip as JSON, ``{file name: [objects]}``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({scene.file_name: list(scene.objects) for scene in scenes}) + "\n", encoding="utf-8")


def write_synonyms(path: Path, nouns: Sequence[str] = OBJECTS) -> None:
    """Writes the nouns in the form of CHAIR's synonym file: one line per object, its names between commas."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in nouns), encoding="utf-8")
