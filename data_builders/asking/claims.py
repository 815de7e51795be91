"""An answer in claims, each of which can be asked as a yes/no question. Rules for English; nothing is learned.

1. An answer is cut into sentences, these at semicolons, and at "and", "but", "while", "whereas" or "with" after a
   comma. After such an "and" the rest must be able to stand alone: it begins with a determiner, a number or a pronoun
   and has a verb form such as "is" or "stands"; otherwise it is the last item of a list, and no cut is made.
2. Sentences that speak of no content (questions, and those that begin with "I", "Sorry", "Yes" or "No" alone) are no
   claims.
3. "The image shows X", "There is X" and X without a verb become "Does the image show X?"; all else "Is it true that
   ...?".

A pronoun stays as it is, so "It is red." is asked as it stands; a model that splits better is an option of the builder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmdpo.records.marks import sentences  # where a sentence ends; abbreviations and initials are known there

_JOINTS = re.compile(r"\s*;\s+|\s*,\s+(?=(?:and|but|while|whereas|with)\s)", re.IGNORECASE)
_JOINT_WORD = re.compile(r"^(and|but|while|whereas)\s+", re.IGNORECASE)
_BEGINS_CLAUSE = re.compile(
    r"^(?:there|it|he|she|they|this|that|these|those|the|an?|one|two|three|four|five|six|several|some|many|another|"
    r"his|her|its|their|[0-9]+)\b",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"\b(?:is|are|was|were|am|be|been|has|have|had|can|could|may|might|must|will|would|should|does|do|did|seems?|"
    r"appears?|looks?|stands?|sits?|lies?|lays?|holds?|wears?|walks?|runs?|rides?|plays?|shows?|contains?|makes?|takes?|"
    r"gives?|hangs?|eats?|drinks?|flies|fly|drives?|carries|carry|watch(?:es)?|smiles?|faces?|covers?|surrounds?|leads?|"
    r"adds?|suggests?|indicates?|creates?|features?|includes?|displays?)\b",
    re.IGNORECASE,
)
_SHOWS = re.compile(
    r"^(?:in (?:the|this) (?:image|picture|photo|photograph|scene|video|audio|clip),?\s+)?"
    r"(?:(?:the|this) (?:image|picture|photo|photograph|scene|video|audio|clip)\s+"
    r"(?:also\s+)?(?:shows|depicts|features|captures|contains|displays|portrays)"
    r"|there(?:\s+is|\s+are|'s)(?:\s+also)?|we (?:can )?see|you can see)\s+",
    re.IGNORECASE,
)
_NO_CLAIM = re.compile(r"^(?:i\b|i'm\b|sorry\b|as an ai\b|(?:yes|no|sure|of course|okay)[.!,]?$)", re.IGNORECASE)
_ENUMERATION = re.compile(r"^(?:[-*\u2022]|[0-9]+[.)])\s+")
_SMALL = re.compile(
    r"^(?:a|an|the|there|it|he|she|they|this|that|these|those|one|two|three|four|five|six|seven|eight|nine|ten|several|"
    r"some|many|another|his|her|its|their|people|men|women|in|on|at|behind|beside|near|next|under|above|to|both|each|"
    r"every|all)\b",
    re.IGNORECASE,
)
"""Words that begin a sentence and are written small inside another."""


def claims(answer: str) -> list[str]:
    """The claims of an answer, each once, in their order."""
    found = (claim for start, end in sentences(answer) for claim in _clauses(answer[start:end]))
    return list(dict.fromkeys(found))


def question(claim: str, noun: str = "image") -> str:
    """The yes/no question whose answer is yes where the claim is true.

    Args:
        claim: A sentence, a clause or a noun phrase.
        noun: What the media are called.
    """
    bare = " ".join(claim.split()).rstrip(".!;,: ")
    content = _SHOWS.sub("", bare)
    if content != bare or not _VERB.search(bare):
        verb = "contain" if noun == "audio" else "show"
        return f"Does the {noun} {verb} {_small(content)}?"
    return f"Is it true that {_small(bare)}?"


def _clauses(sentence: str) -> Iterator[str]:
    """The claims of a sentence."""
    sentence = _ENUMERATION.sub("", sentence.strip())
    if _NO_CLAIM.match(sentence) or sentence.endswith("?"):
        return
    held = ""
    for part in _JOINTS.split(sentence):
        stem = _JOINT_WORD.sub("", part)
        if held and _joins(part, stem):
            held = f"{held}, {part}"
            continue
        if held:
            yield _finished(held)
        held = re.sub(r"^with\s+", "", stem, flags=re.IGNORECASE) if held else part
    if re.search(r"\w", held):
        yield _finished(held)


def _joins(part: str, stem: str) -> bool:
    """Whether what follows a joint belongs to what stands before it."""
    if not part.lower().startswith("and "):
        return False
    return not (_BEGINS_CLAUSE.match(stem) and _VERB.search(stem))


def _finished(clause: str) -> str:
    return clause.strip().rstrip(".!;,: ") + "."


def _small(text: str) -> str:
    return _SMALL.sub(lambda word: word[0].lower(), text)
