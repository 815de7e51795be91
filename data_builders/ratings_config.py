"""Configuration of `mmdpo build ratings`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_builders.rating.pairing import PairingConfig
from data_builders.tables.config import TableConfig, Weight


class Columns(BaseModel):
    """Which column holds what.

    Args:
        image: Path or name of the picture or clip (`media_path` makes a path of a name), or an object with its bytes.
        caption: The text that was rated.
        rating: A number, or a list of numbers; or several columns, one per rater.
        rater: Who rated; null where each row, item or column is another rater's.
        prompt: What was asked; null where all captions answer `prompt`.
        source: Who wrote the caption; null where that is not known.
        weight: How much the rating counts, a number from 0 on; null where all count the same.
        aspects: In place of `rating`, the column of each aspect that was rated: `{helpful: q1, faithful: q2}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = "image"
    caption: str = "caption"
    rating: str | tuple[str, ...] = "rating"
    rater: str | None = "rater"
    prompt: str | None = None
    source: str | None = None
    weight: str | None = None
    aspects: dict[str, str] = Field(default_factory=dict)

    @property
    def rating_columns(self) -> tuple[str, ...]:
        """The rating columns, one or several."""
        return (self.rating,) if isinstance(self.rating, str) else self.rating

    @property
    def is_wide(self) -> bool:
        """Whether each rater has a column."""
        return not self.aspects and not isinstance(self.rating, str) and len(self.rating) > 1

    def settings(self) -> list[tuple[str, str]]:
        """(setting, column) of every column that is asked for."""
        single = [
            (f"columns.{name}", getattr(self, name))
            for name in ("image", "caption", "rater", "prompt", "source", "weight")
        ]
        return [
            *((setting, column) for setting, column in single if column is not None),
            *((f"columns.aspects.{name}", column) for name, column in self.aspects.items()),
            *(("columns.rating", column) for column in self.rating_columns if not self.aspects),
        ]


class Scale(BaseModel):
    """Smallest and largest rating that the raters could give."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float
    max: float

    @model_validator(mode="after")
    def _ordered(self) -> Scale:
        if not self.min < self.max:
            raise ValueError(f"min must be below max, got {self.min} and {self.max}")
        return self


class RatingsConfig(PairingConfig, TableConfig):
    """Configuration of `mmdpo build ratings`; docs/data.md explains each key."""

    columns: Columns = Columns()
    scale: Scale
    aggregate: Literal["mean", "median"] = "mean"
    standardise: Literal["none", "rater"] = "none"
    weights: dict[str, Weight] = Field(default_factory=dict)
    aspects: dict[str, Weight] = Field(default_factory=dict)
    min_raters: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> RatingsConfig:
        if unknown := sorted(self.aspects.keys() - self.columns.aspects.keys()):
            raise ValueError(f"aspects has a weight for {unknown[0]!r}, which columns.aspects does not name")
        if self.aggregate == "median" and (self.weights or self.columns.weight):
            raise ValueError("aggregate is median, which has no weights; use mean, or leave the weights out")
        return self
