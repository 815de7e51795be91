"""Data sets of the `datasets` library, row by row: saved to disk, or on the hub. Media stay as they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_builders.importers.sources import Table
from data_builders.tables.reading import Row
from mmdpo.errors import ConfigError, DataError, did_you_mean

_BATCH = 100


def saved_table(path: Path, split: str) -> Table:
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` left in a folder.

    Raises:
        ConfigError: It has no such split.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{str(path)!r} looks like a saved data set and cannot be loaded: {type(error).__name__}: {error}",
            why="One of its files is missing or damaged.",
            fix="Save it again with save_to_disk, or give its Parquet files.",
        ) from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise ConfigError(
                f"the data set {str(path)!r} has no split {split!r}",
                why=did_you_mean(split, saved),
                fix="Say split=NAME",
            )
        return Table(f"{path.name}/{split}", lambda: rows_of(saved[split]))
    return Table(path.name, lambda: rows_of(saved))


def hub_table(name: str, split: str, subset: str | None) -> Table:
    """A data set of the hub, streamed: only what is read is downloaded.

    Raises:
        ConfigError: There is none of that name, configuration or split, or the hub cannot be reached.
    """
    import datasets

    try:
        streamed = datasets.load_dataset(name, subset, split=split, streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the data set {name!r} cannot be had from the hub: {error}",
            why=f"Asked for was the split {split!r}" + (f" of {subset!r}." if subset else "."),
            fix="Check the name, say split=NAME or subset=NAME, or give data=PATH of a copy on this machine.",
        ) from error
    return Table(name, lambda: rows_of(streamed))


def rows_of(dataset: Any) -> Iterator[Row]:
    """Rows as Arrow holds them: nothing is decoded, so that images keep their bytes and sounds need no torchcodec."""
    number = 0
    for table in dataset.with_format("arrow").iter(batch_size=_BATCH):
        for value in table.to_pylist():
            number += 1
            yield Row(number, value)
