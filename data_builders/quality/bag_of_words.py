"""Can the better answer be told from its words alone, without the media?"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from data_builders.quality.findings import finding, listed, share
from data_builders.quality.logistic import FEWEST_GROUPS, held_out_accuracy
from data_builders.quality.sample import Sample
from mmdpo.evals.text import words

BUCKETS = 2**16
_LONGEST = 200
"""Words of an answer that are read."""
_CUES = 8
_FEWEST = 5
"""Comparisons in which a cue word must stand on one side alone."""


def text_only(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """How often a bag of words picks the chosen answer of held-out media groups, and which words tell it.

    Features are the single words and pairs of neighbouring words that an answer holds, hashed into 65,536 places; a
    comparison is the difference of its two answers, and logistic regression sees neither prompt nor media.
    """
    if sample.comparisons:
        sides = [(one.better.text, one.worse.text) for one in sample.comparisons]
        groups, signs = [one.group for one in sample.comparisons], np.ones(len(sides))
        of_what = "comparisons"
    elif sample.labelled:
        sides = [(record.candidates[0].text, "") for _, record, _ in sample.labelled]
        groups = [group for group, _, _ in sample.labelled]
        signs = np.array([1.0 if label else -1.0 for _, _, label in sample.labelled])
        of_what = "labels"
    else:
        return None, []
    listed_words = [(_known(a), _known(b)) for a, b in sides]
    found = (
        None
        if of_what == "labels" and len(set(signs.tolist())) < 2
        else held_out_accuracy(_matrix(listed_words, constant=of_what == "labels"), signs, groups)
    )
    if found is None:
        message = f"Too little to learn from: fewer than {FEWEST_GROUPS} media groups, or a single label."
        return None, [finding("text_only", None, message)]
    cues = _cues(listed_words, signs) if of_what == "comparisons" else []
    message = (
        f"Without the media, a bag of words gets {share(found)} of the held-out {of_what} right; 50% is chance. "
        + _read(found)
    )
    if cues:
        told = [f"“{cue['word']}” ({cue['chosen']:,} : {cue['rejected']:,})" for cue in cues[:5]]
        message += " Words that tell most, with how often they stand in the chosen answer alone and in the rejected "
        message += f"one alone: {listed(told)}."
    return {"accuracy": found, "cues": cues}, [finding("text_only", found, message)]


def _read(found: dict[str, Any]) -> str:
    if found["low"] is None or found["low"] <= 0.5:
        return "The words alone do not tell which answer is better."
    return "As much of the preference can be learned without looking."


def _known(text: str) -> list[str]:
    return words(text)[:_LONGEST]


def _matrix(sides: Sequence[tuple[list[str], list[str]]], *, constant: bool) -> csr_array:
    """[comparisons, buckets] 1 where a feature stands in the first answer alone, -1 in the second alone."""
    places: list[int] = []
    values: list[float] = []
    ends = [0]
    cache: dict[str, int] = {}
    for first, second in sides:
        a, b = set(_features(first, cache)), set(_features(second, cache))
        only, other = sorted(a - b), sorted(b - a)
        places += [*only, *other, BUCKETS] if constant else [*only, *other]
        values += [1.0] * len(only) + [-1.0] * len(other) + [1.0] * constant
        ends.append(len(places))
    return csr_array((values, places, ends), shape=(len(sides), BUCKETS + 1))


def _features(text: Sequence[str], cache: dict[str, int]) -> Iterator[int]:
    for feature in (*text, *(f"{a} {b}" for a, b in pairwise(text))):
        place = cache.get(feature)
        if place is None:
            place = zlib.crc32(feature.encode("utf-8", "surrogatepass")) % BUCKETS
            if len(cache) < 1_000_000:
                cache[feature] = place
        yield place


def _cues(sides: Sequence[tuple[list[str], list[str]]], signs: np.ndarray) -> list[dict[str, Any]]:
    """Words by the sign test between the comparisons that have them in one answer alone."""
    chosen: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for (first, second), sign in zip(sides, signs, strict=True):
        only, other = set(first) - set(second), set(second) - set(first)
        chosen.update(only if sign > 0 else other)
        rejected.update(other if sign > 0 else only)
    rows = [
        {
            "word": word,
            "chosen": chosen[word],
            "rejected": rejected[word],
            "z": _sign_test(chosen[word], rejected[word]),
        }
        for word in chosen.keys() | rejected.keys()
        if chosen[word] + rejected[word] >= _FEWEST
    ]
    rows.sort(key=lambda row: (-abs(row["z"]), row["word"]))
    return [row for row in rows if abs(row["z"]) > 3][:_CUES]


def _sign_test(first: int, second: int) -> float:
    """Distance from equal counts in standard errors; above 3 chance among some thousand words is rare."""
    return (first - second) / math.sqrt(first + second)
