"""A part of a batch: some of its rows of tokens, with the answers and the media that they hold."""

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
