"""Where marks come from: which stretches of the answers a loss may weigh apart from the rest.

A mark is a span of `Candidate.spans`. Whoever labelled the data may have given them; the functions here find them by
comparing the answers of a record. All of them take a record and give it back with other spans and weights; the rest of
it stays as it is. docs/marks.md says what each is for and what it gets wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import pairwise
from statistics import fmean

from mmdpo.records.checks import require_spans
from mmdpo.records.record import Candidate, Record

Span = tuple[int, int]
"""Start and end in characters."""

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Han: written without spaces
_DASHES = "\u2013\u2014\u2026"  # may join two words without a space: en dash, em dash, ellipsis
_CHUNK = re.compile(rf"[{_UNSPACED}{_DASHES}]|[^\s{_UNSPACED}{_DASHES}]+")
_SENTENCE_END = re.compile(
    r"""[.!?\u2026]+["'\u201d\u2019)\]*]*(?=\s)|[\u3002\uff01\uff1f]+[\u201d\u2019\u300d\u300f]*|\n+"""
)
_ABBREVIATED = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Mt|Gen|Capt|Sgt|Lt|Rev|vs|cf)$"  # titles and the like
    r"|\b[A-Za-z]\.[A-Za-z]$"  # e.g., i.e., U.S., a.m.
    r"|(?:^|\b[A-Z][\w'\u2019-]*\s|\.\s)[A-Z]$"  # initials: A. B. Clark, John F. Kennedy
)
_BEFORE_NUMBER = re.compile(r"\b(?:No|Nos|Fig|Figs|approx|ca)$", re.IGNORECASE)


@dataclass(frozen=True)
class MarkedShare:
    """How much of some records is marked.

    Args:
        records: Share of the records in which any candidate has a mark, 0 to 1.
        chosen: Mean share of marked words over first candidates (and single ones that are not labelled undesirable).
        rejected: The same over all other candidates.
    """

    records: float
    chosen: float
    rejected: float


def keep_given(record: Record) -> Record:
    """The record as it is: its marks are those that the data set gives."""
    return record


def mark_differences(record: Record) -> Record:
    """Marks the words in which the answers differ.

    A word-level diff, the "changed segments" of RLHF-V (Yu et al. 2024, arXiv 2312.00849). Each candidate
    is compared with the first one, and the first is marked where any other differs from it. Words are equal if their
    letters are, capital or small; punctuation alone is never marked. Neighbouring changed words are one span. What one
    answer has and the other lacks is marked where it stands, and nothing in the other.
    """
    first, others = record.candidates[:1], record.candidates[1:]
    found = [_changed(first[0].text, other.text) for other in others]
    spans = [_joined(span for ours, _ in found for span in ours)] if first else []
    return _with_spans(record, [*spans, *(theirs for _, theirs in found)])


def mark_first_difference(record: Record) -> Record:
    """Marks the first sentence in which the answers differ: in each candidate the one at that place, if it has one.

    For answers that share a context and go apart in one sentence (SENTINEL, Peng et al. 2025, arXiv 2507.12455).
    Sentences are equal if their words are.
    """
    place = _shared_sentences(record.candidates)
    return _with_spans(record, [sentences(candidate.text)[place : place + 1] for candidate in record.candidates])


def mark_first_hallucinated(record: Record) -> Record:
    """Marks whole sentences where the spans of a person or a detector already say what is hallucinated.

    In every candidate but the first, the only mark is the first sentence that holds a part of a span and lies after
    the sentences that the candidate has in common with the first one: a hallucination of both answers says nothing
    about the preference. The sentence has the largest weight of its spans. In the first candidate the sentences at the
    same places are marked, counted from the beginning. Spans of the first candidate are not read.

    Raises:
        DataError: A span lies outside its text, or the weights are not one for each span.
    """
    first, others = record.candidates[:1], record.candidates[1:]
    places: set[int] = set()
    marked: list[Candidate] = []
    for other in others:
        require_spans(record, other)
        place, spans, weights = _first_hallucinated(first[0], other)
        places |= {place} if spans else set()
        marked.append(replace(other, spans=spans, weights=weights))
    opposite = [own for at, own in enumerate(sentences(first[0].text)) if at in places] if first else []
    kept = (replace(candidate, spans=tuple(opposite), weights=()) for candidate in first)
    return replace(record, candidates=(*kept, *marked))


MARKINGS: Mapping[str, Callable[[Record], Record]] = {
    "given": keep_given,
    "difference": mark_differences,
    "first_difference": mark_first_difference,
    "first_hallucinated": mark_first_hallucinated,
}
"""Where marks can come from, by the names that a configuration gives them."""


def marked_share(records: Iterable[Record]) -> MarkedShare:
    """Measures how much is marked; a diff that marks most words tells them no better apart than no marks at all."""
    any_marked: list[float] = []
    chosen: list[float] = []
    rejected: list[float] = []
    for record in records:
        shares = [_marked_words(candidate) for candidate in record.candidates]
        better = 0 if len(shares) == 1 and record.candidates[0].label is False else 1
        chosen += shares[:better]
        rejected += shares[better:]
        any_marked.append(float(any(candidate.spans for candidate in record.candidates)))
    return MarkedShare(*(fmean(values) if values else 0.0 for values in (any_marked, chosen, rejected)))


