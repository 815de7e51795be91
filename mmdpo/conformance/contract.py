"""Does a modality keep its contract? Everything that is wrong with one, found before a model is trained on it.

    from mmdpo.conformance import check

    assert check(SensorModality(), SensorPatches(), [Media(path="a.npy"), ...], root=folder) == []

The checks rest on each other: where one finds something, those after it are left out.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmdpo import registry
from mmdpo.corruptions import at_extremes
from mmdpo.errors import DataError
from mmdpo.media import Media
from mmdpo.modalities.base import Modality
from mmdpo.modalities.encoders import MediaEncoder, concatenate
from mmdpo.records import media_field

TOLERANCE = 1e-4
"""Largest difference between a feature alone and in a batch, as a share of the largest feature: rounding is 1e-6."""
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Finding:
    """One breach of the contract.

    Attributes:
        check: Short stable name; :func:`check` lists them.
        message: What is wrong, with the values.
    """

    check: str
    message: str


def check(
    modality: Modality,
    encoder: MediaEncoder,
    items: Sequence[Any],
    *,
    root: Path | None = None,
    llm: Any = None,
    tokenizer: Any = None,
) -> list[Finding]:
    """Everything that is wrong with a modality and one of its encoders; an empty list when nothing is.

    ==============  ====================================================================================
    name            it is an identifier other than ``text``, and the plural is the name with an s
    registered      the registry has the class under its name, and the encoder is one of its encoders
    fields          the encoder's fields survive JSON, which a saved model keeps them in
    blank           there is a corruption ``blank``; of two items of one size it makes the same inputs
    items           there are two different items of one size to see that on
    loads           every item can be loaded
    prepare         the tensors are those in ``inputs``, with a leading dimension of 1, the same every time
    finite          no prepared value and no feature is NaN or infinite
    nan             an item with a NaN is refused, or gives inputs with a NaN, which are refused by record
    length          the encoder gives as many features of its width as ``tokens`` declares
    batch           an item's features do not depend on the other items of a batch, or on their padding
    half_precision  the encoder runs in bfloat16, as beside a language model on a GPU
    corruption      a variant, at any strength, depends on the generator alone, and keeps item, type and length
    composed        in front of a language model: placeholders, finite logits; saved and loaded, the same
    ==============  ====================================================================================

    Args:
        modality: The modality.
        encoder: Its encoder; pretrained weights are loaded where its ``path`` names some.
        items: A few items, decoded or as :class:`~mmdpo.Media`: two different ones of one size, and other sizes.
        root: Folder that media paths are relative to.
        llm: Folder, hub name or loaded language model to try it with; by default a tiny one made here. A loaded one
            belongs to the composed model afterwards.
        tokenizer: Its tokenizer, as for ``compose``.
    """
    findings = _Findings()
    subject = _Subject(modality, encoder)
    _check_facts(subject, findings)
    subject.items = [_loaded(modality, item, number, root, findings) for number, item in enumerate(items)]
    for group in (_check_prepared, _check_nan, _check_features, _check_corruptions):
        if not findings:
            group(subject, findings)
    if not findings:
        from mmdpo.conformance.composed import composed_problems

        with findings.trying("composed", "a composed model"):
            for problem in composed_problems(modality.name, encoder, subject.items, llm, tokenizer):
                findings.add("composed", problem)
    return list(findings)


class _Findings(list[Finding]):
    def add(self, name: str, message: str) -> None:
        self.append(Finding(name, message))

    @contextlib.contextmanager
    def trying(self, name: str, what: str) -> Iterator[None]:
        """Whatever a user's code raises is a finding, not the end."""
        try:
            yield
        except Exception as error:
            first, _, _ = str(error).partition("\n")
            self.add(name, f"{what}: {type(error).__name__}: {first}")


@dataclass
class _Subject:
    """What is checked, with what has been computed of it so far."""

    modality: Modality
    encoder: MediaEncoder
    items: list[Any] = dataclasses.field(default_factory=list)
    inputs: list[Inputs] = dataclasses.field(default_factory=list)


