"""The two-pass step: for losses that couple records, and for steps that do not fit in memory at once.

Pass 1 without gradient gives every log-probability of the optimizer step, and what other statistics terms read; the
objective is evaluated once on them and gives its derivative for each of these numbers; pass 2 runs chunk by chunk with
that as the incoming gradient. Exact, with the memory of one chunk (a micro-batch, or some of its rows), for any term,
any number of candidates and of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdpo.collate import Batch
from mmdpo.objectives import Objective
from mmdpo.views import ScoreTable


@dataclass(frozen=True)
class Generators:
    """States of the random generators, so that dropout in pass 2 is that of pass 1."""

    cpu: Tensor
    cuda: list[Tensor]

    @classmethod
    def now(cls) -> Generators:
        """The states at this moment."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])

    def restore(self) -> None:
        """Sets them back."""
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


@dataclass(frozen=True)
class FirstPass:
    """What pass 1 leaves for one micro-batch.

    Args:
        gradients: [N, A] derivatives of the step's loss with respect to each token's log-probability (``logp``) and
            further statistics, by their names.
        loss: This micro-batch's share of the step's loss, for logging.
    """

    gradients: dict[str, Tensor]
    loss: Tensor


def even_chunks(chunks: Sequence[tuple[Batch, Tensor]], accelerator: Any) -> list[tuple[Batch, Tensor]]:
    """Adds chunks without answers until all processes have the same number: FSDP2 gathers weights at every forward."""
    device = chunks[0][1].device
    most = int(accelerator.gather(torch.tensor([len(chunks)], device=device)).max())
    nothing = (chunks[0][0], torch.empty(0, dtype=torch.long, device=device))
    return [*chunks, *[nothing] * (most - len(chunks))]


def first_rows(values: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The first rows of each: a chunk without answers, there to keep processes together, still scores one."""
    return {name: value[:count] for name, value in values.items()}


def stacked(parts: Sequence[Mapping[str, Tensor]], places: Sequence[Tensor]) -> dict[str, Tensor]:
    """The rows of several chunks as those of one; ``places`` are those of each chunk's rows in it."""
    order = torch.cat(list(places)).argsort()
    return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}


def join(tables: Sequence[ScoreTable]) -> ScoreTable:
    """One table of the rows of several, their records numbered apart and their token axes padded to the longest."""
    width = max(table.logp.shape[1] for table in tables)
    offsets = [0]
    for table in tables:
        offsets.append(offsets[-1] + (int(table.example.max()) + 1 if len(table.example) else 0))

    def joined(columns: Sequence[Tensor]) -> Tensor:
        room = [(0, width - column.shape[1]) if column.ndim == 2 else (0, 0) for column in columns]
        return torch.cat([F.pad(column, pad) for column, pad in zip(columns, room, strict=True)])

    first = tables[0]
    columns: dict[str, Any] = {name: joined([table.columns[name] for table in tables]) for name in first.columns}
    columns["example"] = torch.cat([t.example + offset for t, offset in zip(tables, offsets, strict=False)])
    return replace(
        first,
        **columns,
        ref_logp=None if first.ref_logp is None else joined([table.ref_logp for table in tables]),  # type: ignore[misc]
        statistics={name: joined([t.statistics[name] for t in tables]) for name in first.statistics},
        ref_statistics={name: joined([t.ref_statistics[name] for t in tables]) for name in first.ref_statistics},
    )


def first_pass(
    tables: Sequence[ScoreTable],
    objective: Objective,
    counts: Tensor,
    progress: float = 0.0,
    gather: Callable[[ScoreTable], Sequence[ScoreTable]] | None = None,
) -> tuple[list[FirstPass], dict[str, Tensor], dict[str, Tensor]]:
    """Evaluates the objective on a whole optimizer step, and moves its running values on.

    Args:
        tables: Score tables of this process's micro-batches.
        objective: The objective.
        counts: [terms] denominators of the whole step.
        progress: Share of the run that is done.
        gather: For several processes: gives the joined tables of all of them, this process's at its rank's place, and
            sets nothing else; None when no term couples processes.

    Returns:
        What pass 2 needs for each micro-batch, the terms' values, and what the terms say of themselves.
    """
    own = join(tables)
    leaves = {
        name: values.detach().requires_grad_(True) for name, values in {"logp": own.logp, **own.statistics}.items()
    }
    own = replace(own, logp=leaves["logp"], statistics={name: leaves[name] for name in own.statistics})
    seen = own if gather is None else join(gather(own))
    loss, parts = objective(seen, counts, progress)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }
    watched = objective.watch(seen)
    objective.advance(seen)
    results, start = [], 0
    for number, table in enumerate(tables):
        rows, width = table.logp.shape
        share = loss.detach() if number == 0 else torch.zeros_like(loss)
        own_part = {name: values[start : start + rows, :width].clone() for name, values in gradients.items()}
        results.append(FirstPass(own_part, share))
        start += rows
    return results, parts, watched


def gather_tables(own: ScoreTable, accelerator: Any) -> list[ScoreTable]:
    """The tables of all processes by rank; this process's own is the very object given."""
    shapes = accelerator.gather(torch.tensor([own.logp.shape], device=own.logp.device)).tolist()

    def spread(values: Tensor) -> list[Tensor]:
        rows, width = max(s[0] for s in shapes), max(s[1] for s in shapes)
        room = (0, 0) * (values.ndim - 1)
        if values.ndim == 2:
            room = (0, width - values.shape[1])
        padded = F.pad(values, (*room, 0, rows - values.shape[0]))
        everyone = accelerator.gather(padded.detach().contiguous()).view(len(shapes), *padded.shape)
        return [part[:n] if part.ndim == 1 else part[:n, :w] for part, (n, w) in zip(everyone, shapes, strict=True)]

    columns: dict[str, Any] = {name: spread(values) for name, values in own.columns.items()}
    reference = None if own.ref_logp is None else spread(own.ref_logp)
    statistics = {name: spread(values) for name, values in own.statistics.items()}
    ref_statistics = {name: spread(values) for name, values in own.ref_statistics.items()}
    return [
        own
        if rank == accelerator.process_index
        else replace(
            own,
            **{name: values[rank] for name, values in columns.items()},
            ref_logp=None if reference is None else reference[rank],
            statistics={name: values[rank] for name, values in statistics.items()},
            ref_statistics={name: values[rank] for name, values in ref_statistics.items()},
        )
        for rank in range(len(shapes))
    ]
