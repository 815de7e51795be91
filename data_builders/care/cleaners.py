"""Cleaners of text: each finds edits, so that marks can be moved along with what they point to."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from mmdpo.records.marks import sentences  # where a sentence ends; abbreviations, initials and lists are known there

CleanerName = Literal["unicode", "control", "html", "boilerplate", "repeats", "truncated", "whitespace"]

_HTML_NAMES = (
    "a|abbr|article|b|big|blockquote|body|br|center|code|dd|del|div|dl|dt|em|figcaption|figure|font|footer|h[1-6]|"
    "head|header|hr|html|i|ins|kbd|li|main|mark|meta|ol|p|pre|s|samp|section|small|span|strike|strong|sub|sup|table|"
    "tbody|td|tfoot|th|thead|tr|tt|u|ul"
)  # not img, video, audio: such tags may stand for media
_TAG = re.compile(rf"<(/?)({_HTML_NAMES})((?:\s[^<>]*)?)(/?)>", re.IGNORECASE)
_HIDDEN = re.compile(r"<!--.{0,5000}?-->|<(script|style)\b[^<>]*>.{0,5000}?</\1\s*>", re.IGNORECASE | re.DOTALL)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_LINE_TAG = re.compile(r"br|p|div|li|tr|hr|h[1-6]|blockquote|section|article|ul|ol|table", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\u2028\u2029\u0085]")
_AS_AN_AI = (
    r"as an? (?:ai|artificial intelligence)\b(?: (?:visual|vision|multimodal|large|language|chat|assistant|model|bot))*"
)
_OPENERS = re.compile(
    rf"\A\s*(?:"
    rf"(?:i'?m sorry, but |i apologi[sz]e, but |unfortunately, )?{_AS_AN_AI}, (?:but )?"
    r"|(?:sure|certainly|of course|absolutely)[!.,]\s+(?:here(?: is|'s| are)[^.!?:\n]{0,80}:\s*|(?=(?-i:[A-Z])))"
    r"|here(?: is|'s) (?:a|the|my) (?:\w+ ){0,3}(?:caption|description|answer)(?: (?:of|for) (?:the|this) \w+)?:\s*"
    r")",
    re.IGNORECASE,
)
_CLOSERS = re.compile(
    r"\s*(?:i hope (?:this|that) helps[^.!?\n]{0,40}[.!]"
    r"|(?:please )?let me know if (?:you|there)[^.!?\n]{0,120}[.!]"
    r"|(?:please )?feel free to ask[^.!?\n]{0,80}[.!]"
    r"|is there anything else (?:you|i)[^.!?\n]{0,80}\?)\Z",
    re.IGNORECASE,
)
_PUNCTUATION = ".,;:!?\"'()[]*\u2026\u201c\u201d\u2018\u2019"
_LONGEST_TURN = 60  # words
_LONGEST_CLOSER, _TAIL = 200, 2_000  # characters
_FINAL = re.compile(r"[.!?\u2026\u3002\uff01\uff1f:;]+[\"'\u201d\u2019\u300d\u300f)\]*]*\Z")


class Edit(NamedTuple):
    """One change of a text: what stands from `start` to `end` becomes `text`."""

    start: int
    end: int
    text: str


def _unicode(text: str) -> Iterator[Edit]:
    """NFC, letter by letter, so that a change is no wider than the letter with its accents."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return
    starts = [place for place, letter in enumerate(text) if place == 0 or not _joins(letter)]
    edits = []
    for start, end in pairwise([*starts, len(text)]):
        composed = unicodedata.normalize("NFC", text[start:end])
        if composed != text[start:end]:
            edits.append(Edit(start, end, composed))
    whole = unicodedata.normalize("NFC", text)
    yield from edits if apply(text, edits) == whole else [Edit(0, len(text), whole)]


def _joins(letter: str) -> bool:
    """Whether a letter may be composed with the one before it: accents, vowel signs, Korean vowels and finals."""
    if "\u1160" <= letter <= "\u11ff":
        return True
    return unicodedata.combining(letter) != 0 or unicodedata.category(letter) in ("Mn", "Mc", "Me")


def _control(text: str) -> Iterator[Edit]:
    """Control characters and byte-order marks; separators of lines become line ends."""
    for found in _CONTROL.finditer(text):
        yield Edit(*found.span(), "\n" if found[0] in "\u2028\u2029\u0085" else "")


def _html(text: str) -> Iterator[Edit]:
    """Tags of HTML and what is hidden in it; entities become their letter. Other angle brackets are text."""
    hidden = [Edit(*found.span(), "") for found in _HIDDEN.finditer(text)]
    yield from hidden
    for found in (*_tags(text), *_ENTITY.finditer(text)):
        if any(edit.start <= found.start() < edit.end for edit in hidden):
            continue
        if found[0].startswith("&"):
            letter = html.unescape(found[0])
            if letter != found[0]:
                yield Edit(*found.span(), letter)
        else:
            ends_line = _LINE_TAG.fullmatch(found[2]) and (found[1] or found[2].lower() in ("br", "hr"))
            yield Edit(*found.span(), "\n" if ends_line else "")


