"""What every builder that reads tables is told, and how it reads a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, field_validator

from data_builders.base import BuilderConfig, Ledger, Work
from data_builders.tables.reading import Format, Row, matches, named_kind, require_columns
from data_builders.tables.sources import open_source, source_folder
from mmdpo.media import MAX_PIXELS, Media, MediaError
from mmdpo.records.checks import is_unicode

Checked = Mapping[Media, Media | MediaError]
ItemType = TypeVar("ItemType")
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class TableConfig(BuilderConfig):
    """Which tables, and where the media are that their rows name.

    Args:
        data: The table, or several, as `tables.sources` names them; row numbers go on from one to the next.
        format: Of the tables; by default what their suffix says.
        encoding: Of their text; by default UTF-8, or UTF-16 where a file begins like it.
        delimiter: What stands between the cells of CSV files, such as `;`; by default a comma.
        rows: Where the rows of a JSON document are, as `mmdpo.read_table` explains.
        where: Use the rows alone in which these columns have these values.
        modality: What the answers are about: `image`, `audio`, or any registered modality.
        media: `optional` also uses rows whose file is absent, from text and path alone.
        media_root: Folder of the files; by default that of the first table.
        media_path: How a cell becomes a path: `{image}` as it is, `{name}` its last part, `{stem}` without suffix.
        max_pixels: Largest image that is decoded.
        prompt: The prompt where the table has none; by default "Describe the image.", or whatever the modality is.
    """

    data: Path | tuple[Path, ...]
    format: Format | None = None
    encoding: str | None = None
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    rows: str | None = None
    where: dict[str, Any] = Field(default_factory=dict)
    modality: str = "image"
    media: Literal["required", "optional"] = "required"
    media_root: Path | None = None
    media_path: str = "{image}"
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    prompt: str = Field(default_factory=lambda given: f"Describe the {given.get('modality', 'image')}.", min_length=1)

    @property
    def tables(self) -> tuple[Path, ...]:
        """The tables."""
        return (self.data,) if isinstance(self.data, Path) else self.data

    @property
    def root(self) -> Path:
        """Folder of the media."""
        return self.media_root or source_folder(self.tables[0])

    @property
    def source(self) -> str | list[str]:
        """The tables as `quality.json` names them."""
        return str(self.data) if isinstance(self.data, Path) else [str(path) for path in self.tables]

    @field_validator("data")
    @classmethod
    def _names_a_table(cls, value: Path | tuple[Path, ...]) -> Path | tuple[Path, ...]:
        if isinstance(value, tuple) and not value:
            raise ValueError("names no table")
        return value

    @field_validator("media_path")
    @classmethod
    def _known_fields(cls, value: str) -> str:
        rest = value.replace("{image}", "").replace("{name}", "").replace("{stem}", "")
        if "{" in rest or "}" in rest or rest == value:
            raise ValueError("needs one of {image}, {name} (last part of the path), {stem} (name without suffix)")
        return value


class UnusableError(Exception):
    """Why a row, or a value of it, cannot be used.

    Args:
        reason: Short stable name, as docs/data.md lists them.
        value: What stood there.
        message: The same for people.
    """

    def __init__(self, reason: str, value: Any = None, message: str = "") -> None:
        super().__init__(reason)
        self.reason, self.value, self.message = reason, value, message


def table_rows(config: TableConfig, columns: Iterable[tuple[str, str]], work: Work) -> Iterator[Row]:
    """The rows of all tables that match `where`, each noted as read, unreadable ones set aside.

    Afterwards ``work.quality["rows_filtered_out"]`` says how many further rows there were.

    Args:
        config: The tables.
        columns: (setting, column) of every column that is needed.
        work: What the builder works with.

    Raises:
        ConfigError: A table or a column is missing.
        DataError: A table cannot be read.
    """
    wanted = [*columns, *(("where", column) for column in config.where)]
    filtered_out = before = 0
    how: dict[str, Any] = {"kind": config.format, "rows": config.rows, "encoding": config.encoding}
    how["delimiter"] = config.delimiter
    for table in (table for spec in config.tables for table in open_source(spec, **how)):
        require_columns(table, wanted)
        number = 0
        for row in work.progress(table):
            number = row.number
            if row.problem is not None:
                work.ledger.read(before + number)
                work.ledger.set_aside("unreadable_row", before + number, row.shown, message=row.problem)
            elif matches(row, config.where):
                work.ledger.read(before + number)
                yield Row(before + number, work.store.light_cells(row.cells))
            else:
                filtered_out += 1
        before += number
    work.quality["rows_filtered_out"] = filtered_out
    if filtered_out:
        work.notes.append(f"{filtered_out} further rows did not match `where`")


def checked_media(items: Iterable[Media], config: TableConfig, work: Work) -> dict[Media, Media | MediaError]:
    """Each distinct item with its content hash, or why it cannot be used."""
    return work.checked_media(
        items,
        config.root,
        modality=config.modality,
        optional=config.media == "optional",
        max_pixels=config.max_pixels,
    )


def identity_of(media: Media, checked: Checked) -> str:
    """What two items have in common that are the same file under two names."""
    found = checked[media]
    return found.identity if isinstance(found, Media) else media.identity


def with_media(items: Iterable[ItemType], checked: Checked, ledger: Ledger) -> Iterator[ItemType]:
    """The items whose media can be used, with the content hash; the others go to the ledger.

    Args:
        items: Dataclasses with `row` and `media`, and `column` where a row holds several.
        checked: What `checked_media` found.
        ledger: The account of the rows.
    """
    for item in items:
        given: Any = item
        found = checked[given.media]
        if isinstance(found, Media):
            yield replace(given, media=found)
        else:
            column = getattr(given, "column", None)
            ledger.set_aside(found.kind, given.row, given.media.name, column=column, message=found.what)


def absence_note(media: Mapping[str, bool], modality: str = "image") -> list[str]:
    """What a person should know where records were made of absent files.

    Args:
        media: Identity of the media of the records -> whether the file is absent.
        modality: What they are.
    """
    absent, word = sum(media.values()), "images" if modality == "image" else "clips"
    if not absent:
        return []
    return [
        f"{absent} of {len(media)} {word} are absent (media: optional): their pairs are text and path alone, "
        f"and training sets them aside until the {word} are there"
    ]


def unnamed_note(unnamed: int, total: int, what: str) -> list[str]:
    """What a person should know where the table names some raters and others not.

    Args:
        unnamed: Ratings or votes without a name.
        total: All of them.
        what: What they are.
    """
    if not 0 < unnamed < total:
        return []
    return [
        f"{unnamed} of {total} {what} name nobody: each counts as another person's, and those that were given twice "
        "cannot be found"
    ]


def read_media(cell: Any, config: TableConfig) -> Media:
    """The picture of a cell: a name, or an item that came with its bytes, as `table_rows` gives it.

    Raises:
        UnusableError: The cell is blank, or its bytes are none.
    """
    if isinstance(cell, Media):
        return cell
    if isinstance(cell, Mapping):
        if cell.get("bytes"):
            raise UnusableError("no_image", None, f"its bytes are {named_kind(cell['bytes'])}")
        return read_media(cell.get("path"), config)
    image = text_of(cell)
    if image is None:
        raise UnusableError("no_image", cell)
    if not is_unicode(image):
        raise bad_text(image)
    if config.media_path == "{image}":
        return Media(path=image)
    pure = PurePosixPath(image)
    path = config.media_path.replace("{image}", image).replace("{name}", pure.name).replace("{stem}", pure.stem)
    return Media(path=path)


def read_answer(cell: Any) -> str:
    """An answer without white space around it.

    Raises:
        UnusableError: The cell is blank, no text, or no valid Unicode.
    """
    if is_blank(cell):
        raise UnusableError("empty_caption", cell)
    if not isinstance(cell, str):
        raise UnusableError("not_text", cell, f"the caption is {named_kind(cell)}")
    if not is_unicode(cell):
        raise bad_text(cell)
    return cell.strip()


def read_text(cells: Mapping[str, Any], column: str | None) -> str | None:
    """The text of a column; None where it is blank or there is no such column.

    Raises:
        UnusableError: It is no valid Unicode.
    """
    text = None if column is None else text_of(cells.get(column))
    if text is not None and not is_unicode(text):
        raise bad_text(text)
    return text


def read_number(cell: Any) -> float:
    """A finite number.

    Raises:
        UnusableError: It is none.
    """
    try:
        value = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UnusableError("not_a_number", str(cell), f"{str(cell)!r} is no finite number")
    return value


def bad_text(text: str) -> UnusableError:
    """The error of a text with half a character in it."""
    return UnusableError(
        "bad_text", ascii(text), "it is not valid UTF-8; if the whole table is not, say encoding=latin-1"
    )


def is_blank(cell: Any) -> bool:
    """Whether a cell says nothing: null, white space, or NaN, which tables hold where a value is missing."""
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and not cell.strip())


def text_of(cell: Any) -> str | None:
    """A cell as text without white space around it; None when it is blank."""
    return None if is_blank(cell) else str(cell).strip()


class ColumnsModel(BaseModel):
    """Base of the columns of a table: every field that is a name is a column."""

    model_config = {"extra": "forbid", "frozen": True}

    def settings(self) -> list[tuple[str, str]]:
        """(setting, column) of every column that is asked for."""
        return [(f"columns.{name}", column) for name, column in self if isinstance(column, str)]
