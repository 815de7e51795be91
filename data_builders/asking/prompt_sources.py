"""Prompts, with answers or without, from a data set of records, a table, a folder of pictures, or another toolkit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import model_validator

from data_builders.asking.foreign_prompts import foreign_prompts
from data_builders.base import Work
from data_builders.tables.config import (
    ColumnsModel,
    TableConfig,
    UnusableError,
    read_answer,
    read_media,
    read_text,
    table_rows,
)
from data_builders.tables.spool import Spool
from mmdpo.media import Media, MediaError
from mmdpo.records import Candidate, Record, media_field, user_message
from mmdpo.records.files import open_split, read_rows
from mmdpo.records.staging import INFO_FILE

_ROWS_AT_A_TIME = 1000  # their media are checked in parallel


class PromptColumns(ColumnsModel):
    """Which column of a table holds what.

    Args:
        image: Path or name of the picture or clip, or an object with its bytes; null for prompts without one.
        prompt: What is asked; null where all are asked `prompt`.
    """

    image: str | None = "image"
    prompt: str | None = None


class AnswerColumns(PromptColumns):
    """Which column of a table holds what.

    Args:
        answer: The answer.
        source: Who wrote it; null where the table does not say.
    """

    answer: str = "answer"
    source: str | None = None


class PromptsConfig(TableConfig):
    """Where prompts are.

    Args:
        data: A table, or several; a data set of records; or a folder of pictures that are all asked `prompt`.
        split: Of a data set.
        toolkit: Format of another toolkit that the data are in, as docs/formats.md names it, or `auto`; its answers, if
            it has any, are left alone.
    """

    split: str = "train"
    toolkit: str | None = None
    columns: PromptColumns = PromptColumns()

    @cached_property
    def records_folder(self) -> Path | None:
        """The data set of records; None where the data are something else."""
        is_one = isinstance(self.data, Path) and self.toolkit is None and (self.data / INFO_FILE).is_file()
        return self.tables[0] if is_one else None

    @property
    def root(self) -> Path:
        """Folder of the media."""
        return self.tables[0] if self.is_pictures else super().root

    @property
    def is_pictures(self) -> bool:
        """Whether the data are a folder of pictures."""
        return self.tables[0].is_dir() and self.records_folder is None and self.toolkit is None

    @cached_property
    def known_root(self) -> Path | None:
        """The same; None for a data set of records that has none."""
        if self.records_folder is None:
            return self.root
        return open_split(self.records_folder, self.split, self.media_root)[1]

    @model_validator(mode="after")
    def _fits(self) -> PromptsConfig:
        if isinstance(self.data, tuple) and any(path.is_dir() for path in self.data):
            raise ValueError("data: several tables, or one folder")
        others = [name for name in ("format", "encoding", "rows", "where") if getattr(self, name)]
        if self.toolkit is not None and (others or isinstance(self.data, tuple)):
            raise ValueError(f"toolkit: reads one source, and takes no {', '.join(others) or 'list of them'}")
        return self


class AnswersConfig(PromptsConfig):
    """Where prompts with answers are: a table with an answer in each row, or a data set of records."""

    columns: AnswerColumns = AnswerColumns()
    toolkit: None = None  # answers of other toolkits become records first: mmdpo build import

    @property
    def is_pictures(self) -> bool:
        """Never: pictures have no answers. A folder without records is one of tables."""
        return False


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, or one answer to it.

    Args:
        row: Number of its row.
        record: The prompt and its media; without candidates, and with an id that is made from them.
        answer: One answer to it.
        column: Which of the row's candidates it is.
    """

    row: int
    record: Record
    answer: Candidate | None = None
    column: str | None = None


def read_prompts(config: PromptsConfig, work: Work) -> Iterator[Asked]:
    """Every prompt whose media can be used, once; all other rows are set aside.

    Raises:
        ConfigError: There is no such source, or a column is missing.
        DataError: The source cannot be read.
    """
    seen: dict[str, int] = {}
    for asked in _checked(_rows(config, work), config, work):
        first = seen.setdefault(asked.record.id, asked.row)
        if first != asked.row:
            work.ledger.set_aside("duplicate_row", asked.row, message=f"the same prompt as in row {first}")
        else:
            yield replace(asked, record=replace(asked.record, candidates=()))


def read_answers(config: AnswersConfig, work: Work) -> Iterator[Asked]:
    """Every answer to a prompt whose media can be used, one by one; `read_prompts` tells what is raised."""
    for asked in _checked(_rows(config, work), config, work):
        bare = replace(asked.record, candidates=())
        for number, candidate in enumerate(asked.record.candidates):
            column = None if config.records_folder is None else f"candidate {number}"
            yield Asked(asked.row, bare, candidate, column)


