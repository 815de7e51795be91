"""Encode once: the features of each distinct image or clip are computed once per step and set of weights.

The unit is the outermost module without trainable parameters. Encoder and projector both frozen: the projected features
are kept and serve policy, reference and every view of the optimizer step. Only the encoder frozen: its output is kept
between the policy's and the reference's pass. Frozen parts run under ``no_grad``: checkpointing would otherwise
recompute a frozen tower, and nothing but ``no_grad`` stops it.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmdpo import registry
from mmdpo.errors import ModelError
from mmdpo.models.families import accepted

PER_ITEM = ("pooler_output", "deepstack_features")
"""Fields of an encoder's output that hold one entry an item (``deepstack_features``: one list of entries a layer)."""


class _Shared:
    """What policy and reference share; a deep copy of the model keeps the very same object."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], dict[str, Any]] = {}
        self.tower_items: tuple[str, ...] = ()
        self.tower_outputs: list[Any] = []  # of those items, one a call of the tower
        self.replay: Iterator[Any] | None = None  # over them, while a feature function runs for scoring

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class FeatureStore:
    """Features of the current optimizer step.

    Args:
        backbone: The module with the ``get_<modality>_features`` methods.
        frozen: ``"all"`` when neither encoder nor projector trains, ``"tower"`` when only the encoder is frozen,
            ``"none"`` when the encoder trains.
        tower: The encoder module.
    """

    def __init__(self, backbone: nn.Module, frozen: Literal["all", "tower", "none"], tower: nn.Module | None) -> None:
        self.backbone = backbone
        self.frozen = frozen
        self._shared = _Shared()
        if frozen == "tower" and tower is not None:
            self._run_tower_once(tower)

    def clear(self) -> None:
        """Forgets everything; called when the step is over or the weights have changed."""
        self._shared.kept.clear()
        self._shared.tower_items, self._shared.tower_outputs = (), []

    def outputs(self, media: Mapping[str, Any]) -> dict[str, Any]:
        """Encoder outputs of a batch by modality, in the order of the placeholders.

        Args:
            media: The batch's ``media`` entry.

        Returns:
            What the model takes as ``mm_encoder_outputs``.
        """
        return {name: self._of(name, entry) for name, entry in media.items()}

    def _of(self, name: str, entry: Mapping[str, Any]) -> Any:
        keys: Sequence[str] = entry["keys"]
        missing = [n for n, key in enumerate(keys) if (name, key) not in self._shared.kept]
        pieces = {n: self._shared.kept[name, keys[n]] for n in range(len(keys)) if n not in missing}
        if missing:
            output = self._encode(name, entry, missing)
            kinds = (type(output), type(output.pooler_output))
            split = _split(output, [entry["items"][n] for n in missing], name)
            pieces |= dict(zip(missing, split, strict=True))
            for n, piece in zip(missing, split, strict=True):
                piece["types"] = kinds
                if self.frozen == "all":
                    self._shared.kept[name, keys[n]] = piece
        return _join([pieces[n] for n in entry["order"]])

    def _encode(self, name: str, entry: Mapping[str, Any], missing: Sequence[int]) -> Any:
        """Runs the model's own feature function on the distinct items that are not there yet."""
        modality = registry.modalities.get(name)
        method = getattr(self.backbone, modality.encode, None)
        if method is None:
            raise ModelError(
                f"{type(self.backbone).__name__} has no {modality.encode}",
                why=f"It cannot take {modality.plural}.",
                fix="Use a model of that modality, or records without it.",
            )
        inputs = {key: concatenate([entry["units"][n][key] for n in missing]) for key in entry["units"][missing[0]]}
        items, shared = tuple(entry["keys"][n] for n in missing), self._shared
        if shared.tower_items != items:
            shared.tower_items, shared.tower_outputs = items, []
        shared.replay = iter(tuple(shared.tower_outputs))
        try:
            with torch.no_grad() if self.frozen == "all" else contextlib.nullcontext():
                return method(**accepted(method, inputs), return_dict=True)
        finally:
            shared.replay = None

    def _run_tower_once(self, tower: nn.Module) -> None:
        """Replaces the tower's forward by one under ``no_grad`` that is not run again for the same items."""
        plain, shared = type(tower).forward, self._shared

        def once(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            replay = shared.replay  # None outside of scoring (generation): whose items they are is not known there
            kept = None if replay is None else next(replay, None)
            if kept is not None:
                return kept
            with torch.no_grad():
                output = plain(module, *args, **kwargs)
            if replay is not None:
                shared.tower_outputs.append(output)
            return output

        tower.forward = types.MethodType(once, tower)


def concatenate(values: Sequence[Tensor]) -> Tensor:
    """Concatenates along dimension 0, zero-padding the other dimensions to the largest (tiles, pixels)."""
    if len({value.shape[1:] for value in values}) == 1:
        return torch.cat(list(values))
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        room = value.new_zeros((len(value), *shape))
        room[(slice(None), *(slice(size) for size in value.shape[1:]))] = value
        padded.append(room)
    return torch.cat(padded)


def _split(output: Any, items: Sequence[int], name: str) -> list[dict[str, Any]]:
    """One dictionary of per-item fields for each unit."""
    entries = len(output.pooler_output)
    if entries == len(items):
        counts = [1] * len(items)
    elif entries == sum(items):
        counts = list(items)
    else:
        raise ModelError(
            f"the encoder gave {entries} feature groups for {sum(items)} {name} items",
            why="It is not known which features belong to which item.",
            fix="Report the model family; mmdpo/models/families.py lacks a fact about it.",
        )
    ends = torch.tensor(counts).cumsum(0).tolist()
    slices = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    pieces: list[dict[str, Any]] = [{"pooler_output": output.pooler_output[part]} for part in slices]
    layers = getattr(output, "deepstack_features", None)
    if layers is not None:
        for piece, part in zip(pieces, slices, strict=True):
            piece["deepstack_features"] = [layer[part] for layer in layers]
    return pieces


def _join(pieces: Sequence[dict[str, Any]]) -> Any:
    """The encoder output that the model reads, assembled in the order of the placeholders."""
    output_type, container = pieces[0]["types"]

    def joined(groups: Sequence[Any]) -> Any:
        if issubclass(container, Tensor):
            return torch.cat(list(groups))
        return container(entry for group in groups for entry in group)

    fields = {"pooler_output": joined([piece["pooler_output"] for piece in pieces])}
    if "deepstack_features" in pieces[0]:
        fields["deepstack_features"] = [
            joined(layer) for layer in zip(*(piece["deepstack_features"] for piece in pieces), strict=True)
        ]
    return output_type(**fields)
