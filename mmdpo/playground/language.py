"""What people say about scenes of a tiny world: captions, and answers to yes/no questions.

They have one fault on purpose. When the usual thing of a place is absent, they name it all the same about half of the
time. A model that learns from their text learns to perceive and learns their habit too: this is how real multimodal
models come to hallucinate.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

# The habit: how often the usual thing is named (captions) or affirmed (questions) although it is absent, by the
# number of things that are there. Sparse scenes are filled in more readily. Away from one half, greedy decoding
# repeats the habit in a stable share of the scenes instead of deciding by the last digit.
CAPTION_HABIT: Final[Mapping[int, float]] = MappingProxyType({1: 0.85, 2: 0.45, 3: 0.2})
ANSWER_HABIT: Final[Mapping[int, float]] = MappingProxyType({1: 0.9, 2: 0.7, 3: 0.5})
OMISSION: Final = 0.05


class Place(Protocol):
    """A kind of place: how captions say it, what people expect there, and what else is often there."""

    @property
    def phrase(self) -> str: ...  # noqa: D102
    @property
    def usual(self) -> str: ...  # noqa: D102
    @property
    def natives(self) -> tuple[str, str]: ...  # noqa: D102


class Scene(Protocol):
    """What a language needs to know of a scene: what is truly there, how it is called, and where that is."""

    @property
    def number(self) -> int: ...  # noqa: D102
    @property
    def background(self) -> str: ...  # noqa: D102
    @property
    def objects(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def described(self) -> tuple[tuple[str, str], ...]: ...  # noqa: D102
    @property
    def usual(self) -> str: ...  # noqa: D102
    @property
    def usual_is_absent(self) -> bool: ...  # noqa: D102
    @property
    def file_name(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Asked:
    """A yes/no question about an object or a place; `truth` is the right answer."""

    noun: str
    truth: bool


def article(noun: str) -> str:
    """``a`` or ``an``."""
    return "an" if noun[0] in "aeiou" else "a"


def join_phrases(phrases: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(part for part in (", ".join(phrases[:-1]), phrases[-1]) if part)


def answer(is_yes: bool) -> str:
    """``Yes`` or ``No``: read the same by the official POPE parser and by every other one we know."""
    return "Yes" if is_yes else "No"


@dataclass(frozen=True)
class Language:
    """How a tiny world is spoken of.

    Args:
        medium: What one item is called: ``image``.
        shows: How an item presents things: ``shows``.
        nouns: Everything that can be there.
        adjectives: Everything that a noun can be called.
        places: Kinds of places by name.
    """

    medium: str
    shows: str
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    places: Mapping[str, Place]

    @property
    def caption_prompt(self) -> str:
        """The request for a caption."""
        return f"Describe the {self.medium}."

    def caption(self, scene: Scene, rng: random.Random, habit: Mapping[int, float] = CAPTION_HABIT) -> str:
        """A caption as a careless person writes it.

        Args:
            scene: What to describe.
            rng: Draws the habit, the wording, and now and then (one time in twenty) forgets one thing of several.
            habit: Probability of naming the absent usual thing, by the number of things; zeros give an honest writer.
        """
        named = list(scene.described)
        if len(named) > 1 and rng.random() < OMISSION:
            named.pop(rng.randrange(len(named)))
        if scene.usual_is_absent and rng.random() < habit[len(scene.objects)]:
            named.append((rng.choice(self.adjectives), scene.usual))
        with_adjectives = rng.random() < 0.75
        phrases = [f"a {how} {noun}" if with_adjectives else f"{article(noun)} {noun}" for how, noun in named]
        return self._sentence(join_phrases(phrases), self.places[scene.background].phrase, rng)

    def _sentence(self, things: str, place: str, rng: random.Random) -> str:
        """One of four wordings."""
        wording = rng.choices(range(4), (0.4, 0.2, 0.2, 0.2))[0]
        if wording == 0:
            text = f"{things} {place}."
        elif wording == 1:
            text = f"there is {things} {place}."
        elif wording == 2:
            text = f"{place} there is {things}."
        else:
            text = f"the {self.medium} {self.shows} {things} {place}."
        return text[0].upper() + text[1:]

    def question(self, noun: str) -> str:
        """The yes/no question of POPE (arXiv 2305.10355), with the article that fits."""
        return f"Is there {article(noun)} {noun} in the {self.medium}?"

    def ask(self, scene: Scene, rng: random.Random) -> Asked:
        """Draws a question: as often about something there as not, and half of the latter about the usual thing.

        One time in ten it is about the place.
        """
        is_there = rng.random() < 0.5
        if rng.random() < 0.1:
            others = [place for place in self.places if place != scene.background]
            return Asked(scene.background if is_there else rng.choice(others), is_there)
        if is_there:
            return Asked(rng.choice(scene.objects), True)
        if scene.usual_is_absent and rng.random() < 0.5:
            return Asked(scene.usual, False)
        return Asked(rng.choice([noun for noun in self.nouns if noun not in (*scene.objects, scene.usual)]), False)

    def habitual_answer(
        self, scene: Scene, asked: Asked, rng: random.Random, habit: Mapping[int, float] = ANSWER_HABIT
    ) -> str:
        """The answer as a careless person gives it: wrong only about an absent usual thing, and only by habit."""
        expected = not asked.truth and asked.noun == scene.usual and rng.random() < habit[len(scene.objects)]
        return answer(asked.truth or expected)

    def texts(self, scene: Scene, writing: int = 0) -> list[tuple[str, str]]:
        """One caption row and one question row (prompt, answer) of a scene, always the same for the same writing."""
        rng = random.Random(f"text {scene.number}{f' {writing}' if writing else ''}")
        asked = self.ask(scene, rng)
        return [
            (self.caption_prompt, self.caption(scene, rng)),
            (self.question(asked.noun), self.habitual_answer(scene, asked, rng)),
        ]

    def named_objects(self, caption: str) -> list[str]:
        """The things of the world that a text names, in order, repeats kept."""
        return [word for word in re.findall(r"[a-z]+", caption.lower()) if word in self.nouns]

    def vocabulary(self) -> list[str]:
        """Every word and mark that questions, captions and answers can hold, each once, in a fixed order."""
        places = {word for place in self.places.values() for word in place.phrase.split()}
        places |= {next(iter(place.phrase.split())).capitalize() for place in self.places.values()}
        grammar = {"Describe", "the", self.medium, "Is", "there", "a", "an", "in", "is", "and", self.shows, "Yes", "No"}
        first_words = {"A", "An", "There", "The"}
        return [*sorted({*self.nouns, *self.adjectives, *places, *grammar, *first_words}), ".", ",", "?"]
