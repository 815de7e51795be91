"""Which records make a step's numbers infinite or undefined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mmdpo.objectives import Objective
from mmdpo.views import ScoreTable

SHOWN = 8
"""Record ids that a message names."""


@dataclass(frozen=True)
class Scored:
    """What was scored of one micro-batch, without its graph.

    Args:
        places: [N] place in the data set of the record that each row belongs to.
        table: [N] rows.
    """

    places: Tensor
    table: ScoreTable

    @classmethod
    def of(cls, index: Tensor, table: ScoreTable) -> Scored:
        """Keeps a table.

        Args:
            index: [E] place of each record of the batch in the data set.
            table: Its table.
        """
        statistics = {name: values.detach() for name, values in table.statistics.items()}
        table = replace(table, logp=table.logp.detach(), statistics=statistics)
        return cls(index.to(table.example.device)[table.example], table)


Found = Literal["scores", "loss", "nothing"]


@dataclass(frozen=True)
class Culprits:
    """The records behind a number that is not finite.

    Args:
        places: Their places in the data set; all of the step where it is not known which.
        by: By what they were found: their own log-probabilities, their own loss or its derivative, or nothing.
        everything: Whether they are all records of the step.
    """

    places: tuple[int, ...]
    by: Found
    everything: bool


def culprits(objective: Objective, step: Sequence[Scored], progress: float) -> Culprits:
    """The records of a step whose own numbers are not finite.

    Args:
        objective: The objective.
        step: What was scored of each micro-batch.
        progress: Share of the run that is done, for scheduled weights.
    """
    everyone = {place for part in step for place in part.places.tolist()}
    found, by = {place for part in step for place in _badly_scored(part)}, "scores"
    if not found and not objective.coupled:  # a coupled loss of one record alone says nothing of it
        found, by = {place for part in step for place in _badly_valued(objective, part, progress)}, "loss"
    if not found:
        return Culprits(tuple(sorted(everyone)), "nothing", True)
    return Culprits(tuple(sorted(found)), "scores" if by == "scores" else "loss", found == everyone)


def _badly_scored(part: Scored) -> Iterator[int]:
    table = part.table
    numbers = [table.logp, *table.statistics.values(), *table.ref_statistics.values()]
    numbers += [] if table.ref_logp is None else [table.ref_logp]
    wrong = torch.stack([~values.isfinite() & table.mask for values in numbers]).any(0).any(-1)
    yield from part.places[wrong].tolist()


def _badly_valued(objective: Objective, part: Scored, progress: float) -> Iterator[int]:
    for place in part.places.unique().tolist():
        own = part.table.select(part.places == place)
        logp = own.logp.detach().requires_grad_(True)
        own = replace(own, logp=logp)
        with torch.enable_grad():
            loss, _ = objective(own, objective.counts(own), progress)
            (gradient,) = torch.autograd.grad(loss, logp)
        if not (loss.isfinite() and gradient.isfinite().all()):
            yield place


def told(found: Culprits, ids: Sequence[str]) -> tuple[str, str]:
    """What is said of some records, and what to do.

    Args:
        found: How they were found.
        ids: Their ids.
    """
    if not ids:
        return "", GENERAL
    names = ", ".join(repr(name) for name in ids[:SHOWN])
    names += f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    records = f"record {names}" if len(ids) == 1 else f"records {names}"
    if found.by == "nothing":
        return f"; the step had {records}, whose log-probabilities and losses are finite", GENERAL
    what = "log-probabilities" if found.by == "scores" else "a loss or a derivative"
    words = f"; {what} of {records} {'are' if found.by == 'scores' else 'is'} not finite"
    if found.everything and len(ids) > 1:
        return f"{words}, which is all of the step", GENERAL
    if found.by == "scores":
        fix = f"Look at {'it' if len(ids) == 1 else 'them'} (mmdpo show DATA), its media above all. If all is as it "
        return words, fix + "should be, start a new run with a wider precision (model.dtype), or without it."
    return words, f"Look at its scores, and at how far its answers are from the reference. {GENERAL}"


GENERAL = (
    "Start a new run with a lower train.learning_rate, or without float16, and look at the loss and the records that "
    "it reads; --resume refuses other settings."
)
