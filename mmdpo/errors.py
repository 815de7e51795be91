"""Errors that mmdpo raises on purpose.

    MMDPOError              a failure we foresaw; the command line prints it without a traceback (exit 1)
    |-- ConfigError         wrong usage or configuration (exit 2)
    |-- DataError           records, ratings or media that cannot be used as they are
    |-- ModelError          a model, processor or template that cannot do what is asked of it
    `-- ParityError         two computations that must agree do not: training would be wrong

Every message has three parts: what is wrong (with the value), why it matters, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MMDPOError(Exception):
    """A failure we foresaw, told in three parts.

    Args:
        what: What is wrong, with the value that is wrong.
        why: Why it matters.
        fix: What the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__("\n".join(part for part in (what, why, fix) if part))


class ConfigError(MMDPOError):
    """Wrong usage or configuration."""

    exit_code = 2


class DataError(MMDPOError):
    """Records, ratings or media that cannot be used as they are."""


class ModelError(MMDPOError):
    """A model, processor or template that cannot do what is asked of it."""


class ParityError(MMDPOError):
    """Two computations that must agree do not."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """One sentence that names the nearest known names, or all of them when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(repr(n) for n in near) + "?"
    if len(known) > 40:
        return f"None of the {len(known)} known names is near."
    return "Known names: " + (", ".join(known) or "none") + "."
