"""Numbers about records: `quality.json` and `mmdpo quality DATA`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_builders.splits import media_groups, seeded_order
from mmdpo.record_checks import validate_records
from mmdpo.records import Record, Records, prompt_text

EXAMPLES = 12
_BINS = 10
_Z = 1.959963984540054  # the 97.5% point of the normal distribution
_RESAMPLES = 1000


def measure(records: Records, *, check_media: bool = False, seed: int = 0, examples: int = EXAMPLES) -> dict[str, Any]:
    """Counts, problems, length bias, margins and examples of records.

    Args:
        records: The records.
        check_media: Also decode every image and compare every content hash.
        seed: Seed of the examples and the resampling.
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
        "length": _length_bias(pairs, groups, seed) if pairs else None,
        "margin": _margins(pairs),
        "examples": _examples(pairs, seed, examples),
    }


def design_effect(values: Sequence[float], groups: Sequence[str]) -> float:
    """By how much values that share a group inflate the variance of their mean (Kish 1965); at least 1."""
    array = np.asarray(values, dtype=float)
    centred = array - array.mean()
    independent = float((centred**2).sum())
    sums: dict[str, float] = defaultdict(float)
    for value, group in zip(centred, groups, strict=True):
        sums[group] += float(value)
    clustered = sum(value**2 for value in sums.values())
    return max(1.0, clustered / independent) if independent > 0 else 1.0


def wilson(successes: int, n: int, *, effect: float = 1.0) -> dict[str, Any]:
    """A share with its 95% Wilson interval.

    Args:
        successes: How many.
        n: Of how many.
        effect: Design effect; the interval is that of n / effect independent observations.
    """
    if n == 0:
        return {"value": None, "low": None, "high": None, "n": 0}
    share, size = successes / n, n / effect
    centre = (share + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = _Z / (1 + _Z**2 / size) * math.sqrt(share * (1 - share) / size + _Z**2 / (4 * size**2))
    return {"value": share, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "n": n}


def _length_bias(pairs: Sequence[Record], groups: Sequence[str], seed: int) -> dict[str, Any]:
    """How often the longer answer is the chosen one, in words; a rater who likes length pulls it above one half."""
    chosen = [len(record.chosen.text.split()) for record in pairs]
    rejected = [len(record.rejected.text.split()) for record in pairs]
    differences = [a - b for a, b in zip(chosen, rejected, strict=True)]
    unequal = [(float(d > 0), group) for d, group in zip(differences, groups, strict=True) if d]
    longer = [value for value, _ in unequal]
    effect = design_effect(longer, [group for _, group in unequal]) if unequal else 1.0
    return {
        "unit": "words",
        "chosen_mean": float(np.mean(chosen)),
        "rejected_mean": float(np.mean(rejected)),
        "difference": _mean(differences, groups, seed),
        "longer_is_chosen": wilson(int(sum(longer)), len(longer), effect=effect),
        "equal_length": len(pairs) - len(unequal),
    }


def _mean(values: Sequence[float], groups: Sequence[str], seed: int) -> dict[str, Any]:
    """A mean with its 95% percentile bootstrap interval over groups."""
    names, index = np.unique(np.array(groups), return_inverse=True)
    sums = np.zeros((len(names), 2))
    np.add.at(sums, index, np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=1))
    share = np.full(len(names), 1 / len(names))
    weights = np.random.default_rng(seed).multinomial(len(names), share, size=_RESAMPLES)
    totals = weights @ sums
    low, high = np.percentile(totals[:, 0] / totals[:, 1], [2.5, 97.5])
    is_known = len(names) > 1
    return {
        "value": float(np.mean(values)),
        "low": float(low) if is_known else None,
        "high": float(high) if is_known else None,
        "n": len(values),
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
