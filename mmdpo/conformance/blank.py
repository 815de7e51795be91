"""Does a model use its media? The same questions twice: with the media, and with them blanked.

A model can answer many questions from words alone, and a broken data path looks exactly like such a model. The share of
right answers that is lost when nothing can be seen or heard is what the media gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_builders.splits import media_groups
from mmdpo.errors import DataError
from mmdpo.evals.comparing.paired import Difference, paired_difference
from mmdpo.evals.stats import Interval, Table, interval, ratio
from mmdpo.python_api import score
from mmdpo.records import Records
from mmdpo.views import CLEAN

ACCURACY = ratio("accuracy", "right", "questions")


@dataclass(frozen=True)
class BlankCheck:
    """Accuracies with 95% intervals that resample media items.

    Attributes:
        clean: With the media.
        blank: With each item replaced by its blank variant.
        gain: The first minus the second, on the same questions.
    """

    clean: Interval
    blank: Interval
    gain: Difference


@dataclass(frozen=True)
class _Answered:
    group: str
    counts: Mapping[str, float]


def blank_check(model: Any, processor: Any, records: Records, *, variant: str = "blank") -> BlankCheck:
    """Accuracy with the media and without them.

    An answer counts as right when the right candidate is more likely than every other one; a tie counts one half.

    Args:
        model: A model of :func:`mmdpo.load`.
        processor: Its processor.
        records: Questions with media; the first candidate is the right answer (``Yes`` and ``No``, for instance).
        variant: What the media are replaced by: a corruption that every modality of the records has.

    Raises:
        DataError: A record has no media or fewer than two candidates, or all have the same media.
    """
    for record in records:
        if not any(record.media.values()) or len(record.candidates) < 2:
            raise DataError(
                f"record {record.id!r} has {len(record.candidates)} candidates and "
                f"{sum(map(len, record.media.values()))} media items",
                why="The check compares a right and a wrong answer, with and without media.",
                fix="Give records with media, the right answer first and a wrong one after it.",
            )
    groups = media_groups(records)
    if len(set(groups)) < 2:
        raise DataError(
            f"the {len(records)} questions are about {len(set(groups))} distinct media items",
            why="Intervals resample media items.",
            fix="Ask about several items.",
        )
    answered = {}
    for media in (CLEAN, variant):
        totals = score(model, processor, records, media=media, batch_size=32)
        answered[media] = [
            _Answered(group, {"right": _right(total), "questions": 1.0})
            for group, total in zip(groups, totals, strict=True)
        ]
    return BlankCheck(
        clean=interval(Table.of(answered[CLEAN]), ACCURACY),
        blank=interval(Table.of(answered[variant]), ACCURACY),
        gain=paired_difference(answered[variant], answered[CLEAN], ACCURACY),
    )


def _right(total: list[float]) -> float:
    best = max(total[1:])
    return 0.5 if total[0] == best else float(total[0] > best)
