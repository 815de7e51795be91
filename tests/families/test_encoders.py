"""Every distinct item passes its encoder once a step, and what is trained is what the preset names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from core.oracle import generation_inputs, setup
from families.matrix import Item, Measured, batch_of, build, check, counted, equal_item, layout_of, record, taken
from families.specs import PRESETS, SPECS
from mmdpo.errors import ConfigError
from mmdpo.models.load import Lora, Trainable
from mmdpo.policy import prepare
from mmdpo.scoring import score
from tiny import FAMILIES

LORA = Lora(r=2, alpha=4)
DISTINCT = 3
"""Two items and the blank that both become; they are of one size."""


def encoded(family: str, trainable: Trainable, kind: str) -> float:
    """How many items pass the encoder in a step of policy, reference and policy, two views of two candidates each."""
    spec = SPECS[family]
    built = build(family, trainable, candidates=2, variants=("clean", "blank"))
    model, reference = built.tiny.model, copy.deepcopy(built.tiny.model)
    first, second = (Item(kind, equal_item(kind, seed)) for seed in (1, 2))
    answers = ["A cat.", "Two dogs here."]
    records = [
        record("one", "What is it?", answers, first),
        record("text", "And in words?", answers),
        record("other", "What is it?", answers, second),
        record("again", "Is it a cat?", answers, first),
    ]
    if not spec.neighbours:
        records.append(record("both", "Compare.", answers, first, second))
    path = spec.encoders[kind]
    alone = []
    for entry in (first, second):
        inputs = generation_inputs(built.tiny, record("x", "What?", ["x"], entry))
        with counted(path, model) as seen, torch.no_grad():
            model(**inputs)
        alone.append(sum(seen))
    assert alone[0] == alone[1] > 0
    batch = batch_of(built, taken(family, records))
    model.mmdpo_scoring.features.clear()
    with counted(path, model, reference) as seen:
        with torch.no_grad():
            score(model, batch)
            score(reference, batch)
        score(model, batch).sum().backward()
    assert all(p.grad is None for n, p in model.named_parameters() if not p.requires_grad)
    return sum(seen) / alone[0]


@check("once")
def test_encoded_once(family: str, measured: Measured) -> None:
    """With encoder and projector frozen: once a step, in whatever record, view, candidate or model it occurs."""
    spec = SPECS[family]
    counts = {kind: encoded(family, "llm", kind) for kind in spec.encoders}
    with_projector = {kind: encoded(family, "llm+projector", kind) for kind in spec.encoders}
    notes = ["an item is encoded once for each set of items that it is in a prompt with"] if spec.neighbours else []
    if any(count > DISTINCT for count in with_projector.values()):
        notes.append("the projector lies inside the encoder: where it trains, the encoder runs in every pass")
    measured(reason="; ".join(notes))
    assert counts == dict.fromkeys(spec.encoders, DISTINCT)
    inside = [kind for kind, path in spec.encoders.items() if any(p.startswith(path) for p in spec.projectors)]
    for kind, count in with_projector.items():  # a projector inside the encoder trains with it, in each of three passes
        assert count <= (3 * DISTINCT if inside else DISTINCT), kind


@check("parts")
def test_presets_train_exactly_the_parts_that_they_name(family: str, measured: Measured) -> None:
    """With adapters on every linear layer of the parts and on no other, and without adapters.

    What the class itself freezes (the sinusoids of Whisper's towers) stays so. Gradients reach every part that is
    named, and no other.
    """
    spec = SPECS[family]
    items = [Item(kind, equal_item(kind, 1)) for kind in spec.encoders]
    records = [record(entry.kind, "What is it?", ["A cat.", "Two dogs."], entry) for entry in items]
    counts = {}
    for preset, parts in PRESETS.items():
        counts[preset] = adapters(family, preset)
        whole = FAMILIES[family]()
        free = {name: parameter.requires_grad for name, parameter in whole.model.named_parameters()}
        model = prepare(whole.model, whole.processor, trainable=preset, lora=None).model
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad is (spec.part(name) in parts and free[name]), (preset, name)
        score(model, batch_of(setup(whole, candidates=2, layout=layout_of(model)), records)).sum().backward()
        reached = {spec.part(name) for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached == parts, preset
    assert counts["llm+projector"] == counts["llm"] + counts["projector"] < counts["all"]
    measured(reason="" if counts["projector"] else "LoRA leaves its projector as it is, which has no linear layer")


def adapters(family: str, preset: Trainable) -> int:
    """How many linear layers get an adapter; they are those of the parts, the output head left out."""
    spec, tiny = SPECS[family], FAMILIES[family]()
    linear = {
        name
        for name, module in tiny.model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head" and spec.part(name) in PRESETS[preset]
    }
    if not linear:
        with pytest.raises(ConfigError, match="match no linear layer"):
            prepare(tiny.model, tiny.processor, trainable=preset, lora=LORA)
        return 0
    adapted = prepare(tiny.model, tiny.processor, trainable=preset, lora=LORA).model
    trains = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert all(".lora_" in name for name in trains)
    assert {name.removeprefix("base_model.model.").split(".lora_")[0] for name in trains} == linear
    return len(linear)
