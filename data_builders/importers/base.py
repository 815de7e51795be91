"""What a format of other toolkits is: how it is recognised, how a row becomes a record, how a record becomes a row.

source --rows--> Format.parse --drafts--> media, checks --> records
|                        |
`------ set aside, with the row and the reason
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from data_builders.importers.leftovers import turn_fields, unkept
from data_builders.importers.media_cells import MediaReader
from data_builders.importers.sources import Layout, Source
from data_builders.importers.unusable import Unusable
from data_builders.running.ledger import SetAside
from data_builders.tables.reading import Row
from mmdpo.jsonfiles import plain
from mmdpo.records import Candidate, Message, Record
from mmdpo.records.checks import RecordCheck

if TYPE_CHECKING:
    import datasets

    from data_builders.importers.media_out import MediaOut

SAMPLE = 20
"""Rows that a format is recognised by."""
Columns = Mapping[str, tuple[type, ...]]
"""Columns, and the types that their values may have."""
FileKind = Literal["jsonl", "json", "parquet"]

_MEDIA_COLUMNS = ("image", "images", "video", "videos", "audio", "audios")


@dataclass(frozen=True)
class Sample:
    """What a format is recognised by.

    Args:
        rows: The first rows.
        layout: What kind of source it is.
        info: What the source says of its rows.
    """

    rows: Sequence[Mapping[str, Any]]
    layout: Layout = "rows"
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source) -> Sample:
        """The first rows of a source that can be read, of its first table that has any."""
        for table in source.tables:
            rows = [row.cells for row in itertools.islice(table.rows(), SAMPLE) if row.problem is None]
            if rows:
                return cls(rows, source.layout, table.info)
        return cls([], source.layout)

    def has(self, *names: str) -> bool:
        """Whether each column has a value in some row."""
        return all(any(row.get(name) is not None for row in self.rows) for name in names)

    def holds(self, name: str, *kinds: type) -> bool:
        """Whether a column has values, and all of these types."""
        values = [row[name] for row in self.rows if row.get(name) is not None]
        return bool(values) and all(isinstance(value, kinds) for value in values)


@dataclass
class Draft:
    """What a row says, before its media are looked at and its record is checked.

    Args:
        prompt: The turns before the answer.
        candidates: The answers, better ones first.
        media: Items by field (`images`), as the row has them.
        higher_is_better: Direction of ranks or scores.
        facts: What else `meta` tells of it.
        dropped: Values of the row that are not used, though the row is.
    """

    prompt: list[Message]
    candidates: list[Candidate]
    media: dict[str, list[Any]] = field(default_factory=dict)
    higher_is_better: bool | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    dropped: list[Unusable] = field(default_factory=list)


@dataclass(frozen=True)
class OutRow:
    """A record as a row of a format.

    Args:
        cells: Values by column.
        table: Which file it belongs to, where a format keeps kinds of records apart.
    """

    cells: dict[str, Any]
    table: str = "train"


class Format(ABC):
    """One format. The first line of its docstring says what it is.

    Class attributes:
        name: How `format=` and `mmdpo export` call it.
        layouts: Kinds of sources that it may come in.
        prompts_only: Whether its rows have no answers.
        media: Fields of media that it can hold.
        keeps: What it can hold of a candidate beside its text.
        columns: Columns of `meta.columns` that it writes back, with the types that they may have.
        kind: How its files are written.
    """

    name: ClassVar[str]
    layouts: ClassVar[tuple[Layout, ...]] = ("rows",)
    prompts_only: ClassVar[bool] = False
    media: ClassVar[tuple[str, ...]] = ("images", "videos", "audios")
    keeps: ClassVar[frozenset[str]] = frozenset()
    columns: ClassVar[Columns] = {}
    kind: ClassVar[FileKind] = "jsonl"

    @abstractmethod
    def matches(self, sample: Sample) -> str | None:
        """Why a source is of this format; None when it is not."""

    @abstractmethod
    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """What a row says. Columns that it uses are taken out of ``row``; the others are kept in `meta.columns`.

        Args:
            row: Values by column; None counts as absent.
            info: What the source says of its rows: an entry of `dataset_info.json` or of `meta.json`.

        Raises:
            Unusable: The row cannot become a record.
        """

    @abstractmethod
    def row(self, record: Record, media: MediaOut) -> OutRow:
        """A record as a row.

        Args:
            record: The record.
            media: Gives its media as paths or as bytes; asked last, because it writes files.

        Raises:
            Unusable: The format cannot express it.
        """

    def features(self, table: str) -> datasets.Features:
        """The columns of a Parquet file; formats of that kind define it."""
        raise NotImplementedError(f"{self.name} has no Parquet file {table}")

    def descriptions(self, tables: Mapping[str, int], media: MediaOut) -> dict[str, Any]:
        """JSON files to write beside the rows, by name.

        Args:
            tables: Rows by table.
            media: Where the media are.
        """
        del tables, media
        return {}

    def read(self, source: Source, media: MediaReader) -> Iterator[Record | SetAside]:
        """Every row of a source, one at a time: a record, or why there is none.

        A record's `meta.row` is the number of its row, counted through all tables of the source. A row may give a
        record and further `SetAside`, whose `column` is set: single values that are not used.
        """
        numbers = itertools.count(1)
        names = _Names()
        for table in source.tables:
            for row in table.rows():
                number = next(numbers)
                where = f"{table.name} row {row.number}: " if len(source.tables) > 1 else ""
                try:
                    draft, rest = self._parsed(row, table.info)
                    record = self._record(draft, rest, media, names.of(row, table.name))
                except Unusable as problem:
                    yield SetAside(problem.reason, number, None, problem.value, where + problem.message)
                    continue
                yield from (SetAside(d.reason, number, d.column, d.value, where + d.message) for d in draft.dropped)
                origin = {"builder": "import", "format": self.name, "source": table.name, "row": number}
                yield Record(**{**vars(record), "meta": {**origin, **record.meta}})

    def written_back(self, record: Record) -> dict[str, Any]:
        """The columns that a record kept in `meta` and that this format has, too."""
        columns = record.meta.get("columns")
        kept = columns if isinstance(columns, Mapping) else {}
        return {name: kept[name] for name, types in self.columns.items() if type(kept.get(name)) in types}

    def _parsed(self, row: Row, info: Mapping[str, Any]) -> tuple[Draft, dict[str, Any]]:
        if row.problem is not None:
            raise Unusable("unreadable_row", row.problem)
        rest = {name: value for name, value in row.cells.items() if value is not None}
        rest.pop("id", None)
        try:
            draft = self.parse(rest, info)
        except RecursionError as error:
            raise Unusable("unreadable_row", "it is nested too deeply") from error
        unread = [name for name in _MEDIA_COLUMNS if rest.get(name)]
        if unread:
            raise Unusable("unread_media", f"{self.name} says nothing of its column {unread[0]!r}", column=unread[0])
        read = {name: value for name, value in row.cells.items() if name not in rest}
        draft.dropped += turn_fields(read, info.get("tags"))
        for name in [name for name, value in rest.items() if unkept(value)]:
            draft.dropped.append(Unusable(unkept(rest.pop(name)), "the column cannot be kept in meta", column=name))
        return draft, rest

    def _record(self, draft: Draft, columns: Mapping[str, Any], media: MediaReader, name: str) -> Record:
        record = Record(
            id=name,
            prompt=tuple(draft.prompt),
            candidates=tuple(draft.candidates),
            media={key: media.items(key, values) for key, values in draft.media.items() if values},
            higher_is_better=draft.higher_is_better,
            meta=plain({**draft.facts, **({"columns": columns} if columns else {})}),
        )
        for problem in RecordCheck().problems_of(record):
            if not (self.prompts_only and problem.kind == "no_candidates"):
                raise Unusable(problem.kind, problem.message)
        return record


class _Names:
    """Ids: those that rows bring along, else made of the table and the number; never the same one twice."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def of(self, row: Row, table: str) -> str:
        given = row.cells.get("id")
        named = (isinstance(given, str) and bool(given.strip())) or (type(given) is int)
        stem = table.split("/")[-1].split(".")[0]
        name = str(given) if named else f"{stem}-{row.number}"
        while name in self._seen:
            name = f"{name}-{row.number}"
        self._seen.add(name)
        return name
