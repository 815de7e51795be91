"""Generated movements of a worn device: what happens is drawn at random, so that nothing but the series tells it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

RATE = 50
QUESTIONS: Mapping[str, str] = {
    "fall": "Is there a fall?",
    "shaking": "Is the device shaking?",
    "walking": "Is somebody walking?",
    "turning": "Is the device turned over?",
}
"""Event -> the question about it. Each event happens in half of the series, whatever else does."""


def movement(generator: np.random.Generator) -> tuple[np.ndarray, dict[str, bool]]:
    """A series of 4 to 6 seconds, [t, 3] float32 in g, and what happens in it.

    The events that happen follow each other in random order, with rest between them.
    """
    happens = {event: bool(generator.random() < 0.5) for event in QUESTIONS}
    length = int(generator.integers(4 * RATE, 6 * RATE + 1))
    series = np.tile(_direction(generator), (length, 1))
    order = [event for event in QUESTIONS if happens[event]]
    generator.shuffle(order)
    starts = np.sort(generator.choice(length // RATE, len(order), replace=False)) * RATE
    for event, start in zip(order, starts, strict=True):
        _add(series, event, int(start), generator)
    return (series + 0.03 * generator.standard_normal(series.shape)).astype(np.float32), happens


def _direction(generator: np.random.Generator) -> np.ndarray:
    """Gravity, as a device worn upright but askew feels it."""
    tilted = np.array([0, 0, 1]) + 0.2 * generator.standard_normal(3)
    return tilted / np.linalg.norm(tilted)


def _add(series: np.ndarray, event: str, start: int, generator: np.random.Generator) -> None:
    """Adds one event that begins at a sample and lasts 0.6 to 1 second."""
    end = min(len(series), start + int(generator.integers(30, 51)))
    seconds = np.arange(end - start) / RATE
    if event == "turning":  # gravity stays the other way round until the end
        series[start:] *= -1
    elif event == "fall":  # weightless, then the impact
        series[start:end] *= 0.1
        series[end - 3 : end] += 3 * generator.choice([-1, 1], 3)
    else:
        frequency, size = (2.5, 0.5) if event == "walking" else (9.0, 0.8)
        phase = generator.uniform(0, 2 * np.pi)
        wave = size * np.sin(2 * np.pi * frequency * generator.uniform(0.9, 1.1) * seconds + phase)
        series[start:end] += wave[:, None] * generator.uniform(0.5, 1, 3)


def write_series(folder: Path, count: int, seed: int) -> dict[str, dict[str, bool]]:
    """Writes series as ``.npy`` files; returns what happens in each."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    events = {}
    for number in range(count):
        name = f"{seed}-{number}.npy"
        series, events[name] = movement(generator)
        np.save(folder / name, series)
    return events
