"""Reading COCO annotations: which categories were marked in an image, and its reference captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.files import read_json


@dataclass
class CocoImage:
    """One annotated image.

    Attributes:
        file_name: As the annotations name it.
        categories: Names of the categories marked in it.
        captions: Its reference captions.
    """

    file_name: str
    categories: set[str] = field(default_factory=set)
    captions: list[str] = field(default_factory=list)


def read_coco(folder: Path, kinds: Sequence[str] = ("instances", "captions")) -> dict[str, CocoImage]:
    """The images of all ``instances_*.json`` and ``captions_*.json`` in a folder, by id.

    Args:
        folder: Where the files are.
        kinds: Which kinds of files are read; there must be one or more of each.

    Raises:
        DataError: One of the kinds of files is absent, or a file is not of COCO's form.
    """
    paths = {kind: sorted(folder.glob(f"{kind}_*.json")) for kind in kinds}
    if not all(paths.values()):
        raise DataError(
            f"{str(folder)!r} lacks {' or '.join(f'{kind}_*.json' for kind in kinds)}",
            why="An object is present if it is annotated, and to CHAIR also if a reference caption names it.",
            fix="Give the annotations folder of COCO, or a JSON file {image_id: [objects]}.",
        )
    images: dict[str, CocoImage] = {}
    for path in (path for kind in paths.values() for path in kind):
        try:
            _add(images, read_json(path))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{str(path)!r} is not of COCO's form: {type(error).__name__} {error}",
                why="Objects could be missed, and naming them would then count as hallucination.",
                fix="It must hold the lists images, annotations and, for instances, categories.",
            ) from error
    return images


def _add(images: dict[str, CocoImage], content: Any) -> None:
    names = {category["id"]: category["name"] for category in content.get("categories", [])}
    for image in content["images"]:
        images.setdefault(str(image["id"]), CocoImage(image["file_name"]))
    for annotation in content["annotations"]:
        image = images[str(annotation["image_id"])]
        if "caption" in annotation:
            image.captions.append(annotation["caption"])
        else:
            image.categories.add(names[annotation["category_id"]])
