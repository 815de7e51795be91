"""Hallucination injection: one thing of a true caption is changed, so that the caption is wrong.

The change is one stretch of the text; grammar, length (one word more or less at most) and everything else stay. What
the annotations say is there is never used to make a caption wrong, and what other captions of the picture say neither.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from random import Random
from typing import Any, Literal

from data_builders.object_sources import ImageObjects, Named, Objects
from data_builders.tables.config import UnusableError

Kind = Literal["object", "attribute", "count", "relation", "negation"]
KINDS: tuple[Kind, ...] = ("object", "attribute", "count", "relation", "negation")

_LONGER = 1  # words that a change may add or take away
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ARTICLE = re.compile(r"\b(an?)\s+$", re.IGNORECASE)
_NEAR_COUNT = 2
_NEAR_WORDS = 4  # words after "on" among which the thing has to stand that something is on


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a caption.

    Args:
        kind: What was changed.
        text: The wrong caption.
        true_span: The changed characters of the true caption.
        false_span: And of the wrong one.
        told: What a record says of it.
    """

    kind: Kind
    text: str
    true_span: tuple[int, int]
    false_span: tuple[int, int]
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """A stretch of a caption and what may stand there instead, with weights."""

    start: int
    end: int
    instead: tuple[str, ...]
    weights: tuple[float, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)


class Injector:
    """Makes wrong captions and counts where it could not.

    Args:
        objects: What is in the pictures, and how often things are together.
        kinds: How often each kind of change is made, where a caption has a place for it.
        seed: Of every choice.
    """

    def __init__(self, objects: Objects, kinds: Mapping[Kind, float], seed: int) -> None:
        self._objects, self._seed = objects, seed
        self._weights = {kind: kinds.get(kind, 0.0) for kind in KINDS if kinds.get(kind, 0.0) > 0}
        self._made: Counter[str] = Counter()
        self._without: Counter[str] = Counter()
        self._found: dict[str, bool] = {}
        self._captions = 0

    def inject(self, caption: str, image: ImageObjects, others: Sequence[str]) -> Change:
        """A wrong caption made of a true one.

        Args:
            caption: The caption.
            image: Its picture.
            others: All captions of the picture: what they say is taken to be true.

        Raises:
            UnusableError: It names an object that is not there, or has no place for a change of any kind.
        """
        named = self._objects.named(caption)
        wrong = sorted({name.category for name in named} - image.present)
        if wrong:
            raise UnusableError("not_true", caption, f"by the annotations there is no {wrong[0]}")
        self._captions += 1
        said = {word.lower() for other in others for word in _WORD.findall(other)}
        places = {kind: list(self._places(kind, caption, named, image, said)) for kind in self._weights}
        for kind, found in places.items():
            self._without[kind] += not found
        possible = [kind for kind, found in places.items() if found]
        if not possible:
            raise UnusableError("no_place", caption, "it has no word that could be changed")
        random = Random(f"{self._seed} {image.id} {caption}")
        kind = random.choices(possible, [self._weights[kind] for kind in possible])[0]
        place = random.choice(places[kind])
        instead = random.choices(place.instead, place.weights or None)[0]
        self._made[kind] += 1
        return _change(kind, caption, place, instead)

    def account(self) -> dict[str, Any]:
        """How many captions there were, what was made, and how many had no place for each kind."""
        return {"captions": self._captions, "made": dict(self._made), "no_place": dict(self._without)}

    def _places(
        self, kind: Kind, caption: str, named: Sequence[Named], image: ImageObjects, said: set[str]
    ) -> Iterator[_Place]:
        if kind == "object":
            yield from self._object_places(caption, named, image)
        elif kind in ("attribute", "count"):
            yield from _swapped_words(kind, caption, said)
        elif kind == "relation":
            yield from _relations(caption, named)
        else:
            yield from _negations(caption, named)

    def _object_places(self, caption: str, named: Sequence[Named], image: ImageObjects) -> Iterator[_Place]:
        """Objects that stand as nouns of their own, and absent ones that are often seen with the others."""
        counts = Counter(name.category for name in named)
        for name in named:
            if name.category == "person" or counts[name.category] > 1 or not _ends_a_noun(caption, name.end):
                continue
            words = caption[name.start : name.end]
            plural = _is_plural(words, self._objects)
            article = _ARTICLE.search(caption[: name.start])
            start = article.start() if article else name.start
            usable = []
            for category, weight in self._absent(name.category, image):
                noun = _in_number(category, plural)
                if noun and self._is_found(noun, category) and abs(len(noun.split()) - len(words.split())) <= _LONGER:
                    usable.append((_with_article(noun, article[1] if article else None), weight))
            if usable:
                texts, weights = zip(*usable, strict=True)
                yield _Place(start, name.end, texts, weights, {"object": name.category})

    def _is_found(self, noun: str, category: str) -> bool:
        """Whether CHAIR reads the noun as what it means; its lemma of "vases" is none of its names."""
        if noun not in self._found:
            self._found[noun] = [name.category for name in self._objects.named(noun)] == [category]
        return self._found[noun]

    def _absent(self, category: str, image: ImageObjects) -> list[tuple[str, float]]:
        """Objects that are absent, with how often they are seen with the others; of the same sort if there are any."""
        together = self._objects.together
        seen_with: Counter[str] = Counter()
        for other in image.present:
            seen_with.update(together.get(other, Counter()))
        absent = {one: float(n) for one, n in seen_with.items() if one not in image.present and one != "person"}
        sort = next((group for group in _words()["groups"] if category in group), ())
        alike = {one: n for one, n in absent.items() if one in sort}
        return sorted((alike or absent).items())


