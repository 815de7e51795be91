"""What the checks share: records of any modality, a model that trains as asked, ours against the oracle's.

The oracle is `core.oracle`: the model's own logits on one unpadded row at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor, nn

from core.oracle import Layout, Setup, answers_of, film, last_logprobs, picture, plain_row, setup, sound
from families.specs import EVERY, FAILING, PRESETS, SPECS
from mmdpo.collate import Batch
from mmdpo.models.families import facts_of
from mmdpo.models.load import Trainable
from mmdpo.parity import to_model
from mmdpo.records import Candidate, Media, Record
from mmdpo.scoring import score
from tiny import FAMILIES, exact_float64

SIZES = ((24, 24), (40, 20), (18, 37))
SECONDS = (0.6, 1.1, 0.35)
FILMS = ((4, 24, 24), (6, 24, 24), (2, 40, 20))
"""Width and height in pixels, seconds, and frames with their width and height."""
EXACT = 1e-9
"""What may differ in float64: nats a token, and gradients relative to their norm."""


class Measured(Protocol):
    """Keeps what a check found, for the table."""

    def __call__(self, **facts: Any) -> None: ...


def check(name: str, families: Sequence[str] = EVERY) -> pytest.MarkDecorator:
    """Makes a test one column of the matrix: a slow case for each family, named in the report of the run."""
    cases = []
    for family in families:
        marks = [pytest.mark.cell(name, family), pytest.mark.slow]
        if (name, family) in FAILING:
            marks.append(pytest.mark.xfail(strict=True, reason=FAILING[name, family]))
        cases.append(pytest.param(family, marks=marks, id=family))
    return pytest.mark.parametrize("family", cases)


# --- records --------------------------------------------------------------------------------------------------------


def item(kind: str, seed: int) -> Media:
    """One item of a modality, of a size or length of its own."""
    return ITEMS[kind](seed)


ITEMS: dict[str, Callable[[int], Media]] = {
    "image": lambda seed: picture(seed, *SIZES[seed % len(SIZES)]),
    "audio": lambda seed: sound(seed, SECONDS[seed % len(SECONDS)]),
    "video": lambda seed: film(seed, *FILMS[seed % len(FILMS)]),
}


def equal_item(kind: str, seed: int) -> Media:
    """One item of a modality, all of one size or length."""
    return {"image": picture, "audio": sound, "video": film}[kind](seed)


@dataclass(frozen=True)
class Item:
    """A media item and its modality."""

    kind: str
    media: Media


def record(name: str, question: str, answers: Sequence[str], *items: Item) -> Record:
    """A record with one user turn: the items, then the question."""
    parts: list[Any] = [*({"type": item.kind} for item in items), {"type": "text", "text": question}]
    media: dict[str, tuple[Media, ...]] = {}
    for entry in items:
        media[f"{entry.kind}s"] = (*media.get(f"{entry.kind}s", ()), entry.media)
    return Record(
        id=name,
        prompt=({"role": "user", "content": parts},),
        candidates=tuple(Candidate(answer) for answer in answers),
        media=media,
    )


def varied(family: str) -> list[Record]:
    """K 1 to 4; no item, one, two, three; items in several records, once behind another; several modalities."""
    kinds = SPECS[family].kinds
    first, second, third = (Item(kind, item(kind, seed)) for seed, kind in enumerate((kinds[0], kinds[-1], kinds[0])))
    records = [
        record("four", "What is here?", ["A cat on a mat.", "No.", "Two dogs in the park with a ball", "A car"], first),
        record("text", "Say something long please, now!", ["There is a red bird on the table."]),
        record("two", "Compare the two.", ["same same", "Different, I think.", "Yes"], second, first),
        record("three", "Is there a dog?", ["Yes, there is.", "No"], first, second, third),
        record("other", "What is here?", ["A car.", "A man with a ball."], third),
    ]
    return taken(family, records)


def taken(family: str, records: Sequence[Record]) -> list[Record]:
    """Those that a family takes: none of text alone where it needs media, none with two items where it takes one."""
    spec = SPECS[family]
    counts = [sum(len(items) for items in entry.media.values()) for entry in records]
    return [
        entry
        for entry, count in zip(records, counts, strict=True)
        if not (spec.needs_media and count == 0) and not (spec.single and count > 1)
    ]


# --- models ---------------------------------------------------------------------------------------------------------


def layout_of(model: Any) -> Layout:
    """The layout that the facts allow."""
    return "shared" if facts_of(model).plain_reason is None else "plain"


def build(family: str, trainable: Trainable | None = None, *, attention: str = "sdpa", **options: Any) -> Setup:
    """A tiny model in float64, ready to score, of which exactly these parts train."""
    spec = SPECS[family]
    tiny = FAMILIES[family](dtype=torch.float64, attn_implementation=attention)
    if "size" in getattr(tiny.processor, "videos_kwargs", {}):  # the omni processors', for thousands of tokens a video
        tiny.processor.videos_kwargs = {"size": {"shortest_edge": 8 * 8, "longest_edge": 16 * 16}}
    if trainable is not None:
        for name, parameter in tiny.model.named_parameters():
            parameter.requires_grad_(spec.part(name) in PRESETS[trainable])
    options.setdefault("layout", layout_of(tiny.model))
    if spec.one_a_row:
        options["records_per_row"] = 1
    return setup(tiny, **options)


def batch_of(built: Setup, records: Sequence[Record]) -> Batch:
    """The records as one batch, in the model's precision."""
    return to_model(built.collator(list(enumerate(records))), built.tiny.model)


