"""A finding: one number with its interval and what it says, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def finding(name: str, estimate: Mapping[str, Any] | float | None, message: str, *, n: int = 0) -> dict[str, Any]:
    """A number to judge.

    Args:
        name: Which check, as in thresholds.yaml.
        estimate: ``{"value", "low", "high", "n"}``, or a number without an interval; None where it was not measured.
        message: What was found, in a sentence or two that can be read alone.
        n: What a number without an interval is made of.
    """
    if not isinstance(estimate, Mapping):
        estimate = {"value": estimate, "low": None, "high": None, "n": n}
    return {"name": name, **{key: estimate[key] for key in ("value", "low", "high", "n")}, "message": message}


def share(estimate: Mapping[str, Any]) -> str:
    """``39.5% (36.9 to 42.2)``: a fraction as people read it, with its interval where there is one."""
    if estimate["value"] is None:
        return "an unknown share"
    written = f"{100 * estimate['value']:.1f}%"
    if estimate["low"] is None or estimate["high"] is None:
        return written
    return f"{written} ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"


def listed(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def short(text: str, length: int = 90) -> str:
    """A text in quotation marks, cut at a word."""
    text = " ".join(text.split())
    return f"“{text}”" if len(text) <= length else f"“{text[:length].rsplit(' ', 1)[0]} …”"
