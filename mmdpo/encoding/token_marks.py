"""Which tokens of an answer are marked: spans in characters become marks and weights of tokens.

What each token spells is found from the ids alone, so it is one rule for ids that a template, a tokenizer or a sampler
gave: the tokens are decoded one after the other, and what they spell is laid beside the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from mmdpo.records import Candidate, Record
from mmdpo.records.checks import require_spans

_PART_OF_A_CHARACTER = "\ufffd"
"""What decoders write for bytes that are no whole character (yet)."""


def token_marks(tokenizer: Any, record: Record, candidate: Candidate, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Marks and weights of the tokens of an answer.

    Args:
        tokenizer: Hugging Face tokenizer.
        record: The candidate's record, named in errors.
        candidate: The answer.
        ids: [L] its token ids; if it is finished, the last one stops generation.

    Returns:
        [L] bool: the token spells a character of a span, or stops generation after a span that reaches the end.
        [L] float32: on marked tokens the weight of their span, the largest of several; 1 elsewhere.

    Raises:
        DataError: A span lies outside the text, or the weights are not one finite number from 0 on for each span.
    """
    marks, weights = torch.zeros(len(ids), dtype=torch.bool), torch.ones(len(ids))
    if not (candidate.spans or candidate.weights):
        return marks, weights
    require_spans(record, candidate)
    text = candidate.text
    offsets = token_offsets(tokenizer, ids[:-1] if candidate.finished else ids, text)
    if candidate.finished:  # the end stands for the last character and the white space after it
        offsets.append((len(text.rstrip()) - 1, len(text)))
    starts, ends = torch.tensor(offsets).T
    own = candidate.weights or (1.0,) * len(candidate.spans)
    for weight, (start, end) in sorted(zip(own, candidate.spans, strict=True)):  # the largest is written last
        inside = (starts < end) & (ends > start)
        marks |= inside
        weights[inside] = weight
    return marks, weights


def token_offsets(tokenizer: Any, ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """The stretch of ``text`` that each token spells.

    White space may differ from the text (templates strip answers, decoders drop a first space), and the ids may spell
    more before it (the end of an open thought). Tokens that are parts of one character all have that character. Where
    the ids do not spell the text, because the tokenizer changes letters or does not know them, as many characters as
    can be are matched in order. A token without a character of its own, such as an unknown word, has all that lies
    between the nearest two that have one.

    Args:
        tokenizer: Hugging Face tokenizer.
        ids: Token ids of an answer, without the one that stops generation.
        text: The answer.

    Returns:
        Start and end in characters of each token, in order; equal where a token spells nothing of the text.
    """
    pieces = _pieces(tokenizer, ids)
    places = _places("".join(spelled for spelled, _ in pieces), text)
    known: list[list[int]] = []  # of each token, the characters of the text that it spells
    at = 0
    for spelled, tokens in pieces:
        own = [place for place in places[at : at + len(spelled)] if place is not None]
        known += [own] * tokens
        at += len(spelled)
    # of each token, where the characters before it end, and where those from it on begin
    ends = list(accumulate((own[-1] + 1 if own else 0 for own in known), max, initial=0))[:-1]
    starts = list(accumulate((own[0] if own else len(text) for own in reversed(known)), min))[::-1]
    return [(own[0], own[-1] + 1) if own else (end, start) for own, end, start in zip(known, ends, starts, strict=True)]


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[tuple[str, int]]:
    """What the ids spell: (text, how many tokens spell it together), in order.

    Each piece is decoded after the one before it, because decoders drop a space at the beginning.
    """
    pieces: list[tuple[str, int]] = []
    context = done = 0
    before = ""
    for end in range(1, len(ids) + 1):
        both = _decode(tokenizer, ids[context:end])
        if both.endswith(_PART_OF_A_CHARACTER) and end < len(ids):
            continue
        pieces.append((both[len(before) :], end - done))
        context, done = done, end
        before = _decode(tokenizer, ids[context:done])
    return pieces


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _places(spelled: str, text: str) -> list[int | None]:
    """For each character of ``spelled``, which one of ``text`` it is.

    Characters are matched without white space; then white space before a matched character with white space before its
    counterpart, from the right.
    """
    ours, theirs = ([at for at, letter in enumerate(of) if not letter.isspace()] for of in (spelled, text))
    places: list[int | None] = [None] * (len(spelled) + 1)
    for our, their in [*_matched(spelled, ours, text, theirs), (len(spelled), len(text))]:
        places[our] = their
        here, there = our - 1, their - 1
        while here >= 0 and there >= 0 and spelled[here].isspace() and text[there].isspace():
            places[here] = there
            here, there = here - 1, there - 1
    return places[:-1]


def _matched(spelled: str, ours: Sequence[int], text: str, theirs: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of indices of equal characters, in order; all of ``theirs`` where the ids spell the text."""
    letters, wanted = ("".join(of[at] for at in chosen) for of, chosen in ((spelled, ours), (text, theirs)))
    start = letters.rfind(wanted)  # the last one: what a template writes of its own stands before the answer
    if start >= 0:
        return list(zip(ours[start : start + len(theirs)], theirs, strict=True))
    blocks = SequenceMatcher(None, letters, wanted, autojunk=False).get_matching_blocks()
    return [(ours[i + n], theirs[j + n]) for i, j, size in blocks for n in range(size)]
