"""Can the better answer be told from its words alone, without the media?"""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data_builders.quality.crossed import recurs_by_nature, text_numbers
from data_builders.quality.findings import finding, listed, share
from data_builders.quality.logistic import FEWEST_GROUPS, HeldOut, first_rows, held_out_accuracy
from data_builders.quality.sample import Sample, plain, words_of

BUCKETS = 2**16
_MIX = 1_000_003
_LONGEST = 200
"""Words of an answer that are read."""
_CUES = 8
_CLEAR = 3.0
_FEWEST = 5
"""Different answers that a cue word must stand in."""


def text_only(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """How often a bag of words picks the chosen answer of held-out media groups, and which words tell it.

    Features are the single words and pairs of neighbouring words that an answer holds, hashed into 65,536 places; a
    comparison is the difference of its two answers, and logistic regression sees neither prompt nor media.

    Returns:
        `accuracy` on answers that it has not seen (see `held_out_accuracy`), `answers_seen` (the accuracy where it has,
        with other media; None where no answer recurs), `left_out`, `trained_on` and `cues`: the words that tell, with
        in how many different answers they are `chosen` and `rejected`.
    """
    judged = judged_answers(sample)
    if judged is None:
        return None, []
    sides, groups, signs, of_what = judged
    known = [tuple(map(_known, side)) for side in sides]
    held = None
    if of_what == "comparisons" or len(set(signs.tolist())) > 1:
        held = held_out_accuracy(_matrix(known, constant=of_what == "labels"), signs, groups, text_numbers(sides))
    if held is None:
        message = f"Too little to learn from: fewer than {FEWEST_GROUPS} media groups, or a single label."
        return None, [finding("text_only", None, message)]
    cues = _cues(sides) if of_what == "comparisons" else []
    message = "Without the media, " + told(held, "a bag of words", of_what, _read(held.unseen))
    if cues:
        named = [f"“{cue['word']}” ({cue['chosen']:,} : {cue['rejected']:,})" for cue in cues[:5]]
        message += " Words that tell most, with in how many different answers they are chosen and rejected: "
        message += f"{listed(named)}."
    numbers = {"accuracy": held.unseen, "answers_seen": held.seen, "left_out": held.left_out}
    return {**numbers, "trained_on": held.trained_on, "cues": cues}, [finding("text_only", held.unseen, message)]


Judged = tuple[list[tuple[str, ...]], list[str], NDArray[np.float64], str]
"""Answers of each row, its media group, 1 or -1, and what a row is."""


def judged_answers(sample: Sample) -> Judged | None:
    """The better and the worse answer of each comparison, or each labelled answer; None where there are neither."""
    if sample.comparisons:
        places = first_rows([one.group for one in sample.comparisons])
        compared = [sample.comparisons[place] for place in places]
        sides: list[tuple[str, ...]] = [(one.better.text, one.worse.text) for one in compared]
        return sides, [one.group for one in compared], np.ones(len(sides)), "comparisons"
    if sample.labelled:
        signs = np.array([1.0 if label else -1.0 for _, _, label in sample.labelled])
        sides = [(record.candidates[0].text,) for _, record, _ in sample.labelled]
        return sides, [group for group, _, _ in sample.labelled], signs, "labels"
    return None


def told(held: HeldOut, by: str, of_what: str, reading: str = "") -> str:
    """What the accuracies say, as the rest of a sentence; the reading follows the one that is judged."""
    if held.seen is None:
        assert held.unseen is not None  # only where answers recur can too little be left
        return f"{by} gets {share(held.unseen)} of the held-out {of_what} right; 50% is chance.{reading}"
    by_heart = f" With answers that it knows from other media it is {share(held.seen)}."
    if held.unseen is None:
        return f"{by} cannot be judged on answers that it has not seen: without them too little is left.{by_heart}"
    message = f"{by} gets {share(held.unseen)} of the held-out {of_what} right whose answers it has not seen; "
    message += f"50% is chance.{reading}{by_heart}"
    if held.left_out:
        message += f" {held.left_out:,} {of_what} had to be left out: without their answers too little is left."
    return message


def _read(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["low"] is None or found["low"] <= 0.5:
        return " The words alone do not tell which answer is better."
    return " As much of the preference can be learned without looking."


def _known(text: str) -> tuple[str, ...]:
    return words_of(text)[:_LONGEST]


def _matrix(sides: Sequence[Sequence[Sequence[str]]], *, constant: bool) -> csr_array:
    """[rows, features] 1 where a feature stands in the first answer alone, -1 in the second alone."""
    codes: dict[str, int] = {}
    places, values, ends = [], [], [0]
    for first, *others in sides:
        a, b = _features(first, codes), _features(others[0] if others else (), codes)
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


def _cues(sides: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    """Words by the sign test between the different answers that have them, each of which counts once.

    An answer that is used forty times says what its words are worth no better than one that is used once. It counts by
    the comparisons whose other answer lacks the word: as chosen where it mostly is, as rejected where that, and not at
    all where both are as frequent. Short answers recur by nature, and each of their comparisons counts.
    """
    against: dict[tuple[str, int], list[tuple[str, int]]] = defaultdict(list)
    for place, (better, worse) in enumerate(sides):
        for text, other, sign in ((better, worse, 1), (worse, better, -1)):
            against[plain(text), place if recurs_by_nature(text) else -1].append((other, sign))
    chosen: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for (text, _), others in against.items():
        known, net = set(_known(text)), Counter[str]()
        for other, sign in others:
            for word in known.difference(_known(other)):
                net[word] += sign
        chosen.update(word for word, count in net.items() if count > 0)
        rejected.update(word for word, count in net.items() if count < 0)
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
