"""From the rows of a table to single ratings, each checked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from data_builders.base import Ledger
from data_builders.pairing import Rating
from data_builders.ratings_config import RatingsConfig
from data_builders.tables import Row
from mmdpo.media import Media
from mmdpo.record_checks import is_unicode


@dataclass(frozen=True)
class _Unusable:
    """Why a row or a value cannot be used."""

    reason: str
    value: Any = None
    message: str = ""


def read_ratings(rows: list[Row], config: RatingsConfig, ledger: Ledger) -> list[Rating]:
    """Every usable rating; what is not usable goes to the ledger, with the row and the reason.

    Without a rater column, the raters are the rating columns where there are several; otherwise every item of a
    list and every row of the same picture, prompt and caption is taken for another, unnamed rater.
    """
    ratings = []
    place: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        ledger.read(row.number)
        about = _read_row(row, config)
        if isinstance(about, _Unusable):
            ledger.set_aside(about.reason, row.number, about.value, message=about.message)
            continue
        cells = list(_rating_cells(row.cells, config))
        if not cells:
            ledger.set_aside("no_rating", row.number)
        place[about.media.identity, about.prompt, about.caption] += 1
        nth = place[about.media.identity, about.prompt, about.caption]
        for column, cell in cells:
            value = _read_value(cell, config)
            if isinstance(value, _Unusable):
                ledger.set_aside(value.reason, row.number, value.value, column=column, message=value.message)
                continue
            ratings.append(
                Rating(
                    row=row.number,
                    column=column,
                    media=about.media,
                    prompt=about.prompt,
                    caption=about.caption,
                    rater=_rater_name(about.rater, column, nth, config),
                    rater_is_named=about.rater is not None or config.columns.is_wide,
                    value=value,
                    source=about.source,
                )
            )
    return ratings


@dataclass(frozen=True)
class _About:
    """What a row says apart from its ratings."""

    media: Media
    prompt: str
    caption: str
    rater: str | None
    source: str | None


def _read_row(row: Row, config: RatingsConfig) -> _About | _Unusable:
    columns = config.columns
    if row.problem is not None:
        return _Unusable("unreadable_row", dict(row.cells), row.problem)
    media = _read_media(row.cells.get(columns.image), config)
    if media is None:
        return _Unusable("no_image", row.cells.get(columns.image))
    caption = row.cells.get(columns.caption)
    if caption is None or (isinstance(caption, str) and not caption.strip()):
        return _Unusable("empty_caption", caption)
    if not isinstance(caption, str):
        return _Unusable("not_text", caption, f"the caption is a {type(caption).__name__}")
    prompt = _text(row.cells.get(columns.prompt)) if columns.prompt else None
    rater = _text(row.cells.get(columns.rater)) if columns.rater else None
    if columns.rater and rater is None:
        return _Unusable("no_rater", None, "duplicates cannot be found without a name; see columns.rater")
    about = _About(
        media=media,
        prompt=prompt or config.prompt,
        caption=caption.strip(),
        rater=rater,
        source=_text(row.cells.get(columns.source)) if columns.source else None,
    )
    if not all(is_unicode(text) for text in (about.caption, about.prompt, rater or "", media.path or "")):
        return _Unusable("bad_text", ascii(about.caption), "it is not valid UTF-8")
    return about


def _read_media(cell: Any, config: RatingsConfig) -> Media | None:
    """The picture of a cell: a name, or an object with bytes as `datasets` stores embedded images."""
    if isinstance(cell, Mapping):
        data = cell.get("bytes")
        return Media(path=cell.get("path"), data=bytes(data)) if data else _read_media(cell.get("path"), config)
    image = _text(cell)
    if image is None:
        return None
    pure = PurePosixPath(image)
    path = config.media_path.replace("{image}", image).replace("{name}", pure.name).replace("{stem}", pure.stem)
    return Media(path=path)


def _rating_cells(cells: Mapping[str, Any], config: RatingsConfig) -> Iterator[tuple[str | None, Any]]:
    """(column, value) of every rating of a row that is not blank; the column is None where there is only one."""
    columns = config.columns.rating_columns
    for name in columns:
        cell = cells.get(name)
        if isinstance(cell, list | tuple):
            yield from ((f"{name}[{index}]", item) for index, item in enumerate(cell) if not _is_blank(item))
        elif not _is_blank(cell):
            yield (name if len(columns) > 1 else None), cell


def _rater_name(named: str | None, column: str | None, nth: int, config: RatingsConfig) -> str:
    if named is not None:
        return named if column is None else f"{named} {column}"
    if column is not None and config.columns.is_wide:
        return column
    return f"{column or 'rating'} of row {nth}"


def _read_value(cell: Any, config: RatingsConfig) -> float | _Unusable:
    try:
        value = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        return _Unusable("not_a_number", str(cell))
    if not config.scale.min <= value <= config.scale.max:
        return _Unusable("out_of_scale", value, f"the scale is {config.scale.min:g} to {config.scale.max:g}")
    return value


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _text(cell: Any) -> str | None:
    """A cell as text without white space around it; None when it is blank."""
    return None if _is_blank(cell) else str(cell).strip()
