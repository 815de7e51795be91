"""Reading COCO: which categories were marked in an image, its reference captions, and captions of models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.shared.files import read_json, read_rows, read_text

_COCO_ID = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)")
_MEDIA_FILE = re.compile(r"\.(jpe?g|png|webp|bmp|gif|tiff?|wav|flac|mp3|ogg)$", re.IGNORECASE)


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


def image_id(raw: Any) -> str:
    """The bare id: 42 for 42, "000000000042.jpg" and "COCO_val2014_000000000042.jpg"."""
    bare = _MEDIA_FILE.sub("", str(raw))
    coco = _COCO_ID.fullmatch(bare)
    return coco[1] if coco else bare


def read_captions(path: Path) -> Sequence[Mapping[str, Any]]:
    """The entries of JSON lines, a JSON list, or the official form of CHAIR, ``{"imgToEval": {id: {caption}}}``.

    Raises:
        DataError: The file is of none of these forms.
    """
    if '"imgToEval"' not in read_text(path):
        return read_rows(path)
    content = read_json(path)
    table = content.get("imgToEval") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(entry, dict) for entry in table.values()):
        raise DataError(
            f"imgToEval of {str(path)!r} is no table of captions",
            why="The official file of CHAIR holds one entry per image there.",
            fix='Write {"imgToEval": {"42": {"image_id": 42, "caption": "..."}}}, or JSON lines.',
        )
    return list(table.values())


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
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{str(path)!r} is not of COCO's form: {type(error).__name__} {error}",
                why="Objects could be missed, and naming them would then count as hallucination.",
                fix="It must hold the lists images, annotations and, for instances, categories.",
            ) from error
    return images


def _add(images: dict[str, CocoImage], content: Any) -> None:
    names = {category["id"]: _text(category, "name") for category in _listed(content, "categories", [])}
    for image in _listed(content, "images"):
        images.setdefault(str(image["id"]), CocoImage(_text(image, "file_name")))
    for annotation in _listed(content, "annotations"):
        marked = images[str(annotation["image_id"])]
        if "caption" in annotation:
            marked.captions.append(_text(annotation, "caption"))
        else:
            marked.categories.add(names[annotation["category_id"]])


def _listed(content: Any, key: str, *otherwise: Any) -> list[Any]:
    value = content.get(key, *otherwise) if otherwise else content[key]
    if not isinstance(value, list):
        raise TypeError(f"{key} is {type(value).__name__}, not a list")
    return value


def _text(entry: Any, key: str) -> str:
    if not isinstance(entry[key], str):
        raise TypeError(f"{key} {str(entry[key])[:80]!r} is no text")
    return str(entry[key])
