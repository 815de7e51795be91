"""Generated output of a sound tagger: events with a beginning and an end, and a tagger that is not always sure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

CLASSES = ("dog", "siren", "speech", "music")
QUESTIONS: Mapping[str, str] = {
    "dog": "Is there a dog?",
    "siren": "Is there a siren?",
    "speech": "Does somebody speak?",
    "music": "Is there music?",
}
"""Class -> the question about it. Each is heard in half of the clips, whatever else is."""


def frames(generator: np.random.Generator) -> tuple[np.ndarray, dict[str, bool]]:
    """Probabilities of a clip of 5 to 12 seconds, [t, 4] float32, and what is really heard."""
    heard = {name: bool(generator.random() < 0.5) for name in CLASSES}
    length = int(generator.integers(10, 25))
    logits = generator.normal(-2.0, 0.7, (length, len(CLASSES)))
    for column, name in enumerate(CLASSES):
        if heard[name]:
            start = int(generator.integers(0, length - 3))
            end = int(generator.integers(start + 3, length + 1))
            logits[start:end, column] = generator.normal(1.5, 0.7, end - start)
        if generator.random() < 0.1:  # a false alarm of one frame
            logits[generator.integers(length), column] = generator.normal(1.5, 0.7)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), heard


def write_clips(folder: Path, count: int, seed: int) -> dict[str, dict[str, bool]]:
    """Writes the frames of clips as CSV with a line of names; returns what is heard in each."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    events = {}
    for number in range(count):
        name = f"{seed}-{number}.csv"
        values, events[name] = frames(generator)
        np.savetxt(folder / name, values, fmt="%.4f", delimiter=",", header=",".join(CLASSES), comments="")
    return events
