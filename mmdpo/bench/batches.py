"""The largest batch that fits: by doubling, then by halving the gap, each try in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from mmdpo.bench.arms import Arm
from mmdpo.bench.machine import machine
from mmdpo.bench.plans import Plan, arms_of, check
from mmdpo.bench.processes import OutOfMemory, workers
from mmdpo.errors import ConfigError

LIMIT = 1024
"""Where the search stops."""


def largest_batches(plan: Plan, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The largest batch of every side of a plan's comparisons.

    Raises:
        ConfigError: There is no GPU: a CPU's memory has no end that a process is told of.
    """
    check(plan)
    if plan.device != "cuda":
        raise ConfigError(
            f"the largest batch that fits is asked for on device {plan.device}",
            why="Memory of a CPU ends with the process, or with the machine, and not with an error that can be caught.",
            fix="Use a machine with a GPU.",
        )
    found = []
    for shape in plan.shapes:
        for candidates in plan.candidates:
            for answer in plan.answers:
                arms = arms_of(plan, shape, candidates, answer)
                sides = {arm.name: largest(partial(fits, arm), LIMIT) for arm in arms}
                title = f"{shape}: K = {candidates}, answers of {answer} tokens"
                say(f"{title}: {sides}")
                found.append({"title": title, "limit": LIMIT, "sides": sides})
    return {"kind": "largest batch", "machine": machine(plan.device), "batches": found}


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest size up to a limit that fits, 0 where not even 1 does.

    Args:
        fits: Whether a size does; if one does, so do all smaller ones.
        limit: Where to stop.
    """
    known, fails = 0, limit + 1
    while fails - known > 1:
        size = min(max(1, 2 * known), limit) if fails > limit else (known + fails) // 2
        if fits(size):
            known = size
        else:
            fails = size
    return known


def fits(arm: Arm, batch: int) -> bool:
    """Whether a side runs two steps with so many records: the second has the optimizer's state beside it."""
    try:
        with workers([replace(arm, batch=batch)]) as (worker,):
            worker.step()
            worker.step()
    except OutOfMemory:
        return False
    return True
