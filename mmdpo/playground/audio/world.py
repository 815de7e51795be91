"""The tiny world of sounds: clips of two seconds with one to three short sounds at one of four places.

Every place has a *usual* sound (a train has its whistle): it is often there, but not always. What people say about
clips is in `text`, how they sound in `sounds`.

A scene is a pure function of its number, and every purpose draws from numbers of its own, as in the world of pictures
(`mmdpo.playground.world.scene_numbers`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mmdpo.playground.world import USUAL_IS_PRESENT, Split, draw_nouns, scene_numbers

RATE: Final = 16_000
"""Samples a second: what Whisper's features are made of."""
SECONDS: Final = 2
SLOTS: Final = 4
"""Places in time, each half a second long; a slot holds one sound at most, so that sounds never cover each other."""
MANNERS: Final = ("loud", "soft")


@dataclass(frozen=True)
class Place:
    """A kind of place; its name is the noun that questions use.

    Attributes:
        phrase: How captions say it, such as ``"on a train"``.
        usual: The sound that people expect here.
        natives: Sounds that are met here more often than elsewhere, in truth and in text alike.
    """

    phrase: str
    usual: str
    natives: tuple[str, str]


@dataclass(frozen=True)
class Event:
    """One sound: its kind (the noun), how it is made (the adjective), when it starts, how long and how high it is.

    Attributes:
        sound: A key of `sounds.EVENTS`.
        manner: One of `MANNERS`.
        start: Seconds from the start of the clip.
        duration: Seconds, at most half of one.
        pitch: Factor on the frequencies, near 1.
    """

    sound: str
    manner: str
    start: float
    duration: float
    pitch: float


@dataclass(frozen=True)
class Scene:
    """What is in one clip; `number` is its seed, its id, and the seed of its noise."""

    number: int
    background: str
    events: tuple[Event, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """The nouns that are truly there, in order of time; no noun is there twice."""
        return tuple(event.sound for event in self.events)

    @property
    def described(self) -> tuple[tuple[str, str], ...]:
        """Adjective and noun of each sound, in order of time."""
        return tuple((event.manner, event.sound) for event in self.events)

    @property
    def usual(self) -> str:
        """The sound that people expect at this place."""
        return PLACES[self.background].usual

    @property
    def usual_is_absent(self) -> bool:
        """Whether naming the usual sound would be a hallucination."""
        return self.usual not in self.objects

    @property
    def file_name(self) -> str:
        """Name of the clip's file."""
        return f"scene_{self.number:012d}.wav"


PLACES: Final[Mapping[str, Place]] = MappingProxyType(
    {
        "workshop": Place("in a workshop", "buzz", ("knock", "rattle")),
        "forest": Place("in a forest", "chirp", ("bell", "thump")),
        "shore": Place("on a shore", "horn", ("siren", "zap")),
        "train": Place("on a train", "whistle", ("beep", "clap")),
    }
)
SOUNDS: Final = tuple(sorted({name for place in PLACES.values() for name in (place.usual, *place.natives)}))
COUNT_WEIGHTS: Final = (0.3, 0.4, 0.3)


def scenes(count: int, seed: int, split: Split) -> list[Scene]:
    """Scenes number 0 to `count` - 1 of a seed of a split; the scenes of any two (seed, split) are disjoint.

    Raises:
        ConfigError: A number is out of range.
    """
    return [sample_scene(number) for number in scene_numbers(count, seed, split)]


def sample_scene(number: int) -> Scene:
    """The scene of this number, always the same."""
    rng = random.Random(f"sounds {number}")
    name = rng.choice(tuple(PLACES))
    count = rng.choices((1, 2, 3), COUNT_WEIGHTS)[0]
    names = draw_nouns(rng, count, PLACES[name].usual, PLACES[name].natives, SOUNDS)
    slots = sorted(rng.sample(range(SLOTS), count))
    return Scene(number, name, tuple(_event(sound, slot, rng) for sound, slot in zip(names, slots, strict=True)))


def _event(sound: str, slot: int, rng: random.Random) -> Event:
    """Puts a sound into one slot of time."""
    length = SECONDS / SLOTS
    duration = rng.uniform(0.36, 0.46)
    start = slot * length + rng.uniform(0.0, length - duration)
    return Event(sound, rng.choice(MANNERS), start, duration, rng.uniform(0.92, 1.08))


__all__ = [
    "MANNERS",
    "PLACES",
    "RATE",
    "SECONDS",
    "SOUNDS",
    "USUAL_IS_PRESENT",
    "Event",
    "Place",
    "Scene",
    "sample_scene",
    "scenes",
]
