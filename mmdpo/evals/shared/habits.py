"""How a model answers, whatever it is asked: words in an answer, answers that decline, answers without a word.

Alignment changes them beside what it is meant to change: a model that says less, or declines, hallucinates less. So
they are taken of the answers to every benchmark, and stand apart from its own metrics.

Rule: a word is what stands between white space. An answer declines by `shared.safety_rules.declines`, which reads
    English. An answer is empty if it holds nothing but white space. Answers that were read from the logits are no text
    that a model wrote, and do not count.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mmdpo.evals.result import Item
from mmdpo.evals.shared.safety_rules import declines
from mmdpo.evals.stats import Better, Interval, Metric, Table, interval, ratio

NOT_WRITTEN = {"written": False}
"""What the details of an item say whose answer is no text that a model wrote."""


@dataclass(frozen=True)
class Habit:
    """What one answer adds to each sum.

    Attributes:
        group: The image that it is about.
        counts: The sums of `habit_counts`.
    """

    group: str
    counts: Mapping[str, float]


def habit_counts(text: str) -> dict[str, float]:
    """What an answer adds to each sum."""
    return {
        "answers": 1.0,
        "words": float(len(text.split())),
        "refusals": float(declines(text)),
        "empty": float(not text.strip()),
    }


def habit_metrics(refusals_wanted: bool = False) -> list[Metric]:
    """Words per answer, refusal rate, rate of empty answers.

    Args:
        refusals_wanted: Whether some questions should be declined: then fewer refusals are not better.
    """
    better: Better = "neither" if refusals_wanted else "lower"
    return [
        ratio(
            "words_per_answer",
            "words",
            "answers",
            bounds=(0.0, math.inf),
            better="neither",
            label="Words per answer",
            meaning="words of an answer",
            role="capability",
        ),
        ratio(
            "refusal_rate",
            "refusals",
            "answers",
            better=better,
            label="Refusals",
            meaning="answers that decline",
            role="capability",
        ),
        ratio(
            "empty_rate",
            "empty",
            "answers",
            better="lower",
            label="Empty answers",
            meaning="answers without a word",
            role="capability",
        ),
    ]


def habits_of(items: Iterable[Item]) -> list[Habit]:
    """The habits of the answers that a model wrote."""
    return [Habit(item.group, habit_counts(item.raw)) for item in items if item.details.get("written", True)]


def habits(items: Iterable[Item], *, refusals_wanted: bool = False, known: Collection[str] = ()) -> dict[str, Interval]:
    """The habits of some judged answers, with intervals whose unit is the image.

    Args:
        items: The answers.
        refusals_wanted: As for `habit_metrics`.
        known: Names that are left out, because the benchmark has a metric of that name itself.

    Returns:
        Name -> interval; empty where no answer was written.
    """
    found = habits_of(items)
    if not found:
        return {}
    table = Table.of(found)
    return {
        metric.name: interval(table, metric) for metric in habit_metrics(refusals_wanted) if metric.name not in known
    }
