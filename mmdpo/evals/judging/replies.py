"""What benchmarks with a judge share: answers that carry a verdict, a judge that is asked once, replies in files.

A judge is a function from a prompt to a reply. The prompts here are our own: official ones can be given as a file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError
from mmdpo.evals.result import Answer
from mmdpo.evals.shared.files import read_text

Judge = Callable[[str], str]
"""From a prompt to the judge's reply."""


class Unjudged(Exception):
    """An answer of which the judge said nothing, or nothing that can be read; it is set aside and counted.

    Args:
        replied: Whether there was a reply.
    """

    def __init__(self, *, replied: bool = True) -> None:
        super().__init__("a reply that holds no verdict" if replied else "no reply")
        self.replied = replied


@dataclass(frozen=True)
class JudgedAnswer(Answer):
    """An answer with what a judge said of it.

    Attributes:
        verdict: A code or the judge's whole reply; None if no judge was asked yet.
    """

    verdict: str | None = None


def asked_once(judge: Judge | None, benchmark: str) -> Judge | None:
    """A judge that is called once for each prompt.

    Args:
        judge: The judge, if there is one.
        benchmark: Name of the benchmark, for the error.

    Raises:
        ConfigError: It is no function.
    """
    if judge is None:
        return None
    if not callable(judge):
        raise ConfigError(
            f"judge {judge!r} of {benchmark} is no function",
            why="It is called with every prompt and returns a reply.",
            fix="Give --judge FILE.yaml to mmdpo score or eval (docs/evals_own.md); from Python a function, as in "
            f"make_benchmark({benchmark!r}, judge=lambda prompt: ...).",
        )
    return functools.cache(judge)


def prompted(judge: Judge | None, prompt: str | Path | None) -> list[str]:
    """What a rule says of its judge: nothing without one, else its ``name``, if it has one, and whose prompt it gets.

    Numbers of two judges are of two rules, and are not compared.
    """
    if judge is None:
        return []
    who = " ".join(["judge", *([judge.name] if hasattr(judge, "name") else [])])
    return [f"{who} with {'our prompt' if prompt is None else Path(prompt).name}"]


def template(path: str | Path | None, own: str, fields: Mapping[str, str]) -> str:
    """The text that a judge is asked, with a place ``{name}`` for each field.

    Args:
        path: A file that takes the place of our own text.
        own: Our own text.
        fields: Name -> what it stands for.

    Raises:
        ConfigError: The file lacks a place.
    """
    if path is None:
        return own
    text = read_text(Path(path))
    missing = [name for name in fields if f"{{{name}}}" not in text]
    if missing:
        raise ConfigError(
            f"the judge's prompt {str(path)!r} has no place for {', '.join(missing)}",
            why="The judge would not see what it should judge.",
            fix="Write " + ", ".join(f"{{{name}}} ({meaning})" for name, meaning in fields.items()) + " where they go.",
        )
    return text


def filled(text: str, values: Mapping[str, str]) -> str:
    """A template with its places filled in; braces in values and elsewhere stay as they are."""
    first, *rest = values
    parts = text.split(f"{{{first}}}")
    if not rest:
        return values[first].join(parts)
    return values[first].join(filled(part, {name: values[name] for name in rest}) for part in parts)


def reply_text(entry: Any) -> str | None:
    """The reply in an entry of a file: a string, or a chat completion; None if it is neither."""
    if isinstance(entry, str):
        return entry
    try:
        content = entry["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        return None
    return content if isinstance(content, str) else None
