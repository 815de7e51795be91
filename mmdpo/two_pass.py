"""The two-pass step: for losses that couple records, and for steps that do not fit in memory at once.

Pass 1 without gradient gives every log-probability of the optimizer step; the objective is evaluated once on them and
gives dL/dlogp for each token; pass 2 runs chunk by chunk with that as the incoming gradient. Exact, with the memory of
one chunk (a micro-batch, or some of its rows), for any term, any number of candidates and of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        gradient: [N, A] derivative of the step's loss with respect to each token's log-probability.
        loss: This micro-batch's share of the step's loss, for logging.
    """

    gradient: Tensor
    loss: Tensor


def even_chunks(chunks: Sequence[tuple[Batch, Tensor]], accelerator: Any) -> list[tuple[Batch, Tensor]]:
    """Adds chunks without answers until all processes have the same number: FSDP2 gathers weights at every forward."""
    device = chunks[0][1].device
    most = int(accelerator.gather(torch.tensor([len(chunks)], device=device)).max())
    nothing = (chunks[0][0], torch.empty(0, dtype=torch.long, device=device))
    return [*chunks, *[nothing] * (most - len(chunks))]


def join(tables: Sequence[ScoreTable]) -> ScoreTable:
    """One table of the rows of several, their records numbered apart and their token axes padded to the longest."""
    width = max(table.logp.shape[1] for table in tables)
    offsets = [0]
    for table in tables:
        offsets.append(offsets[-1] + (int(table.example.max()) + 1 if len(table.example) else 0))

    def padded(values: Tensor) -> Tensor:
        return F.pad(values, (0, width - values.shape[1]))

    first = tables[0]
    return ScoreTable(
        logp=torch.cat([padded(t.logp) for t in tables]),
        ref_logp=None if first.ref_logp is None else torch.cat([padded(t.ref_logp) for t in tables]),  # type: ignore[arg-type]
        mask=torch.cat([padded(t.mask) for t in tables]),
        weight=torch.cat([padded(t.weight) for t in tables]),
        example=torch.cat([t.example + offset for t, offset in zip(tables, offsets, strict=False)]),
        candidate=torch.cat([t.candidate for t in tables]),
        media=torch.cat([t.media for t in tables]),
        score=torch.cat([t.score for t in tables]),
        media_names=first.media_names,
        statistics={name: torch.cat([padded(t.statistics[name]) for t in tables]) for name in first.statistics},
    )


def first_pass(
    tables: Sequence[ScoreTable],
    objective: Objective,
    counts: Tensor,
    gather: Callable[[ScoreTable], Sequence[ScoreTable]] | None = None,
) -> tuple[list[FirstPass], dict[str, Tensor]]:
    """Evaluates the objective on a whole optimizer step.

    Args:
        tables: Score tables of this process's micro-batches.
        objective: The objective.
        counts: [terms] denominators of the whole step.
        gather: For several processes: gives the joined tables of all of them, this process's at its rank's place, and
            sets nothing else; None when no term couples processes.

    Returns:
        What pass 2 needs for each micro-batch, and the terms' values.
    """
    own = join(tables)
    logp = own.logp.detach().requires_grad_(True)
    own = own.with_logp(logp)
    seen = own
    if gather is not None:
        seen = join([own if other.logp is logp else other for other in gather(own)])
    loss, parts = objective(seen, counts)
    (gradient,) = torch.autograd.grad(loss, logp)
    results, start = [], 0
    for number, table in enumerate(tables):
        rows, width = table.logp.shape
        share = loss.detach() if number == 0 else torch.zeros_like(loss)
        results.append(FirstPass(gradient[start : start + rows, :width].clone(), share))
        start += rows
    return results, parts


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

    columns: dict[str, Any] = {
        name: spread(getattr(own, name))
        for name in ("logp", "mask", "weight", "example", "candidate", "media", "score")
    }
    reference = None if own.ref_logp is None else spread(own.ref_logp)
    statistics = {name: spread(values) for name, values in own.statistics.items()}
    tables = []
    for rank in range(len(shapes)):
        if rank == accelerator.process_index:
            tables.append(own)
            continue
        tables.append(
            replace(
                own,
                **{name: values[rank] for name, values in columns.items()},
                ref_logp=None if reference is None else reference[rank],
                statistics={name: values[rank] for name, values in statistics.items()},
            )
        )
    return tables
