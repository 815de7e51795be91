"""From the rows of a table to single judgements, each checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from data_builders.audio_votes_config import AudioVotesConfig, VoteColumns, VoteCounts
from data_builders.base import Ledger
from data_builders.tables import Row
from data_builders.votes import FIRST, SECOND, TIE, Judgement, Vote
from mmdpo.media import Media
from mmdpo.record_checks import is_unicode

LARGEST_COUNT = 10_000
"""A larger count of votes on one pair is taken for a number of another kind."""


class _UnusableRowError(Exception):
    """Why a row cannot be used."""

    def __init__(self, reason: str, value: Any = None, message: str = "") -> None:
        super().__init__(reason)
        self.reason, self.value, self.message = reason, value, message


@dataclass(frozen=True)
class VoteReader:
    """Reads judgements from rows.

    Args:
        columns: Which column holds what.
        config: What votes mean, what captions answer, and where the clips are.
        ledger: Where everything goes that cannot be used, with the row and the reason.
    """

    columns: VoteColumns
    config: AudioVotesConfig
    ledger: Ledger

    def read(self, rows: Iterable[Row]) -> list[Judgement]:
        """Every usable judgement."""
        judgements = []
        for row in rows:
            self.ledger.read(row.number)
            try:
                judgements.append(self._judgement(row))
            except _UnusableRowError as problem:
                message = ": ".join(part for part in (row.cells.get("item"), problem.message) if part)
                message = message.encode("utf-8", "backslashreplace").decode("utf-8")  # it may hold the bad text
                self.ledger.set_aside(problem.reason, row.number, problem.value, message=message)
        return judgements

    def _judgement(self, row: Row) -> Judgement:
        if row.problem is not None:
            raise _UnusableRowError("unreadable_row", dict(row.cells), row.problem)
        columns, cells = self.columns, row.cells
        audio = _text(cells.get(columns.audio))
        if audio is None:
            raise _UnusableRowError("no_audio")
        captions = _caption(cells.get(columns.caption_a)), _caption(cells.get(columns.caption_b))
        sources = [None if name is None else _text(cells.get(name)) for name in (columns.source_a, columns.source_b)]
        votes = list(self._cast(row) if columns.counts is None else self._counted(cells, columns.counts))
        if not votes:
            raise _UnusableRowError("no_votes")
        path = self._path(audio)
        kind = None if columns.kind is None else _text(cells.get(columns.kind))
        references = tuple(cells["references"]) if self.config.references else ()
        texts = (*captions, path, *sources, kind, *references, *(vote.voter for vote in votes))
        if not all(is_unicode(text) for text in texts if text is not None):
            raise _UnusableRowError("bad_text", ascii(captions), "it is not valid UTF-8")
        return Judgement(
            row=row.number,
            media=Media(path=path),
            prompt=self.config.prompt,
            captions=captions,
            votes=tuple(votes),
            sources=(sources[0], sources[1]),
            kind=kind,
            references=references,
        )

    def _cast(self, row: Row) -> Iterator[Vote]:
        """The votes of a row one by one; blank cells are no votes, and what means nothing is set aside."""
        voter = None if self.columns.voter is None else _text(row.cells.get(self.columns.voter))
        if self.columns.voter is not None and voter is None:
            raise _UnusableRowError("no_voter", None, "repeated votes cannot be found without a name")
        assert self.config.values is not None  # the configuration requires it where votes are not counted
        for name in self.columns.vote_columns:
            column = name if len(self.columns.vote_columns) > 1 else None
            cell = row.cells.get(name)
            for given in cell if isinstance(cell, list) else [cell]:
                if _text(given) is None:
                    continue
                value = self.config.values.read(given)
                if value is None:
                    message = f"the values are: {self.config.values}"
                    self.ledger.set_aside("unknown_vote", row.number, given, column=column, message=message)
                else:
                    yield Vote(value, voter or column, column)

    def _counted(self, cells: Mapping[str, Any], counts: VoteCounts) -> Iterator[Vote]:
        """As many unnamed votes as are counted."""
        for name, value in ((counts.a, FIRST), (counts.b, SECOND), (counts.tie, TIE)):
            text = None if name is None else _text(cells.get(name))
            if text is None:
                continue
            text = text.removesuffix(".0")  # whole numbers of a Parquet column with blanks are floats
            if not text.isdecimal() or len(text) > len(str(LARGEST_COUNT)) or int(text) > LARGEST_COUNT:
                raise _UnusableRowError("not_a_count", text, f"{name} must be a whole number up to {LARGEST_COUNT}")
            yield from [Vote(value)] * int(text)

    def _path(self, audio: str) -> str:
        pure = PurePosixPath(audio)
        fields = {"{audio}": audio, "{name}": pure.name, "{stem}": pure.stem}
        path = self.config.media_path
        for field, value in fields.items():
            path = path.replace(field, value)
        return path


def _caption(cell: Any) -> str:
    if _text(cell) is None:
        raise _UnusableRowError("empty_caption", cell)
    if not isinstance(cell, str):
        raise _UnusableRowError("not_text", cell, f"the caption is a {type(cell).__name__}")
    return cell.strip()


def _text(cell: Any) -> str | None:
    """A cell as text without white space around it; None when it is blank."""
    return None if cell is None or not str(cell).strip() else str(cell).strip()
