"""Numbers of a table as media items."""

from __future__ import annotations

import io

import numpy as np
import pytest

from mmdpo.media import Media, MediaError
from mmdpo.modalities.arrays import array_media, open_array


def test_numbers_of_a_column_come_back() -> None:
    rows = [[0.5, -1.0], [2.0, 3.25], [0.0, 7.0]]
    assert open_array(array_media(rows), None).tolist() == rows
    assert array_media(rows).identity == array_media(np.array(rows)).identity != array_media(rows[:2]).identity


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[1.0, float("nan")]], "not_finite"),
        ([], "wrong_shape"),
        ([[[1.0]]], "wrong_shape"),
        ([[1e300]], "not_finite"),
        ([[1, 2], [3]], "not_an_array"),
        ("abc", "not_an_array"),
        ([[None, {}]], "not_an_array"),
        ([[10**400]], "not_an_array"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_what_would_not_open_again_is_refused(values: object, kind: str) -> None:
    with pytest.raises(MediaError) as caught:
        array_media(values)
    assert caught.value.kind == kind


def test_a_damaged_header_is_refused_whatever_it_says() -> None:
    """Every byte of a header in turn made one that ends a token, a bracket or a number of the header's Python."""
    buffer = io.BytesIO()
    np.save(buffer, np.ones((3, 2), dtype=np.float32))
    whole = buffer.getvalue()
    refused = 0
    for place in range(6, whole.index(b"\n") + 1):
        for byte in (b"\x00", b"(", b"'", b"9", b"L", b"-", b"\xff"):
            try:
                open_array(Media(data=whole[:place] + byte + whole[place + 1 :]), None)
            except MediaError as error:
                refused += error.kind == "not_an_array"
    assert refused > 200


@pytest.mark.parametrize("shape", ["(" * 200, "(9" + "9" * 30 + ", 2)", "({}, [])", "(3, 2", "(True, -2)"])
def test_shapes_that_no_array_has(shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24)
    with pytest.raises(MediaError, match="cannot be read") as caught:
        open_array(Media(data=data), None)
    assert caught.value.kind == "not_an_array"
