"""Runs a builder: records and their account into a folder, all or nothing, and on from where it was interrupted.

    builder --records--> staging --groups, splits--> OUT/data, info.json
        |                                |
        `--ledger--> set_aside.jsonl     `--> quality.json

While it runs there is only OUT/.building; it stays when the build is interrupted, and `resume` goes on from it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_builders.base import Builder, BuilderConfig, Ledger, SetAside, Work
from data_builders.care.cleaning import Cleaning
from data_builders.care.near_copies import join_near_copies
from data_builders.quality import load_thresholds, measure_stream, scale_in, with_checks
from data_builders.quality.verdicts import Threshold
from data_builders.running.folder import BUILDING, QUALITY_FILE, SET_ASIDE_FILE, alone, begun, leaving_progress, opened
from data_builders.running.ledger import read_entries
from data_builders.splits import MediaGroups
from data_builders.tables.sources import state_of
from mmdpo.config import describe_problem
from mmdpo.errors import ConfigError, DataError
from mmdpo.jsonfiles import plain, read_json, write_json
from mmdpo.media import Media
from mmdpo.progress import Progress
from mmdpo.records import Record, Records, load_records
from mmdpo.records.files import list_splits, open_split, read_rows
from mmdpo.records.staging import Staging
from mmdpo.registry import builders, load_plugins
from mmdpo.shard import Shard

KEPT = "kept"
"""Folder in a builder's scratch folder whose files stay beside the records."""


def _train_first(split: str) -> tuple[bool, str]:
    return split != "train", split


@dataclass(frozen=True)
class BuildResult:
    """What a builder made.

    Args:
        out: The folder.
        quality: What `quality.json` holds: the account of the rows, the builder's numbers, and those of the records.
    """

    out: Path
    quality: Mapping[str, Any]

    @property
    def media_root(self) -> Path | None:
        """Folder that the paths of the media are relative to."""
        return open_split(self.out, list_splits(self.out)[0])[1]

    def distinct_media(self) -> dict[str, int]:
        """How many media items each split shows; its records are read one by one."""
        found: dict[str, int] = {}
        for name in sorted(list_splits(self.out), key=_train_first):
            rows = read_rows(open_split(self.out, name)[0])
            found[name] = len({item.identity for record in rows for _, item in record.media_items()})
        return found

    @cached_property
    def splits(self) -> dict[str, Records]:
        """The records by split, read from the folder."""
        names = sorted(list_splits(self.out), key=_train_first)
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
    thresholds: Path | None = None,
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
        thresholds: YAML file with bounds of the quality checks, as for `mmdpo quality`.
        progress: Wraps long loops for a progress bar.

    Returns:
        What was made. Where several processes build together, only the main one's says anything (``quality``).

    Raises:
        ConfigError: A plugin cannot be imported, the builder is unknown, the configuration is wrong (all its errors at
            once), the folder holds something else, or the thresholds are none.
        DataError: The source cannot be used, or no record came out of it.
    """
    plugins = _parse(BuilderConfig, {key: value for key, value in config.items() if key == "plugins"}, name).plugins
    load_plugins([Path(folder) / plugin for plugin in plugins])  # first: the builder may be in one of them
    bounds = load_thresholds(thresholds)
    builder: Builder[Any] = builders.get(name)()
    parsed = _parse(builder.Config, config, name)
    out, shard = Path(out), _shard()
    if shard is not None and not shard.is_main:
        return _helped(builder, parsed, out, shard, progress)
    building = opened(out)
    with alone(building):
        identity = {"builder": name, **plain(builder.identity(parsed)), "sources": state_of(parsed)}
        if begun(out, identity, resume):
            _put_kept(building, out)
            shutil.rmtree(building)
            if shard is not None:
                shard.wait()  # the others find that nothing is left to do
            return BuildResult(out, read_json(out / QUALITY_FILE))
        if shard is not None:
            shard.wait()  # the others may use the folder now
        with leaving_progress(out):
            result = _run(builder, parsed, name, out, shard, bounds, strict=strict, embed=embed, progress=progress)
        _put_kept(building, out)
        shutil.rmtree(building)
    return result


def _put_kept(building: Path, out: Path) -> None:
    for file in sorted((building / KEPT).glob("*")):
        file.replace(out / file.name)


def _shard() -> Shard | None:
    """Which of the processes of ``accelerate launch`` or ``torchrun`` this is; None where it is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    return Shard.of_this_process()


def _helped(builder: Builder[Any], config: Any, out: Path, shard: Shard, progress: Progress) -> BuildResult:
    """This process's part of the work; the account of the rows and the records are the main one's."""
    shard.wait()
    if builder.shares and (out / BUILDING).is_dir():  # else it was finished before
        ledger = Ledger(builder.sound_reasons, Path(os.devnull))
        with closing(ledger):
            for _ in builder.records(config, Work(out / BUILDING, ledger, progress, shard=shard)):
                pass
    return BuildResult(out, {})


def _run(
    builder: Builder[Any],
    config: Any,
    name: str,
    out: Path,
    shard: Shard | None,
    bounds: Mapping[str, Threshold],
    *,
    strict: bool,
    embed: bool,
    progress: Progress,
) -> BuildResult:
    building = out / BUILDING
    staged = building / "staged"
    shutil.rmtree(staged, ignore_errors=True)  # of before an interruption
    staged.mkdir()
    staging, groups = Staging(staged, builder.media_root(config), embed=embed), MediaGroups()
    ledger = Ledger(builder.sound_reasons, building / SET_ASIDE_FILE)
    work = Work(building, ledger, progress, shard=shard if builder.shares else None)
    cleaning = Cleaning(config.clean, ledger)
    with closing(ledger):
        for made in builder.records(config, work):
            record = cleaning.clean(work.store.whole_record(made))
            if record is not None and staging.add(record):
                groups.add(record)
        cleaning.settle(staging.records())
        work.notes += cleaning.notes()
        work.quality["cleaning"] = cleaning.numbers()
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
    if config.near_duplicates:
        joined = join_near_copies(_pictures(staging), builder.media_root(config), groups.join)
        work.notes.append(f"{joined} pictures look nearly like another one and stand in the same split as it")
    groups.join_partners(staging.records())
    work.notes += groups.note(config.validation)
    splits = groups.splits(config.validation, config.seed, by_source=config.stratify == "source")
    quality = {**head, "splits": {part: splits.count(part) for part in ("train", "validation") if part in splits}}
    told = config.model_dump(mode="json")
    measured = measure_stream(
        zip(splits, staging.records(), strict=True), builder.media_root(config), seed=config.seed, scale=scale_in(told)
    )
    quality = with_checks({**quality, **work.quality, "records": measured}, bounds)
    write_json(out / QUALITY_FILE, quality)
    shutil.copyfile(building / SET_ASIDE_FILE, out / SET_ASIDE_FILE)
    staging.finish(out, splits, {"builder": name, "config": told})  # last: from then on there is a data set
    return BuildResult(out, quality)


def _pictures(staging: Staging) -> Iterator[Media]:
    """Every picture of the records once."""
    seen: set[str] = set()
    for record in staging.records():
        for item in record.media.get("images", ()):
            if item.identity not in seen:
                seen.add(item.identity)
                yield item


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
        told = [problem for problem in error.errors() if problem["type"] != "default_factory_not_called"]  # it follows
        problems = [describe_problem(dict(problem), model) for problem in told]
        raise ConfigError(
            f"the configuration of builder {name!r} has {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n  "
            + "\n  ".join(problems),
            why="Nothing was read.",
            fix="Correct them all at once; docs/data.md explains each key.",
        ) from error
