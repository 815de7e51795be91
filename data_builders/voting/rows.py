"""From the rows of a table to single judgements, each checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data_builders.base import Ledger
from data_builders.tables.config import UnusableError, bad_text, read_answer, read_text, text_of
from data_builders.tables.reading import Row
from data_builders.voting.columns import JudgedColumns, VoteCounts, VoteValues
from data_builders.voting.tallies import FIRST, SECOND, TIE, Judgement, Vote
from mmdpo.media import Media
from mmdpo.records.checks import is_unicode

LARGEST_COUNT = 10_000
"""A larger count of votes on one pair is taken for a number of another kind."""


@dataclass(frozen=True)
class VoteReader:
    """Reads judgements from rows.

    Args:
        columns: Which column holds what.
        values: What a vote means; None where votes are counted.
        media: From the cells of a row to what its answers are about; `UnusableError` where there is nothing.
        prompt: What a row's answers are to.
        ledger: Where everything goes that cannot be used, with the row and the reason.
        references: Whether rows have further captions that people wrote.
    """

    columns: JudgedColumns
    values: VoteValues | None
    media: Callable[[Mapping[str, Any]], Media]
    prompt: Callable[[Mapping[str, Any]], str]
    ledger: Ledger
    references: bool = False

    def read(self, row: Row, place: str | None = None) -> Judgement | None:
        """The judgement of a row; None where it cannot be used.

        Args:
            row: The row, which the ledger knows as read.
            place: Where it stands, for messages, if not in a row of a table.
        """
        try:
            return self._judgement(row)
        except UnusableError as problem:
            message = ": ".join(part for part in (place, problem.message) if part)
            self.ledger.set_aside(problem.reason, row.number, problem.value, message=message)
            return None

    def _judgement(self, row: Row) -> Judgement:
        if row.problem is not None:
            raise UnusableError("unreadable_row", row.shown, row.problem)
        columns, cells = self.columns, row.cells
        media, (a, b) = self.media(cells), columns.answers
        captions = read_answer(cells.get(a)), read_answer(cells.get(b))
        votes = tuple(self._cast(row) if columns.counts is None else _counted(cells, columns.counts))
        if not votes:
            raise UnusableError("no_votes")
        references = tuple(cells["references"]) if self.references else ()
        if broken := [text for text in references if not is_unicode(text)]:
            raise bad_text(broken[0])
        return Judgement(
            row=row.number,
            media=media,
            prompt=self.prompt(cells),
            captions=captions,
            votes=votes,
            sources=(read_text(cells, columns.source_a), read_text(cells, columns.source_b)),
            kind=read_text(cells, columns.kind),
            references=references,
        )

    def _cast(self, row: Row) -> Iterator[Vote]:
        """The votes of a row one by one; blank cells are no votes, and what means nothing is set aside."""
        voter = read_text(row.cells, self.columns.voter)
        assert self.values is not None  # the configuration requires it where votes are not counted
        for name in self.columns.vote_columns:
            column = name if len(self.columns.vote_columns) > 1 else None
            cell = row.cells.get(name)
            for given in cell if isinstance(cell, list) else [cell]:
                if text_of(given) is None:
                    continue
                value = self.values.read(given)
                if value is None:
                    message = f"the values are: {self.values}"
                    self.ledger.set_aside("unknown_vote", row.number, given, column=column, message=message)
                else:
                    yield Vote(value, voter or column, column)


def _counted(cells: Mapping[str, Any], counts: VoteCounts) -> Iterator[Vote]:
    """As many unnamed votes as are counted."""
    for name, value in ((counts.a, FIRST), (counts.b, SECOND), (counts.tie, TIE)):
        text = None if name is None else text_of(cells.get(name))
        if text is None:
            continue
        text = text.removesuffix(".0")  # whole numbers of a Parquet column with blanks are floats
        if not text.isdecimal() or len(text) > len(str(LARGEST_COUNT)) or int(text) > LARGEST_COUNT:
            raise UnusableError("not_a_count", text, f"{name} must be a whole number up to {LARGEST_COUNT}")
        yield from [Vote(value)] * int(text)


def to_json(judgement: Judgement) -> dict[str, Any]:
    """A judgement as JSON can hold it."""
    return asdict(judgement) | {"media": [judgement.media.path, judgement.media.sha256]}


def from_json(values: dict[str, Any]) -> Judgement:
    """The judgement of `to_json`."""
    media = Media(*values["media"])
    votes = tuple(Vote(**vote) for vote in values["votes"])
    pairs = {name: tuple(values[name]) for name in ("captions", "sources", "references")}
    return Judgement(**values | pairs | {"media": media, "votes": votes})
