"""Encode once: the features of each distinct image or clip are computed once per step and set of weights.

The unit is the outermost module without trainable parameters. Encoder and projector both frozen: the projected features
are kept and serve policy, reference and every view of the optimizer step. Only the encoder frozen: its output is kept
between the policy's and the reference's pass. Frozen parts run under ``no_grad``: checkpointing would otherwise
recompute a frozen tower, and nothing but ``no_grad`` stops it.
"""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mmdpo import registry
from mmdpo.errors import ModelError
from mmdpo.modalities.encoders import concatenate
from mmdpo.models.families import Family, accepted, feature_function

PER_ITEM = {"pooler_output", "deepstack_features"}
UNREAD = {"last_hidden_state", "hidden_states", "attentions"}
"""Fields of an encoder's output that the language model does not read: many times as large as those that it does."""


class _Size(NamedTuple):
    """How much of an encoder's output belongs to a unit; ``tokens`` is None where it is not known beforehand."""

    items: int
    rows: int
    tokens: int | None
    name: str


@dataclass(frozen=True)
class Features:
    """Projected features of one unit.

    Args:
        groups: One tensor for each entry of the encoder's output, or one with a row for each.
        layers: The same for each further layer that the language model reads (``deepstack_features``).
        common: Further fields of the encoder's output that belong to no item (Ovis2's features of its marks).
        output: Class of the encoder's output, and container of its ``pooler_output``.
    """

    groups: Any
    layers: tuple[Any, ...] | None
    common: Mapping[str, Any]
    output: tuple[Any, Any]

    def flat(self) -> Tensor:
        """[tokens, hidden] all features of the unit, in the order of its placeholders."""
        if isinstance(self.groups, Tensor):
            return self.groups.reshape(-1, self.groups.shape[-1])
        return torch.cat([group.reshape(-1, group.shape[-1]) for group in self.groups])


