"""Numbers of a table as media items."""

from __future__ import annotations

import numpy as np
import pytest

from mmdpo.media import MediaError
from mmdpo.modalities.arrays import array_media, open_array


def test_numbers_of_a_column_come_back() -> None:
    rows = [[0.5, -1.0], [2.0, 3.25], [0.0, 7.0]]
    assert open_array(array_media(rows), None).tolist() == rows
    assert array_media(rows).identity == array_media(np.array(rows)).identity != array_media(rows[:2]).identity


@pytest.mark.parametrize(
    ("values", "kind"),
    [([[1.0, float("nan")]], "not_finite"), ([], "wrong_shape"), ([[[1.0]]], "wrong_shape"), ([[1e300]], "not_finite")],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_what_would_not_open_again_is_refused(values: list[object], kind: str) -> None:
    with pytest.raises(MediaError) as caught:
        array_media(values)
    assert caught.value.kind == kind
