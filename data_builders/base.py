"""What every builder is: a validated configuration in, records and an account of every row out.

A builder is one small file: a configuration, a class with `build`, and `@builders.register("name")`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_builders.quality import measure
from mmdpo.config import describe_problem
from mmdpo.errors import ConfigError, DataError
from mmdpo.jsonfiles import write_json, write_json_lines
from mmdpo.records import Record, Records, save_records
from mmdpo.registry import builders, load_plugins

SET_ASIDE_FILE = "set_aside.jsonl"
QUALITY_FILE = "quality.json"

_LONGEST_VALUE = 500


class BuilderConfig(BaseModel):
    """What all builders are told.

    Args:
        validation: Share of the media groups that go to the validation split.
        seed: Seed of every choice that is left to chance.
        plugins: Python files beside the configuration that register extensions, such as the builder itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    validation: float = Field(0.05, ge=0.0, lt=1.0)
    seed: int = 0
    plugins: list[str] = []


@dataclass(frozen=True)
class SetAside:
    """One value that was not used.

    Args:
        reason: Short stable name, as docs/data.md lists them.
        row: Number of the row in the table, from 1.
        column: Which column, when only one value of a row was set aside.
        value: What stood there.
        message: The same for people.
    """

    reason: str
    row: int
    column: str | None = None
    value: Any = None
    message: str = ""


class Ledger:
    """The account of every row that was read: used, or set aside with a reason.

    A row that holds several ratings is used when one of them is; those of its values that are not are listed too.

    Args:
        sound_reasons: Reasons that say nothing bad of a row (there was merely no use for it); `--strict` allows them.
    """

    def __init__(self, sound_reasons: Sequence[str] = ()) -> None:
        self.sound_reasons = frozenset(sound_reasons)
        self.entries: list[SetAside] = []
        self._read: set[int] = set()
        self._used: set[int] = set()

    def read(self, row: int) -> None:
        """Notes that a row was read."""
        self._read.add(row)

    def use(self, row: int) -> None:
        """Notes that something of a row is in the records."""
        self._used.add(row)

    def set_aside(
        self, reason: str, row: int, value: Any = None, *, column: str | None = None, message: str = ""
    ) -> None:
        """Notes that a row, or one value of it, is not used."""
        self.entries.append(SetAside(reason, row, column, _printable(value), str(_printable(message))))

    def account(self) -> dict[str, Any]:
        """The balance: rows by what became of them.

        Returns:
            `rows` (read, used, set_aside), `set_aside` (rows by reason, adding up to rows.set_aside) and
            `set_aside_values` (single values set aside from rows that are used, by reason).
        """
        listed = {entry.row for entry in self.entries}
        lost = self._read - self._used - listed
        if lost:
            raise AssertionError(f"rows neither used nor set aside: {sorted(lost)[:10]}")
        unused = listed - self._used
        by_row = groupby(sorted(self.entries, key=lambda entry: entry.row), key=lambda entry: entry.row)
        firsts = [next(entries) for row, entries in by_row if row in unused]
        values = [entry.reason for entry in self.entries if entry.row in self._used]
        return {
            "rows": {"read": len(self._read), "used": len(self._used), "set_aside": len(unused)},
            "set_aside": dict(Counter(entry.reason for entry in firsts).most_common()),
            "set_aside_values": dict(Counter(values).most_common()),
        }

    def require_clean(self) -> None:
        """Refuses bad rows, for `--strict`.

        Raises:
            DataError: Something was set aside for another reason than a sound one.
        """
        bad = [entry for entry in self.entries if entry.reason not in self.sound_reasons]
        if bad:
            kinds = ", ".join(f"{count} {reason}" for reason, count in Counter(e.reason for e in bad).most_common())
            first = bad[0]
            raise DataError(
                f"the table has bad rows: {kinds}",
                why=f"The first is row {first.row}: {first.reason} {first.value!r}. With --strict nothing may be bad.",
                fix="Correct them, or build without --strict to set them aside and count them.",
            )


def _printable(value: Any) -> Any:
    """The value as a log can hold it: numbers as they are, all else as short text that is valid Unicode."""
    if value is None or isinstance(value, int | float):
        return value
    return str(value)[:_LONGEST_VALUE].encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class BuildResult:
    """What a builder made.

    Args:
        splits: Records by split: `train` and, unless it is empty, `validation`.
        quality: Numbers and examples, as docs/data.md describes them; nothing but what JSON can hold. `build` adds the
            account of the ledger, the splits and the records' own numbers where they are not given.
        ledger: The account of every row.
    """

    splits: Mapping[str, Records]
    quality: Mapping[str, Any]
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def records(self) -> Records:
        """All records, split after split."""
        everything: list[Record] = [record for records in self.splits.values() for record in records]
        roots = [records.media_root for records in self.splits.values()]
        return Records(everything, roots[0] if roots else None)

    @property
    def set_aside(self) -> list[SetAside]:
        """Everything that was not used, with the reason and the row."""
        return self.ledger.entries


