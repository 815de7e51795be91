"""The table of formats, and which of them a source is of."""

from __future__ import annotations

from data_builders.importers.base import Format, Sample
from data_builders.importers.feedback import AlignAnything, VlFeedback
from data_builders.importers.flat import Mdpo, Mmpr, MmRlhf, RlaifV, VlRlhf
from data_builders.importers.llamafactory import V1, Alpaca, ShareGpt
from data_builders.importers.llava import Llava
from data_builders.importers.ranked import Axolotl, Nectar, NemoRl
from data_builders.importers.sources import Source
from data_builders.importers.swift import MsSwift
from data_builders.importers.trl import Trl, TrlImplicit, TrlUnpaired
from data_builders.importers.verl import EasyR1, Verl
from mmdpo.errors import ConfigError, DataError, did_you_mean

_CLASSES: tuple[type[Format], ...] = (
    ShareGpt,
    Alpaca,
    V1,
    MsSwift,
    Llava,
    Trl,
    TrlImplicit,
    TrlUnpaired,
    RlaifV,
    Mmpr,
    MmRlhf,
    VlRlhf,
    Mdpo,
    VlFeedback,
    AlignAnything,
    Axolotl,
    Nectar,
    NemoRl,
    Verl,
    EasyR1,
)
FORMATS: dict[str, Format] = {each.name: each() for each in _CLASSES}
"""Every format by its name."""
AUTO = "auto"


def format_named(name: str) -> Format:
    """A format.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in FORMATS:
        raise ConfigError(
            f"unknown format {name!r}",
            why=did_you_mean(name, FORMATS),
            fix="docs/formats.md lists them with an example each.",
        )
    return FORMATS[name]


def recognise(source: Source) -> tuple[Format, str]:
    """The format of a source, and how it was told.

    Raises:
        ConfigError: It is of no known format, or could be of several.
        DataError: It has no rows that can be read.
    """
    sample = Sample.of(source)
    if not sample.rows:
        raise DataError(
            f"{', '.join(table.name for table in source.tables)}: no row can be read",
            why="A format is told by the columns of the first rows.",
            fix="Check that it holds JSON objects, one a line or in a list, or give another file.",
        )
    usual = [each for each in FORMATS.values() if source.layout in each.layouts]
    found = [(each, reason) for each in usual if (reason := each.matches(sample))]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"the rows could be of {len(found)} formats",
            why="; ".join(f"{each.name}: {reason}" for each, reason in found) + ".",
            fix="Say which: " + " or ".join(f"format={each.name}" for each, _ in found),
        )
    columns = sorted({str(name) for row in sample.rows for name, value in row.items() if value is not None})
    raise ConfigError(
        f"the rows are of no format that is known: they have {', '.join(columns) or 'no columns'}",
        why="A format is told by the columns of the first rows, and needs preferences, labels or ratings.",
        fix=f"Say format=NAME if it is one of {', '.join(FORMATS)}; for ratings see mmdpo build ratings.",
    )
