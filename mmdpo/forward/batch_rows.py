"""A part of a batch: some of its rows of tokens, with the answers and the media that they hold.

Rows are cut by their number, or into parts of similar length with a bounded number of tokens, padding included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdpo.collate import UNIT_FIELDS, Batch


def split_rows(batch: Batch, size: int) -> list[tuple[Batch, Tensor]]:
    """Cuts a batch into batches of at most ``size`` rows of tokens.

    Returns:
        Each part, and which of the N scored answers it holds.
    """
    total = len(batch["input_ids"])
    return [take_rows(batch, range(start, min(start + size, total))) for start in range(0, total, size)]


def cut_by_tokens(
    batch: Batch, most: int, *, rows: int | None = None, whole_records: bool = False, multiple: int = 1
) -> list[tuple[Batch, Tensor]]:
    """Cuts a batch into parts of similar length, each without the padding that it does not need, the longest first.

    Args:
        batch: The batch.
        most: Padded tokens of a part (rows x its longest row). A row, or a record, that has more is a part of its own.
        rows: The largest number of rows of a part; None for any.
        whole_records: Whether all rows of a record stay together, its records numbered anew in each part.
        multiple: The length of a part's rows is rounded up to a multiple of this.

    Returns:
        Each part, and which of the N scored answers it holds.
    """
    lengths = row_lengths(batch)
    groups = _rows_of_records(batch) if whole_records else [[row] for row in range(len(lengths))]
    sizes = [(len(group), -(-max(lengths[row] for row in group) // multiple) * multiple) for group in groups]
    parts = []
    for members in cut_sizes(sizes, most, rows):
        part, answers = take_rows(batch, sorted(row for member in members for row in groups[member]))
        parts.append((_without_padding(_records_anew(part) if whole_records else part, multiple), answers))
    return parts


def cut_sizes(sizes: Sequence[tuple[int, int]], most: int, rows: int | None = None) -> list[list[int]]:
    """Puts things of (rows, length of the longest) into parts of at most ``most`` padded tokens, the longest first.

    Sorted by length, a part that takes all that fit gives the fewest parts.
    """
    parts: list[list[int]] = []
    taken, width = 0, 0
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place][1]):
        count, length = sizes[place]
        if not parts or (taken + count) * width > most or (rows is not None and taken + count > rows):
            parts.append([])
            taken, width = 0, length
        parts[-1].append(place)
        taken += count
    return parts


def row_lengths(batch: Batch) -> list[int]:
    """Tokens of each row of a batch that are not padding."""
    return (batch["record"] >= 0).sum(1).tolist()


def _rows_of_records(batch: Batch) -> list[list[int]]:
    """Rows that share a record, or are joined by others that do, each such set in order."""
    row_of = (batch["hidden_index"][:, 0] // batch["input_ids"].shape[1]).tolist()
    group = list(range(len(batch["input_ids"])))  # each row points towards the first row of its set

    def first(row: int) -> int:
        while group[row] != row:
            row = group[row]
        return row

    rows_of: dict[int, int] = {}
    for example, row in zip(batch["example"].tolist(), row_of, strict=True):
        a, b = sorted((first(rows_of.setdefault(example, row)), first(row)))
        group[b] = a
    found: dict[int, list[int]] = {}
    for row in range(len(group)):
        found.setdefault(first(row), []).append(row)
    return list(found.values())


def _records_anew(part: Batch) -> Batch:
    """The part with its records numbered 0, 1, ... and the places of those alone."""
    records, example = part["example"].unique(return_inverse=True)
    return {**part, "example": example, "index": part["index"][records]}


def _without_padding(part: Batch, multiple: int) -> Batch:
    """The part with its rows cut to the columns that any of them uses."""
    width = part["input_ids"].shape[1]
    used = (part["record"] >= 0).any(0).nonzero()[:, 0]
    first, end = int(used.min()), int(used.max()) + 1
    if first == 0:  # padded on the right
        end = min(width, -(-end // multiple) * multiple)
    else:
        first = max(0, end - -(-(end - first) // multiple) * multiple)
    keep = slice(first, end)
    cut = {name: part[name][:, keep] for name in ("input_ids", "record", "segment", "depth", "block")}
    cut["position_ids"] = part["position_ids"][..., keep]
    cut["fields"] = {name: values[:, keep] for name, values in part["fields"].items()}
    index = part["hidden_index"]
    # padding of a short answer may point to a column that is gone
    cut["hidden_index"] = index // width * (end - first) + (index % width - first).clamp(0, end - first - 1)
    return {**part, **cut}


def take_rows(batch: Batch, rows: Sequence[int]) -> tuple[Batch, Tensor]:
    """The batch of some rows of tokens, in their order, and which of the N scored answers they hold."""
    width = batch["input_ids"].shape[1]
    device = batch["input_ids"].device
    taken = torch.tensor(list(rows), device=device)
    row_of = batch["hidden_index"][:, 0] // width
    answers = torch.isin(row_of, taken).nonzero()[:, 0]
    part = dict(batch)
    for name in ("input_ids", "record", "segment", "depth", "block"):
        part[name] = batch[name][taken]
    part["position_ids"] = batch["position_ids"][..., taken, :]
    part["fields"] = {name: values[taken] for name, values in batch["fields"].items()}
    for name in (
        "targets",
        "mask",
        "weight",
        "marks",
        "example",
        "candidate",
        "media_index",
        "score",
        "label",
        "identity",
    ):
        part[name] = batch[name][answers]
    place = torch.zeros(len(batch["input_ids"]), dtype=torch.long, device=device)
    place[taken] = torch.arange(len(taken), device=device)
    index = batch["hidden_index"][answers]
    moved = place[row_of[answers]][:, None] * width + index % width
    part["hidden_index"] = moved  # padding points anywhere inside its row
    part["media"] = {name: _of_rows(entry, list(rows)) for name, entry in batch["media"].items()}
    part["media"] = {name: entry for name, entry in part["media"].items() if entry["order"]}
    return part, answers


def _of_rows(entry: Mapping[str, Any], taken: Sequence[int]) -> dict[str, Any]:
    """The units that some rows use, distinct again, row by row."""
    uses = [
        (place, unit)
        for place, wanted in enumerate(taken)
        for unit, row in zip(entry["order"], entry["rows"], strict=True)
        if row == wanted
    ]
    kept = sorted({unit for _, unit in uses})
    chosen = {name: [entry[name][unit] for unit in kept] for name in UNIT_FIELDS}
    return {**chosen, "order": [kept.index(unit) for _, unit in uses], "rows": [place for place, _ in uses]}