def _swapped_words(kind: str, caption: str, said: set[str]) -> Iterator[_Place]:
    """Words of a list for which another of the list can stand that no caption of the picture has."""
    for match in _WORD.finditer(caption):
        word = match[0].lower()
        for group in _words()["swaps"][kind]:
            instead = [other for other in group if other not in said and _is_near(kind, word, other, group)]
            if word in group and instead and not _is_joined(caption, match, group):
                article = _ARTICLE.search(caption[: match.start()])
                start = article.start() if article else match.start()
                texts = tuple(_with_article(other, article[1] if article else None) for other in instead)
                yield _Place(start, match.end(), texts)


def _is_near(kind: str, word: str, other: str, group: Sequence[str]) -> bool:
    """Whether a count is no more than two away, so that it could be a mistake; other words always are."""
    return kind != "count" or word not in group or abs(group.index(word) - group.index(other)) <= _NEAR_COUNT


def _relations(caption: str, named: Sequence[Named]) -> Iterator[_Place]:
    for phrase, instead in _words()["relations"].items():
        for match in _phrases(phrase, caption):
            yield _Place(match.start(), match.end(), (instead,))
    longer = [match.span() for phrase in _words()["relations"] for match in _phrases(phrase, caption)]
    for phrase, instead in _words()["relation_before_object"].items():
        for match in _phrases(phrase, caption):
            inside = any(start <= match.start() < end for start, end in longer)
            if not inside and _is_before_an_object(caption, match.end(), named):
                yield _Place(match.start(), match.end(), (instead,))


def _negations(caption: str, named: Sequence[Named]) -> Iterator[_Place]:
    """The words before an object that say it is there, and "is" or "are" before what somebody does."""
    taken: list[tuple[int, int]] = []
    for phrase, instead in _words()["negations"].items():  # longer phrases stand first
        for match in _phrases(phrase, caption):
            if any(start <= match.start() < end for start, end in taken):
                continue
            taken.append(match.span())
            if any(caption[match.end() : name.start].strip() == "" for name in named if name.start >= match.end()):
                yield _Place(match.start(), match.end(), (instead,))
    for verb, instead in _words()["negated_verbs"].items():
        for match in _phrases(verb, caption):
            following = _WORD.search(caption, match.end())
            if following and following[0].endswith("ing") and caption[match.end() : following.start()].strip() == "":
                yield _Place(match.start(), match.end(), (instead,))


def _change(kind: Kind, caption: str, place: _Place, instead: str) -> Change:
    old = caption[place.start : place.end]
    new = instead[0].upper() + instead[1:] if old[:1].isupper() else instead
    new = new.upper() if old.isupper() and len(old) > 1 else new
    text = caption[: place.start] + new + caption[place.end :]
    told = {"changed": [old, new], **place.told}
    return Change(kind, text, (place.start, place.end), (place.start, place.start + len(new)), told)


def _phrases(phrase: str, caption: str) -> Iterator[re.Match[str]]:
    pattern = r"\s+".join(re.escape(word) for word in phrase.split())
    return re.finditer(rf"(?<![\w'’-]){pattern}(?![\w'’-])", caption, re.IGNORECASE)


def _is_joined(caption: str, match: re.Match[str], group: Sequence[str]) -> bool:
    """Whether a word is one of several, as in "black and white", or part of a name, as in "White House"."""
    before, after = _WORD.findall(caption[: match.start()])[-2:], _WORD.findall(caption[match.end() :])[:2]
    return any(word.lower() in group for word in (*before, *after)) or (match.start() > 0 and match[0][0].isupper())


def _is_before_an_object(caption: str, end: int, named: Sequence[Named]) -> bool:
    following = [match.start() + end for match in _WORD.finditer(caption[end:])][:_NEAR_WORDS]
    ridden = _words()["ridden"]  # nobody is under a surfboard
    return any(name.start in following and name.category not in ridden for name in named)


def _ends_a_noun(caption: str, end: int) -> bool:
    """Whether a noun ends here: what follows is no further noun of a compound such as "dog bowl"."""
    rest = caption[end:]
    if not rest or not rest[0].isspace():
        return not rest or rest[0] in ".,;:!?)"
    following = _WORD.match(rest.lstrip())
    if following is None:
        return True
    word = following[0].lower()
    return word in _words()["follows_a_noun"] or word.endswith(("ing", "ed"))


def _is_plural(words: str, objects: Objects) -> bool:
    """Whether a name as it stands in a text is in the plural."""
    last = words.split()[-1].lower()
    return last in _words()["plural_only"] or objects.chair.base_words(last)[-1] != last


def _in_number(category: str, plural: bool) -> str | None:
    """The name of a category in the singular or the plural; None where it has none."""
    words = _words()
    if not plural:
        return None if category in words["plural_only"] or category in words["without_plural"] else category
    if category in words["plural_only"] or category in words["same_plural"]:
        return category
    if category in words["without_plural"]:
        return None
    *first, last = category.split()
    if last in words["plurals"]:
        last = words["plurals"][last]
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    else:
        last += "s"
    return " ".join([*first, last])


def article_for(noun: str) -> str:
    """`a` or `an`, by how the word begins when it is spoken."""
    words = _words()
    if noun.lower().startswith(tuple(words["a_before"])):
        return "a"
    return "an" if noun[0].lower() in "aeiou" or noun.lower().startswith(tuple(words["an_before"])) else "a"


def _with_article(noun: str, article: str | None) -> str:
    return noun if article is None else f"{article_for(noun)} {noun}"


@cache
def _words() -> Any:
    """The word lists."""
    path = resources.files("data_builders") / "injection_words.json"
    return json.loads(path.read_text(encoding="utf-8"))
