"""One process at a time writes to a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from mmdpo.errors import ConfigError


@contextmanager
def exclusive(run: Path) -> Iterator[None]:
    """Keeps other processes from writing to a run; the system lets go of the lock however this one ends.

    Raises:
        ConfigError: Another process is at work there, or there is no run.
    """
    if not (run / "config.yaml").is_file():
        raise no_run(run)
    lock = filelock.FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise at_work(run) from error
    try:
        yield
    finally:
        lock.release()


def at_work(run: Path) -> ConfigError:
    """The error that another process writes to a run."""
    return ConfigError(
        f"another process is at work in {str(run)!r}",
        why="Both would write its log, checkpoints and answers. The processes of a killed launcher live on.",
        fix="Wait until it is done, or end it.",
    )


def no_run(folder: Path) -> ConfigError:
    """The error that a folder is no run's."""
    return ConfigError(
        f"{str(folder)!r} is not a run folder: it has no manifest.json",
        why="There is nothing to resume, evaluate or report.",
        fix="Give the folder that mmdpo train wrote.",
    )
