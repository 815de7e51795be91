"""Runs a builder: records and their account into a folder, all or nothing, and on from where it was interrupted.

    builder --records--> staging --groups, splits--> OUT/data, info.json
        |                                |
        `--ledger--> set_aside.jsonl     `--> quality.json

While it runs there is only OUT/.building; it stays when the build is interrupted, and `resume` goes on from it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_builders.base import Builder, BuilderConfig, Ledger, SetAside, Work
from data_builders.ledger import read_entries
from data_builders.quality import measure_stream, scale_in, with_checks
from data_builders.splits import MediaGroups, chosen_groups
from data_builders.work import Progress
from mmdpo.config import describe_problem
from mmdpo.errors import ConfigError, DataError, MMDPOError
from mmdpo.jsonfiles import plain, read_json, write_json
from mmdpo.records import Record, Records, load_records
from mmdpo.records_io import list_splits
from mmdpo.records_staging import Staging
from mmdpo.registry import builders, load_plugins

SET_ASIDE_FILE = "set_aside.jsonl"
QUALITY_FILE = "quality.json"
BUILDING = ".building"
"""Folder of a build that is under way or was interrupted."""


@dataclass(frozen=True)
class BuildResult:
    """What a builder made.

    Args:
        out: The folder.
        quality: What `quality.json` holds: the account of the rows, the builder's numbers, and those of the records.
    """

    out: Path
    quality: Mapping[str, Any]

    @cached_property
    def splits(self) -> dict[str, Records]:
        """The records by split, read from the folder."""
        names = sorted(list_splits(self.out), key=lambda name: (name != "train", name))
        return {name: load_records(self.out, split=name) for name in names}

    @property
    def records(self) -> Records:
        """All records, split after split."""
        everything: list[Record] = [record for records in self.splits.values() for record in records]
        roots = [records.media_root for records in self.splits.values()]
        return Records(everything, roots[0] if roots else None)

    @cached_property
    def set_aside(self) -> list[SetAside]:
        """Everything that was not used, with the reason and the row."""
        return read_entries(self.out / SET_ASIDE_FILE)


def build(
    name: str,
    config: Mapping[str, Any],
    out: str | Path,
    *,
    strict: bool = False,
    embed: bool = False,
    resume: bool = False,
    folder: str | Path = ".",
    progress: Progress = iter,
) -> BuildResult:
    """Runs a builder and writes the records, `quality.json` and `set_aside.jsonl`.

    Args:
        name: A registered builder.
        config: Its configuration, as read from YAML and the command line.
        out: Folder to make.
        strict: Fail when any row is bad, before anything is written.
        embed: Store the media's bytes in the records.
        resume: Go on with an interrupted build in that folder; nothing that it has is made again.
        folder: Where the configuration lies; relative ``plugins`` start there.
        progress: Wraps long loops for a progress bar.

    Raises:
        ConfigError: A plugin cannot be imported, the builder is unknown, the configuration is wrong (all its errors at
            once), or the folder holds something else.
        DataError: The source cannot be used, or no record came out of it.
    """
    plugins = _parse(BuilderConfig, {key: value for key, value in config.items() if key == "plugins"}, name).plugins
    load_plugins([Path(folder) / plugin for plugin in plugins])  # first: the builder may be in one of them
    builder: Builder[Any] = builders.get(name)()
    parsed = _parse(builder.Config, config, name)
    out = Path(out)
    building = _begun(out, {"builder": name, **plain(builder.identity(parsed))}, resume)
    try:
        result = _run(builder, parsed, name, out, strict=strict, embed=embed, progress=progress)
    except MMDPOError:
        if not any(building.rglob("*.journal.jsonl")):  # nothing in it that is worth going on with
            shutil.rmtree(building)
            if not any(out.iterdir()):
                out.rmdir()
        raise
    except OSError as error:
        raise DataError(
            f"the build stopped: {error}",
            why=f"{str(out)!r} holds no records yet; what was done so far is in {str(building)!r}.",
            fix="Make room, or give another disk, and go on with --resume.",
        ) from error
    shutil.rmtree(building)
    return result


def _run(
    builder: Builder[Any], config: Any, name: str, out: Path, *, strict: bool, embed: bool, progress: Progress
) -> BuildResult:
    building = out / BUILDING
    staged = building / "staged"
    shutil.rmtree(staged, ignore_errors=True)  # of before an interruption
    staged.mkdir()
    ledger = Ledger(builder.sound_reasons, building / SET_ASIDE_FILE)
    work = Work(building, ledger, progress)
    staging, groups = Staging(staged, builder.media_root(config), embed=embed), MediaGroups()
    with closing(ledger):
        for record in builder.records(config, work):
            if staging.add(record):
                groups.add(record)
    if strict:
        ledger.require_clean()
    account = ledger.account()
    head = {"builder": name, "source": None, **account, "notes": work.notes, "possible_pairs": None}
    if not staging.n:
        write_json(out / QUALITY_FILE, {**head, "splits": {}, **work.quality})
        (building / SET_ASIDE_FILE).replace(out / SET_ASIDE_FILE)
        staging.require_valid("what the builder made")
        raise _no_record(account, ledger, out)
    staging.require_valid("what the builder made")
    names = groups.names()
    held_out = chosen_groups(names, config.validation, config.seed)
    splits = ["validation" if group in held_out else "train" for group in names]
    quality = {**head, "splits": {part: splits.count(part) for part in ("train", "validation") if part in splits}}
    told = config.model_dump(mode="json")
    measured = measure_stream(
        zip(splits, staging.records(), strict=True), builder.media_root(config), seed=config.seed, scale=scale_in(told)
    )
    quality = with_checks({**quality, **work.quality, "records": measured})
    staging.finish(out, splits, {"builder": name, "config": told})
    write_json(out / QUALITY_FILE, quality)
    (building / SET_ASIDE_FILE).replace(out / SET_ASIDE_FILE)
    return BuildResult(out, quality)


def _begun(out: Path, identity: dict[str, Any], resume: bool) -> Path:
    """The folder of the build under way: made, or found again.

    Raises:
        ConfigError: ``out`` holds something else, or an interrupted build that is another one or was not asked for.
    """
    leftovers = {SET_ASIDE_FILE, QUALITY_FILE, BUILDING}  # the first two of a build that made no record
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - leftovers):
        raise ConfigError(
            f"the output {str(out)!r} exists and is not an empty folder",
            why="Nothing is overwritten: a run may depend on what is there.",
            fix="Choose another --out, or remove it first.",
        )
    building, told = out / BUILDING, out / BUILDING / "build.json"
    if told.is_file():
        if not resume:
            raise ConfigError(
                f"{str(out)!r} holds an interrupted build",
                why="What it has done so far would be lost.",
                fix="Go on with --resume, choose another --out, or remove the folder.",
            )
        before = read_json(told)
        other = sorted(key for key in before.keys() | identity.keys() if before.get(key) != identity.get(key))
        if other:
            raise ConfigError(
                f"the interrupted build in {str(out)!r} was of other settings: {', '.join(other)}",
                why="Its parts would not belong to the rest.",
                fix="Give the settings that it began with, or choose another --out.",
            )
    else:
        building.mkdir(parents=True, exist_ok=True)
        write_json(told, identity)
    return building


def _no_record(account: Mapping[str, Any], ledger: Ledger, out: Path) -> DataError:
    counts = ", ".join(f"{count} {reason}" for reason, count in account["set_aside"].items())
    return DataError(
        f"no record came out of {account['rows']['read']} rows",
        why=f"Rows set aside: {counts or 'none'}.{ledger.first_message}",
        fix=f"See {out / SET_ASIDE_FILE} for each of them; what can be set is explained in docs/data.md.",
    )


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