def rows(logp: Tensor, batch: Batch) -> list[Tensor]:
    """[L] log-probabilities of each answer."""
    return [row[mask] for row, mask in zip(logp, batch["mask"], strict=True)]


@torch.no_grad()
def ours(built: Setup, batch: Batch) -> list[Tensor]:
    """Our log-probabilities of each answer, features computed anew."""
    built.tiny.model.mmdpo_scoring.features.clear()
    return rows(score(built.tiny.model, batch), batch)


@dataclass(frozen=True)
class PlainRow:
    """A prompt with one answer as the model's own forward takes it."""

    inputs: dict[str, Tensor]
    answer: Tensor


def plain_rows(built: Setup, records: Sequence[Record], batch: Batch) -> list[PlainRow]:
    """The rows of a batch one by one; to be made outside of `exact_float64`, which feature extractors do not take."""
    names = built.collator.media_names
    return [
        PlainRow(plain_row(built.tiny, records[example], answer, names[variant]), answer)
        for example, variant, answer in answers_of(batch)
    ]


def own(built: Setup, plain: Sequence[PlainRow]) -> list[Tensor]:
    """The model's own log-probabilities of each answer."""
    return [last_logprobs(built.tiny, row.inputs, row.answer) for row in plain]


def difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The largest difference of one token, in nats."""
    return max((a - b).abs().max().item() for a, b in zip(left, right, strict=True))


@torch.no_grad()
def compared(built: Setup, records: Sequence[Record]) -> float:
    """The largest difference between ours and the model's own."""
    batch = batch_of(built, records)
    plain = plain_rows(built, records, batch)
    with exact_float64():
        return difference(ours(built, batch), own(built, plain))


# --- gradients ------------------------------------------------------------------------------------------------------


def weights_of(batch: Batch) -> Tensor:
    """[N, A] one random number for each answer token: no cancellation, no symmetry."""
    return torch.randn(batch["mask"].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradients(model: nn.Module, total: Tensor) -> dict[str, Tensor]:
    """The gradients of a sum by parameter; they are cleared."""
    model.zero_grad(set_to_none=True)
    total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def our_gradients(built: Setup, batch: Batch) -> dict[str, Tensor]:
    """Of the weighted sum of all answer tokens."""
    built.tiny.model.mmdpo_scoring.features.clear()
    return gradients(built.tiny.model, (score(built.tiny.model, batch) * weights_of(batch)).sum())


def own_gradients(built: Setup, plain: Sequence[PlainRow], batch: Batch) -> dict[str, Tensor]:
    """Of the same sum, by the model's own rows."""
    pairs = zip(rows(weights_of(batch), batch), own(built, plain), strict=True)
    return gradients(built.tiny.model, torch.stack([(weight * logp).sum() for weight, logp in pairs]).sum())


def gradient_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest difference of a parameter's gradient, relative to its norm.

    Where a parameter has next to no gradient it is relative to a millionth of the norm of all. Parameters of an encoder
    that its output does not depend on have no gradient in the model's own rows and zeros in ours, so that all processes
    reduce the same ones (`backbone.py`).
    """
    assert left.keys() >= right.keys()
    assert not any(left[name].any() for name in left.keys() - right.keys())
    floor = 1e-6 * torch.stack([gradient.norm() for gradient in right.values()]).norm()
    assert floor > 0
    return max(((left[n] - g).norm() / torch.maximum(g.norm(), floor)).item() for n, g in right.items())


# --- towers ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def counted(path: str, *models: nn.Module) -> Iterator[list[int]]:
    """Vectors that enter the first layer of the encoder at this path of these models, call by call."""
    seen: list[int] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        seen.append(hidden.numel() // hidden.shape[-1])

    handles = [
        first_layer(model.get_submodule(path)).register_forward_pre_hook(hook, with_kwargs=True) for model in models
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first_layer(encoder: nn.Module) -> nn.Module:
    """The first of an encoder's own layers."""
    names = ("layers", "layer", "blocks")
    lists = {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.ModuleList) and name.split(".")[-1] in names
    }
    layer: nn.Module = lists[min(lists, key=lambda name: name.count("."))][0]
    return layer
