"""What the options of benchmarks share: names to choose from, functions, file names of images."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mmdpo.errors import ConfigError, did_you_mean


def check_choice(benchmark: str, option: str, value: str, known: Collection[str], fix: str) -> None:
    """Makes sure that an option has one of the values it can have.

    Raises:
        ConfigError: It has another.
    """
    if value not in known:
        raise ConfigError(f"unknown {option} {value!r} for {benchmark}", why=did_you_mean(str(value), known), fix=fix)


def check_function(benchmark: str, option: str, value: Any) -> None:
    """Makes sure that an option that only Python can give is a function, or left out.

    Raises:
        ConfigError: It is something else.
    """
    if value is not None and not callable(value):
        raise ConfigError(
            f"{option} {value!r} of {benchmark} is no function",
            why="It is called with every text.",
            fix=f"Give it from Python: make_benchmark({benchmark!r}, {option}=...). The command line has no way to.",
        )


def check_file_name(option: str, pattern: str | None) -> None:
    """Makes sure that file names can be made from a pattern with a place for the ``{id}``.

    Raises:
        ConfigError: They cannot, or all would be the same.
    """
    if pattern is None:
        return
    try:
        names = {pattern.format(id=image) for image in ("1", "2")}
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{option} {pattern!r} is no pattern: {error}",
            why="The file name of every image is made from it.",
            fix="Write the id's place as {id}, or {id:0>12} for twelve digits.",
        ) from error
    if len(names) < 2:
        raise ConfigError(
            f"{option} {pattern!r} has no place for the id",
            why="Every image would be the same file.",
            fix="Write {id} where it goes, such as {id}.jpg.",
        )


def file_name(pattern: str | None, media_id: object, given: str) -> str:
    """The file name that a pattern makes of an id; without a pattern the one that is given."""
    return given if pattern is None else pattern.format(id=str(media_id))
