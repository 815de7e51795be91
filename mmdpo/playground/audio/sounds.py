"""Makes scenes audible with numpy alone: two seconds at 16 kHz, the same samples for the same scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmdpo.playground.audio.world import RATE, SECONDS, Event, Scene

Samples = NDArray[np.float32]
Wave = NDArray[np.floating[Any]]
SAMPLES: Final = RATE * SECONDS
_LEVELS: Final[Mapping[str, float]] = MappingProxyType({"loud": 0.5, "soft": 0.12})
"""Peak of a sound, full scale being 1."""
_AMBIENCE_LEVEL: Final = 0.012
"""Root mean square of an ambience."""


def _sine(phase: Wave) -> Wave:
    return np.sin(2 * np.pi * phase)


def _sweep(frequency: Wave) -> Wave:
    """A sine whose frequency in hertz is given for every sample."""
    return _sine(np.cumsum(frequency) / RATE)


def _bumps(time: Wave, starts: tuple[float, ...], decay: float) -> Wave:
    """An envelope that jumps to 1 at each start and dies away with a time constant in seconds."""
    since = time[None] - np.array(starts)[:, None]
    return np.where(since >= 0, np.exp(-np.maximum(since, 0) / decay), 0).max(axis=0)


def _noise(time: Wave, rng: np.random.Generator) -> Wave:
    return rng.standard_normal(len(time)) / 3


def _beep(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _sine(1000 * pitch * time)


def _bell(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    partials = ((1, 1.0), (2.76, 0.7), (5.4, 0.5))  # of a free bar: Fletcher and Rossing, The Physics of Instruments
    return sum(share * _sine(700 * pitch * ratio * time) for ratio, share in partials) * np.exp(-time / 0.15)


def _buzz(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return np.sign(_sine(110 * pitch * time)) * (0.6 + 0.4 * _sine(28 * time))


def _chirp(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    within = (time % 0.13) / 0.13
    return _sweep(pitch * (3200 + 3000 * within)) * (within < 0.6)


def _clap(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _noise(time, rng) * _bumps(time, (0.01, 0.03, 0.05), 0.04)


def _horn(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return sum(_sine(230 * pitch * k * time) / k for k in range(1, 8))  # type: ignore[return-value]


def _knock(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _sine(330 * pitch * time) * _bumps(time, (0.0, 0.12, 0.24), 0.025)


def _rattle(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _noise(time, rng) * _bumps(time, tuple(np.arange(0, 0.36, 0.036)), 0.004)


def _siren(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _sweep(pitch * (1050 + 500 * np.sin(2 * np.pi * time / 0.4 - np.pi / 2)))


def _thump(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _sine(75 * pitch * time) * _bumps(time, (0.0,), 0.1)


def _whistle(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _sweep(pitch * (2500 + 90 * np.sin(2 * np.pi * 7 * time)))


def _zap(time: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _sweep(pitch * 5000 * np.exp(-time / 0.12) + 150)


EVENTS: Final[Mapping[str, Callable[[Wave, float, np.random.Generator], Wave]]] = MappingProxyType(
    {
        "beep": _beep,
        "bell": _bell,
        "buzz": _buzz,
        "chirp": _chirp,
        "clap": _clap,
        "horn": _horn,
        "knock": _knock,
        "rattle": _rattle,
        "siren": _siren,
        "thump": _thump,
        "whistle": _whistle,
        "zap": _zap,
    }
)


def _band(rng: np.random.Generator, low: float, high: float) -> Wave:
    """Noise between two frequencies in hertz."""
    spectrum = np.fft.rfft(rng.standard_normal(SAMPLES))
    frequency = np.fft.rfftfreq(SAMPLES, 1 / RATE)
    return np.fft.irfft(np.where((frequency >= low) & (frequency < high), spectrum, 0), SAMPLES)


def _swell(rng: np.random.Generator, rate: float) -> Wave:
    """A slow rise and fall of loudness, `rate` times a second, from a random moment on."""
    return 0.6 + 0.4 * _sine(np.arange(SAMPLES) / RATE * rate + rng.uniform())


def _workshop(rng: np.random.Generator) -> Wave:
    time = np.arange(SAMPLES) / RATE + rng.uniform()
    return sum(_sine(100 * k * time) / k for k in (1, 2, 3)) + 0.1 * _band(rng, 50, 6000)


def _forest(rng: np.random.Generator) -> Wave:
    return _band(rng, 250, 900) * _swell(rng, 0.7)


def _shore(rng: np.random.Generator) -> Wave:
    return _band(rng, 1500, 7500) * _swell(rng, 0.4)


def _train(rng: np.random.Generator) -> Wave:
    return _band(rng, 30, 200) * (0.5 + 0.5 * np.abs(_swell(rng, 4.0)))


AMBIENCES: Final[Mapping[str, Callable[[np.random.Generator], Wave]]] = MappingProxyType(
    {"workshop": _workshop, "forest": _forest, "shore": _shore, "train": _train}
)


def render(scene: Scene) -> Samples:
    """The clip of a scene: mono float32 [32000] in -1..1, on the steps of 16-bit files, so a file holds just this."""
    rng = np.random.default_rng(scene.number)
    ambience = AMBIENCES[scene.background](rng)
    level = _AMBIENCE_LEVEL * rng.uniform(0.7, 1.3) / np.sqrt(np.mean(ambience**2))
    clip = ambience * level + rng.standard_normal(SAMPLES) * 0.001
    for event in scene.events:
        start = round(event.start * RATE)
        sound = _sound(event, rng)
        clip[start : start + len(sound)] += sound
    return (np.rint(np.clip(clip, -1, 32767 / 32768) * 32768) / 32768).astype(np.float32)


def _sound(event: Event, rng: np.random.Generator) -> Wave:
    """One sound at its level, faded in and out over a hundredth of a second."""
    time = np.arange(round(event.duration * RATE)) / RATE
    wave = EVENTS[event.sound](time, event.pitch, rng)
    fade = np.minimum(1, np.minimum(time + 1 / RATE, time[-1] - time) / 0.01)
    return wave * fade / np.abs(wave).max() * _LEVELS[event.manner]