def spooled(work: Work, name: str) -> Spool[Asked]:
    """An empty spool for prompts or answers, their media without bytes; what an interrupted build left is dropped."""
    path = work.scratch / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    return Spool(path, _to_json, _from_json)


def _rows(config: PromptsConfig, work: Work) -> Iterator[tuple[int, Record]]:
    """Each row as a record; its media are not checked yet."""
    if config.records_folder is not None:
        files, _ = open_split(config.records_folder, config.split, config.media_root)
        for number, record in enumerate(work.progress(read_rows(files)), 1):
            work.ledger.read(number)
            yield number, replace(record, meta={})
    elif config.toolkit is not None:
        yield from foreign_prompts(str(config.data), config.toolkit, config, work)
    elif config.is_pictures:
        yield from _pictures(config, work)
    else:
        for row in table_rows(config, config.columns.settings(), work):
            try:
                yield row.number, _of_cells(row.cells, config)
            except UnusableError as problem:
                work.ledger.set_aside(problem.reason, row.number, problem.value, message=problem.message)


def _pictures(config: PromptsConfig, work: Work) -> Iterator[tuple[int, Record]]:
    (folder,) = config.tables
    inside = (path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(config.root).as_posix() for path in inside]
    shown = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
    for number, name in enumerate(shown, 1):
        work.ledger.read(number)
        yield number, _record(Media(path=name), config.prompt, config)


def _of_cells(cells: Mapping[str, Any], config: PromptsConfig) -> Record:
    columns = config.columns
    media = None if columns.image is None else read_media(cells.get(columns.image), config)
    record = _record(media, read_text(cells, columns.prompt) or config.prompt, config)
    if not isinstance(columns, AnswerColumns):
        return record
    answer = Candidate(read_answer(cells.get(columns.answer)), source=read_text(cells, columns.source))
    return replace(record, candidates=(answer,))


def _record(media: Media | None, prompt: str, config: PromptsConfig) -> Record:
    plural = media_field(config.modality)
    if media is None:
        return Record("", (user_message(prompt),), ())
    return Record("", (user_message(prompt, **{plural: 1}),), (), {plural: (media,)})


def _checked(rows: Iterator[tuple[int, Record]], config: PromptsConfig, work: Work) -> Iterator[Asked]:
    """The rows whose media are there and whole, with content hashes and an id."""
    light = ((number, work.store.light_record(record)) for number, record in rows)
    while block := list(islice(light, _ROWS_AT_A_TIME)):
        found: dict[tuple[str, Media], Media | MediaError] = {}
        for plural in dict.fromkeys(plural for _, record in block for plural in record.media):
            items = [item for _, record in block for item in record.media.get(plural, ())]
            checked = work.checked_media(
                items,
                config.known_root,
                modality=plural.removesuffix("s"),
                optional=config.media == "optional",
                max_pixels=config.max_pixels,
            )
            found |= {(plural, item): result for item, result in checked.items()}
        for number, record in block:
            media = {plural: [found[plural, item] for item in items] for plural, items in record.media.items()}
            bad = next((one for items in media.values() for one in items if isinstance(one, MediaError)), None)
            if bad is not None:
                name = next(item.name for plural, item in record.media_items() if found[plural, item] is bad)
                work.ledger.set_aside(bad.kind, number, name, message=bad.what)
                continue
            whole = {plural: tuple(one for one in items if isinstance(one, Media)) for plural, items in media.items()}
            yield Asked(number, replace(record, id=prompt_id(record.prompt, whole), media=whole))


def prompt_id(prompt: Sequence[Any], media: Mapping[str, Sequence[Media]]) -> str:
    """A name of a prompt that is made from its words and its media."""
    content = [prompt, {plural: [item.identity for item in items] for plural, items in sorted(media.items())}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def media_key(record: Record) -> str:
    """What records about the same media share; the record's id where there are none."""
    return " ".join(item.identity for _, item in record.media_items()) or record.id


def _to_json(asked: Asked) -> list[Any]:
    record, answer = asked.record, asked.answer
    media = {plural: [[item.path, item.sha256] for item in items] for plural, items in record.media.items()}
    told = None if answer is None else vars(answer)
    return [asked.row, asked.column, record.id, record.prompt, media, told, dict(record.meta)]


def _from_json(values: list[Any]) -> Asked:
    row, column, name, prompt, media, told, meta = values
    items = {plural: tuple(Media(*item) for item in items) for plural, items in media.items()}
    if told is not None:
        told["spans"] = tuple((start, end) for start, end in told["spans"])
        told["weights"] = tuple(told["weights"])
        told["token_ids"] = None if told["token_ids"] is None else tuple(told["token_ids"])
    return Asked(
        row, Record(name, tuple(prompt), (), items, meta=meta), None if told is None else Candidate(**told), column
    )
