"""The forward pass of the backbone over packed rows: media features, masks, positions, and the last hidden states.

Three ways in which models take media, told by their facts: encoder outputs beside the ids (``mm_encoder_outputs``),
features in place of the placeholders' embeddings, and states for cross-attention layers.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmdpo.collate import Batch
from mmdpo.features.encode_once import FeatureStore
from mmdpo.features.units import Features, outputs_of
from mmdpo.forward.attention import RowMasks
from mmdpo.forward.batch_rows import take_rows
from mmdpo.models.families import Facts, backbone_of
from mmdpo.models.load import part_of
from mmdpo.models.router import RouterLoss


@dataclass
class ScoringState:
    """What a model needs to score, attached to it by :func:`mmdpo.scoring.install_scoring`.

    Args:
        facts: Facts of the model.
        features: Features of the current step.
        router: The load-balancing loss of a mixture of experts, where the model has one switched on.
        masks: Attention masks of the current batch.
    """

    facts: Facts
    features: FeatureStore
    router: RouterLoss | None = None
    masks: RowMasks = field(default_factory=RowMasks)


def last_hidden(model: Any, batch: Batch, state: ScoringState) -> Tensor:
    """Last hidden states [B, T, D] of a batch's rows."""
    units = state.features.units(batch["media"])
    groups = _groups(batch, state.facts)
    if len(groups) == 1:
        return _forward(model, batch, units, state)
    hidden: Tensor | None = None
    for rows in groups:
        part, _ = take_rows(batch, rows)
        own = {
            name: [unit for unit, row in zip(entries, batch["media"][name]["rows"], strict=True) if row in rows]
            for name, entries in units.items()
        }
        some = _forward(model, part, {name: entries for name, entries in own.items() if entries}, state)
        hidden = some.new_zeros((len(batch["input_ids"]), *some.shape[1:])) if hidden is None else hidden
        hidden = hidden.index_copy(0, torch.tensor(rows, device=some.device), some)
    assert hidden is not None
    return hidden


def _groups(batch: Batch, facts: Facts) -> list[list[int]]:
    """Rows that a family can compute side by side, in their order.

    A cross-attention layer is skipped on a row without media and reads as many images as its batch holds, so rows with
    different numbers of images are not the same computation in one batch. A family that marks images and videos alike
    would look for the features of both in one kind.
    """
    uses: list[list[str]] = [[] for _ in batch["input_ids"]]
    for name, entry in batch["media"].items():
        for row in entry["rows"]:
            uses[row].append(name)
    keys: list[Any] = [0] * len(uses)
    if facts.family.cross_attention:
        keys = [len(names) for names in uses]
    elif facts.family.marks_alike and len(batch["media"]) > 1:
        keys = ["video" in names for names in uses]
    return [[row for row, key in enumerate(keys) if key == wanted] for wanted in sorted(set(keys))]


def _forward(model: Any, batch: Batch, units: Mapping[str, list[Features]], state: ScoringState) -> Tensor:
    backbone, facts = backbone_of(model), state.facts
    embedding: nn.Module = model.get_input_embeddings()
    inputs: dict[str, Any] = {"position_ids": batch["position_ids"], "use_cache": False}
    crossed = facts.family.cross_attention
    given = {name: outputs_of(entries) for name, entries in units.items() if not crossed and not facts.embeds(name)}
    placed = {name: entries for name, entries in units.items() if facts.embeds(name)}
    if given:
        inputs["mm_encoder_outputs"] = given
    if crossed and units:  # [B * images * tiles, patches, D], all rows with equally many images
        inputs["cross_attention_states"] = torch.cat([unit.groups for unit in units["image"]]).flatten(0, -3)
    # another process may lack what this one has; trained parts that no media reach must then lack no gradient in either
    complete = units.keys() >= facts.feature_inputs.keys() and not torch.distributed.is_initialized()
    with contextlib.nullcontext() if complete else _zero_from_encoders(model, facts):
        if placed:
            inputs["inputs_embeds"] = _with_features(batch["input_ids"], placed, embedding, facts)
        else:
            inputs["input_ids"] = batch["input_ids"]
        images = len(units.get("image", ())) // len(batch["input_ids"])
        inputs |= _masks_and_fields(batch, state, model.get_input_embeddings().weight.dtype, backbone, images)
        balanced = state.router is not None and torch.is_grad_enabled()
        output = backbone(**inputs, **({"output_router_logits": True} if balanced else {}))
    if balanced and state.router is not None:
        state.router.add(output.router_logits, batch["record"] >= 0)
    return output.last_hidden_state


def _masks_and_fields(
    batch: Batch, state: ScoringState, dtype: torch.dtype, backbone: Any, images: int
) -> dict[str, Any]:
    """The attention mask, and the further per-token inputs that the backbone takes beside it.

    Types of tokens are in the branch rule already, so only plain rows carry them; a mask over tokens and images is one
    in both layouts, as far as a row has images.
    """
    named = inspect.signature(backbone.forward).parameters
    fields = {name: values for name, values in batch["fields"].items() if name in named}
    over_images = {name: values[:, :, :images] for name, values in fields.items() if values.ndim > 2 and images}
    if batch["layout"] == "shared":
        return {"attention_mask": state.masks.of(batch, state.facts, dtype), **over_images}
    types = {name: values for name, values in fields.items() if values.ndim == 2}
    return {"attention_mask": (batch["record"] >= 0).long(), **types, **over_images}


def _with_features(
    input_ids: Tensor, units: Mapping[str, list[Features]], embedding: nn.Module, facts: Facts
) -> Tensor:
    """[B, T, D] input embeddings, with features in place of the placeholders."""
    tokens = {name: facts.media_token_ids[name] for name in units}
    places = {name: input_ids == token for name, token in tokens.items()}
    known = input_ids.clone()
    for place in places.values():
        known[place] = 0  # a placeholder may lie outside of the vocabulary
    embedded: Tensor = embedding(known)
    for name, entries in units.items():
        features = torch.cat([entry.flat() for entry in entries]).to(embedded.dtype)
        embedded = embedded.masked_scatter(places[name][..., None], features)
    return embedded


@contextlib.contextmanager
def _zero_from_encoders(model: Any, facts: Facts) -> Iterator[None]:
    """Adds zero times every trained parameter of encoders and projectors to the embeddings of a batch.

    For batches that lack a modality: other processes may have it, and it may have parameters of its own. Without a
    gradient here, and from the first layer on, FSDP2 would wait for it, and DDP would leave what earlier micro-batches
    gave without averaging it.
    """
    encoders = [p for name, p in model.named_parameters() if p.requires_grad and part_of(name, facts) != "llm"]
    if not encoders or not torch.is_grad_enabled():
        yield
        return

    def add_zero(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        del module, args
        return output + sum(parameter.sum() * 0 for parameter in encoders)

    handle = model.get_input_embeddings().register_forward_hook(add_zero)
    try:
        yield
    finally:
        handle.remove()
