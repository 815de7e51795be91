"""Preference data of other toolkits become records: `mmdpo build import`.

source --recognise--> format --read--> records
                               `------ set aside, with the row and the reason
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from data_builders.asking.foreign_prompts import format_of
from data_builders.base import Builder, BuilderConfig, SetAside, Work
from data_builders.imported_pairs import pairs_of
from data_builders.importers.formats import AUTO
from data_builders.importers.media_cells import MediaReader
from data_builders.importers.sources import Source, open_source
from data_builders.rating.pairing import PairTally
from mmdpo.errors import DataError
from mmdpo.records import Record
from mmdpo.registry import builders

_ENCODING = "; if the whole file is not UTF-8, say encoding=latin-1"


class ImportConfig(BuilderConfig):
    """What to import.

    Args:
        data: A file, a folder, a saved data set, or OWNER/NAME of a data set on the hub.
        format: Which format it is of; `auto` tells it from the columns of the first rows.
        media_root: Folder of the media; by default that of the data.
        media: `optional` also makes records whose media are absent, from text and path alone.
        split: Which split, where there are several.
        subset: Which entry of `dataset_info.json` or `meta.json`, or which configuration on the hub.
        encoding: Of the text of its files; by default UTF-8, or UTF-16 where they begin like it.
        allow_remote: Whether media with an address (http, https) are fetched and embedded.
        pairing: Makes pairs of lists that are rated or ranked: `best_worst`, `adjacent`, or `all`. By default a list
            stays one record.
        min_margin: Smallest distance of the two scores or ranks of such a pair.
    """

    data: str
    format: str = AUTO
    media_root: Path | None = None
    media: Literal["required", "optional"] = "required"
    split: str = "train"
    subset: str | None = None
    encoding: str | None = None
    allow_remote: bool = False
    pairing: Literal["best_worst", "adjacent", "all"] | None = None
    min_margin: float = Field(0.0, ge=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits(self) -> ImportConfig:
        if self.min_margin and self.pairing is None:
            raise ValueError("min_margin: is of pairs that are made of lists; say pairing=best_worst, adjacent or all")
        return self


@builders.register("import")
class Imported(Builder[ImportConfig]):
    """Records from preference data of other toolkits: LLaMA-Factory, ms-swift, TRL, RLAIF-V, MMPR and more."""

    Config = ImportConfig
    sound_reasons = ("tie", "single_candidate", "no_margin", "not_selected")

    def records(self, config: ImportConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        source = _source(config)
        form, reason = format_of(source, config.format)
        if form.prompts_only:
            raise DataError(
                f"{config.data!r} holds prompts without answers ({form.name}: {reason})",
                why="The records of a data set have answers; there is nothing to prefer in these.",
                fix=f"Sample answers for them: mmdpo build sample data={config.data} toolkit={form.name} ...",
            )
        work.notes += [f"{form.name}: {reason}", *source.notes]
        work.quality["source"] = config.data
        reader = MediaReader(
            self.media_root(config), optional=config.media == "optional", allow_remote=config.allow_remote
        )
        kept: Counter[str] = Counter()
        rules = config.model_dump(include={"pairing", "min_margin", "seed"}) if config.pairing else None
        tally = PairTally()
        for item in form.read(source, reader):
            if isinstance(item, SetAside):
                work.ledger.read(item.row)
                hint = _ENCODING if item.reason == "bad_text" and config.encoding is None else ""
                work.ledger.set_aside(
                    item.reason, item.row, item.value, column=item.column, message=item.message + hint
                )
                continue
            work.ledger.read(item.meta["row"])
            kept.update(list(item.meta.get("columns", ())))  # a mapping would be added by its values
            if rules is None:
                work.ledger.use(item.meta["row"])
                yield item
            else:
                yield from pairs_of(item, rules, work.ledger, tally)
        work.notes += [note for note in source.notes if note not in work.notes]  # of what was found while reading
        if rules is not None:
            work.quality["possible_pairs"] = vars(tally)
        if kept:
            told = ", ".join(f"{name} ({count})" for name, count in kept.most_common())
            work.notes.append(f"columns that no loss reads are kept in meta.columns: {told}")

    def media_root(self, config: ImportConfig) -> Path | None:
        """See `Builder.media_root`."""
        return config.media_root or _source(config).folder


def _source(config: ImportConfig) -> Source:
    return open_source(
        config.data, split=config.split, subset=config.subset, root=config.media_root, encoding=config.encoding
    )