ConfigType = TypeVar("ConfigType", bound=BuilderConfig)


class Builder(ABC, Generic[ConfigType]):
    """Makes records from one kind of source. The first line of the docstring is what `mmdpo ls builders` shows."""

    Config: ClassVar[type[BuilderConfig]]

    @abstractmethod
    def build(self, config: ConfigType) -> BuildResult:
        """Reads the source and returns records with an account of every row.

        Bad rows are set aside in the ledger; an error is raised only when the source as a whole cannot be used.
        """


def build(
    name: str,
    config: Mapping[str, Any],
    out: str | Path,
    *,
    strict: bool = False,
    embed: bool = False,
    folder: str | Path = ".",
) -> BuildResult:
    """Runs a builder and writes the records, `quality.json` and `set_aside.jsonl`.

    Args:
        name: A registered builder.
        config: Its configuration, as read from YAML and the command line.
        out: Folder to make.
        strict: Fail when any row is bad, before anything is written.
        embed: Store the media's bytes in the records.
        folder: Where the configuration lies; relative ``plugins`` start there.

    Raises:
        ConfigError: A plugin cannot be imported, the builder is unknown, or the configuration is wrong; all its errors
            at once.
        DataError: The source cannot be used, `out` is taken, or no record came out of it.
    """
    plugins = _parse(BuilderConfig, {key: value for key, value in config.items() if key == "plugins"}, name).plugins
    load_plugins([Path(folder) / plugin for plugin in plugins])  # first: the builder may be in one of them
    builder: Builder[Any] = builders.get(name)()
    parsed = _parse(builder.Config, config, name)
    out = Path(out)
    _require_free(out)
    result = _measured(builder.build(parsed), parsed.seed)
    if strict:
        result.ledger.require_clean()
    out.mkdir(parents=True, exist_ok=True)
    write_json_lines(out / SET_ASIDE_FILE, [vars(entry) for entry in result.set_aside])
    write_json(out / QUALITY_FILE, {"builder": name, **result.quality})
    if not len(result.records):
        counts = ", ".join(f"{count} {reason}" for reason, count in result.ledger.account()["set_aside"].items())
        raise DataError(
            f"no record came out of {result.ledger.account()['rows']['read']} rows",
            why=f"Rows set aside: {counts or 'none'}.{_first_message(result.set_aside)}",
            fix=f"See {out / SET_ASIDE_FILE} for each of them; what can be set is explained in docs/data.md.",
        )
    provenance = {"builder": name, "config": parsed.model_dump(mode="json")}
    save_records(result.splits, out, embed=embed, provenance=provenance)
    return result


def _measured(result: BuildResult, seed: int) -> BuildResult:
    """The result with the numbers that every quality page shows, where the builder did not give them itself."""
    splits = {name: len(part) for name, part in result.splits.items()}
    quality = {"source": None, **result.ledger.account(), "possible_pairs": None, "splits": splits}
    if "records" not in result.quality and len(result.records):
        quality["records"] = measure(result.records, seed=seed)
    return replace(result, quality={**quality, **result.quality})


def _require_free(out: Path) -> None:
    """Refuses a folder that holds something, except what a build that made no record has left there."""
    leftovers = {SET_ASIDE_FILE, QUALITY_FILE}
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - leftovers):
        raise ConfigError(
            f"the output {str(out)!r} exists and is not an empty folder",
            why="Nothing is overwritten: a run may depend on what is there.",
            fix="Choose another --out, or remove it first.",
        )


def _first_message(entries: Sequence[SetAside]) -> str:
    return next((f" Row {entry.row}: {entry.message}." for entry in entries if entry.message), "")


def _parse(model: type[BuilderConfig], values: Mapping[str, Any], name: str) -> BuilderConfig:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = [describe_problem(dict(problem), model) for problem in error.errors()]
        raise ConfigError(
            f"the configuration of builder {name!r} has {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n  "
            + "\n  ".join(problems),
            why="Nothing was read.",
            fix="Correct them all at once; docs/data.md explains each key.",
        ) from error
