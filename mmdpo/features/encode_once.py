"""Encode once: the features of each distinct image or clip are computed once per step and set of weights.

The unit is the outermost module without trainable parameters. Encoder and projector both frozen: the projected features
are kept and serve policy, reference and every view of the optimizer step. Only the encoder frozen: its output is kept
between the policy's and the reference's pass (:mod:`mmdpo.features.towers`). Frozen parts run under ``no_grad``. With a
cache (:mod:`mmdpo.features.cache`) the same is kept from step to step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import nn

from mmdpo import registry
from mmdpo.errors import ModelError
from mmdpo.features.cache import CachedFeatures
from mmdpo.features.towers import TowerCall, TowerTape, agree, cut_like, join_calls, split_calls
from mmdpo.features.units import Features, Size, split_units
from mmdpo.modalities.encoders import concatenate
from mmdpo.models.families import Family, accepted, feature_function


class _Shared:
    """What policy and reference share; a deep copy of the model keeps the very same object."""

    def __init__(self, tape: TowerTape) -> None:
        self.kept: dict[tuple[str, str], Features] = {}
        self.tower_outputs: dict[str, dict[tuple[str, ...], list[TowerCall]]] = {}  # by modality and items
        self.tape = tape
        self.cached: CachedFeatures | None = None
        self.cuts: dict[str, bool] = {}  # by modality, whether what towers give for several items can be cut by item
        self.joins: dict[str, int] = {}  # by modality, the dimension along which it can be put together

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class FeatureStore:
    """Features of the current optimizer step, and with a cache those of earlier ones.

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
        self._shared = _Shared(TowerTape(towers))

    @property
    def cached(self) -> CachedFeatures | None:
        """The cache, if any; the reference and every copy of the model use the same."""
        return self._shared.cached

    @cached.setter
    def cached(self, value: CachedFeatures | None) -> None:
        self._shared.cached = value

    def while_answering(self) -> FeatureStore:
        """A store for a model that writes answers: nothing of it trains meanwhile. It reads and fills the same cache.

        Its own features are forgotten with it.
        """
        other = FeatureStore(self.backbone, self.family, "all")
        for name in ("tape", "cached", "cuts", "joins"):
            setattr(other._shared, name, getattr(self._shared, name))
        return other

    def clear(self) -> None:
        """Forgets the step; called when it is over or the weights have changed."""
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
        pieces = {n: self._shared.kept[name, key] for n, key in enumerate(keys) if (name, key) in self._shared.kept}
        cached = self.cached if self.cached is not None and self.cached.place == "all" else None
        if cached is not None:
            for n in range(len(keys)):
                if n not in pieces and (tree := cached.get(name, keys[n], _device(entry, n))) is not None:
                    pieces[n] = self._shared.kept[name, keys[n]] = Features(**tree)
        missing = [n for n in range(len(keys)) if n not in pieces]
        groups = [[n] for n in missing] if name in self.family.alone else [missing] if missing else []
        towers = {}
        for group, seen in [run for some in groups for run in self._towers(name, entry, some)]:
            output, towers[tuple(keys[n] for n in group)] = self._encode(name, entry, group, seen)
            sizes = _sizes(entry, group)
            for n, piece in zip(group, split_units(output, sizes, name), strict=True):
                if cached is not None:
                    tree = {field.name: getattr(piece, field.name) for field in fields(piece)}
                    lasting = bool(entry["lasting"][n])
                    piece = Features(**cached.put(name, keys[n], tree, _device(entry, n), lasting=lasting))
                pieces[n] = piece
                if self.frozen == "all":
                    self._shared.kept[name, keys[n]] = piece
        if groups:
            self._shared.tower_outputs[name] = towers
        return [pieces[n] for n in entry["order"]]

    def _towers(
        self, name: str, entry: Mapping[str, Any], group: Sequence[int]
    ) -> list[tuple[Sequence[int], list[TowerCall] | None]]:
        """Groups of units to run the feature function on, with what their towers gave before; None where they run."""
        of_step = self._shared.tower_outputs.get(name, {})
        cached, keys = self.cached, entry["keys"]
        if (seen := of_step.get(tuple(keys[n] for n in group))) is not None:
            return [(group, seen)]
        if cached is None or cached.place != "tower":
            return [(group, None)]
        known: dict[int, list[TowerCall]] = {}
        for n in group:
            if (calls := of_step.get((keys[n],))) is not None:
                known[n] = calls
            elif (tree := cached.get(name, keys[n], _device(entry, n))) is not None:
                known[n] = self._learned(name, tree)
        self._fill(name, entry, [n for n in group if n not in known], known, cached)
        along = self._shared.joins.get(name, 0 if len(group) == 1 else None)
        whole = None if along is None else join_calls([known[n] for n in group], along)
        return [([n], known[n]) for n in group] if whole is None else [(group, whole)]

    def _fill(
        self,
        name: str,
        entry: Mapping[str, Any],
        missing: list[int],
        known: dict[int, list[TowerCall]],
        cached: CachedFeatures,
    ) -> None:
        """Lets the towers encode some units, together where what they give can be cut, and keeps it in the cache."""
        shared, together = self._shared, self._shared.cuts.get(name, True)
        for group in [missing] if together and missing else [[n] for n in missing]:
            calls = self._record(name, entry, group)
            sizes = _sizes(entry, group)
            ways = [[1] * len(sizes), [size.rows for size in sizes], [size.items for size in sizes]]
            parts = split_calls(calls, ways)
            if len(group) > 1:
                shared.cuts[name] = parts is not None
                alone = parts or [self._record(name, entry, [n]) for n in group]  # tiles, patches: each by itself
                along = next((d for d in (0, 1) if agree(join_calls(alone, d), calls)), None)
                if along is not None:
                    shared.joins[name] = along
                parts = alone if parts or along is None else cut_like(calls, alone, along)
            for n, own in zip(group, parts or [calls], strict=True):
                tree = {"calls": [tuple(call) for call in own], "along": shared.joins.get(name)}
                lasting = bool(entry["lasting"][n])
                kept = cached.put(name, entry["keys"][n], tree, _device(entry, n), lasting=lasting)
                known[n] = self._learned(name, kept)

    def _learned(self, name: str, tree: Mapping[str, Any]) -> list[TowerCall]:
        """A unit's calls, and from what another process kept, how those of several go together."""
        if tree["along"] is not None:
            self._shared.joins.setdefault(name, tree["along"])
        return [TowerCall(*call) for call in tree["calls"]]

    @torch.no_grad()
    def _record(self, name: str, entry: Mapping[str, Any], group: Sequence[int]) -> list[TowerCall]:
        return self._encode(name, entry, group, None)[1]

    def _encode(
        self, name: str, entry: Mapping[str, Any], group: Sequence[int], seen: list[TowerCall] | None
    ) -> tuple[Any, list[TowerCall]]:
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
        frozen = torch.no_grad() if self.frozen == "all" else contextlib.nullcontext()
        with frozen, self._shared.tape.running(seen) as calls:
            output = function(**accepted(function, inputs), return_dict=True)
        return output, calls


def _sizes(entry: Mapping[str, Any], group: Sequence[int]) -> list[Size]:
    return [Size(*(entry[field][n] for field in ("items", "lengths", "tokens", "names"))) for n in group]


def _device(entry: Mapping[str, Any], n: int) -> torch.device:
    """Where a unit's inputs are, and its features will be."""
    device: torch.device = next(iter(entry["units"][n].values())).device
    return device
