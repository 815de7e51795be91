"""What frozen encoders under a projector that trains give: recorded, cut by item, and given again in place of a run.

Checkpointing would recompute a frozen tower, and nothing but ``no_grad`` stops it. Kept is only what is read of an
encoder's output: the returned object holds every hidden state, many times as much.
"""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.utils.generic import ModelOutput

NOISE = 0.02
"""What another batch may change of an encoder's output, relative to its largest value; bfloat16 rounds by 0.004."""


class _Unlike(ValueError):
    """Outputs cannot be cut or joined along their items."""


class TowerCall(NamedTuple):
    """One call of an encoder: the length of its first input along dimension 0, and its output."""

    rows: int
    output: Any


class _Readers(TorchFunctionMode):
    """Notes which tensors are given to functions of torch, while it is not paused."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()
        self.paused = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.paused:
            self.read.update(id(value) for value in _tensors((args, kwargs or {})))
        return func(*args, **(kwargs or {}))


class TowerTape:
    """Records or replays the calls of encoders.

    Args:
        towers: The encoder modules; their ``forward`` is replaced.
    """

    def __init__(self, towers: Sequence[nn.Module] = ()) -> None:
        self._replay: Iterator[TowerCall] | None = None  # None outside of scoring: whose items they are is not known
        self._calls: list[TowerCall] = []
        self._readers: _Readers | None = None
        self._any = bool(towers)
        for tower in towers:
            self._run_once(tower)

    def __deepcopy__(self, memo: dict[int, Any]) -> TowerTape:
        return self  # the replaced forwards of a copied model hold this one

    @contextlib.contextmanager
    def running(self, seen: Sequence[TowerCall] | None) -> Iterator[list[TowerCall]]:
        """While a feature function runs.

        Args:
            seen: What the towers gave for its items before; None when they have to run.

        Yields:
            What the towers give; complete, and without what is not read of it, when the function is done.
        """
        self._replay, self._calls = iter(seen or ()), list(seen or ())
        calls = self._calls
        try:
            if seen is not None or not self._any:
                yield calls
                return
            with _Readers() as self._readers:
                yield calls
            read = self._readers.read
            calls[:] = [TowerCall(call.rows, _only(call.output, read)) for call in calls]
        finally:
            self._replay, self._calls, self._readers = None, [], None

    def _run_once(self, tower: nn.Module) -> None:
        """Replaces the tower's forward by one under ``no_grad`` that is not run again for the same items."""
        plain = type(tower).forward

        def once(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._replay is not None and (kept := next(self._replay, None)) is not None:
                return copy.copy(kept.output)  # some models write into what their tower returns
            with self._unread(), torch.no_grad():
                output = plain(module, *args, **kwargs)
            if self._readers is not None:  # a tensor that is gone may have had the id of one of these, and been read
                self._readers.read.difference_update(map(id, _tensors(output)))
            if self._replay is not None:
                rows = next((len(value) for value in _tensors((args, kwargs)) if value.ndim), 0)
                self._calls.append(TowerCall(rows, copy.copy(output)))
            return output

        tower.forward = types.MethodType(once, tower)

    @contextlib.contextmanager
    def _unread(self) -> Iterator[None]:
        """While a tower itself reads its hidden states."""
        readers = self._readers
        if readers is not None:
            readers.paused = True
        try:
            yield
        finally:
            if readers is not None:
                readers.paused = False


def split_calls(calls: Sequence[TowerCall], counts: Sequence[Sequence[int]]) -> list[list[TowerCall]] | None:
    """The calls of each unit, of calls for several.

    Args:
        calls: The calls.
        counts: Ways in which a call's input may belong to the units: how much to each.

    Returns:
        None where it cannot be told what belongs to whom.
    """
    if len(counts[0]) == 1:
        return [list(calls)]
    parts: list[list[TowerCall]] = [[] for _ in counts[0]]
    for call in calls:
        own = next((one for one in counts if sum(one) == call.rows), None)
        try:
            pieces = _split(call.output, own or [], top=True)
        except _Unlike:
            return None
        for part, rows, piece in zip(parts, own or [], pieces, strict=True):
            part.append(TowerCall(rows, piece))
    return parts


def join_calls(parts: Sequence[Sequence[TowerCall]], dimension: int = 0) -> list[TowerCall] | None:
    """The calls for several units, of those of each; None where their shapes do not go together.

    Args:
        parts: The calls of each unit.
        dimension: Along which an encoder lays items out: 0, or 1 where it packs them into one row.
    """
    if len({len(part) for part in parts}) > 1:
        return None
    try:
        return [
            TowerCall(sum(call.rows for call in calls), _join([call.output for call in calls], dimension, top=True))
            for calls in zip(*parts, strict=True)
        ]
    except _Unlike:
        return None


def cut_like(calls: Sequence[TowerCall], parts: Sequence[Sequence[TowerCall]], dimension: int) -> list[list[TowerCall]]:
    """The calls of each unit, of calls for several, by how much each has when it is encoded alone.

    Args:
        calls: The calls.
        parts: Those of each unit alone, which :func:`join_calls` joins to the same.
        dimension: Along which.
    """
    own = [
        [
            TowerCall(part.rows, piece)
            for part, piece in zip(alone, _cut(call.output, [part.output for part in alone], dimension), strict=True)
        ]
        for call, alone in zip(calls, zip(*parts, strict=True), strict=True)
    ]
    return [list(unit) for unit in zip(*own, strict=True)]


def agree(some: Sequence[TowerCall] | None, others: Sequence[TowerCall]) -> bool:
    """Whether calls give the same, up to the rounding of another batch."""
    if some is None or len(some) != len(others):
        return False
    pairs = zip(*(list(_tensors([call.output for call in calls])) for calls in (some, others)), strict=False)
    return all(
        one.shape == other.shape and float((one - other).abs().max()) <= NOISE * float(other.abs().max())
        for one, other in pairs
        if one.numel() or other.numel()
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _only(value: Any, read: set[int]) -> Any:
    """The same with tensors that nobody read emptied: what is beside them stays in its place."""
    if isinstance(value, Tensor):
        return value if id(value) in read else value.new_empty(0)
    if isinstance(value, ModelOutput):
        return type(value)(**{name: _only(part, read) for name, part in value.items()})
    if isinstance(value, list | tuple):
        return type(value)([_only(part, read) for part in value])
    return value


def _empty(value: Tensor) -> bool:
    return value.ndim == 1 and not len(value)


def _split(value: Any, counts: Sequence[int], *, top: bool = False) -> list[Any]:
    """An output's share of each unit; lists are one entry an item at the top (composed models), else one a layer."""
    if isinstance(value, Tensor):
        if _empty(value):
            return [value] * len(counts)
        if not value.ndim or len(value) != sum(counts):
            raise _Unlike
        return list(value.split(list(counts)))
    if isinstance(value, ModelOutput):
        named = [[(name, piece) for piece in _split(part, counts)] for name, part in value.items()]
        return [type(value)(**dict(row)) for row in zip(*named, strict=True)]
    if isinstance(value, list | tuple) and top:
        if len(value) != sum(counts):
            raise _Unlike
        ends = [sum(counts[: n + 1]) for n in range(len(counts))]
        return [value[end - count : end] for end, count in zip(ends, counts, strict=True)]
    if isinstance(value, list | tuple):
        return [type(value)(row) for row in zip(*(_split(part, counts) for part in value), strict=True)]
    return [value] * len(counts)


def _cut(value: Any, like: Sequence[Any], dimension: int) -> list[Any]:
    """An output's share of each unit, of the sizes of theirs."""
    if isinstance(value, Tensor):
        return (
            [value] * len(like) if _empty(value) else list(value.split([x.shape[dimension] for x in like], dimension))
        )
    if isinstance(value, ModelOutput):
        fields = {name: _cut(part, [one[name] for one in like], dimension) for name, part in value.items()}
        return [type(value)(**{name: pieces[n] for name, pieces in fields.items()}) for n in range(len(like))]
    if isinstance(value, list | tuple):
        layers = [_cut(part, [one[n] for one in like], dimension) for n, part in enumerate(value)]
        return [type(value)([layer[n] for layer in layers]) for n in range(len(like))]
    return [value] * len(like)


def _join(values: Sequence[Any], dimension: int, *, top: bool = False) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        if _empty(first):
            return first
        kept = {(*value.shape[:dimension], *value.shape[dimension + 1 :]) for value in values}
        if first.ndim <= dimension or len(kept) > 1:
            raise _Unlike
        return torch.cat(list(values), dimension)
    if isinstance(first, ModelOutput):
        return type(first)(**{name: _join([value[name] for value in values], dimension) for name in first})
    if isinstance(first, list | tuple) and top:
        return type(first)(part for value in values for part in value)
    if isinstance(first, list | tuple):
        return type(first)([_join(list(layer), dimension) for layer in zip(*values, strict=True)])
    return first