def _tags(text: str) -> Iterator[re.Match[str]]:
    """Tags; of `<s>` those alone that are opened and closed: a single one is text about a model."""
    found = list(_TAG.finditer(text))
    struck = Counter(tag[1] for tag in found if tag[2].lower() == "s")
    for tag in found:
        if tag[2].lower() != "s" or struck[""] == struck["/"]:
            yield tag


def _boilerplate(text: str) -> Iterator[Edit]:
    """Set phrases of assistants before and after the answer; the answer then begins with a capital letter."""
    end = len(text.rstrip())
    opener, closer = _OPENERS.match(text), _CLOSERS.search(text, max(0, end - _LONGEST_CLOSER), end)
    if opener is not None and opener.end():
        first = text[opener.end() : opener.end() + 1]
        is_low = first.islower() and len(first.upper()) == 1
        yield Edit(0, opener.end() + is_low, first.upper() if is_low else "")
    if closer is not None and closer.start() > (opener.end() if opener is not None else -1):
        yield Edit(closer.start(), len(text), "")


def _repeats(text: str) -> Iterator[Edit]:
    """Words said over and over, as by a model in a loop: the first turn stays, with the last one's punctuation."""
    spans = [_bare(text, *found.span()) for found in re.finditer(r"\S+", text)]
    words = [text[start:end].casefold() for start, end in spans]
    at = 0
    while at < len(words):
        for length in range(1, min(_LONGEST_TURN, (len(words) - at) // 2) + 1):
            turns = 1
            while words[at : at + length] == words[at + turns * length : at + (turns + 1) * length]:
                turns += 1
            if turns >= _turns(length):
                last = at + turns * length - 1
                yield Edit(spans[at + length - 1][1], spans[last][1], "")
                at = last
                break
        at += 1


def _turns(length: int) -> int:
    """From how many turns on so many words count as a loop: people do say "very, very, very"."""
    return 4 if length == 1 else 3 if length < 5 else 2


def _bare(text: str, start: int, end: int) -> tuple[int, int]:
    """A word without the punctuation around it, unless it is nothing else."""
    word = text[start:end]
    left, right = word.lstrip(_PUNCTUATION), word.rstrip(_PUNCTUATION)
    return (start + len(word) - len(left), start + len(right)) if left else (start, end)


def _truncated(text: str) -> Iterator[Edit]:
    """A last sentence without an end, where a whole one stands before it on the same line."""
    before = max(0, len(text) - _TAIL)
    spans = sentences(text[before:])
    if len(spans) < 2 or _ends(text):
        return
    end = before + spans[-2][1]
    if _ends(text[:end]) and "\n" not in text[end:].rstrip():
        yield Edit(end, len(text), "")


def _ends(text: str) -> bool:
    return _FINAL.search(text.rstrip()[-20:]) is not None


def _whitespace(text: str) -> Iterator[Edit]:
    """None around the text; one space for several, at most one empty line, no space before a line's end."""
    for found in re.finditer(r"\s+", text):
        run = re.sub(r"\r\n?", "\n", found[0])
        breaks = run.count("\n")
        plain = "\n" * min(breaks, 2) + run.rpartition("\n")[2] if breaks else " "  # indented lines stay indented
        if found.start() == 0 or found.end() == len(text):
            plain = ""
        if plain != found[0] and found[0] != "\u3000":
            yield Edit(*found.span(), plain)


@dataclass(frozen=True)
class Cleaner:
    """What a cleaner does.

    Args:
        edits: The changes of a text.
        prompts: Whether it also suits prompts.
        cuts: Whether an answer that it changed has lost its end.
    """

    edits: Callable[[str], Iterable[Edit]]
    prompts: bool = False
    cuts: bool = False


CLEANERS: Mapping[CleanerName, Cleaner] = {
    "unicode": Cleaner(_unicode, prompts=True),
    "control": Cleaner(_control, prompts=True),
    "html": Cleaner(lambda text: sorted(_html(text)), prompts=True),
    "boilerplate": Cleaner(_boilerplate),
    "repeats": Cleaner(_repeats),
    "truncated": Cleaner(_truncated, cuts=True),
    "whitespace": Cleaner(_whitespace, prompts=True),
}
"""In the order in which they work, whatever the order in which they are asked for."""


def apply(text: str, edits: Iterable[Edit]) -> str:
    """The text with its edits, which do not overlap and stand in their order."""
    pieces, place = [], 0
    for edit in edits:
        pieces += [text[place : edit.start], edit.text]
        place = edit.end
    return "".join([*pieces, text[place:]])
