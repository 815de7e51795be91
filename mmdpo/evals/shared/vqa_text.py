"""How VQA evaluations write an answer before they compare it: three versions of one rule.

All delete or blank out punctuation, turn number words up to ten into digits, drop articles, put back the apostrophes of
contractions, and leave other words alone. What differs:

* `official`, the VQA evaluation (Python 2): digits are 0 to 9 only.
* `harness`, the same functions in lmms-eval's version: digits of all scripts, several commas between digits are one.
* `eval_ai`, the processor of TextVQA and EvalAI: before that, all commas and question marks are deleted, so that
  "black,white" is "blackwhite", and "'s" becomes a word of its own.

In all of them a mark is deleted if it stands beside a space anywhere in the answer, or if a comma stands between digits
anywhere; otherwise it becomes a space. Dots that no digit follows are deleted, but only 32 of them: the official code
hands a flag of that value over as the count. Apostrophes, colons, "$", "%", "&", "#" and "*" stay.
"""

from __future__ import annotations

import functools
import re

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}

_WITH_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _WITH_APOSTROPHES.split()
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}
"""Contraction that lacks one apostrophe -> its spelling. The last entry runs the wrong way in the official table too;
the official keys with a capital are left out, for they never match: words are lower case by then."""

_COMMA_OFFICIAL = re.compile(r"[0-9],[0-9]")
_DOT_OFFICIAL = re.compile(r"\.(?![0-9])")
_COMMA_HARNESS = re.compile(r"\d,+\d")
_DOT_HARNESS = re.compile(r"\.(?!\d)")
_DOTS_AT_MOST = 32
_CACHED = 1 << 17


def trimmed(text: str) -> str:
    """An answer without line breaks, tabs and outer white space: all that unanimous references are put through."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(_CACHED)
def official(text: str) -> str:
    """The form in which the official VQA evaluation compares answers whose references are not unanimous."""
    return _words(_without_marks(trimmed(text), _COMMA_OFFICIAL, _DOT_OFFICIAL))


@functools.lru_cache(_CACHED)
def harness(text: str) -> str:
    """The form in which lmms-eval compares all answers of VQAv2."""
    return _words(_without_marks(trimmed(text), _COMMA_HARNESS, _DOT_HARNESS))


@functools.lru_cache(_CACHED)
def eval_ai(text: str) -> str:
    """The form in which TextVQA's evaluation, and lmms-eval's of TextVQA and OK-VQA, compare all answers."""
    split = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words(_without_marks(trimmed(split), _COMMA_HARNESS, _DOT_HARNESS))


def _without_marks(text: str, comma: re.Pattern[str], dot: re.Pattern[str]) -> str:
    delete_all = comma.search(text) is not None
    stripped = text
    for mark in _MARKS:
        if mark in stripped:
            beside_space = f"{mark} " in text or f" {mark}" in text
            stripped = stripped.replace(mark, "" if delete_all or beside_space else " ")
    return dot.sub("", stripped, count=_DOTS_AT_MOST)


def _words(text: str) -> str:
    numbered = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in _ARTICLES)
