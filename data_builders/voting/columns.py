"""What every builder of votes is told about its table: which columns hold the votes, and what a vote means."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from data_builders.tables.config import ColumnsModel, text_of
from data_builders.voting.tallies import FIRST, SECOND, TIE

SWITCHES = {
    word: sense for sense, words in {"true": "yes on true", "false": "no off false"}.items() for word in words.split()
}
"""Words that YAML 1.1 reads as booleans."""


Labels = tuple[str | int | float | bool, ...]
"""Cells that mean one thing; never guessed. Numbers are compared as numbers, words without case."""


def require_apart(labels: Labels, others: Labels, meanings: str) -> None:
    """Refuses cells that would mean two things.

    Raises:
        ValueError: One of them is in both; `meanings` says of what, as in "up and down".
    """
    known = {plain(label) for label in others}
    if both := [label for label in labels if plain(label) in known]:
        raise ValueError(f"{str(both[0])!r} cannot mean both {meanings}")


class VoteValues(BaseModel):
    """What a voter's cell holds when the first answer (a) is better, when the second one (b) is, and for neither.

    Numbers are compared as numbers (1 is also "1" and 1.0), words without case and white space around them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    a: bool | float | str
    b: bool | float | str
    tie: bool | float | str | None = Field(None, validate_default=True)

    @field_validator("tie")
    @classmethod
    def _different(cls, tie: float | str | None, info: ValidationInfo) -> float | str | None:
        values = [plain(value) for value in (info.data.get("a"), info.data.get("b"), tie) if value is not None]
        if len(set(values)) < len(values):
            raise ValueError("a, b and tie must be different values")
        return tie

    def read(self, cell: Any) -> int | None:
        """`FIRST`, `SECOND` or `TIE`; None when the cell holds none of the values."""
        known = {plain(self.tie): TIE, plain(self.a): FIRST, plain(self.b): SECOND}
        return known.get(plain(cell))

    def __str__(self) -> str:
        return f"a is {self.a!r}, b is {self.b!r}, a tie is {self.tie!r}"


class VoteCounts(BaseModel):
    """Which columns count the votes for the first answer (a), for the second one (b), and for neither."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    a: str
    b: str
    tie: str | None = None


class JudgedColumns(ColumnsModel):
    """The columns that tables of votes have, whatever their answers are about.

    Args:
        votes: A column of votes or of lists of votes; or several columns, one per voter.
        counts: Columns of counts, where single votes are not known.
        voter: Who voted, where every row is one person's; null where the table does not say.
        source_a: Who wrote the first answer; null where that is not known.
        source_b: Who wrote the second answer; null where that is not known.
        kind: What sort of pair it is; null where there is only one.
    """

    votes: str | tuple[str, ...] = "votes"
    counts: VoteCounts | None = None
    voter: str | None = None
    source_a: str | None = None
    source_b: str | None = None
    kind: str | None = None

    @property
    def vote_columns(self) -> tuple[str, ...]:
        """The columns of votes, one or several."""
        return (self.votes,) if isinstance(self.votes, str) else self.votes

    @property
    def answers(self) -> tuple[str, str]:
        """The columns of the first and of the second answer."""
        raise NotImplementedError

    def settings(self) -> list[tuple[str, str]]:
        """(setting, column) of every column that is asked for."""
        named = [(setting, column) for setting, column in super().settings() if setting != "columns.votes"]
        if self.counts is None:
            return [*named, *(("columns.votes", column) for column in self.vote_columns)]
        counted = [(f"columns.counts.{name}", column) for name, column in self.counts]
        return [*named, *((setting, column) for setting, column in counted if column is not None)]


def require_one_voter_a_row(columns: JudgedColumns) -> None:
    """Refuses a column of voters where a row holds several votes.

    Raises:
        ValueError: The columns cannot be meant.
    """
    if columns.voter is not None and (columns.counts is not None or len(columns.vote_columns) > 1):
        raise ValueError("columns.voter is for tables with one person's vote in each row")


def require_direction(columns: JudgedColumns | None, values: VoteValues | None) -> None:
    """Refuses votes of which nobody said which answer they mean, and values that say it twice.

    Raises:
        ValueError: The values are missing, or there is no use for them.
    """
    counted = columns is not None and columns.counts is not None
    if counted and values is not None:
        raise ValueError("columns.counts says which caption is meant already; leave values out")
    if not counted and values is None:
        raise ValueError("required: values.a, values.b (and values.tie) say which caption a vote means")


def plain(cell: Any) -> float | str | None:
    """A cell as it is compared: a number where it is one, else text without case and white space around it.

    The words that YAML files read as true and false are these, so that `up: [yes]` finds cells that say yes.
    """
    text = text_of(cell)
    if text is None or isinstance(cell, bool) or text.casefold() in SWITCHES:
        return None if text is None else SWITCHES.get(text.casefold())
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return text.casefold()
    return number if math.isfinite(number) else text.casefold()
