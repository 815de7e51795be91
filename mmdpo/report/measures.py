"""What each metric means to a reader: its name in words, which direction is better, how its values are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

Row = TypeVar("Row")
Direction = Literal["lower", "higher"]
Role = Literal["hallucination", "coverage", "capability", "other"]
_DIRECTIONS: Mapping[str, Direction | None] = {"lower": "lower", "higher": "higher", "neither": None}
_ROLES: Mapping[str, Role] = {role: role for role in get_args(Role)}


@dataclass(frozen=True)
class Measure:
    """One metric as people read it.

    Args:
        name: Its key in ``metrics.json`` and ``comparison.json``.
        label: Its name in words.
        meaning: What is counted, in half a sentence.
        better: The better direction; None where neither is better by itself.
        role: ``hallucination`` and ``coverage`` are read together: who says less hallucinates less. ``capability`` is
            what a model can do beside, and may lose.
        percent: Values are fractions in 0..1, shown as percent; otherwise they are shown as they are.
    """

    name: str
    label: str
    meaning: str
    better: Direction | None = "higher"
    role: Role = "other"
    percent: bool = True

    @property
    def arrow(self) -> str:
        """An arrow in the better direction, or nothing."""
        return {"lower": "↓", "higher": "↑", None: ""}[self.better]


_KNOWN = {
    measure.name: measure
    for measure in (
        Measure("chair_i", "CHAIR_i", "named objects that are not there", "lower", "hallucination"),
        Measure("chair_s", "CHAIR_s", "captions with at least one such object", "lower", "hallucination"),
        Measure("chair", "CHAIR", "named objects that are not there", "lower", "hallucination"),
        Measure("hal", "Hal", "answers with a hallucination", "lower", "hallucination"),
        Measure("cog", "Cog", "hallucinations that people tend to make too", "lower", "hallucination"),
        Measure("hallucination_rate", "Hallucination rate", "answers with a hallucination", "lower", "hallucination"),
        Measure("recall", "Recall", "of what is there, the share that is found", "higher", "coverage"),
        Measure("cover", "Cover", "annotated objects that are named", "higher", "coverage"),
        Measure("objects_per_caption", "Objects per caption", "objects named", None, "other", False),
        Measure("accuracy", "Accuracy", "right answers"),
        Measure("precision", "Precision", "right among the answers that say yes"),
        Measure("f1", "F1", "balance of precision and recall"),
        Measure("yes_ratio", "Yes ratio", "answers that say yes", None),
        Measure("a_acc", "Accuracy per question", "right answers"),
        Measure("q_acc", "Accuracy per question pair", "questions right on all their pictures"),
        Measure("f_acc", "Accuracy per figure", "pictures with every question right"),
        Measure("easy_acc", "Accuracy, easy", "right answers on unedited pictures"),
        Measure("hard_acc", "Accuracy, hard", "right answers on edited pictures"),
        Measure("amber", "AMBER score", "mean of 1 - CHAIR and F1"),
        Measure("score", "Score", "mean of the judge's marks", "higher", "other", False),
        Measure("informativeness", "Informativeness", "mean of the judge's marks", "higher", "other", False),
        Measure("hallucination", "Hallucination tasks", "sum of the task scores", "higher", "other", False),
    )
}
_SPELLED = {"pope": "POPE", "chair": "CHAIR", "amber": "AMBER", "vqa": "VQA", "mme": "MME", "mmau": "MMAU"}


def measure(name: str, told: Mapping[str, Any] | None = None) -> Measure:
    """The measure behind a metric name, for example ``chair_i``, ``pope_random_f1`` or ``accuracy/yes_no``.

    A name that is not known is shown as it is, as a fraction without a better direction.

    Args:
        name: The metric's name.
        told: What its benchmark says of it, which goes before what is known here: ``label``, ``meaning``, ``better``
            (``lower``, ``higher`` or ``neither``), ``role`` and ``percent``, each where it has something to say.
    """
    found, told = _known(name), told or {}
    better, role, percent = (told.get(key) for key in ("better", "role", "percent"))
    return replace(
        found,
        label=str(told.get("label") or found.label),
        meaning=str(told.get("meaning") or found.meaning),
        better=_DIRECTIONS.get(str(better), found.better),
        role=_ROLES.get(str(role), found.role),
        percent=percent if isinstance(percent, bool) else found.percent,
    )


def _known(name: str) -> Measure:
    if name in _KNOWN:
        return _KNOWN[name]
    head, _, group = name.partition("/")
    if group and (found := _known(head)).meaning:
        return replace(found, name=name, label=f"{found.label}, {in_words(group)}")
    endings = [known for known in _KNOWN if re.search(rf"[_/.]{re.escape(known)}$", name)]
    if not endings:
        return Measure(name, in_words(name), "", None)
    ending = max(endings, key=len)
    known = _KNOWN[ending]
    # Recall of yes/no questions is no coverage of a free answer: there is no "saying less" to detect.
    role: Role = "other" if ending == "recall" and not name.startswith("chair") else known.role
    return replace(known, name=name, label=f"{in_words(name[: -len(ending) - 1])}: {known.label}", role=role)


def foremost(rows: Sequence[Row], measure_of: Callable[[Row], Measure], most: int) -> list[Row]:
    """At most so many, in the order in which they came.

    Left out are first those of a part of the questions (``accuracy/number``), then those of a later `Role`.
    """
    roles, found = list(_ROLES), [measure_of(row) for row in rows]
    ranked = sorted(range(len(rows)), key=lambda place: ("/" in found[place].name, roles.index(found[place].role)))
    return [rows[place] for place in sorted(ranked[:most])]


def in_words(name: str) -> str:
    """A name in words: ``pope_random`` as ``POPE random``."""
    words = [_SPELLED.get(word, word) for word in re.split(r"[_/.\s]+", name) if word]
    text = " ".join(words) or name
    return text[:1].upper() + text[1:]


def format_value(measure: Measure, value: float | None) -> str:
    """``0.132`` as ``13.2%``; unscaled measures as ``3.1``; nothing as a dash."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if measure.percent else _short(value)


def format_interval(measure: Measure, low: float | None, high: float | None) -> str:
    """``12.1 – 14.3``: the unit stands at the value beside it."""
    if low is None or high is None:
        return ""
    scale = 100 if measure.percent else 1
    written = [f"{scale * bound:.1f}" if measure.percent else _short(bound) for bound in (low, high)]
    return f"{written[0]} – {written[1]}"


def format_difference(measure: Measure, value: float | None) -> str:
    """``-9.9 pts`` with a true minus sign: a difference of percentages is in points, not percent."""
    if value is None:
        return "–"
    written = f"{100 * value:+.1f} pts" if measure.percent else f"{value:+.2f}"
    return written.replace("-", "−")


def format_bounds(measure: Measure, low: float | None, high: float | None) -> str:
    """The interval of a difference, with signs."""
    if low is None or high is None:
        return ""
    scale, digits = (100, 1) if measure.percent else (1, 2)
    return f"{scale * low:+.{digits}f} to {scale * high:+.{digits}f}".replace("-", "−")


def format_p(p: float | None) -> str:
    """``p < 0.001``, ``p = 0.03``; nothing where there is none."""
    if p is None:
        return ""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _short(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
