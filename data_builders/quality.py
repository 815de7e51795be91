"""Numbers about records: `quality.json` and `mmdpo quality DATA`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_builders.intervals import Sums, estimate
from data_builders.splits import media_groups, seeded_order
from mmdpo.evals.stats import ratio
from mmdpo.record_checks import validate_records
from mmdpo.records import Record, Records, prompt_text

EXAMPLES = 12
_BINS = 10
_LONGER_IS_CHOSEN = ratio("longer_is_chosen", "longer", "unequal")
_DIFFERENCE = ratio("difference", "difference", "pairs", bounds=(-math.inf, math.inf))


def measure(records: Records, *, check_media: bool = False, seed: int = 0, examples: int = EXAMPLES) -> dict[str, Any]:
    """Counts, problems, length bias, margins and examples of records.

    Args:
        records: The records.
        check_media: Also decode images, sounds and videos, and compare every content hash.
        seed: Seed of the examples.
        examples: How many examples to draw.

    Returns:
        `n`, `form`, `media` (distinct items by field), `problems` (by kind), and, over the pairs, `length`, `margin`
        and `examples`. Estimates are `{"value", "low", "high", "n"}` with a 95% interval.
    """
    pairs = [record for record in records if record.form == "pair"]
    groups = media_groups(pairs)
    media: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for name, item in record.media_items():
            media[name].add(item.identity)
    problems = validate_records(records, check_media=check_media)
    return {
        "n": len(records),
        "form": records.form,
        "media": {name: len(items) for name, items in sorted(media.items())},
        "problems": dict(Counter(problem.kind for problem in problems).most_common()),
        "length": _length_bias(pairs, groups) if pairs else None,
        "margin": _margins(pairs),
        "examples": _examples(pairs, seed, examples),
    }


def _length_bias(pairs: Sequence[Record], groups: Sequence[str]) -> dict[str, Any]:
    """How often the longer answer is the chosen one, in words; a rater who likes length pulls it above one half."""
    chosen = [len(record.chosen.text.split()) for record in pairs]
    rejected = [len(record.rejected.text.split()) for record in pairs]
    items = [
        Sums(group, {"pairs": 1, "difference": a - b, "longer": float(a > b), "unequal": float(a != b)})
        for group, a, b in zip(groups, chosen, rejected, strict=True)
    ]
    return {
        "unit": "words",
        "chosen_mean": float(np.mean(chosen)),
        "rejected_mean": float(np.mean(rejected)),
        "difference": estimate(items, _DIFFERENCE),
        "longer_is_chosen": estimate(items, _LONGER_IS_CHOSEN),
        "equal_length": sum(a == b for a, b in zip(chosen, rejected, strict=True)),
    }


def _margins(pairs: Sequence[Record]) -> dict[str, Any] | None:
    """The distances of the scores, of the pairs that have scores."""
    margins = [
        abs(record.chosen.score - record.rejected.score)
        for record in pairs
        if record.chosen.score is not None and record.rejected.score is not None
    ]
    if not margins:
        return None
    counts, edges = np.histogram(margins, bins=_BINS, range=(0.0, max(margins) or 1.0))
    return {
        "n": len(margins),
        "mean": float(np.mean(margins)),
        "median": float(np.median(margins)),
        "ties": sum(margin == 0 for margin in margins),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _examples(pairs: Sequence[Record], seed: int, count: int) -> list[dict[str, Any]]:
    drawn = sorted(pairs, key=lambda record: seeded_order(seed, record.id))[:count]
    return [
        {
            "id": record.id,
            "media": {name: [item.path for item in items] for name, items in record.media.items()},
            "prompt": prompt_text(record),
            "chosen": record.chosen.text,
            "rejected": record.rejected.text,
            "scores": [candidate.score for candidate in record.candidates],
        }
        for record in drawn
    ]