def _with_spans(record: Record, spans: Sequence[Sequence[Span]]) -> Record:
    """The record with these spans for each candidate, all of weight 1."""
    pairs = zip(record.candidates, spans, strict=True)
    return replace(record, candidates=tuple(replace(c, spans=tuple(own), weights=()) for c, own in pairs))


def _changed(first: str, second: str) -> tuple[list[Span], list[Span]]:
    """The stretches of each text that the other has not, from the words' longest common runs."""
    ours, theirs = _units(first), _units(second)
    keys = [[text[start:end].casefold() for start, end in units] for text, units in ((first, ours), (second, theirs))]
    matcher = SequenceMatcher(None, keys[0], keys[1], autojunk=False)
    changes = [change[1:] for change in matcher.get_opcodes() if change[0] != "equal"]
    return (
        [span for start, end, _, _ in changes for span in _run(first, ours[start:end])],
        [span for _, _, start, end in changes for span in _run(second, theirs[start:end])],
    )


def _run(text: str, units: Sequence[Span]) -> list[Span]:
    """One span over all of these units; none where they are punctuation alone."""
    if all(_is_punctuation(text[start]) for start, _ in units):
        return []
    return [(units[0][0], units[-1][1])]


def _joined(spans: Iterable[Span]) -> list[Span]:
    """The union of spans, in order and disjoint."""
    union: list[Span] = []
    for start, end in sorted(spans):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(end, union[-1][1]))
        else:
            union.append((start, end))
    return union


def _units(text: str) -> list[Span]:
    """Words and marks of punctuation: marks at the ends of a word stand apart, those inside belong to it."""
    units: list[Span] = []
    for chunk in _CHUNK.finditer(text):
        start, end = chunk.span()
        while start < end and _is_punctuation(text[start]):
            units.append((start, start + 1))
            start += 1
        stem = end
        while stem > start and _is_punctuation(text[stem - 1]):
            stem -= 1
        units += [(start, stem)] if stem > start else []
        units += [(at, at + 1) for at in range(stem, end)]
    return units


def _is_punctuation(letter: str) -> bool:
    return unicodedata.category(letter).startswith("P")


def _words(text: str) -> list[str]:
    """The words of a text without capitals and punctuation."""
    return [text[start:end].casefold() for start, end in _units(text) if not _is_punctuation(text[start])]


def _marked_words(candidate: Candidate) -> float:
    words = [unit for unit in _units(candidate.text) if not _is_punctuation(candidate.text[unit[0]])]
    hit = [any(start < right and end > left for left, right in candidate.spans) for start, end in words]
    return fmean(hit) if hit else 0.0


def sentences(text: str) -> list[Span]:
    """The sentences of a text, without the white space around them.

    A sentence ends with a full stop, question or exclamation mark before white space, with the marks of Chinese and
    Japanese, or with the line. It goes on after common English abbreviations, initials and the number of a list, and
    where the next letter is a small one.
    """
    cuts = [0, *_sentence_ends(text), len(text)]
    parts = [(start, text[start:end]) for start, end in pairwise(cuts)]
    return [(at + len(part) - len(part.lstrip()), at + len(part.rstrip())) for at, part in parts if part.strip()]


def _sentence_ends(text: str) -> Iterator[int]:
    start = 0
    for mark in _SENTENCE_END.finditer(text):
        if not _goes_on(text[start : mark.start()].lstrip(), mark[0], text[mark.end() :].lstrip()[:1]):
            start = mark.end()
            yield start


def _goes_on(before: str, mark: str, following: str) -> bool:
    """Whether a sentence goes on after a mark: `before` is what it has so far, `following` the next letter."""
    if mark[0] not in ".!?\u2026":
        return False
    if following.islower():
        return True
    is_number = before.isdecimal() or (following.isdecimal() and _BEFORE_NUMBER.search(before) is not None)
    return mark == "." and (is_number or _ABBREVIATED.search(before) is not None)


def _shared_sentences(candidates: Sequence[Candidate]) -> int:
    """How many sentences at the beginning are the same in all of them, in their words."""
    words = [[_words(c.text[start:end]) for start, end in sentences(c.text)] for c in candidates]
    rows = enumerate(zip(*words, strict=False))
    shortest = min(map(len, words), default=0)
    return next((place for place, row in rows if any(other != row[0] for other in row)), shortest)


def _first_hallucinated(chosen: Candidate, other: Candidate) -> tuple[int, tuple[Span, ...], tuple[float, ...]]:
    """The first sentence of `other` with a span, after what both share: its place, itself, its weight if any."""
    own = sentences(other.text)
    for place in range(_shared_sentences([chosen, other]), len(own)):
        start, end = own[place]
        inside = [at for at, span in enumerate(other.spans) if span[0] < end and span[1] > start]
        if inside:
            weights = (max(other.weights[at] for at in inside),) if other.weights else ()
            return place, (own[place],), weights
    return len(own), (), ()
