"""Arrays as media items: series of measurements, precomputed features; read safely from ``.npy`` or CSV."""

from __future__ import annotations

import csv
import io
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.media import MediaError, read_bytes
from mmdpo.records import Media

Array = np.ndarray[Any, np.dtype[np.float32]]

_NPY = b"\x93NUMPY"


def array_media(values: Any) -> Media:
    """An item of numbers that lie in a table and not in a file: its bytes are stored in the records.

    Args:
        values: [t, channels] numbers, as a list or an array.

    Raises:
        MediaError: ``not_an_array`` (no numbers, or rows of several lengths); as :func:`open_array`: the item would not
            open again.
    """
    try:
        numbers = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError, OverflowError) as error:  # the last from an integer beyond any float
        raise MediaError(
            "not_an_array",
            f"{reprlib.repr(values)} is no table of numbers: {_first_line(error)}",
            why="An item is stored as rows that all have the same number of numbers.",
            fix="Give a list of equally long lists of numbers, or an array.",
        ) from error
    buffer = io.BytesIO()
    np.save(buffer, numbers, allow_pickle=False)
    media = Media(data=buffer.getvalue())
    open_array(media, None)
    return media


def open_array(media: Media, root: Path | None, *, channels: int | None = None) -> Array:
    """An item as a series of rows: one for each moment, with one number for each channel.

    The content decides, not the name: NumPy's ``.npy`` format (never a pickle), or else CSV in UTF-8, with commas and
    perhaps one line of names above the numbers.

    Args:
        media: The item.
        root: Folder that its path is relative to.
        channels: Numbers in a row; any when None. An array with one axis has one channel.

    Returns:
        [t, channels] float32, t of at least 1, every value finite.

    Raises:
        MediaError: As ``read_bytes``; ``not_an_array`` (damaged, or neither format), ``wrong_shape`` (empty, another
            number of axes or channels), ``not_finite`` (NaN or infinity, also what float32 cannot hold).
    """
    data = read_bytes(media, root)
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False) if data.startswith(_NPY) else _from_csv(data)
    except Exception as error:  # numpy's header parser raises whatever the damage makes it trip over
        raise MediaError(
            "not_an_array",
            f"the array {media.name!r} ({len(data)} bytes) cannot be read: {_first_line(error)}",
            why="It is neither NumPy's .npy format without pickled objects nor a table of numbers with commas.",
            fix="Write it with numpy.save(path, values.astype('float32')) or as CSV.",
        ) from error
    return _checked(values, media, channels)


def _first_line(error: Exception) -> str:
    """What an error says, in short; its name where it says nothing (``MemoryError``)."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _from_csv(data: bytes) -> np.ndarray[Any, Any]:
    rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")) if row]
    if rows and not _is_number(rows[0][0]):
        del rows[0]
    if any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("its rows are not equally long")
    return np.array([[float(cell) for cell in row] for row in rows], dtype=np.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _checked(values: np.ndarray[Any, Any], media: Media, channels: int | None) -> Array:
    if values.dtype.kind not in "biuf":
        raise MediaError("not_an_array", f"the array {media.name!r} holds {values.dtype}, not real numbers")
    series = values[:, None] if values.ndim == 1 else values
    if series.ndim != 2 or 0 in series.shape or channels not in (None, series.shape[1]):
        raise MediaError(
            "wrong_shape",
            f"the array {media.name!r} has shape {values.shape}; wanted is [t, {channels or 'channels'}], t at least 1",
            why="Rows are moments and columns are channels; another shape would be read as something else.",
            fix="Transpose or cut it when it is written.",
        )
    with np.errstate(over="ignore"):
        found: Array = np.ascontiguousarray(series, dtype=np.float32)
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        raise MediaError(
            "not_finite",
            f"the array {media.name!r} has values that are not finite, first in row {int(np.argmin(finite))}",
            why="One NaN makes every log-probability after it NaN.",
            fix="Fill or cut the gap when it is written; only you know what a missing value means here.",
        )
    return found
