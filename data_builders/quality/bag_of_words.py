"""Can the better answer be told from its words alone, without the media?"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data_builders.quality.findings import finding, listed, share
from data_builders.quality.logistic import FEWEST_GROUPS, held_out_accuracy
from data_builders.quality.sample import Sample, words_of

BUCKETS = 2**16
_MIX = 1_000_003
_LONGEST = 200
"""Words of an answer that are read."""
_CUES = 8
_CLEAR = 3.0
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


def _known(text: str) -> tuple[str, ...]:
    return words_of(text)[:_LONGEST]


def _matrix(sides: Sequence[tuple[Sequence[str], Sequence[str]]], *, constant: bool) -> csr_array:
    """[comparisons, features] 1 where a feature stands in the first answer alone, -1 in the second alone."""
    codes: dict[str, int] = {}
    places, values, ends = [], [], [0]
    for first, second in sides:
        a, b = _features(first, codes), _features(second, codes)
        only, other = np.setdiff1d(a, b, assume_unique=True), np.setdiff1d(b, a, assume_unique=True)
        places += [only, other, np.full(int(constant), BUCKETS)]
        values += [np.ones(len(only)), -np.ones(len(other)), np.ones(int(constant))]
        ends.append(ends[-1] + len(only) + len(other) + int(constant))
    used, columns = np.unique(np.concatenate(places), return_inverse=True)  # the others would only cost time
    return csr_array((np.concatenate(values), columns, ends), shape=(len(sides), max(1, len(used))))


def _features(text: Sequence[str], codes: dict[str, int]) -> NDArray[np.int64]:
    """The places of the words and of the pairs of neighbours, each once and in order."""
    for word in text:
        if word not in codes:
            codes[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
    found = np.array([codes[word] for word in text], np.int64)
    pairs = found[:-1] * _MIX + found[1:]  # wraps around, the same on every machine
    return np.unique(np.concatenate([found, pairs]) % BUCKETS)


def _cues(sides: Sequence[tuple[Sequence[str], Sequence[str]]], signs: np.ndarray) -> list[dict[str, Any]]:
    """Words by the sign test between the comparisons that have them in one answer alone."""
    chosen: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for (first, second), sign in zip(sides, signs, strict=True):
        only, other = set(first) - set(second), set(second) - set(first)
        chosen.update(only if sign > 0 else other)
        rejected.update(other if sign > 0 else only)
    rows: list[tuple[float, str]] = [
        (_sign_test(chosen[word], rejected[word]), word)
        for word in chosen.keys() | rejected.keys()
        if chosen[word] + rejected[word] >= _FEWEST
    ]
    rows.sort(key=lambda row: (-abs(row[0]), row[1]))
    return [
        {"word": word, "chosen": chosen[word], "rejected": rejected[word], "z": z}
        for z, word in rows[:_CUES]
        if abs(z) > _CLEAR
    ]


def _sign_test(first: int, second: int) -> float:
    """Distance from equal counts in standard errors; above 3 chance among some thousand words is rare."""
    return (first - second) / math.sqrt(first + second)
