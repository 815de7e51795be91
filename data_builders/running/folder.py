"""The folder of a build: free, this build's alone, and found again when the build goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from mmdpo.errors import ConfigError, DataError, MMDPOError
from mmdpo.interrupts import is_full
from mmdpo.jsonfiles import plain, read_json, write_json
from mmdpo.records.staging import DATA_FOLDER

SET_ASIDE_FILE = "set_aside.jsonl"
QUALITY_FILE = "quality.json"
BUILDING = ".building"
"""Folder of a build that is under way or was interrupted."""
_IDENTITY = "build.json"


def opened(out: Path) -> Path:
    """The folder of the build under way, made where there is none.

    Raises:
        ConfigError: ``out`` holds something else, or cannot be written to.
    """
    building = out / BUILDING
    _require_free(out)
    with _writable(out):
        building.mkdir(parents=True, exist_ok=True)
    return building


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"nothing can be written to {str(out)!r}: {error.strerror or error}",
            why="The records go there.",
            fix="Choose another --out, or see to its permissions and to room on its disk.",
        ) from error


def _require_free(out: Path) -> None:
    if (out / BUILDING / _IDENTITY).is_file():  # it was free when that build began: all there is, is its own
        return
    leftovers = {SET_ASIDE_FILE, QUALITY_FILE, BUILDING}  # the first two of a build that made no record
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - leftovers):
        raise ConfigError(
            f"the output {str(out)!r} exists and is not an empty folder",
            why="Nothing is overwritten: a run may depend on what is there.",
            fix="Choose another --out, or remove it first.",
        )


@contextmanager
def alone(building: Path) -> Iterator[None]:
    """Keeps other builds out of the folder; the system lets go of the lock however this one ends.

    Raises:
        ConfigError: Another build is at work there.
    """
    lock = filelock.FileLock(building / "lock")
    with _writable(building.parent):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ConfigError(
                f"another build is at work in {str(building.parent)!r}",
                why="Two builds in one folder would mix their records.",
                fix="Wait until it is done, or choose another --out.",
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def leaving_progress(out: Path) -> Iterator[None]:
    """What fails leaves what is worth going on with, and nothing else.

    Raises:
        DataError: The disk is full, or another failure of the system.
    """
    building = out / BUILDING
    try:
        yield
    except MMDPOError:
        if not any(building.rglob("*.journal.jsonl")):
            shutil.rmtree(building)
            if not any(out.iterdir()):
                out.rmdir()
        raise
    except OSError as error:
        raise DataError(
            f"the build stopped: {error}",
            why=f"{str(out)!r} holds no records yet; what was done so far is in {str(building)!r}.",
            fix=f"{'Make room' if is_full(error) else 'Mend that'}, and go on with --resume.",
        ) from error


def begun(out: Path, identity: dict[str, Any], resume: bool) -> bool:
    """Notes what is built, or finds that it is what was begun; whether all of it is done already.

    Raises:
        ConfigError: There is an interrupted build that is another one or was not asked for.
    """
    told = out / BUILDING / _IDENTITY
    _require_free(out)  # once more: another build may have ended since
    if not told.is_file():
        with _writable(out):
            write_json(told, identity)
        return False
    if not resume:
        raise ConfigError(
            f"{str(out)!r} holds an interrupted build",
            why="What it has done so far would be lost.",
            fix="Go on with --resume, choose another --out, or remove the folder.",
        )
    before = read_json(told)
    other = sorted(key for key in before.keys() | identity.keys() if before.get(key) != plain(identity.get(key)))
    if other == ["sources"]:
        changed = [path for path, state in before.get("sources", {}).items() if identity["sources"].get(path) != state]
        raise ConfigError(
            f"the source of the interrupted build in {str(out)!r} has changed: {', '.join(changed) or 'files are new'}",
            why="The rows that were read before would not belong to the rest.",
            fix="Put back what it was, or build anew: another --out, or remove the folder.",
        )
    if other:
        raise ConfigError(
            f"the interrupted build in {str(out)!r} was of other settings: {', '.join(other)}",
            why="Its parts would not belong to the rest.",
            fix="Give the settings that it began with, or choose another --out.",
        )
    return (out / DATA_FOLDER).is_dir()  # the last thing that is put in its place
