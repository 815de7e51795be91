"""Captions of pictures whose objects are known: rows in, records out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from data_builders.base import Work
from data_builders.object_sources import AnswerColumns, Objects, ObjectsSource, named_file
from data_builders.tables.config import UnusableError, read_answer, read_text, table_rows
from data_builders.tables.reading import Row
from mmdpo.media import Media
from mmdpo.records import Record, media_field, user_message


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption of one picture.

    Args:
        row: Its row.
        image: The picture's bare id.
        prompt: What it answers.
        text: The caption.
        source: Who wrote it.
        cell: What its row calls the picture.
    """

    row: int
    image: str
    prompt: str
    text: str
    source: str | None
    cell: str = ""

    def to_json(self) -> list[Any]:
        """What `Caption(*values)` reads."""
        return [self.row, self.image, self.prompt, self.text, self.source, self.cell]


def captions_of(config: ObjectsSource, objects: Objects, work: Work) -> Iterator[Caption]:
    """The captions of the tables, or without tables those of the annotations; bad ones are set aside."""
    if not config.data:
        row = 0
        for image in objects.images.values():
            for text in image.captions:
                row += 1
                work.ledger.read(row)
                try:
                    yield Caption(row, image.id, config.prompt, read_answer(text), "reference")
                except UnusableError as problem:
                    work.ledger.set_aside(problem.reason, row, problem.value, message=problem.message)
        return
    for line in table_rows(config, config.columns.settings(), work):
        try:
            yield _read(line, config, objects)
        except UnusableError as problem:
            work.ledger.set_aside(problem.reason, line.number, problem.value, message=problem.message)


def _read(row: Row, config: ObjectsSource, objects: Objects) -> Caption:
    columns: AnswerColumns = config.columns
    image = read_text(row.cells, columns.image)
    if image is None:
        raise UnusableError("no_image")
    return Caption(
        row.number,
        objects.find(image).id,
        read_text(row.cells, columns.prompt) or config.prompt,
        read_answer(row.cells.get(columns.answer)),
        read_text(row.cells, columns.source),
        image,
    )


def pictures_of(captions: Iterable[Caption], objects: Objects, config: ObjectsSource, work: Work) -> dict[str, Media]:
    """The pictures of some captions by their ids.

    Raises:
        ConfigError: Which file one of them is, is not known.
    """
    cells: dict[str, str] = {}
    for caption in captions:
        if not named_file(cells.get(caption.image, "")):
            cells[caption.image] = caption.cell
    by_rows = sum(not objects.images[key].file_name for key in cells)
    if by_rows and config.image_name is None:
        work.notes.append(f"the annotations name no files: {by_rows} pictures are called as the rows of captions say")
    return {key: objects.media(objects.images[key], cell) for key, cell in cells.items()}


def pictured(record: Record, item: Media, config: ObjectsSource) -> Record:
    """A record with its picture before the prompt, and an id made from the content."""
    plural = media_field(config.modality)
    text = record.prompt[0]["content"][-1]["text"]
    content = [item.identity, text, *(candidate.text for candidate in record.candidates)]
    return replace(
        record,
        id=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
        prompt=(user_message(text, **{plural: 1}),),
        media={plural: (item,)},
    )
