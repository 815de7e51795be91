"""Gradients of every trained parameter are those of the model's own rows, with activation checkpointing and without."""

from __future__ import annotations

import pytest

from families.matrix import (
    EXACT,
    Measured,
    batch_of,
    build,
    check,
    difference,
    gradient_difference,
    our_gradients,
    ours,
    own_gradients,
    plain_rows,
    varied,
)
from families.specs import SPECS
from tiny import exact_float64


@check("gradients")
def test_gradients(family: str, measured: Measured) -> None:
    """Of a sum of all answer tokens with random weights, by every parameter of the model."""
    records = varied(family)
    built = build(family, "all", records_per_row=2)
    batch = batch_of(built, records)
    plain = plain_rows(built, records, batch)
    with exact_float64():
        wanted, found = own_gradients(built, plain, batch), our_gradients(built, batch)
    worst = gradient_difference(found, wanted)
    measured(layout=built.collator.layout, difference=worst)
    assert worst < EXACT
    parts = {SPECS[family].part(name) for name in wanted}
    assert parts == {"llm", "projector", "encoder"}


@check("checkpointing")
def test_activation_checkpointing(family: str, measured: Measured) -> None:
    """Neither log-probabilities nor gradients change; the language model and every encoder do compute again."""
    spec = SPECS[family]
    built = build(family, "all")
    model = built.tiny.model
    if not spec.checkpoints:
        with pytest.raises(ValueError, match="does not support activation checkpointing"):
            model.activation_checkpointing_enable({"use_reentrant": False})
        measured(applies=False, reason="its class has no activation checkpointing and refuses it")
        return
    batch = batch_of(built, varied(family))
    with exact_float64():
        plain, wanted = ours(built, batch), our_gradients(built, batch)
        model.train()
        model.activation_checkpointing_enable({"use_reentrant": False})
        switched = [name for name, module in model.named_modules() if getattr(module, "gradient_checkpointing", False)]
        for path in (spec.llm, *spec.encoders.values()):
            assert any(name.startswith(path) for name in switched), path
        again = ours(built, batch), our_gradients(built, batch)
    worst = max(difference(again[0], plain), gradient_difference(again[1], wanted))
    measured(layout=built.collator.layout, difference=worst)
    assert worst < EXACT
