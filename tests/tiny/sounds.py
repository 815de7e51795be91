"""Short deterministic sounds for the tests of audio families: no files, no codec."""

from __future__ import annotations

import numpy as np

TONES = 3
NOISE = 0.02
"""Standard deviation of the background, so that no band of the spectrum sits on the floor of the logarithm."""


def clip(seed: int, seconds: float, rate: int = 16_000) -> np.ndarray:
    """A chord with its own loudness curve over quiet noise; a seed's sound is its own, whatever its length.

    Args:
        seed: Which sound.
        seconds: Its length, rounded to whole samples.
        rate: Samples per second.

    Returns:
        [samples] float32 in [-1, 1], one channel.
    """
    generator = np.random.default_rng(seed)
    # Equal steps on the logarithmic scale of pitch, all far below half of the rates that models hear at.
    frequencies = 120.0 * 2.0 ** generator.uniform(0.0, 5.0, TONES)
    loudness = generator.uniform(0.1, 0.3, TONES)
    swells = generator.uniform(1.0, 8.0, TONES)
    time = np.arange(round(seconds * rate)) / rate
    chord = np.zeros_like(time)
    for frequency, amplitude, swell in zip(frequencies, loudness, swells, strict=True):
        chord += amplitude * (0.6 + 0.4 * np.sin(2 * np.pi * swell * time)) * np.sin(2 * np.pi * frequency * time)
    chord += NOISE * generator.standard_normal(time.shape)
    return np.clip(chord, -1.0, 1.0).astype(np.float32)
