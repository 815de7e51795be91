"""Which languages the answers are in: by script, and among Latin letters by frequent words. A guess, not more."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from data_builders.intervals import Sums, estimate
from data_builders.quality.findings import finding, listed, share
from data_builders.quality.sample import Sample, words_of
from mmdpo.evals.stats import ratio

UNKNOWN = "unknown"
_FEWEST_HITS = 2
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af\u1100-\u11ff]")),
    ("zh", re.compile(r"[\u3400-\u9fff]")),
    ("Cyrillic", re.compile(r"[\u0400-\u04ff]")),
    ("Arabic", re.compile(r"[\u0600-\u06ff]")),
    ("Devanagari", re.compile(r"[\u0900-\u097f]")),
    ("Greek", re.compile(r"[\u0370-\u03ff]")),
    ("Hebrew", re.compile(r"[\u0590-\u05ff]")),
    ("Thai", re.compile(r"[\u0e00-\u0e7f]")),
)
_MIXED = ratio("mixed", "mixed", "pairs")


def language_of(text: str) -> str:
    """A language or script, or ``unknown``.

    A text belongs to another script where that has more than a third of its letters. Among Latin letters the language
    whose frequent words come up most, twice at least and more often than those of every other, is taken: short answers
    stay unknown, and languages without a table are unknown or mistaken for a neighbour.
    """
    text = unicodedata.normalize("NFC", text)
    letters = sum(map(str.isalpha, text))
    if not letters:
        return UNKNOWN
    for name, pattern in () if text.isascii() else _SCRIPTS:  # kana before Chinese signs: Japanese has both
        if len(pattern.findall(text)) > letters / (10 if name == "ja" else 3):
            return name
    hits = Counter(language for word in words_of(text) for language in _table().get(word, ()))
    (first, most), (_, second) = [*hits.most_common(2), ("", 0), ("", 0)][:2]
    return first if most >= _FEWEST_HITS and most > second else UNKNOWN


@cache
def _table() -> Mapping[str, tuple[str, ...]]:
    """Word -> the languages in which it is frequent."""
    read = yaml.safe_load((resources.files("data_builders.quality") / "languages.yaml").read_text("utf-8"))
    found: dict[str, list[str]] = {}
    for language, frequent in read.items():
        for word in frequent:
            found.setdefault(str(word), []).append(str(language))
    return {word: tuple(names) for word, names in found.items()}


def language_mix(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Languages of the answers, and pairs whose two answers are in different ones."""
    if not sample.answers:
        return None, []
    of = {candidate.text: language_of(candidate.text) for _, candidate in sample.answers}
    counts = Counter(of[candidate.text] for _, candidate in sample.answers)
    known = Counter({name: count for name, count in counts.items() if name != UNKNOWN})
    numbers: dict[str, Any] = {"answers": dict(counts.most_common()), "mixed_pairs": None}
    told = [f"{name} {100 * count / known.total():.1f}%" for name, count in known.most_common(4)]
    message = f"{counts[UNKNOWN]:,} of {counts.total():,} answers are too short or too foreign for the word lists"
    message += f"; of the others: {listed(told)}." if told else "."
    if not sample.comparisons or not known:
        value = 1 - known.most_common(1)[0][1] / known.total() if known else None
        return numbers, [finding("languages", value, message, n=known.total())]
    sides = [(one.group, of[one.better.text], of[one.worse.text]) for one in sample.comparisons]
    items = [Sums(group, {"pairs": 1, "mixed": float(a != b)}) for group, a, b in sides if UNKNOWN not in (a, b)]
    found = estimate(items, _MIXED)
    numbers["mixed_pairs"] = found
    if items:
        message += f" In {share(found)} of the pairs the two answers are in different languages."
    return numbers, [finding("languages", found, message)]
