"""What every builder is: a validated configuration in, records out one by one, and an account of every row.

A builder is one small file: a configuration, a class with `records`, and `@builders.register("name")`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from data_builders.care.cleaners import CleanerName
from data_builders.running.ledger import Ledger, SetAside
from data_builders.running.work import Work
from mmdpo.records import Record

__all__ = ["Builder", "BuilderConfig", "Ledger", "SetAside", "Work"]


class BuilderConfig(BaseModel):
    """What all builders are told.

    Args:
        validation: Share of the media groups that go to the validation split.
        stratify: `source` takes that share of each source, so that both splits hold the same mixture.
        near_duplicates: Keep pictures that look nearly the same in one split.
        clean: Cleaners of texts, as docs/data_care.md lists them.
        seed: Seed of every choice that is left to chance.
        plugins: Python files beside the configuration that register extensions, such as the builder itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    validation: float = Field(0.05, ge=0.0, lt=1.0)
    stratify: Literal["none", "source"] = "none"
    near_duplicates: bool = False
    clean: tuple[CleanerName, ...] = ("unicode",)
    seed: int = 0
    plugins: list[str] = []

    @field_validator("clean", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


ConfigType = TypeVar("ConfigType", bound=BuilderConfig)


class Builder(ABC, Generic[ConfigType]):
    """Makes records from one kind of source. The first line of the docstring is what `mmdpo ls builders` shows.

    Class attributes:
        Config: Its configuration.
        sound_reasons: Reasons to set a row aside that say nothing bad of it; `--strict` allows them.
        shares: Whether several processes share its work: ``records`` then runs in all of them, does the part that
            ``work.shard`` says, waits for the others, and gives records in the main process alone.
    """

    Config: ClassVar[type[BuilderConfig]]
    sound_reasons: ClassVar[Sequence[str]] = ()
    shares: ClassVar[bool] = False

    @abstractmethod
    def records(self, config: ConfigType, work: Work) -> Iterator[Record]:
        """Reads the source and yields records, the same ones in the same order every time.

        Every row is noted in ``work.ledger``: read, then used or set aside. Bad rows are set aside; an error is raised
        only when the source as a whole cannot be used. What costs time or money is kept in ``work.scratch``, so that
        a build that is interrupted goes on from there. Numbers and notes for `quality.json` go to ``work``.
        """

    def media_root(self, config: ConfigType) -> Path | None:
        """Folder that the records' media paths are relative to; None where there are none."""
        del config
        return None

    def identity(self, config: ConfigType) -> Mapping[str, Any]:
        """What an interrupted build must still be like to go on: the configuration."""
        return config.model_dump(mode="json")
