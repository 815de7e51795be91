"""Can the better answer be told from its style: length, sentences, lists, hedges, first person, punctuation?"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_builders.quality.bag_of_words import judged_answers, told
from data_builders.quality.crossed import Floats, Places, crossed_estimate, text_numbers, units_of
from data_builders.quality.findings import finding, listed
from data_builders.quality.logistic import FEWEST_GROUPS, balanced_weights, fit, held_out_accuracy
from data_builders.quality.sample import Sample
from mmdpo.evals.stats import ratio

_HEDGES = re.compile(
    r"\b(?:appears?|seems?|possibly|perhaps|maybe|might|likely|probably|could be|may be|suggest(?:s|ing)?|presumably)\b"
)
_FIRST_PERSON = re.compile(r"\b(?:i|i'm|i've|me|my|we|our)\b")
_NEGATIONS = re.compile(r"\b(?:no|not|never|none|nothing|without|cannot)\b|n't\b")
_SAYS_IMAGE = re.compile(r"\b(?:image|picture|photo|photograph|scene|clip|audio|recording|video)s?\b")
_SENTENCE = re.compile(r"[.!?。！？]+(?:\s|$)")
_LIST_LINE = re.compile(r"(?m)^\s*(?:[-*•]|\d+[.)])\s+\S")
FEATURES = (
    ("words", "words"),
    ("letters_per_word", "letters a word"),
    ("sentences", "sentences"),
    ("list_lines", "list lines"),
    ("hedges", "hedges (“seems”, “possibly”)"),
    ("first_person", "words of the first person"),
    ("negations", "negations"),
    ("names_the_medium", "mentions of “image”, “photo” and the like"),
    ("numbers", "numbers"),
    ("commas", "commas"),
    ("exclamations", "exclamation marks"),
    ("questions", "question marks"),
    ("capitals", "capital letters"),
)
"""Names, and what a difference of them is a number of."""
_TOLD = 3
_DIFFERENCE = ratio("difference", "difference", "pairs", bounds=(-math.inf, math.inf))


def style_of(text: str) -> list[float]:
    """The values of `FEATURES`."""
    lower, parts = text.lower(), text.split()
    return [
        float(len(parts)),
        sum(map(len, parts)) / max(1, len(parts)),
        float(len(_SENTENCE.findall(text)) or bool(parts)),
        float(len(_LIST_LINE.findall(text))),
        float(len(_HEDGES.findall(lower))),
        float(len(_FIRST_PERSON.findall(lower))),
        float(len(_NEGATIONS.findall(lower))),
        float(len(_SAYS_IMAGE.findall(lower))),
        float(sum(any(map(str.isdigit, part)) for part in parts)),
        float(text.count(",")),
        float(text.count("!")),
        float(text.count("?")),
        float(sum(map(str.isupper, text))),
    ]


def style(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """How often style alone picks the chosen answer of held-out media groups, and by what."""
    judged = judged_answers(sample)
    if judged is None:
        return None, []
    sides, groups, signs, of_what = judged
    pairs = of_what == "comparisons"
    styles = np.array([[style_of(text) for text in side] for side in sides])  # [n, answers, features]
    rows = styles[:, 0] - styles[:, 1] if pairs else styles[:, 0]
    if not pairs:
        if len(set(signs.tolist())) < 2:
            return None, []
        rows = rows - rows.mean(0)
    scale = np.sqrt((rows**2).mean(0))
    scaled = rows / np.where(scale > 0, scale, 1.0)
    if not pairs:
        scaled = np.hstack([scaled, np.ones((len(rows), 1))])
    texts = text_numbers(sides)
    held = held_out_accuracy(scaled, signs, groups, texts)
    if held is None:
        message = f"Too little to learn from: fewer than {FEWEST_GROUPS} media groups."
        return None, [finding("style_shortcut", None, message)]
    coefficients = fit(scaled, signs, balanced_weights(signs))
    units = units_of(groups, texts)
    features = [
        _feature(place, rows[:, place] * signs, units, float(coefficients[place]))
        for place in range(len(FEATURES))
        if scale[place] > 0
    ]
    features.sort(key=lambda row: -abs(row["weight"]))
    message = told(held, "Style alone (length, lists, hedges, punctuation …)", of_what)
    if pairs and (clear := [row for row in features if _is_clear(row["difference"])]):
        clear.sort(key=lambda row: -abs(row["difference"]["value"]) / row["size"])
        message += f" Chosen answers have {listed([_in_words(row) for row in clear[:_TOLD]])}."
    numbers = {"accuracy": held.unseen, "answers_seen": held.seen, "left_out": held.left_out, "features": features}
    return numbers, [finding("style_shortcut", held.unseen, message)]


def _feature(place: int, differences: Floats, units: list[Places], weight: float) -> dict[str, Any]:
    columns = {"pairs": np.ones(len(differences)), "difference": differences}
    name, told = FEATURES[place]
    size = float(np.sqrt((differences**2).mean()))
    return {
        "name": name,
        "told": told,
        "weight": weight,
        "difference": crossed_estimate(columns, units, _DIFFERENCE),
        "size": size,
    }


def _is_clear(difference: Mapping[str, Any]) -> bool:
    return difference["low"] is not None and (difference["low"] > 0 or difference["high"] < 0)


def _in_words(row: Mapping[str, Any]) -> str:
    found = row["difference"]
    low, high = sorted((abs(found["low"]), abs(found["high"])))
    return (
        f"{abs(found['value']):.2g} {'more' if found['value'] > 0 else 'fewer'} {row['told']} ({low:.2g} to {high:.2g})"
    )
