"""From the rows of a table to single ratings, each checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data_builders.base import Ledger
from data_builders.rating.pairing import Rating
from data_builders.ratings_config import RatingsConfig
from data_builders.tables.config import UnusableError, is_blank, read_answer, read_media, read_number, read_text
from data_builders.tables.reading import Row
from mmdpo.media import Media


@dataclass(frozen=True)
class RatingReader:
    """Reads ratings from rows; what is not usable goes to the ledger, with the row and the reason.

    Without a rater column, the raters are the rating columns where there are several; otherwise every item of a list
    and every row of the same picture, prompt and caption is another, unnamed rater, with an empty name here. So is a
    row whose rater is blank.

    Args:
        config: What the columns mean.
        ledger: The account of the rows.
    """

    config: RatingsConfig
    ledger: Ledger

    def read(self, row: Row) -> Iterator[Rating]:
        """The usable ratings of a row."""
        try:
            about = _read_row(row, self.config)
        except UnusableError as problem:
            self.ledger.set_aside(problem.reason, row.number, problem.value, message=problem.message)
            return
        cells = list(_rating_cells(row.cells, self.config))
        if not cells:
            self.ledger.set_aside("no_rating", row.number)
        for cell in cells:
            try:
                value = _read_value(cell.value, self.config)
            except UnusableError as problem:
                name = cell.column or cell.aspect or self.config.columns.rating_columns[0]
                self.ledger.set_aside(problem.reason, row.number, problem.value, column=name, message=problem.message)
                continue
            yield Rating(
                row=row.number,
                column=cell.column,
                media=about.media,
                prompt=about.prompt,
                caption=about.caption,
                rater=_rater_name(about.rater, cell.column, self.config),
                rater_is_named=about.rater is not None or self.config.columns.is_wide,
                value=value,
                source=about.source,
                weight=about.weight,
                aspect=cell.aspect,
            )


@dataclass(frozen=True)
class _About:
    """What a row says apart from its ratings."""

    media: Media
    prompt: str
    caption: str
    rater: str | None
    source: str | None
    weight: float


def _read_row(row: Row, config: RatingsConfig) -> _About:
    columns = config.columns
    rater = read_text(row.cells, columns.rater)
    return _About(
        media=read_media(row.cells.get(columns.image), config),
        prompt=read_text(row.cells, columns.prompt) or config.prompt,
        caption=read_answer(row.cells.get(columns.caption)),
        rater=rater,
        source=read_text(row.cells, columns.source),
        weight=_weight(row.cells, rater, config),
    )


def _weight(cells: Mapping[str, Any], rater: str | None, config: RatingsConfig) -> float:
    weight = config.weights.get(rater, 1.0) if rater is not None else 1.0
    if config.columns.weight is None:
        return weight
    try:
        given = read_number(cells.get(config.columns.weight))
    except UnusableError as error:
        raise UnusableError("bad_weight", error.value, "a weight is a number from 0 on") from error
    if given < 0:
        raise UnusableError("bad_weight", given, "a weight is a number from 0 on")
    return weight * given


@dataclass(frozen=True)
class _Cell:
    """One rating as the table gives it; the column is None where there is only one."""

    column: str | None
    value: Any
    aspect: str | None = None


def _rating_cells(cells: Mapping[str, Any], config: RatingsConfig) -> Iterator[_Cell]:
    """Every rating of a row that is not blank."""
    columns = config.columns
    if columns.aspects:
        for aspect, name in columns.aspects.items():
            yield from (_Cell(name, value, aspect) for _, value in _values(name, cells.get(name)))
        return
    names = columns.rating_columns
    for name in names:
        cell = cells.get(name)
        several = isinstance(cell, list | tuple)
        for place, value in _values(name, cell):
            yield _Cell(place if several else name if len(names) > 1 else None, value)


def _values(name: str, cell: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(cell, list | tuple):
        yield from ((f"{name}[{index}]", item) for index, item in enumerate(cell) if not is_blank(item))
    elif not is_blank(cell):
        yield name, cell


def _rater_name(named: str | None, column: str | None, config: RatingsConfig) -> str:
    if named is not None:
        return named if column is None or config.columns.aspects else f"{named} {column}"
    return column if column is not None and config.columns.is_wide else ""


def _read_value(cell: Any, config: RatingsConfig) -> float:
    value = read_number(cell)
    if not config.scale.min <= value <= config.scale.max:
        raise UnusableError("out_of_scale", value, f"the scale is {config.scale.min:g} to {config.scale.max:g}")
    return value
