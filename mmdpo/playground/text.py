"""What people say about scenes: captions, and answers to yes/no questions.

They have one fault on purpose. When the usual object of a background is absent, they name it all the same about half of
the time. A model that learns from their text learns to see and learns their habit too: this is how real vision-language
models come to hallucinate.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mmdpo.playground.world import BACKGROUNDS, COLOURS, OBJECTS, Scene

CAPTION_PROMPT: Final = "Describe the image."

# The habit: how often the usual object is named (captions) or affirmed (questions) although it is absent, by the
# number of things that are there. Sparse pictures are filled in more readily. Away from one half, greedy decoding
# repeats the habit in a stable share of the pictures instead of deciding by the last digit.
CAPTION_HABIT: Final[Mapping[int, float]] = MappingProxyType({1: 0.85, 2: 0.45, 3: 0.2})
ANSWER_HABIT: Final[Mapping[int, float]] = MappingProxyType({1: 0.9, 2: 0.7, 3: 0.5})
OMISSION: Final = 0.05


def article(noun: str) -> str:
    """``a`` or ``an``."""
    return "an" if noun[0] in "aeiou" else "a"


def caption(scene: Scene, rng: random.Random, habit: Mapping[int, float] = CAPTION_HABIT) -> str:
    """A caption as a careless person writes it.

    Args:
        scene: What to describe.
        rng: Draws the habit, the wording, and now and then (one time in twenty) forgets one thing of several.
        habit: Probability of naming the absent usual object, by the number of things; zeros give an honest writer.
    """
    named: list[tuple[str, str]] = [(thing.colour, thing.shape) for thing in scene.things]
    if len(named) > 1 and rng.random() < OMISSION:
        named.pop(rng.randrange(len(named)))
    if scene.usual_is_absent and rng.random() < habit[len(scene.things)]:
        named.append((rng.choice(tuple(COLOURS)), scene.usual))
    with_colours = rng.random() < 0.75
    phrases = [f"a {colour} {shape}" if with_colours else f"{article(shape)} {shape}" for colour, shape in named]
    return _sentence(join_phrases(phrases), BACKGROUNDS[scene.background].phrase, rng)


def _sentence(things: str, place: str, rng: random.Random) -> str:
    """One of four wordings."""
    wording = rng.choices(range(4), (0.4, 0.2, 0.2, 0.2))[0]
    if wording == 0:
        text = f"{things} {place}."
    elif wording == 1:
        text = f"there is {things} {place}."
    elif wording == 2:
        text = f"{place} there is {things}."
    else:
        text = f"the image shows {things} {place}."
    return text[0].upper() + text[1:]


def join_phrases(phrases: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(part for part in (", ".join(phrases[:-1]), phrases[-1]) if part)


def question(noun: str) -> str:
    """The yes/no question of POPE (arXiv 2305.10355), with the article that fits."""
    return f"Is there {article(noun)} {noun} in the image?"


def answer(is_yes: bool) -> str:
    """``Yes`` or ``No``: read the same by the official POPE parser and by every other one we know."""
    return "Yes" if is_yes else "No"


@dataclass(frozen=True)
class Asked:
    """A yes/no question about an object or a place; `truth` is the right answer."""

    noun: str
    truth: bool


def ask(scene: Scene, rng: random.Random) -> Asked:
    """Draws a question: as often about something there as not, and half of the latter about the usual object.

    One time in ten it is about the place.
    """
    is_there = rng.random() < 0.5
    if rng.random() < 0.1:
        others = [place for place in BACKGROUNDS if place != scene.background]
        return Asked(scene.background if is_there else rng.choice(others), is_there)
    if is_there:
        return Asked(rng.choice(scene.objects), True)
    if scene.usual_is_absent and rng.random() < 0.5:
        return Asked(scene.usual, False)
    return Asked(rng.choice([noun for noun in OBJECTS if noun not in (*scene.objects, scene.usual)]), False)


def habitual_answer(scene: Scene, asked: Asked, rng: random.Random, habit: Mapping[int, float] = ANSWER_HABIT) -> str:
    """The answer as a careless person gives it: wrong only about an absent usual object, and only by habit."""
    expected = not asked.truth and asked.noun == scene.usual and rng.random() < habit[len(scene.things)]
    return answer(asked.truth or expected)


def named_objects(caption: str) -> list[str]:
    """The objects of the world that a text names, in order, repeats kept."""
    return [word for word in re.findall(r"[a-z]+", caption.lower()) if word in OBJECTS]


def vocabulary() -> list[str]:
    """Every word and mark that questions, captions and answers can hold, each once, in a fixed order."""
    places = {word for place in BACKGROUNDS.values() for word in place.phrase.split()}
    grammar = {"Describe", "the", "image", "Is", "there", "a", "an", "in", "is", "and", "shows", "Yes", "No"}
    first_words = {"A", "An", "There", "The", "In", "On"}
    return [*sorted({*OBJECTS, *COLOURS, *places, *grammar, *first_words}), ".", ",", "?"]
