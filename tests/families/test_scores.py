"""Log-probabilities of the packed batch are those of the model's own logits, whatever is in the batch."""

from __future__ import annotations

import itertools

import pytest
import torch

from core.oracle import Layout, Setup, Side, generation_inputs, setup
from families.matrix import (
    EXACT,
    Item,
    Measured,
    batch_of,
    build,
    check,
    compared,
    difference,
    item,
    layout_of,
    ours,
    own,
    plain_rows,
    record,
    varied,
)
from families.specs import SPECS, VIDEO
from mmdpo.errors import ModelError
from mmdpo.models.families import facts_of
from mmdpo.records import Record
from tiny import exact_float64

VARIANTS = ("clean", "blank")
LAYOUTS: tuple[Layout, ...] = ("shared", "plain")
SIDES: tuple[Side, ...] = ("right", "left")
FELT = 1e-3
"""Nats a token that other media must make."""


@check("logprobs")
@torch.no_grad()
def test_logprobs(family: str, measured: Measured) -> None:
    """Both layouts, both padding sides, both attention functions; clean and blank media, which must not be the same."""
    records, worst = varied(family), 0.0
    for attention in ("sdpa", "eager"):
        first = build(family, attention=attention, variants=VARIANTS)
        reason = facts_of(first.tiny.model).plain_reason
        measured(
            layout=layout_of(first.tiny.model),
            reason=reason or "",
            model=type(first.tiny.model).__name__,
        )
        batch = batch_of(first, records)
        assert batch["media_index"].sum() == sum(
            len(entry.candidates) for entry in records if any(entry.media.values())
        )
        plain = plain_rows(first, records, batch)
        with exact_float64():
            wanted = own(first, plain)
        for layout, side in itertools.product(LAYOUTS[reason is not None :], SIDES):
            built = setup(first.tiny, variants=VARIANTS, layout=layout, side=side)
            batch = batch_of(built, records)
            with exact_float64():
                found = ours(built, batch)
            worst = max(worst, difference(found, wanted))
            measured(difference=worst)
            assert worst < EXACT, (attention, layout, side)
            seen = [found[n] for n in range(len(found)) if batch["example"][n] == batch["candidate"][n] == 0]
            assert difference(seen[:1], seen[1:]) > FELT  # media reach the answer


@check("several")
def test_several_items_in_a_prompt(family: str, measured: Measured) -> None:
    """Two and three items, shared between records, and their order counts."""
    kinds = SPECS[family].kinds
    first, second, third = (Item(kinds[seed % len(kinds)], item(kinds[seed % len(kinds)], seed)) for seed in range(3))
    other = Item(first.kind, item(first.kind, 4))
    answers = ["The same.", "Not the same, I think."]
    records = [
        record("three", "Compare all.", answers, first, second, third),
        record("there", "Compare.", answers, first, other),
        record("back", "Compare.", answers, other, first),
        record("again", "What is it?", answers, third),
    ]
    built = build(family, candidates=2, records_per_row=2)
    if SPECS[family].single:
        with pytest.raises(ModelError, match="refuses the prompt of record 'three'"):
            batch_of(built, records)
        measured(applies=False, reason="its processor refuses a second item in a prompt: such records are set aside")
        return
    worst = compared(built, records)
    measured(layout=built.collator.layout, difference=worst)
    assert worst < EXACT
    batch = batch_of(built, records)
    with exact_float64():
        found = ours(built, batch)
    assert difference(found[2:4], found[4:6]) > FELT


@check("mixed")
def test_records_with_and_without_media_in_one_batch(family: str, measured: Measured) -> None:
    """In every order, alone, and side by side in a row; a record without media scores as in a batch of its own."""
    text = record("text", "Say something.", ["There is a bird.", "No."])
    items = [Item(kind, item(kind, seed)) for seed, kind in enumerate(SPECS[family].kinds)]
    seen = [record(entry.kind, "What is it?", ["A cat.", "Two dogs here."], entry) for entry in items]
    if SPECS[family].needs_media:
        with pytest.raises(ModelError, match="refuses the prompt of record 'text'"):
            batch_of(build(family, candidates=2), [*seen, text])
        measured(applies=False, reason="its processor refuses a prompt without media: such records are set aside")
        return
    worst, alone = 0.0, None
    for records in ([text], [text, *seen], [*seen, text], [*seen, text, *seen]):
        for records_per_row in (1, 3):
            built = build(family, candidates=2, records_per_row=records_per_row)
            worst = max(worst, compared(built, records))
            measured(layout=built.collator.layout, difference=worst)
            assert worst < EXACT, [entry.id for entry in records]
            batch = batch_of(built, records)
            with exact_float64():
                found = ours(built, batch)
            at = 2 * records.index(text)
            alone = alone or found[at : at + 2]
            assert difference(found[at : at + 2], alone) < EXACT


@check("video", VIDEO)
def test_videos_as_lists_of_frames(family: str, measured: Measured) -> None:
    """One video and two, of different lengths, beside a record with an image and one with text alone.

    A prompt with an image and a video is either refused or as exact as all others.
    """
    short, long = Item("video", item("video", 2)), Item("video", item("video", 1))
    beside = Item("video", item("video", 4)) if SPECS[family].equal_films else short
    image = Item("image", item("image", 3))
    records = [
        record("two", "Compare.", ["The same.", "Not the same."], long, beside),
        record("short", "What happens?", ["A dog runs."], short),
        record("long", "What happens?", ["A dog runs."], long),
        record("image", "What is it?", ["A cat.", "No"], image),
        record("text", "Say something.", ["There is a bird."]),
    ]
    built = build(family, records_per_row=2)
    both, reason = together(built, record("both", "Does it move?", ["Yes.", "No, it does not."], image, long))
    worst = max(compared(built, records), both)
    measured(layout=built.collator.layout, reason=reason, difference=worst)
    assert worst < EXACT
    found = ours(built, batch_of(built, records[1:3]))
    assert difference(found[:1], found[1:]) > FELT


def together(built: Setup, both: Record) -> tuple[float, str]:
    """The difference for a prompt with an image and a video; 0 with a reason where the family does not take it."""
    try:
        batch_of(built, [both])
    except ModelError:
        return 0.0, "an image and a video in one prompt are refused: such records are set aside"
    inputs = generation_inputs(built.tiny, both)
    try:
        built.tiny.model(**inputs)
    except ValueError:
        return 0.0, "its own forward fails on a prompt with an image and a video"
    return compared(built, [both]), ""
