"""Configuration of `mmdpo build audio_votes`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from data_builders.tables.reading import Format
from data_builders.voting.columns import JudgedColumns, VoteValues, require_direction, require_one_voter_a_row
from data_builders.voting.tallies import VoteRules
from mmdpo.media.audio import MAX_SECONDS


class VoteColumns(JudgedColumns):
    """Which column of a table holds what; `JudgedColumns` has the others.

    Args:
        audio: Path or name of the clip; `media_path` makes a path of a name.
        caption_a: The first caption.
        caption_b: The second caption.
    """

    audio: str = "audio"
    caption_a: str = "caption_a"
    caption_b: str = "caption_b"

    @property
    def answers(self) -> tuple[str, str]:
        """The columns of the first and of the second caption."""
        return self.caption_a, self.caption_b


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
        require_one_voter_a_row(columns)
        return columns

    @field_validator("values")
    @classmethod
    def _direction_is_said(cls, values: VoteValues | None, info: ValidationInfo) -> VoteValues | None:
        require_direction(info.data.get("columns"), values)
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
