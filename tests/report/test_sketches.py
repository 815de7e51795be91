"""Sketches show what is there: pitch and time of a tone, the ends of a series, the place of a value in a table."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers.audio_utils import hertz_to_mel

from mmdpo.media.audio import Audio
from mmdpo.report.sketches import BANDS, COLUMNS, sketch, spectrum

RATE = 16_000


def pixels(uri: str) -> NDArray[np.uint8]:
    """Levels 0..255 of a PNG, [height, width]: the index into its palette."""
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert image.mode == "P"
    return np.asarray(image)


def points(uri: str) -> NDArray[np.float64]:
    svg = base64.b64decode(uri.split(",")[1]).decode()
    found = re.search(r'points="([^"]*)"', svg)
    assert found is not None
    return np.array([pair.split(",") for pair in found[1].split()], dtype=float)


def test_a_tone_is_bright_at_its_pitch_and_time() -> None:
    """Band k of 64 has its centre at (k + 1) / 65 of the mel scale; rows count from the top."""
    time = np.arange(RATE) / RATE
    for hertz in (300.0, 1000.0, 5000.0):
        tone = np.where(time < 0.5, 0, np.sin(2 * np.pi * hertz * time)).astype(np.float32)
        levels = pixels(spectrum(Audio(tone, RATE)))
        assert levels.shape == (BANDS, COLUMNS)
        share = hertz_to_mel(hertz, "htk") / hertz_to_mel(RATE / 2, "htk")
        band = round(share * (BANDS + 1)) - 1
        assert levels.mean(axis=1).argmax() == BANDS - 1 - band
        assert levels[:, : COLUMNS // 2 - 10].max() == 0
        assert levels[:, COLUMNS // 2 + 10 :].max() == 255


def test_short_and_silent_sounds_have_a_spectrum() -> None:
    for samples in (np.ones(1), np.ones(30), np.zeros(RATE)):
        assert pixels(spectrum(Audio(samples.astype(np.float32), RATE))).shape == (BANDS, COLUMNS)
    assert pixels(spectrum(Audio(np.zeros(RATE, np.float32), RATE))).max() == 0


def test_a_long_series_keeps_its_spikes() -> None:
    values = np.zeros(100_000)
    values[77_777] = -3.0
    values[12_345] = 2.0
    drawn = points(sketch(values))
    assert len(drawn) == 2 * COLUMNS
    assert drawn[:, 1].min() == 5.0
    assert drawn[:, 1].max() == 95.0
    across = drawn[drawn[:, 1].argmax(), 0]
    assert abs(across / COLUMNS - 0.77777) < 0.01


def test_a_constant_or_single_value_is_a_line_in_the_middle() -> None:
    assert points(sketch(np.full(3, 7.0)))[:, 1].tolist() == [50, 50, 50]
    assert points(sketch(np.array([7.0]))).tolist() == [[120, 50]]


def test_a_table_has_time_to_the_right_and_means_of_neighbours() -> None:
    table = np.zeros((4, 3))
    table[3, 0] = 1.0
    assert pixels(sketch(table)).tolist() == [[0, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 0]]
    long = np.zeros((2 * COLUMNS, 2 * BANDS))
    long[0:2, 0:2] = 2.0
    long[2, 0] = 2.0  # one of the four numbers that fall on the next point
    levels = pixels(sketch(long))
    assert levels.shape == (BANDS, COLUMNS)
    assert levels[0, :3].tolist() == [255, 64, 0]
