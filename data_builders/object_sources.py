"""Which objects are in a picture, and where a text names them.

COCO annotations, tables, detections with scores and YOLO labels lead to the same: image -> the categories that are
there, and its captions where the source has some. An object is present if it is annotated, or if a reference caption
names it (Rohrbach et al. 2018, arXiv 1809.02156).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import Field, field_validator

from data_builders.tables.config import ColumnsModel, TableConfig, UnusableError
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.chair import Chair
from mmdpo.evals.shared.coco import image_id, read_coco
from mmdpo.evals.shared.files import read_json, read_text
from mmdpo.evals.shared.options import check_file_name, file_name
from mmdpo.media import Media

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


class AnswerColumns(ColumnsModel):
    """Which column holds what.

    Args:
        image: Id, path or name of the picture.
        answer: The caption or answer.
        source: Which system wrote it; null where the table does not say.
        prompt: What was asked; null where all answers are to `prompt`.
    """

    image: str = "image_id"
    answer: str = "caption"
    source: str | None = None
    prompt: str | None = None


class ObjectsSource(TableConfig):
    """What builders are told that know which objects are in a picture.

    Args:
        data: Tables of captions; not needed where those of the annotations are used.
        annotations: A folder with COCO's `instances_*.json` (and `captions_*.json`), a JSON table {image: [objects]},
            a JSON list of detections with scores (COCO results), or a folder of YOLO labels.
        categories: Names of the numbers in detections and labels: COCO's instances, a YAML file with `names`, or a line
            for each, from 0.
        min_score: Smallest score of a detection that counts as an object that is there.
        synonyms: Table of names of the objects, as for `mmdpo score chair`.
        image_name: File name of a picture, made from its `{id}`; by default as the annotations have it, or else the
            row of its caption.
        image_folders: Folders in the media root in which a picture is looked for, in this order.
    """

    data: Path | tuple[Path, ...] = ()
    annotations: Path
    categories: Path | None = None
    min_score: float = Field(0.5, ge=0.0, le=1.0)
    synonyms: Path | None = None
    image_name: str | None = None
    image_folders: tuple[str, ...] = ()
    columns: AnswerColumns = AnswerColumns()

    @field_validator("image_name")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        check_file_name("image_name", value)
        return value

    @property
    def root(self) -> Path:
        """Folder of the media."""
        return self.media_root or (self.annotations if self.annotations.is_dir() else self.annotations.parent)

    @property
    def source(self) -> str | list[str]:
        """The tables as `quality.json` names them."""
        return [str(path) for path in (*self.tables, self.annotations)]


@dataclass(frozen=True, slots=True)
class ImageObjects:
    """One picture.

    Args:
        id: Its bare id: 42 for "COCO_val2014_000000000042.jpg".
        file_name: As the source names it; empty where it has the bare id alone.
        present: Categories that are there.
        captions: Its reference captions.
    """

    id: str
    file_name: str
    present: frozenset[str]
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """A place in a text that names an object: characters `start` to `end`, and the category."""

    start: int
    end: int
    category: str


class Objects:
    """The pictures of a source with their objects, and a finder of names in texts.

    Args:
        config: The source.

    Raises:
        ConfigError: A file is missing or a setting cannot be.
        DataError: A file is not of its form.
    """

    def __init__(self, config: ObjectsSource) -> None:
        self._config = config
        self.chair = Chair(synonyms=config.synonyms)
        self.images: dict[str, ImageObjects] = {}
        for image in self._read(config.annotations):
            if self.images.setdefault(image.id, image) is not image:
                raise DataError(
                    f"{str(config.annotations)!r} has two pictures {image.id!r}: "
                    f"{self.images[image.id].file_name or image.id!r} and {image.file_name or image.id!r}",
                    why="Which objects are in which of them could not be told.",
                    fix="Give one folder of labels at a time.",
                )
        if not self.images:
            raise DataError(
                f"{str(config.annotations)!r} has no picture",
                why="Which objects are there is looked up by picture.",
                fix="Give COCO's annotations folder, a table {image: [objects]}, detections, or YOLO labels.",
            )

    def find(self, image: Any) -> ImageObjects:
        """The picture of a cell.

        Raises:
            UnusableError: The annotations do not have it.
        """
        found = self.images.get(image_id(str(image).rpartition("/")[2]))
        if found is None:
            raise UnusableError("not_annotated", image, "which objects are in it is not known")
        return found

    def media(self, image: ImageObjects, cell: str = "") -> Media:
        """Where a picture should be.

        Args:
            image: The picture.
            cell: What the row of a caption of it calls it.

        Raises:
            ConfigError: Nothing says which file it is: an id is no path.
        """
        config = self._config
        if not (name := file_name(config.image_name, image.id, image.file_name or named_file(cell))):
            raise ConfigError(
                f"which file picture {image.id!r} is, is not known",
                why=f"{str(config.annotations)!r} has bare ids and no names of files, and so have the captions.",
                fix="Say it: 'image_name=COCO_val2014_{id:0>12}.jpg', or a column of names with columns.image=COLUMN.",
            )
        paths = [f"{folder}/{name}" for folder in config.image_folders] or [name]
        return Media(next((path for path in paths if (config.root / path).is_file()), paths[0]))

    def named(self, text: str) -> list[Named]:
        """The places that name an object, as CHAIR's `lemma` lineage finds them, in their order."""
        places = [(match.start(), match.end()) for match in _WORD.finditer(text)]
        words = [" ".join(self.chair.base_words(text[start:end].lower())) for start, end in places]
        mentions, found, at = self.chair.names.mentions, [], 0
        while at < len(words):
            both, single = mentions(words[at : at + 2]), mentions(words[at : at + 1])
            is_pair = at + 1 < len(words) and both != single + mentions(words[at + 1 : at + 2])
            found += [
                Named(places[at][0], places[at + is_pair][1], mention.category)
                for mention in (both if is_pair else single)
            ]
            at += 2 if is_pair else 1
        if "toilet" in words:  # as CHAIR has it: the seat beside a toilet is no chair
            return [place for place in found if text[place.start : place.end].lower() not in ("seat", "seats")]
        return found

    @cached_property
    def together(self) -> Mapping[str, Counter[str]]:
        """Category -> how many pictures have it together with each other one."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for image in self.images.values():
            for one, other in permutations(sorted(image.present), 2):
                counts[one][other] += 1
        return counts

    def _read(self, path: Path) -> Iterator[ImageObjects]:
        if path.is_dir():
            if any(path.glob("instances_*.json")):
                yield from self._coco(path)
            else:
                yield from self._yolo(path)
            return
        content = read_json(path)
        if isinstance(content, list):
            yield from self._detections(content, path)
            return
        for sample in self.chair.samples(path):
            yield ImageObjects(sample.id, named_file(sample.media["images"][0]), frozenset(sample.target))

    def _coco(self, folder: Path) -> Iterator[ImageObjects]:
        kinds = ("instances", "captions") if any(folder.glob("captions_*.json")) else ("instances",)
        for key, image in read_coco(folder, kinds).items():
            told = {named.category for caption in image.captions for named in self.named(caption)}
            present = self._plain(image.categories) | told
            yield ImageObjects(image_id(key), image.file_name, frozenset(present), tuple(image.captions))

    def _detections(self, rows: Sequence[Any], path: Path) -> Iterator[ImageObjects]:
        names = self._category_names(path)
        found: dict[str, set[str]] = defaultdict(set)
        for number, row in enumerate(rows, 1):
            try:
                image, category, score = str(row["image_id"]), names[int(row["category_id"])], float(row["score"])
                is_probability = 0.0 <= score <= 1.0
            except (KeyError, TypeError, ValueError) as error:
                raise _bad_detection(path, number, row, f"{type(error).__name__} {error}") from error
            if not is_probability:
                raise _bad_detection(path, number, row, "its score is not from 0 to 1")
            found[image] |= {category} if score >= self._config.min_score else set()
        for image, categories in found.items():
            yield ImageObjects(image_id(image), named_file(image), frozenset(self._plain(categories)))

    def _yolo(self, folder: Path) -> Iterator[ImageObjects]:
        names = self._category_names(folder)
        for path in sorted(folder.rglob("*.txt")):
            categories = set()
            for number, line in enumerate(read_text(path).splitlines(), 1):
                cells = line.split()
                try:
                    score = float(cells[5]) if len(cells) == 6 else 1.0  # predictions have it, labels do not
                    categories |= {names[int(cells[0])]} if cells and score >= self._config.min_score else set()
                except (KeyError, IndexError, ValueError) as error:
                    raise _bad_detection(path, number, line, f"{type(error).__name__} {error}") from error
            name = path.relative_to(folder).with_suffix(".jpg").as_posix()
            yield ImageObjects(image_id(path.stem), name, frozenset(self._plain(categories)))

    def _plain(self, categories: Iterable[str]) -> set[str]:
        return {self.chair.names.category_of.get(name, name) for name in categories}

    def _category_names(self, source: Path) -> dict[int, str]:
        """The names of the numbers in detections and labels."""
        path = self._config.categories
        if path is None:
            raise DataError(
                f"the categories of {str(source)!r} are numbers",
                why="What they mean cannot be guessed.",
                fix="Give categories=FILE: COCO's instances, a YAML file with names, or a line for each name.",
            )
        try:
            names = _names_in(path)
        except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
            raise DataError(
                f"{str(path)!r} holds no names of categories: {type(error).__name__} {error}",
                why="What the numbers mean cannot be guessed.",
                fix="Give COCO's instances, a YAML file with names, or a line for each name.",
            ) from error
        if not names:
            raise DataError(f"{str(path)!r} names no category", fix="See docs/data.md for the forms that it can have.")
        return names


def named_file(name: str) -> str:
    """The name if it is one of a file; empty for a bare id."""
    return name if PurePosixPath(name).suffix else ""


def _names_in(path: Path) -> dict[int, str]:
    """Number -> name, from a file of any of the forms."""
    if path.suffix == ".json":
        return {int(row["id"]): str(row["name"]) for row in read_json(path)["categories"]}
    if path.suffix in (".yaml", ".yml"):
        listed = yaml.safe_load(read_text(path))["names"]
        pairs = listed.items() if isinstance(listed, dict) else enumerate(listed)
        return {int(number): str(name) for number, name in pairs}
    return dict(enumerate(line.strip() for line in read_text(path).splitlines() if line.strip()))


def _bad_detection(path: Path, number: int, row: Any, problem: str) -> DataError:
    return DataError(
        f"entry {number} of {str(path)!r} is no detection: {str(row)[:120]} ({problem})",
        why="An object could be missed, and naming it would then count as wrong.",
        fix='A detection is {"image_id", "category_id", "score"}, or a line "class x y width height [score]".',
    )
