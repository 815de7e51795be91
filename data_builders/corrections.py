"""Answers that people corrected become pairs with the changed words marked: `mmdpo build corrections`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from pydantic import Field

from data_builders.base import Builder, Work
from data_builders.tables.config import (
    ColumnsModel,
    TableConfig,
    UnusableError,
    absence_note,
    checked_media,
    read_answer,
    read_media,
    read_text,
    table_rows,
)
from data_builders.tables.reading import Row
from data_builders.voting.tallies import different
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, media_field, user_message
from mmdpo.records.marks import mark_differences
from mmdpo.registry import builders

_ROWS_AT_A_TIME = 5000  # their media are checked in parallel


class CorrectionColumns(ColumnsModel):
    """Which column holds what.

    Args:
        image: Path or name of the picture or clip, or an object with its bytes.
        original: What the model answered.
        corrected: What a person made of it.
        prompt: What was asked; null where all answers are to `prompt`.
        corrector: Who corrected; null where the table does not say.
        source: Who wrote the original; null where that is not known.
    """

    image: str = "image"
    original: str = "original"
    corrected: str = "corrected"
    prompt: str | None = None
    corrector: str | None = None
    source: str | None = None


class CorrectionsConfig(TableConfig):
    """Configuration of `mmdpo build corrections`; docs/data.md explains each key.

    Args:
        max_changed: Largest share of changed words, of those of both answers; what is rewritten altogether is no
            correction, and its marks say nothing.
    """

    columns: CorrectionColumns = CorrectionColumns()
    max_changed: float = Field(1.0, gt=0.0, le=1.0)


@builders.register("corrections")
class Corrections(Builder[CorrectionsConfig]):
    """Pairs of corrected and original answers, with the changed words marked."""

    Config = CorrectionsConfig
    sound_reasons = ("not_corrected", "rewritten", "duplicate_row")

    def media_root(self, config: CorrectionsConfig) -> Any:
        """Folder that the records' media paths are relative to."""
        return config.root

    def records(self, config: CorrectionsConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        rows = iter(table_rows(config, config.columns.settings(), work))
        seen: dict[str, int] = {}
        made_of = changed_words = 0.0
        absent: dict[str, bool] = {}
        while batch := list(islice(rows, _ROWS_AT_A_TIME)):
            read = []
            for row in batch:
                try:
                    read.append((row.number, *_read(row, config)))
                except UnusableError as problem:
                    work.ledger.set_aside(problem.reason, row.number, problem.value, message=problem.message)
            checked = checked_media((media for _, media, _, _ in read), config, work)
            for number, media, record, changed in read:
                found = checked[media]
                if not isinstance(found, Media):
                    work.ledger.set_aside(found.kind, number, media.name, message=found.what)
                    continue
                made = _with_media(record, found, number)
                if made.id in seen:
                    work.ledger.set_aside("duplicate_row", number, message=f"as row {seen[made.id]}")
                    continue
                seen[made.id] = number
                work.ledger.use(number)
                made_of, changed_words = made_of + 1, changed_words + changed
                absent[found.identity] = found.sha256 is None
                yield made
        work.notes += absence_note(absent, config.modality)
        work.quality |= {
            "source": config.source,
            "corrections": {"n": int(made_of), "changed_words": changed_words / made_of if made_of else None},
        }


def _read(row: Row, config: CorrectionsConfig) -> tuple[Media, Record, float]:
    """The picture, the pair without it, and the share of changed words."""
    columns, cells = config.columns, row.cells
    media = read_media(cells.get(columns.image), config)
    original = read_answer(cells.get(columns.original))
    corrected = read_answer(cells.get(columns.corrected))
    changed = changed_share(original, corrected)
    if not different(original, corrected):
        raise UnusableError("not_corrected", corrected, "both answers have the same words")
    if changed > config.max_changed:
        raise UnusableError(
            "rewritten", round(changed, 3), f"more than max_changed={config.max_changed:g} of its words"
        )
    plural = media_field(config.modality)
    corrector = read_text(cells, columns.corrector)
    record = Record(
        id="",
        prompt=(user_message(read_text(cells, columns.prompt) or config.prompt, **{plural: 1}),),
        candidates=(
            Candidate(corrected, source=corrector or "correction"),
            Candidate(original, source=read_text(cells, columns.source)),
        ),
        media={plural: (media,)},
        meta={"builder": "corrections", "changed_words": round(changed, 4)},
    )
    return media, mark_differences(record), changed


def _with_media(record: Record, media: Media, row: int) -> Record:
    ((plural, _),) = record.media.items()
    content = [media.identity, record.prompt, *(candidate.text for candidate in record.candidates)]
    return replace(
        record,
        id=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
        media={plural: (media,)},
        meta={**record.meta, "rows": [row]},
    )


def changed_share(first: str, second: str) -> float:
    """Share of the words of two texts that are not in both, in their order: 1 - 2 M / T, with M matching words."""
    return 1.0 - SequenceMatcher(a=first.split(), b=second.split(), autojunk=False).ratio()