class _Shared:
    """What policy and reference share; a deep copy of the model keeps the very same object."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Features] = {}
        self.tower_outputs: dict[str, dict[tuple[str, ...], list[Any]]] = {}  # by modality and items, one a call
        self.replay: Iterator[Any] | None = None  # over one modality's, while its feature function runs for scoring
        self.record: list[Any] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class FeatureStore:
    """Features of the current optimizer step.

    Args:
        backbone: The module that holds encoders and projectors.
        family: The family's row.
        frozen: ``"all"`` when neither encoder nor projector trains, ``"tower"`` when only the encoder is frozen,
            ``"none"`` when the encoder trains.
        towers: The encoder modules, for ``"tower"``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        family: Family,
        frozen: Literal["all", "tower", "none"] = "none",
        towers: Sequence[nn.Module] = (),
    ) -> None:
        self.backbone = backbone
        self.family = family
        self.frozen = frozen
        self._shared = _Shared()
        for tower in towers:
            self._run_once(tower)

    def clear(self) -> None:
        """Forgets everything; called when the step is over or the weights have changed."""
        self._shared.kept.clear()
        self._shared.tower_outputs.clear()

    def keep_only(self, media: Mapping[str, Any]) -> None:
        """Forgets everything but the units of one batch.

        Args:
            media: The batch's ``media`` entry.
        """
        wanted = {(name, key) for name, entry in media.items() for key in entry["keys"]}
        for known in self._shared.kept.keys() - wanted:
            del self._shared.kept[known]
        self._shared.tower_outputs.clear()

    def units(self, media: Mapping[str, Any]) -> dict[str, list[Features]]:
        """Features by modality, one a placeholder group, in reading order.

        Args:
            media: The batch's ``media`` entry.
        """
        return {name: self._of(name, entry) for name, entry in media.items()}

    def _of(self, name: str, entry: Mapping[str, Any]) -> list[Features]:
        keys: Sequence[str] = entry["keys"]
        missing = [n for n, key in enumerate(keys) if (name, key) not in self._shared.kept]
        pieces = {n: self._shared.kept[name, keys[n]] for n in range(len(keys)) if n not in missing}
        groups = [[n] for n in missing] if name in self.family.alone else [missing] if missing else []
        towers = {}
        for group in groups:
            sizes = [_Size(*(entry[field][n] for field in ("items", "lengths", "tokens", "names"))) for n in group]
            items = tuple(keys[n] for n in group)
            seen = self._shared.tower_outputs.get(name, {}).get(items)
            output, towers[items] = self._encode(name, entry, group, seen)
            for n, piece in zip(group, _split(output, sizes, name), strict=True):
                pieces[n] = piece
                if self.frozen == "all":
                    self._shared.kept[name, keys[n]] = piece
        if groups:
            self._shared.tower_outputs[name] = towers
        return [pieces[n] for n in entry["order"]]

    def _encode(
        self, name: str, entry: Mapping[str, Any], group: Sequence[int], seen: list[Any] | None
    ) -> tuple[Any, list[Any]]:
        """Runs the model's own feature function on distinct items.

        Args:
            name: The modality.
            entry: The batch's entry of it.
            group: Which of its units.
            seen: What the frozen towers gave for them before, one a call; None when they have to run.

        Returns:
            The function's output, and what the frozen towers gave.
        """
        function = feature_function(self.backbone, self.family, name)
        if function is None:
            raise ModelError(
                f"{type(self.backbone).__name__} has nothing that encodes {registry.modalities.get(name).plural}",
                why=f"{entry['names'][0]} has some, and the model would be trained without them.",
                fix="Use a model of that modality, or records without it.",
            )
        inputs = {key: concatenate([entry["units"][n][key] for n in group]) for key in entry["units"][group[0]]}
        self._shared.replay, self._shared.record = iter(seen or ()), []
        try:
            with torch.no_grad() if self.frozen == "all" else contextlib.nullcontext():
                output = function(**accepted(function, inputs), return_dict=True)
            return output, seen or self._shared.record
        finally:
            self._shared.replay, self._shared.record = None, []

    def _run_once(self, tower: nn.Module) -> None:
        """Replaces the tower's forward by one under ``no_grad`` that is not run again for the same items."""
        plain, shared = type(tower).forward, self._shared

        def once(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            replay = shared.replay  # None outside of scoring (generation): whose items they are is not known there
            kept = None if replay is None else next(replay, None)
            if kept is not None:
                return copy.copy(kept)
            with torch.no_grad():
                output = plain(module, *args, **kwargs)
            if replay is not None:
                shared.record.append(copy.copy(output))  # some models write into what their tower returns
            return output

        tower.forward = types.MethodType(once, tower)


def outputs_of(units: Sequence[Features]) -> Any:
    """The encoder output that the model reads, assembled in the order of the placeholders."""
    container = units[0].output[1]

    def joined(groups: Sequence[Any]) -> Any:
        if issubclass(container, Tensor):
            alike = len({group.shape[1:] for group in groups}) == 1
            return torch.cat([group if alike else group.reshape(-1, group.shape[-1]) for group in groups])
        return container(entry for group in groups for entry in group)

    fields = {"pooler_output": joined([unit.groups for unit in units])}
    if units[0].layers is not None:
        fields["deepstack_features"] = [joined(layer) for layer in zip(*(u.layers or () for u in units), strict=True)]
    return units[0].output[0](**fields, **units[0].common)


def _split(output: Any, sizes: Sequence[_Size], name: str) -> list[Features]:
    """The features of each unit."""
    groups = output.pooler_output
    counts = _counts(len(groups), groups.ndim if isinstance(groups, Tensor) else None, sizes)
    if counts is None:
        raise ModelError(
            f"the encoder gave {len(groups)} feature groups for {sum(size.items for size in sizes)} {name} items",
            why="It is not known which features belong to which item.",
            fix="Report the model family; mmdpo/models/families.py lacks a fact about it.",
        )
    ends = torch.tensor(counts).cumsum(0).tolist()
    slices = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    layers = getattr(output, "deepstack_features", None)
    kinds = (type(output), type(groups))
    common = {field: output[field] for field in output.keys() - PER_ITEM - UNREAD}
    pieces = [
        Features(groups[part], None if layers is None else tuple(layer[part] for layer in layers), common, kinds)
        for part in slices
    ]
    return [_checked(piece, size, name) for piece, size in zip(pieces, sizes, strict=True)]


def _counts(entries: int, dimensions: int | None, sizes: Sequence[_Size]) -> list[int] | None:
    """How many of the output's entries belong to each unit."""
    candidates: list[list[int]] = [[1] * len(sizes), [size.rows for size in sizes], [size.items for size in sizes]]
    tokens = [size.tokens for size in sizes]
    if dimensions == 2 and None not in tokens:
        candidates = [[count or 0 for count in tokens]]
    return next((counts for counts in candidates if sum(counts) == entries), None)


def _checked(piece: Features, size: _Size, name: str) -> Features:
    """Refuses features that are not finite, or not as many as there are placeholders."""
    flat = piece.flat()
    if not bool(torch.isfinite(flat).all()):
        raise ModelError(
            f"the {name} features of {size.name} are not finite",
            why="One NaN makes every weight NaN at the next step.",
            fix="Look at the item and at the encoder's weights and precision (float16 overflows).",
        )
    if size.tokens is None or len(flat) == size.tokens:
        return piece
    raise ModelError(
        f"the encoder gave {len(flat)} features for {size.name}, which has {size.tokens} {name} placeholder tokens",
        why="Features would stand at the wrong tokens.",
        fix="The length that is declared for an item (MediaEncoder.tokens, the processor) must be its encoder's.",
    )
