"""Folders that a setting or an option names: whether files can be made there, found out before any work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mmdpo.errors import ConfigError


def check_place(folder: Path, setting: str) -> None:
    """Refuses a folder in which nothing can be written. What is tried there is gone again.

    Args:
        folder: The folder; it may be absent, and so may those that it lies in.
        setting: Who names it, for the message: ``reference.cache``, ``--out``.

    Raises:
        ConfigError: It is a file, or lies where no folder can be made.
    """
    try:
        nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryDirectory(dir=nearest):
            pass
    except OSError as error:
        raise ConfigError(
            f"{setting} is {str(folder)!r}: {error.strerror}",
            why="Nothing could be written there when the work is done.",
            fix="Name a folder, or a place where one can be made.",
        ) from error
