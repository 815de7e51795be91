"""Small pictures of what is none: the spectrum of a sound, a line for a series of numbers, colours for a table."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmdpo.media.audio import Audio
from mmdpo.report.drawing import BLUE

COLUMNS = 240
"""Width of a sketch in pixels or points."""
BANDS = 64
"""Height of a spectrum in mel bands, and of a table of numbers at most."""
RANGE_DB = 80.0
"""Below the loudest point by more than this, a spectrum is black."""

_WINDOW_SECONDS = 0.05
_WINDOWS_EACH = 4
_HEIGHT = 100.0


def spectrum(audio: Audio) -> str:
    """The log-mel spectrum of a sound, time to the right and pitch upwards, as the data URI of a PNG.

    A column is the mean of four windows of 50 milliseconds, so up to 48 seconds nothing is left out; of a longer sound
    it is a sample. The mel scale is O'Shaughnessy's, ``2595 log10(1 + f / 700)``.
    """
    window = max(2, round(_WINDOW_SECONDS * audio.rate))
    samples = np.pad(audio.samples, (0, max(0, window - len(audio.samples))))
    starts = np.linspace(0, len(samples) - window, COLUMNS * _WINDOWS_EACH).astype(int)
    frames = samples[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.square(np.abs(np.fft.rfft(frames))).reshape(COLUMNS, _WINDOWS_EACH, -1).mean(axis=1)
    bands = power @ _mel_triangles(power.shape[1], audio.rate)
    loudest = float(bands.max())
    levels = np.log10(np.maximum(bands / loudest, 10 ** (-RANGE_DB / 10))) if loudest else np.zeros_like(bands)
    return _coloured(levels.T[::-1])


def sketch(values: NDArray[Any]) -> str:
    """Real numbers [n] as a line, or [n, d] as colours with n to the right, as a data URI.

    Longer ones are drawn by the range, or by the mean, of as many neighbours as fall on a point.
    """
    known = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    filled = np.nan_to_num(known, nan=float(np.nanmin(known)) if np.isfinite(known).any() else 0.0)
    if filled.ndim == 1:
        return _line(filled)
    return _coloured(_means(_means(filled, COLUMNS).T, BANDS))


def _mel_triangles(bins: int, rate: int) -> NDArray[np.float64]:
    """[bins, BANDS] weights of triangles that are equally wide on the mel scale."""
    mels = 2595 * np.log10(1 + np.linspace(0, rate / 2, bins) / 700)
    centres, step = np.linspace(0, mels[-1], BANDS + 2, retstep=True)
    return np.clip(1 - np.abs(mels[:, None] - centres[1:-1]) / step, 0, None)


def _means(values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Means of neighbours along the first axis, so that at most this many rows are left."""
    starts = np.linspace(0, len(values), min(len(values), most), endpoint=False).astype(int)
    counts = np.diff(starts, append=len(values))
    return np.add.reduceat(values, starts, axis=0) / counts[:, None]


def _coloured(values: NDArray[np.float64]) -> str:
    """Rows of numbers as a PNG, the smallest black and the largest bright."""
    low, span = float(values.min()), float(np.ptp(values))
    levels = np.round(255 * (values - low) / span) if span else np.zeros_like(values)
    picture = Image.fromarray(levels.astype(np.uint8))
    picture.putpalette((mpl.colormaps["magma"](np.arange(256), bytes=True)[:, :3]).tobytes())
    with io.BytesIO() as file:
        picture.save(file, format="png", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _line(values: NDArray[np.float64]) -> str:
    """A polyline over the values; where several fall on one point, through the smallest and the largest of them."""
    if len(values) > COLUMNS:
        parts = np.array_split(values, COLUMNS)
        values = np.array([bound for part in parts for bound in (part.min(), part.max())])
    span = float(np.ptp(values))
    heights = (values - values.min()) / span if span else np.full(len(values), 0.5)
    across = np.linspace(0, COLUMNS, len(values)) if len(values) > 1 else [COLUMNS / 2]
    points = " ".join(f"{x:.1f},{0.95 * _HEIGHT - 0.9 * _HEIGHT * y:.1f}" for x, y in zip(across, heights, strict=True))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS} {_HEIGHT:.0f}" preserveAspectRatio="none">'
        f'<polyline points="{points}" fill="none" stroke="{BLUE}" stroke-width="1.5" stroke-linecap="round" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"
