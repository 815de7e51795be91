"""Wrong answers that a model may well give: of the same kind as the right one, near it, or frequent.

How each kind of answer becomes a wrong one:

* yes and no: the other one;
* counts up to 100: a number beside it, further off the larger it is, because nobody counts 40 things exactly;
* everything else: an answer that is often right to questions that begin alike, drawn by how often; where few questions
  do, to questions of the same type, and then of the same kind of answer;
* and, if asked for, what one of the people said against the others.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from mmdpo.evals.shared.objects import ObjectNames
from mmdpo.evals.text import singular

Kind = Literal["yes/no", "number", "other"]
Origin = Literal["flip", "near", "frequent", "minority"]

LARGEST_COUNT = 100
"""Larger numbers are years, routes and the like: a neighbour of them is no error of counting."""
_DIGITS = 3
_TOLERANCE = 0.25  # of a count: what is nearer may be right too
_STEPS = (1, 2)
_FREQUENT = 60  # answers of a type that are drawn from
_FEW = 5  # different answers, which questions have to have together to be drawn from
_FIRST_WORDS = (4, 3)  # questions that begin alike ask for the same sort of thing: "what color is the"
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_OPPOSITE = {"yes": "no", "no": "yes"}
_SMALL_WORDS = frozenset({"a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "with", "for", "is", "it"})


@dataclass(frozen=True, slots=True)
class RightAnswer:
    """What is known of a question's answers, all of them in the form in which they are compared.

    Args:
        text: The right answer as people wrote it.
        form: The same as it is compared.
        kind: What sort of answer it is.
        question: What it answers.
        question_type: What sort of question that is.
        votes: Form -> how many gave it, of all that anybody gave.
    """

    text: str
    form: str
    kind: Kind
    question: str
    question_type: str
    votes: Mapping[str, int]


class WrongAnswers:
    """Draws wrong answers; it has to see all right ones first, because it draws by how frequent they are."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        self._frequent_of: dict[tuple[str, ...], list[tuple[str, int]]] = {}
        self._texts: dict[str, str] = {}

    def add(self, right: RightAnswer) -> None:
        """Counts one right answer."""
        for pool in _pools(right):
            self._pools[pool][right.form] += 1
        self._texts.setdefault(right.form, right.text)

    def draw(
        self, right: RightAnswer, random: Random, *, minority: float, is_wrong: Callable[[str], bool]
    ) -> tuple[str, Origin] | None:
        """A wrong answer and where it is from; None where there is none.

        Args:
            right: The question's answers.
            random: What chance decides.
            minority: Probability of taking what somebody said against the others, where it is wrong.
            is_wrong: Whether something that somebody said counts as wrong.
        """
        if right.kind == "yes/no":
            other = _OPPOSITE[right.form]
            return _in_the_style_of(right.text, other), "flip"
        said = [form for form in sorted(right.votes) if form and is_wrong(form) and not _says_alike(form, right.form)]
        said = [form for form in said if kind_of(form) == right.kind]
        if random.random() < minority and said:
            return random.choice(said), "minority"
        if right.kind == "number":
            near = near_counts(right.form, right.votes)
            if near:
                number = random.choices(near, [1.0 / (1 + place) for place in range(len(near))])[0]
                return _in_the_style_of(right.text, str(number)), "near"
        return self._frequent(right, random)

    def _frequent(self, right: RightAnswer, random: Random) -> tuple[str, Origin] | None:
        for name in _pools(right):
            if len(self._pools[name]) < _FEW and len(name) > 1:
                continue
            frequent = self._most_frequent(name)
            usable = [(form, n) for form, n in frequent if not any(_says_alike(form, own) for own in right.votes)]
            if usable:
                form = random.choices([form for form, _ in usable], [n for _, n in usable])[0]
                return _in_the_style_of(right.text, self._texts[form]), "frequent"
        return None

    def _most_frequent(self, name: tuple[str, ...]) -> list[tuple[str, int]]:
        if name not in self._frequent_of:
            ranked = sorted(self._pools[name].items(), key=lambda item: (-item[1], item[0]))
            self._frequent_of[name] = ranked[:_FREQUENT]
        return self._frequent_of[name]


def _pools(right: RightAnswer) -> list[tuple[str, ...]]:
    """Names of the groups of questions whose answers are alike, the narrowest first."""
    words = right.question.lower().split()
    alike: list[tuple[str, ...]] = [(right.kind, " ".join(words[:count])) for count in _FIRST_WORDS]
    return [*alike, (right.kind, "type", right.question_type), (right.kind,)]


def kind_of(form: str) -> Kind:
    """What sort of answer it is, by itself."""
    if form in _OPPOSITE:
        return "yes/no"
    return "number" if form.isdecimal() else "other"


def near_counts(form: str, votes: Mapping[str, int]) -> list[int]:
    """Numbers that are near a count and yet wrong, the nearest first and 0 last; none where it is no count.

    They are one or two steps away, a step being a quarter of the count and at least 1, and nobody gave them.
    """
    count = int(form) if form.isascii() and form.isdecimal() and len(form) <= _DIGITS else -1
    if str(count) != form or count > LARGEST_COUNT:  # "007" is no count
        return []
    step = max(1, round(_TOLERANCE * count))
    around = [count + sign * steps * step for steps in _STEPS for sign in (1, -1)]
    found = [number for number in around if number >= 0 and not votes.get(str(number))]
    return sorted(found, key=lambda number: number == 0)  # nobody asks how many there are of what is not there


def opposite(form: str) -> str:
    """No for yes, and yes for no."""
    return _OPPOSITE[form]


@functools.lru_cache(1 << 16)
def _meanings(form: str) -> frozenset[str]:
    """The words of an answer without endings, and the COCO categories that they name."""
    names = _names()
    words = [singular(word, names.words) for word in form.split()]
    plain = {word.removesuffix("s") for word in words if word not in _SMALL_WORDS}
    return frozenset(plain | {mention.category for mention in names.mentions(words)})


@functools.cache
def _names() -> ObjectNames:
    return ObjectNames.load()


def _says_alike(form: str, other: str) -> bool:
    """Whether two answers share a word or name the same object, so that one may be right because the other is."""
    return form == other or not _meanings(form).isdisjoint(_meanings(other))


def _in_the_style_of(model: str, text: str) -> str:
    """The text with a capital, or its number as a word, where the model has that: style must tell nothing."""
    if text.isdecimal() and int(text) < len(_NUMBER_WORDS) and model.lower() in _NUMBER_WORDS:
        text = _NUMBER_WORDS[int(text)]
    return text[:1].upper() + text[1:] if model[:1].isupper() else text


def majority(forms: Sequence[str]) -> tuple[str | None, Counter[str]]:
    """The answer that most gave, None where two were given as often, and how often each was given."""
    votes = Counter(forms)
    ranked = votes.most_common(2)
    tie = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    return (None if tie else ranked[0][0]), votes
