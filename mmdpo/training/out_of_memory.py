"""Out of memory: which record is the largest of those that did not fit, and which setting helps it most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from mmdpo.errors import MMDPOError
from mmdpo.records import Record

SAYINGS = ("not enough memory", "can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What else an allocator says of memory than what ``accelerate`` knows."""
DOMINANT = 0.6
"""Share of the padded tokens of a batch above which the largest record, and not the number of records, is too much."""


class MemoryShortageError(MMDPOError):
    """A batch did not fit in memory."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return should_reduce_batch_size(error) or any(saying in str(error) for saying in SAYINGS)


@dataclass(frozen=True)
class Load:
    """What a batch asked of the memory.

    Args:
        records: Records in it.
        padded: Tokens of its rows, padding included.
        largest: Place of its largest record in the data set.
        tokens: Tokens of that record's rows.
        answers: Answers of that record that are scored, under all media variants.
    """

    records: int
    padded: int
    largest: int
    tokens: int
    answers: int


def load_of(batch: Mapping[str, Any]) -> Load:
    """What a batch asks of the memory: the tokens of its trees, record by record."""
    width = batch["input_ids"].shape[1]
    places: Tensor = batch["index"][batch["example"]]
    at = batch["hidden_index"][:, 0]
    trees = batch["record"].flatten()[at]
    tokens: Counter[int] = Counter()
    for place, row, tree in {*zip(places.tolist(), (at // width).tolist(), trees.tolist(), strict=True)}:
        tokens[place] += int((batch["record"][row] == tree).sum())
    largest, most = tokens.most_common(1)[0]
    return Load(len(tokens), batch["input_ids"].numel(), largest, most, int((places == largest).sum()))


@dataclass(frozen=True)
class Settings:
    """The settings of a run that decide how much memory a step needs.

    Args:
        batch: Records of a micro-batch in a process.
        accumulation: Micro-batches of a process in an optimizer step.
        max_tokens: Padded tokens of a micro-batch; None where micro-batches are cut by records.
        rows_per_chunk: Rows scored with gradient at a time; None for all.
        branches_per_row: Answers of a record in a row; None for all.
        checkpointing: Whether activations are computed again in the backward pass.
        wide: Whether the weights have four bytes.
    """

    batch: int
    accumulation: int
    max_tokens: int | None
    rows_per_chunk: int | None
    branches_per_row: int | None
    checkpointing: bool
    wide: bool


def suggestions(load: Load, settings: Settings) -> Iterator[str]:
    """What to set, what helps this batch most first. None of it changes the loss but the last two."""
    dominant = load.tokens >= DOMINANT * load.padded
    fewer = list(_fewer_records(load, settings))
    if not dominant:
        yield from fewer
    if load.answers > 2 and (settings.rows_per_chunk, settings.branches_per_row) != (1, 1):
        yield f"rows_per_chunk=1 branches_per_row=1 (one of its {load.answers} answers at a time, in two passes)"
    if not settings.checkpointing:
        yield "train.gradient_checkpointing=true"
    if dominant:
        yield from fewer
    if load.records > 1 and settings.rows_per_chunk is None:
        yield "rows_per_chunk=1 (one row at a time, in two passes)"
    if settings.wide:
        yield "model.dtype=bfloat16 (rounds; needs a new run)"
    yield _shorter(load)


def _shorter(load: Load) -> str:
    return f"data.max_length={max(1, load.tokens - 1)} or less (sets such records aside; needs a new run)"


def _fewer_records(load: Load, settings: Settings) -> Iterator[str]:
    if settings.max_tokens is not None:
        if load.records > 1:
            yield f"batches.max_tokens={max(load.tokens, settings.max_tokens // 2)}"
    elif settings.batch > 1:
        size = next(n for n in range(settings.batch // 2, 0, -1) if settings.batch % n == 0)
        times = settings.accumulation * settings.batch // size
        yield (
            f"train.per_device_train_batch_size={size} train.gradient_accumulation_steps={times} "
            "(the same optimizer step)"
        )


def described(record: Record, load: Load) -> str:
    """A record as one that may be too large."""
    media = Counter(modality for modality, _ in record.media_items())
    shown = ", ".join(f"{count} {name}" for name, count in media.items()) or "no media"
    return f"{record.id!r} ({load.tokens} tokens, {shown}, {load.answers} answers)"


def shortage(
    error: BaseException, batch: Mapping[str, Any] | None, records: Sequence[Record], settings: Settings, held_out: bool
) -> MemoryShortageError:
    """The error that says what did not fit.

    Args:
        error: What the allocator raised.
        batch: The batch that was at work; None where there was none yet.
        records: The data set that it is of.
        settings: The run's.
        held_out: Whether held-out records, or those of a cache, were scored, without gradient.
    """
    said = str(error).strip().split("\n")[0]
    if batch is None:
        return MemoryShortageError(
            f"out of memory before the first batch: {said}",
            why="The model itself does not fit beside what else is there.",
            fix="Use model.quantize=4bit or model.dtype=bfloat16, a smaller model, or more memory.",
        )
    load = load_of(batch)
    where = "records were scored without gradient" if held_out else "a micro-batch was trained on"
    if not held_out:
        ways = list(suggestions(load, settings))
    else:
        ways = ["train.per_device_eval_batch_size=1"] if load.records > 1 else [_shorter(load)]
    return MemoryShortageError(
        f"out of memory while {where}: {load.records} records, {load.padded} tokens with padding; "
        f"the largest is {described(records[load.largest], load)}",
        why=f"{said} Checkpoints are kept.",
        fix=f"What helps, the most first, with --resume where no new run is needed: {'; '.join(ways)}.",
    )
