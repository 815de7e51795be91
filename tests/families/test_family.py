"""One case for each family in the default suite: log-probabilities of a mixed batch are the model's own."""

from __future__ import annotations

import pytest

from families.matrix import EXACT, Item, build, compared, item, record, taken
from families.specs import EVERY, FAILING, SPECS


def cases() -> list[object]:
    return [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=FAILING["mixed", name]), id=name)
        if ("mixed", name) in FAILING
        else pytest.param(name, id=name)
        for name in EVERY
    ]


@pytest.mark.parametrize("family", cases())
def test_a_mixed_batch_has_the_models_own_logprobs(family: str) -> None:
    """Two items in one prompt, one of them in another record too, and a record without any."""
    kinds = SPECS[family].kinds
    first, second = (Item(kind, item(kind, seed)) for seed, kind in enumerate((kinds[0], kinds[-1])))
    records = [
        record("two", "Compare the two.", ["same same", "Different, I think."], first, second),
        record("text", "Say something.", ["There is a bird."]),
        record("one", "What is it?", ["A cat.", "No"], first),
    ]
    assert compared(build(family, records_per_row=2), taken(family, records)) < EXACT
