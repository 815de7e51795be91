"""The text tools that several benchmarks share; no model, no download."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

# Order matters: runs of dots before single ones, quotes before clitics.
_SPLITS = [
    (re.compile(r"[«»“”„‘’`\"]"), r" \g<0> "),
    (re.compile(r"\.{2,}|--+|[;@#$%&?!*()\[\]{}<>]"), r" \g<0> "),
    (re.compile(r"[:,](?!\d)"), r" \g<0> "),
    # A dot ends a word only before white space, so "3.5" and "u.s" stay whole.
    (re.compile(r"(?<=[^.\s])\.(?=['\s]|$)"), r" ."),
    (re.compile(r"(?<=[^'\s])'(?=\s|$)"), r" '"),
    (re.compile(r"(?<=[^'\s])('s|'m|'d|'ll|'re|'ve|n't)(?=\s|$)", re.IGNORECASE), r" \1"),
]

_IRREGULAR = {
    "calves": "calf",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "grandchildren": "grandchild",
    "halves": "half",
    "hooves": "hoof",
    "knives": "knife",
    "leaves": "leaf",
    "lice": "louse",
    "lives": "life",
    "loaves": "loaf",
    "mice": "mouse",
    "oxen": "ox",
    "scarves": "scarf",
    "sheaves": "sheaf",
    "shelves": "shelf",
    "teeth": "tooth",
    "thieves": "thief",
    "wives": "wife",
    "wolves": "wolf",
}

_ENDINGS = (("ies", "y"), ("men", "man"), ("es", ""), ("s", ""))

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, lower case, in Unicode's form NFKC: runs of letters and digits, with apostrophes inside.

    Commas between digits are deleted; all other marks only part words.
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return _WORD.findall(re.sub(r"(?<=\d),(?=\d)", "", plain))


def tokens(text: str) -> list[str]:
    """The words and marks of a text, split as the Penn Treebank does; capitals stay.

    Hyphens and slashes do not split: "teddy-bear" is one token. A dot before white space always ends the word, where
    nltk's sentence splitter knows a few abbreviations.
    """
    for pattern, replacement in _SPLITS:
        text = pattern.sub(replacement, text)
    return text.split()


def singular(word: str, vocabulary: Collection[str]) -> str:
    """The singular of an English noun, as far as a vocabulary needs it.

    The vocabulary takes the place of a dictionary: an ending is removed only if what is left is in it, so that "bus"
    and "tennis" stay whole where "bu" and "tenni" are no words. A word that stands in it is its own singular, and so is
    a word none of whose readings is in it.

    Args:
        word: A lower-case token.
        vocabulary: The singular words that matter.
    """
    if word in vocabulary:
        return word
    irregular = _IRREGULAR.get(word)
    if irregular in vocabulary:
        return str(irregular)
    for ending, replacement in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and stem + replacement in vocabulary:
            return stem + replacement
    return word


def strip_punctuation(text: str) -> str:
    """The punctuation rule of the VQA evaluation, in VLMEvalKit's version of its dots.

    A mark is deleted if it stands beside a space anywhere in the text, or if the text has a comma between digits;
    otherwise it becomes a space. Then dots that touch no digit are deleted, 32 of them at most: the official code hands
    a flag of that value over as the count.
    """
    stripped = text
    delete_all = re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if delete_all or beside_space else " ")
    return re.sub(r"(?<!\d)\.(?!\d)", "", stripped, count=32)
