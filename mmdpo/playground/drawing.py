"""Draws scenes with Pillow: 64x64 pixels, the same bytes for the same scene."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from mmdpo.playground.world import BACKGROUNDS, COLOURS, IMAGE_SIZE, Scene

Colour = tuple[int, int, int]
Point = tuple[float, float]
# Shapes are drawn four times as large and averaged down: smooth edges without any other library.
_SCALE: Final = 4
_CREAM: Final = (252, 250, 240)
_WOOD: Final = (122, 82, 52)


class _Pen:
    """Draws in coordinates from -1 to 1 around the middle of one thing (y grows downwards)."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float, y: float, size: float, colour: Colour) -> None:
        self._draw, self._x, self._y, self._half = draw, x * _SCALE, y * _SCALE, size * _SCALE / 2
        self.colour = colour

    def _at(self, point: Point) -> Point:
        return self._x + point[0] * self._half, self._y + point[1] * self._half

    def polygon(self, *points: Point, colour: Colour | None = None) -> None:
        self._draw.polygon([self._at(point) for point in points], fill=colour or self.colour)

    def disc(self, middle: Point, radius: float, colour: Colour | None = None) -> None:
        x, y = self._at(middle)
        reach = radius * self._half
        self._draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour or self.colour)

    def ring(self, radius: float, width: float) -> None:
        x, y = self._at((0, 0))
        reach = radius * self._half
        box = (x - reach, y - reach, x + reach, y + reach)
        self._draw.ellipse(box, outline=self.colour, width=round(width * self._half))


def _circle(pen: _Pen) -> None:
    pen.disc((0, 0), 0.9)


def _square(pen: _Pen) -> None:
    pen.polygon((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))


def _triangle(pen: _Pen) -> None:
    pen.polygon((0, -0.95), (0.95, 0.85), (-0.95, 0.85))


def _diamond(pen: _Pen) -> None:
    pen.polygon((0, -1), (0.7, 0), (0, 1), (-0.7, 0))


def _star(pen: _Pen) -> None:
    turns = (math.pi * step / 5 for step in range(10))
    radii = (1.0, 0.4) * 5
    pen.polygon(*((r * math.sin(turn), -r * math.cos(turn)) for turn, r in zip(turns, radii, strict=True)))


def _heart(pen: _Pen) -> None:
    pen.disc((-0.45, -0.35), 0.5)
    pen.disc((0.45, -0.35), 0.5)
    pen.polygon((-0.92, -0.15), (0.92, -0.15), (0, 0.95))


def _ring(pen: _Pen) -> None:
    pen.ring(0.95, 0.38)


def _arrow(pen: _Pen) -> None:
    pen.polygon((-1, -0.25), (0.1, -0.25), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.25), (-1, 0.25))


def _flower(pen: _Pen) -> None:
    for step in range(5):
        turn = 2 * math.pi * step / 5
        pen.disc((0.58 * math.sin(turn), -0.58 * math.cos(turn)), 0.4)
    pen.disc((0, 0), 0.34, colour=_CREAM)


def _boat(pen: _Pen) -> None:
    pen.polygon((-1, 0.4), (1, 0.4), (0.6, 0.95), (-0.6, 0.95), colour=_WOOD)
    pen.polygon((-0.12, -1), (0.9, 0.3), (-0.12, 0.3))
    pen.polygon((-0.25, -0.6), (-0.25, 0.3), (-0.85, 0.3))


def _tree(pen: _Pen) -> None:
    pen.polygon((-0.18, 0.4), (0.18, 0.4), (0.18, 1), (-0.18, 1), colour=_WOOD)
    pen.polygon((0, -1), (0.6, -0.1), (-0.6, -0.1))
    pen.polygon((0, -0.5), (0.85, 0.55), (-0.85, 0.55))


def _moon(pen: _Pen) -> None:
    outer_turns = [math.pi * (0.25 + 1.5 * step / 24) for step in range(25)]
    outer = [(0.25 + 0.95 * math.cos(turn), 0.95 * math.sin(turn)) for turn in outer_turns]
    tip_x, tip_y = outer[0]
    inner_turns = [math.pi * (1.5 - step / 24) for step in range(25)]
    inner = [(tip_x + 0.55 * math.cos(turn), tip_y * math.sin(turn)) for turn in inner_turns]
    pen.polygon(*outer, *inner)


_SHAPES: Final[Mapping[str, Callable[[_Pen], None]]] = MappingProxyType(
    {
        "arrow": _arrow,
        "boat": _boat,
        "circle": _circle,
        "diamond": _diamond,
        "flower": _flower,
        "heart": _heart,
        "moon": _moon,
        "ring": _ring,
        "square": _square,
        "star": _star,
        "tree": _tree,
        "triangle": _triangle,
    }
)


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, 64x64."""
    return Image.fromarray(draw_pixels(scene))


def draw_pixels(scene: Scene) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """The picture of a scene as bytes [64, 64, 3]."""
    colour = BACKGROUNDS[scene.background].colour
    canvas = Image.new("RGB", (IMAGE_SIZE * _SCALE, IMAGE_SIZE * _SCALE), colour)
    pencil = ImageDraw.Draw(canvas)
    for thing in scene.things:
        _SHAPES[thing.shape](_Pen(pencil, thing.x, thing.y, thing.size, COLOURS[thing.colour]))
    pixels = np.asarray(canvas.reduce(_SCALE), dtype=np.float32)
    rng = np.random.default_rng(scene.number)
    light = np.linspace(rng.uniform(-12, 12), rng.uniform(-12, 12), IMAGE_SIZE, dtype=np.float32)[:, None, None]
    grain = rng.normal(0.0, 5.0, (IMAGE_SIZE, IMAGE_SIZE, 1)).astype(np.float32)
    return np.clip(np.rint(pixels + light + grain), 0, 255).astype(np.uint8)