def _check_facts(subject: _Subject, findings: _Findings) -> None:
    modality, encoder = subject.modality, subject.encoder
    name = modality.name
    if not name.isidentifier() or name == "text":
        findings.add(
            "name", f"{name!r} cannot be the type of a content part: an identifier other than 'text' is needed"
        )
    if modality.plural != media_field(name):
        findings.add("name", f"plural is {modality.plural!r}; records look for {media_field(name)!r}")
    if name not in registry.modalities or registry.modalities.get(name) is not type(modality):
        findings.add("registered", f"no @registry.modalities.register({name!r}) stands above {type(modality).__name__}")
    else:
        from mmdpo.models.media_specs import encoder_of, entry_of

        with findings.trying("registered", f"encoder {type(encoder).__name__}"):
            entry = entry_of(name, encoder)
            with findings.trying("fields", f"the fields of {type(encoder).__name__}"):
                if encoder_of(name, json.loads(json.dumps(entry))) != encoder:
                    findings.add("fields", f"{entry} is not the same after a round through JSON")
    if "blank" not in modality.corruptions:
        findings.add("blank", f"{type(modality).__name__}.corruptions has no 'blank'")


def _loaded(modality: Modality, item: Any, number: int, root: Path | None, findings: _Findings) -> Any:
    with findings.trying("loads", f"item {number}"):
        return modality.load(item, root) if isinstance(item, Media) else item


def _check_prepared(subject: _Subject, findings: _Findings) -> None:
    encoder = subject.encoder
    for number, item in enumerate(subject.items):
        with findings.trying("prepare", f"item {number}"):
            inputs, again = encoder.prepare(item), encoder.prepare(item)
            subject.inputs.append(inputs)
            if set(inputs) != set(encoder.inputs):
                findings.add("prepare", f"item {number} gives {sorted(inputs)}; declared are {sorted(encoder.inputs)}")
                continue
            for name, values in inputs.items():
                if len(values) != 1:
                    findings.add("prepare", f"{name} of item {number} has shape {tuple(values.shape)}, not [1, ...]")
                if not bool(torch.isfinite(values).all()):
                    findings.add("finite", f"{name} of item {number} has values that are not finite")
                elif not torch.equal(values, again[name]):
                    findings.add("prepare", f"{name} of item {number} is another when prepared again")


def _check_nan(subject: _Subject, findings: _Findings) -> None:
    for number, item in enumerate(subject.items):
        spoilt = _with_nan(item)
        if spoilt is None:
            continue
        with findings.trying("nan", f"item {number} with a NaN (a DataError should say so)"):
            try:
                inputs = subject.encoder.prepare(spoilt)
            except DataError:
                continue
            if all(bool(torch.isfinite(values).all()) for values in inputs.values()):
                findings.add("nan", f"item {number} with a NaN gives finite inputs: a damaged item would be trained on")


def _with_nan(item: Any) -> Any:
    """A copy with one NaN in its middle; None where there is no place for one."""
    if isinstance(item, np.ndarray | Tensor):
        floating = item.is_floating_point() if isinstance(item, Tensor) else item.dtype.kind == "f"
        if not floating or 0 in item.shape:
            return None
        spoilt = copy.deepcopy(item)
        spoilt[tuple(size // 2 for size in item.shape)] = float("nan")
        return spoilt
    parts = dict(item) if isinstance(item, Mapping) else vars(item) if dataclasses.is_dataclass(item) else {}
    for name, part in parts.items():
        value = _with_nan(part)
        if value is not None:
            return {**item, name: value} if isinstance(item, Mapping) else dataclasses.replace(item, **{name: value})
    return None


@torch.no_grad()
def _check_features(subject: _Subject, findings: _Findings) -> None:
    encoder = subject.encoder
    with torch.random.fork_rng(), findings.trying("length", "the encoder"):
        torch.manual_seed(0)
        module = encoder.load().eval()
        alone = []
        for number, (item, inputs) in enumerate(zip(subject.items, subject.inputs, strict=True)):
            given, declared = module(**inputs), encoder.tokens(item)
            if isinstance(given, Tensor):
                findings.add("length", "the encoder gives one tensor; wanted is a list of one for each item")
            features = list(given)
            shapes = [tuple(piece.shape) for piece in features]
            if declared < 1 or shapes != [(declared, encoder.width)]:
                wanted = f"tokens() and width declare [({declared}, {encoder.width})]"
                findings.add("length", f"item {number}: the encoder gives features of shapes {shapes}; {wanted}")
            elif not bool(torch.isfinite(features[0]).all()):
                findings.add("finite", f"the features of item {number} are not finite")
            alone += features
        if not findings:
            _check_batch(subject, module, alone, findings)
        if not findings:
            _check_half(subject, module, findings)


def _check_batch(subject: _Subject, module: nn.Module, alone: Sequence[Tensor], findings: _Findings) -> None:
    with findings.trying("batch", "all items in one batch"):
        together = list(module(**_batch(subject.inputs)))
        if len(together) != len(alone):
            findings.add("batch", f"{len(together)} features for a batch of {len(alone)} items")
            return
        for number, (one, other) in enumerate(zip(alone, together, strict=True)):
            if one.shape != other.shape:
                findings.add("batch", f"item {number} has {len(one)} features alone and {len(other)} in a batch")
                continue
            share = float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))
            if share > TOLERANCE:
                findings.add("batch", f"the features of item {number} differ in a batch, by {share:.2g} of the largest")


