"""The tiny world: scenes of one to three coloured shapes on one of four backgrounds.

Every background has a *usual* object (a lake has its boat): it is often there, but not always. What people say about
scenes is in `text`, how scenes look in `drawing`.

A scene is a pure function of its number, and every purpose draws from numbers of its own (`scenes`), so training,
preference and held-out scenes never overlap.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from mmdpo.errors import ConfigError

Split = Literal["train", "preference", "heldout"]


@dataclass(frozen=True)
class Background:
    """A kind of place; its name is the noun that questions use.

    Attributes:
        phrase: How captions say it, such as ``"on a lake"``.
        usual: The object that people expect here.
        natives: Shapes that are met here more often than elsewhere, in truth and in text alike.
        colour: RGB at the middle of the image.
    """

    phrase: str
    usual: str
    natives: tuple[str, str]
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Thing:
    """One drawn object: its shape (the noun), its colour word, and where it stands, in pixels of a 64x64 image."""

    shape: str
    colour: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """What is in one picture; `number` is its seed, its image id, and the seed of its texture."""

    number: int
    background: str
    things: tuple[Thing, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """The nouns that are truly there, in reading order; no noun is there twice."""
        return tuple(thing.shape for thing in self.things)

    @property
    def described(self) -> tuple[tuple[str, str], ...]:
        """Adjective and noun of each thing, in reading order."""
        return tuple((thing.colour, thing.shape) for thing in self.things)

    @property
    def usual(self) -> str:
        """The object that people expect on this background."""
        return BACKGROUNDS[self.background].usual

    @property
    def usual_is_absent(self) -> bool:
        """Whether naming the usual object would be a hallucination."""
        return self.usual not in self.objects

    @property
    def file_name(self) -> str:
        """Name of the image file."""
        return f"scene_{self.number:012d}.png"


BACKGROUNDS: Final[Mapping[str, Background]] = MappingProxyType(
    {
        "meadow": Background("in a meadow", "flower", ("circle", "heart"), (104, 166, 76)),
        "lake": Background("on a lake", "boat", ("triangle", "diamond"), (52, 128, 184)),
        "snowfield": Background("in a snowfield", "tree", ("star", "ring"), (226, 234, 242)),
        "sky": Background("in a night sky", "moon", ("square", "arrow"), (26, 28, 54)),
    }
)
OBJECTS: Final = tuple(
    sorted({name for place in BACKGROUNDS.values() for name in (place.usual, *place.natives)}),
)
COLOURS: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType(
    {"red": (214, 44, 40), "yellow": (250, 216, 52), "pink": (244, 136, 196), "purple": (146, 72, 206)}
)
IMAGE_SIZE: Final = 64

USUAL_IS_PRESENT: Final = 0.4
NATIVE_WEIGHT: Final = 2.0
COUNT_WEIGHTS: Final = (0.3, 0.4, 0.3)

_SCENES_PER_SEED: Final = 1_000_000
_SEEDS_PER_SPLIT: Final = 10_000
_SPLIT_ORDER: Final[tuple[Split, ...]] = ("train", "preference", "heldout")


def scenes(count: int, seed: int, split: Split) -> list[Scene]:
    """Scenes number 0 to `count` - 1 of a seed of a split; the scenes of any two (seed, split) are disjoint.

    Args:
        count: How many, at most 1,000,000.
        seed: From 0 to 9,999.
        split: ``train`` for the base model, ``preference`` for rated captions, ``heldout`` for measuring.

    Raises:
        ConfigError: A number is out of range.
    """
    return [sample_scene(number) for number in scene_numbers(count, seed, split)]


def scene_numbers(count: int, seed: int, split: Split) -> range:
    """The numbers of `scenes`, without making the scenes.

    Raises:
        ConfigError: A number is out of range.
    """
    if split not in _SPLIT_ORDER or not 0 <= seed < _SEEDS_PER_SPLIT or not 0 <= count <= _SCENES_PER_SEED:
        raise ConfigError(
            f"no scenes for count={count}, seed={seed}, split={split!r}",
            why="Training, preference and held-out scenes stay apart only inside their ranges of numbers.",
            fix=f"Use count <= {_SCENES_PER_SEED}, 0 <= seed < {_SEEDS_PER_SPLIT}, split one of {_SPLIT_ORDER}.",
        )
    start = (_SPLIT_ORDER.index(split) * _SEEDS_PER_SPLIT + seed) * _SCENES_PER_SEED
    return range(start, start + count)


def sample_scene(number: int) -> Scene:
    """The scene of this number, always the same."""
    rng = random.Random(number)
    name = rng.choice(tuple(BACKGROUNDS))
    place = BACKGROUNDS[name]
    count = rng.choices((1, 2, 3), COUNT_WEIGHTS)[0]
    shapes = draw_nouns(rng, count, place.usual, place.natives, OBJECTS)
    cells = sorted(rng.sample(range(4), count))
    return Scene(number, name, tuple(_place(shape, cell, rng) for shape, cell in zip(shapes, cells, strict=True)))


def draw_nouns(rng: random.Random, count: int, usual: str, natives: Collection[str], nouns: Sequence[str]) -> list[str]:
    """`count` different nouns in any order: the usual one in a share of the draws, natives twice as often as others."""
    drawn = [usual] if rng.random() < USUAL_IS_PRESENT else []
    others = [noun for noun in nouns if noun != usual]
    while len(drawn) < count:
        weights = [NATIVE_WEIGHT if noun in natives else 1.0 for noun in others]
        drawn.append(others.pop(rng.choices(range(len(others)), weights)[0]))
    rng.shuffle(drawn)
    return drawn


def _place(shape: str, cell: int, rng: random.Random) -> Thing:
    """Puts a shape into one quarter of the picture, so that things never cover each other."""
    row, column = divmod(cell, 2)
    half = IMAGE_SIZE / 2
    x, y = (half * (index + 0.5) + rng.uniform(-2.5, 2.5) for index in (column, row))
    return Thing(shape, rng.choice(tuple(COLOURS)), x, y, rng.uniform(22.0, 27.0))
