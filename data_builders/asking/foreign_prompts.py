"""Prompts out of the formats of other toolkits, for builders that ask models for answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from data_builders.base import SetAside, Work
from data_builders.importers.base import Format
from data_builders.importers.formats import AUTO, format_named, recognise
from data_builders.importers.media_cells import MediaReader
from data_builders.importers.sources import Source, open_source
from data_builders.tables.config import TableConfig
from mmdpo.records import Record


def format_of(source: Source, name: str) -> tuple[Format, str]:
    """The format of that name, or for `auto` the one that the rows are of; and how it was told.

    Raises:
        ConfigError: There is none of that name; or the rows are of no format, or could be of several.
        DataError: No row can be read.
    """
    return recognise(source) if name == AUTO else (format_named(name), "as it was said")


def foreign_prompts(data: str, name: str, config: TableConfig, work: Work) -> Iterator[tuple[int, Record]]:
    """Each row's prompt and media, whatever answers stand with them; further columns stay in `meta.columns`.

    Args:
        data: What `data_builders.importers.sources.open_source` takes.
        name: Of the format, or `auto`.
        config: Where the media are.
        work: Its ledger gets every row.

    Raises:
        ConfigError: As `format_of`, or there is no such source.
        DataError: The source cannot be read.
    """
    source = open_source(data, split=getattr(config, "split", "train"), root=config.media_root)
    form, reason = format_of(source, name)
    work.notes += [f"{form.name}: {reason}", *source.notes]
    for item in work.progress(form.read(source, MediaReader(config.root, optional=config.media == "optional"))):
        if isinstance(item, SetAside):
            work.ledger.read(item.row)
            work.ledger.set_aside(item.reason, item.row, item.value, column=item.column, message=item.message)
            continue
        row = item.meta["row"]
        work.ledger.read(row)
        told = {"columns": item.meta["columns"]} if "columns" in item.meta else {}
        yield row, replace(item, candidates=(), higher_is_better=None, meta=told)
    work.notes += [note for note in source.notes if note not in work.notes]  # of what was found while reading
