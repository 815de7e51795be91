"""Configuration of `mmdpo build audio_votes`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from data_builders.tables import Format
from data_builders.votes import FIRST, SECOND, TIE, VoteRules
from mmdpo.media_audio import MAX_SECONDS


class VoteValues(BaseModel):
    """What a voter's cell holds when the first caption (a) is better, when the second one (b) is, and for neither.

    Numbers are compared as numbers (1 is also "1" and 1.0), words without case and white space around them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    a: float | str
    b: float | str
    tie: float | str | None = Field(None, validate_default=True)

    @field_validator("tie")
    @classmethod
    def _different(cls, tie: float | str | None, info: ValidationInfo) -> float | str | None:
        values = [_plain(value) for value in (info.data.get("a"), info.data.get("b"), tie) if value is not None]
        if len(set(values)) < len(values):
            raise ValueError("a, b and tie must be different values")
        return tie

    def read(self, cell: Any) -> int | None:
        """`FIRST`, `SECOND` or `TIE`; None when the cell holds none of the values."""
        known = {_plain(self.tie): TIE, _plain(self.a): FIRST, _plain(self.b): SECOND}
        return known.get(_plain(cell))

    def __str__(self) -> str:
        return f"a is {self.a!r}, b is {self.b!r}, a tie is {self.tie!r}"


class VoteCounts(BaseModel):
    """Which columns count the votes for the first caption (a), for the second one (b), and for neither."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    a: str
    b: str
    tie: str | None = None


class VoteColumns(BaseModel):
    """Which column of a table holds what.

    Args:
        audio: Path or name of the clip; `media_path` makes a path of a name.
        caption_a: The first caption.
        caption_b: The second caption.
        votes: A column of votes or of lists of votes; or several columns, one per voter.
        counts: Columns of counts, where single votes are not known.
        voter: Who voted, where every row is one person's; null where the table does not say.
        source_a: Who wrote the first caption; null where that is not known.
        source_b: Who wrote the second caption; null where that is not known.
        kind: What sort of pair it is; null where there is only one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    audio: str = "audio"
    caption_a: str = "caption_a"
    caption_b: str = "caption_b"
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

    def settings(self) -> list[tuple[str, str]]:
        """(setting, column) of every column that is asked for."""
        single = ("audio", "caption_a", "caption_b", "voter", "source_a", "source_b", "kind")
        named = [(f"columns.{name}", getattr(self, name)) for name in single]
        if self.counts is None:
            named += [("columns.votes", column) for column in self.vote_columns]
        else:
            named += [(f"columns.counts.{name}", column) for name, column in self.counts]
        return [(setting, column) for setting, column in named if column is not None]


class AudioVotesConfig(VoteRules):
    """Configuration of `mmdpo build audio_votes`; docs/data.md explains each key."""

    source: Path
    form: Literal["table", "fense"] = "table"
    format: Format | None = None
    rows: str | None = None
    columns: VoteColumns = VoteColumns()
    values: VoteValues | None = Field(None, validate_default=True)
    audio: Path | None = None
    media: Literal["required", "optional"] = "required"
    media_path: str = "{audio}"
    max_seconds: float = Field(MAX_SECONDS, gt=0.0)
    file_names: Path | None = None
    references: bool = False
    prompt: str = Field("Describe the audio.", min_length=1)

    @field_validator("columns")
    @classmethod
    def _are_of_a_table(cls, columns: VoteColumns, info: ValidationInfo) -> VoteColumns:
        if info.data.get("form") == "fense" and columns != VoteColumns():
            raise ValueError("a FENSE document has columns of its own; leave them out, or say form: table")
        if columns.voter is not None and (columns.counts is not None or len(columns.vote_columns) > 1):
            raise ValueError("columns.voter is for tables with one person's vote in each row")
        return columns

    @field_validator("values")
    @classmethod
    def _direction_is_said(cls, values: VoteValues | None, info: ValidationInfo) -> VoteValues | None:
        columns = info.data.get("columns")
        counted = columns is not None and columns.counts is not None
        if counted and values is not None:
            raise ValueError("columns.counts says which caption is meant already; leave values out")
        if not counted and values is None:
            raise ValueError("required: values.a, values.b (and values.tie) say which caption a vote means")
        return values

    @field_validator("media_path")
    @classmethod
    def _known_fields(cls, value: str) -> str:
        rest = value.replace("{audio}", "").replace("{name}", "").replace("{stem}", "")
        if "{" in rest or "}" in rest or rest == value:
            raise ValueError("needs one of {audio}, {name} (last part of the path), {stem} (name without suffix)")
        return value

    @field_validator("file_names", "references")
    @classmethod
    def _are_of_fense(cls, value: Path | bool | None, info: ValidationInfo) -> Path | bool | None:
        if value and info.data.get("form") != "fense":
            raise ValueError("only a FENSE document (form: fense) has reference captions")
        return value


def _plain(cell: Any) -> float | str | None:
    """A cell as it is compared: a number where it is one, else text without case and white space around it."""
    if cell is None:
        return None
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return str(cell).strip().casefold()
    return number if math.isfinite(number) else str(cell)