def _batch(inputs: Sequence[Inputs]) -> Inputs:
    return {name: concatenate([entry[name] for entry in inputs]) for name in inputs[0]}


def _check_half(subject: _Subject, module: nn.Module, findings: _Findings) -> None:
    half = copy.deepcopy(module).to(torch.bfloat16)
    for number, inputs in enumerate(subject.inputs):
        with findings.trying("half_precision", f"item {number} in bfloat16"):
            cast = {name: v.to(torch.bfloat16) if v.is_floating_point() else v for name, v in inputs.items()}
            if not all(bool(torch.isfinite(piece).all()) for piece in half(**cast)):
                findings.add("half_precision", f"the features of item {number} are not finite in bfloat16")


def _check_corruptions(subject: _Subject, findings: _Findings) -> None:
    encoder = subject.encoder
    for variant, corrupt in at_extremes(subject.modality.corruptions).items():
        for number, item in enumerate(subject.items):
            where = f"{variant!r} of item {number}"
            with findings.trying("corruption", where):
                first, again = (corrupt(item, np.random.default_rng(0)) for _ in range(2))
                if type(first) is not type(item):
                    findings.add("corruption", f"{where} is a {type(first).__name__}, not a {type(item).__name__}")
                before, after = encoder.tokens(item), encoder.tokens(first)
                if after != before:
                    findings.add("corruption", f"{where} has {after} tokens, the item {before}")
                if not _equal(encoder.prepare(first), encoder.prepare(again)):
                    findings.add("corruption", f"{where} differs from time to time with the same generator")
                if not _equal(encoder.prepare(item), subject.inputs[number]):
                    findings.add("corruption", f"{where} changes the item itself, which other variants still need")
    if not findings:
        _check_blank(subject, findings)


def _check_blank(subject: _Subject, findings: _Findings) -> None:
    corrupt = subject.modality.corruptions["blank"]
    blank = [subject.encoder.prepare(corrupt(item, np.random.default_rng(0))) for item in subject.items]
    compared = False
    for second in range(len(blank)):
        for first in range(second):
            same_size = _sizes(subject.inputs[first]) == _sizes(subject.inputs[second])
            if not same_size or _equal(subject.inputs[first], subject.inputs[second]):
                continue
            compared = True
            if not _equal(blank[first], blank[second]):
                findings.add("blank", f"'blank' tells items {first} and {second} apart: something of them is left")
    if not compared:
        findings.add("items", "no two different items are of one size, so that 'blank' cannot be judged: add one")


def _sizes(inputs: Inputs) -> dict[str, Any]:
    """Shapes, and what is counted in integers: lengths and grids."""
    return {n: (tuple(v.shape), None if v.is_floating_point() else v.tolist()) for n, v in inputs.items()}


def _equal(one: Inputs, other: Inputs) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
