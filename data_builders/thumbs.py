"""Answers that people liked or did not become unpaired records, for KTO and its kin: `mmdpo build thumbs`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import model_validator

from data_builders.base import Builder, Ledger, Work
from data_builders.tables.config import (
    ColumnsModel,
    TableConfig,
    UnusableError,
    absence_note,
    checked_media,
    identity_of,
    read_answer,
    read_media,
    read_text,
    table_rows,
    unnamed_note,
    with_media,
)
from data_builders.tables.reading import Row
from data_builders.tables.spool import Spool, as_lists
from data_builders.voting.columns import Labels, plain, require_apart
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, media_field, user_message
from mmdpo.registry import builders

BALANCED = (1.0, 4 / 3)
"""Ratio of the weighted classes within which KTO works (Ethayarajh et al. 2024, arXiv 2402.01306, section 4.2)."""


class ThumbColumns(ColumnsModel):
    """Which column holds what.

    Args:
        image: Path or name of the picture or clip, or an object with its bytes.
        answer: The answer that was judged.
        thumb: The judgement.
        rater: Who judged; null where the table does not say.
        prompt: What was asked; null where all answers are to `prompt`.
        source: Who wrote the answer; null where that is not known.
    """

    image: str = "image"
    answer: str = "answer"
    thumb: str = "thumb"
    rater: str | None = None
    prompt: str | None = None
    source: str | None = None


class ThumbsConfig(TableConfig):
    """Configuration of `mmdpo build thumbs`; docs/data.md explains each key.

    Args:
        up: Values that mean that the answer is good, never guessed; numbers are compared as such, words without case.
        down: Values that mean that it is bad.
    """

    columns: ThumbColumns = ThumbColumns()
    up: Labels
    down: Labels

    @model_validator(mode="after")
    def _different(self) -> ThumbsConfig:
        require_apart(self.up, self.down, "up and down")
        return self


@dataclass(frozen=True, slots=True)
class Thumb:
    """One judgement of one answer."""

    row: int
    media: Media
    prompt: str
    answer: str
    up: bool
    rater: str | None
    source: str | None


@builders.register("thumbs")
class Thumbs(Builder[ThumbsConfig]):
    """Unpaired records (liked or not) from a table of image, answer and thumb."""

    Config = ThumbsConfig
    sound_reasons = ("tie", "duplicate_row")

    def media_root(self, config: ThumbsConfig) -> Any:
        """Folder that the records' media paths are relative to."""
        return config.root

    def records(self, config: ThumbsConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        spool = Spool(work.scratch / "thumbs.jsonl", *as_lists(Thumb))
        for row in table_rows(config, config.columns.settings(), work):
            try:
                spool.extend([_read(row, config)])
            except UnusableError as problem:
                work.ledger.set_aside(problem.reason, row.number, problem.value, message=problem.message)
        checked = checked_media((thumb.media for thumb in spool), config, work)
        labels, absent, named = Counter[bool](), dict[str, bool](), Counter[bool]()
        for part in spool.parts(lambda thumb: identity_of(thumb.media, checked)):
            groups: dict[tuple[str, str, str], list[Thumb]] = defaultdict(list)
            for thumb in with_media(part, checked, work.ledger):
                groups[thumb.media.identity, thumb.prompt, thumb.answer].append(thumb)
                named[thumb.rater is not None] += 1
            for given in groups.values():
                record = _record(_first_votes(given, work.ledger), config, work.ledger)
                if record is not None:
                    labels[bool(record.candidates[0].label)] += 1
                    absent[given[0].media.identity] = given[0].media.sha256 is None
                    yield record
        work.notes += absence_note(absent, config.modality) + _balance(labels)
        work.notes += unnamed_note(named[False], named.total(), "thumbs")
        work.quality |= {"source": config.source, "thumbs": {"up": labels[True], "down": labels[False]}}


def _read(row: Row, config: ThumbsConfig) -> Thumb:
    columns, cells = config.columns, row.cells
    given = plain(cells.get(columns.thumb))
    if given is None:
        raise UnusableError("no_thumb")
    ups, downs = ({plain(value) for value in values} for values in (config.up, config.down))
    if given not in ups | downs:
        known = f"up is {', '.join(map(str, config.up))}; down is {', '.join(map(str, config.down))}"
        raise UnusableError("unknown_thumb", cells.get(columns.thumb), known)
    return Thumb(
        row=row.number,
        media=read_media(cells.get(columns.image), config),
        prompt=read_text(cells, columns.prompt) or config.prompt,
        answer=read_answer(cells.get(columns.answer)),
        up=given in ups,
        rater=read_text(cells, columns.rater),
        source=read_text(cells, columns.source),
    )


def _first_votes(given: Sequence[Thumb], ledger: Ledger) -> list[Thumb]:
    """Each named person's first judgement of an answer; unnamed ones are of different people."""
    first: dict[str, Thumb] = {}
    kept = []
    for thumb in given:
        earlier = thumb if thumb.rater is None else first.setdefault(thumb.rater, thumb)
        if earlier is thumb:
            kept.append(thumb)
        else:
            reason = "duplicate_row" if earlier.up == thumb.up else "conflicting_vote"
            message = f"{thumb.rater!r} judged this answer in row {earlier.row} already"
            ledger.set_aside(reason, thumb.row, "up" if thumb.up else "down", message=message)
    return kept


def _record(given: Sequence[Thumb], config: ThumbsConfig, ledger: Ledger) -> Record | None:
    """The record of an answer, with the label that most gave; None where as many gave the other."""
    ups = sum(thumb.up for thumb in given)
    downs = len(given) - ups
    for thumb in given:
        if ups == downs:
            ledger.set_aside("tie", thumb.row, len(given), message=f"{ups} up and {downs} down")
        else:
            ledger.use(thumb.row)
    if ups == downs:
        return None
    first, plural = given[0], media_field(config.modality)
    content = [first.media.identity, first.prompt, first.answer]
    return Record(
        id=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
        prompt=(user_message(first.prompt, **{plural: 1}),),
        candidates=(Candidate(first.answer, label=ups > downs, source=first.source),),
        media={plural: (first.media,)},
        meta={"builder": "thumbs", "up": ups, "down": downs, "rows": [thumb.row for thumb in given]},
    )


def _balance(labels: Counter[bool]) -> list[str]:
    """What KTO's weights should be, where one label is much more frequent."""
    good, bad = labels[True], labels[False]
    if not good or not bad:
        return [] if good == bad else ["all answers have the same label: KTO learns nothing from one class alone"]
    if 1 / BALANCED[1] <= good / bad <= BALANCED[1]:
        return []
    rare, weight = ("undesirable", good / bad) if good > bad else ("desirable", bad / good)
    return [f"{good} answers are liked and {bad} are not: weigh the {rare} ones {weight:.3g} times as much in KTO"]
