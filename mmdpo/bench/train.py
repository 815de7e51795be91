"""``mmdpo bench train``: one optimizer step of our trainer beside one of TRL's, by turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mmdpo.bench.arms import Arm
from mmdpo.bench.flops import Step, Weights, ceiling, computed_flops, needed_flops, shape_weights
from mmdpo.bench.machine import machine
from mmdpo.bench.meters import matrix_rate
from mmdpo.bench.plans import Plan, arms_of, check
from mmdpo.bench.processes import workers
from mmdpo.bench.shapes import get_shape
from mmdpo.errors import ParityError
from mmdpo.progress import Progress

Say = Callable[[str], None]
SAME_GRADIENT = {"cpu": 1e-3, "cuda": 5e-2}
"""Relative difference of the first gradient norms by which two sides still compute the same (bfloat16 on a GPU)."""


def run(plan: Plan, progress: Progress = iter, say: Say = lambda line: None) -> dict[str, Any]:
    """Measures every combination of a plan.

    Args:
        plan: What to measure.
        progress: Wraps long loops for a progress bar.
        say: Hears what goes on.

    Returns:
        ``machine`` and ``comparisons``, as :func:`compare` gives them.

    Raises:
        ConfigError: A shape is unknown, a device is absent, or TRL is not installed.
    """
    check(plan)
    found = []
    for shape in plan.shapes:
        for candidates in plan.candidates:
            for answer in plan.answers:
                arms = arms_of(plan, shape, candidates, answer)
                say(f"{shape}, K = {candidates}, answers of {answer}: {', '.join(arm.name for arm in arms)}")
                found.append(compare(arms, plan.repeats, progress))
    return {"kind": "train", "machine": machine(plan.device), "comparisons": found}


def compare(arms: Sequence[Arm], repeats: int, progress: Progress = iter) -> dict[str, Any]:
    """Runs the sides by turns.

    Returns:
        The comparison: what is the same for all sides, and ``sides`` with, for each, ``seconds`` (median, least, most,
        all), ``pairs_per_second`` (records), ``answer_tokens_per_second``, ``peak_bytes`` beyond weights and the
        optimizer's state, ``encoder_passes`` of an image, ``flops``, ``flops_share`` of the measured matrix products,
        and what it gains on the last side: ``ratio`` (median of the turns' ratios, with least and most),
        ``ceiling``, ``reached`` and ``memory_share``.

    Raises:
        ParityError: The sides' first gradients differ.
    """
    dtype = torch.bfloat16 if arms[0].device == "cuda" else torch.float32
    rates: list[float] = []
    taken = by_turns(arms, repeats, progress, lambda: rates.append(matrix_rate(arms[0].device, dtype)))
    turns, memory, ready, rate = taken.turns, taken.memory, taken.ready, max(rates)
    base = arms[-1]
    step = Step(get_shape(base.shape), base.sizes, base.checkpointing)
    weights = shape_weights(base.shape)
    sides = {}
    for arm in arms:
        seconds = [turn[arm.name] for turn in turns]
        against = [turn[base.name] / turn[arm.name] for turn in turns]
        told = {"measured": memory[arm.name], "ready": ready[arm.name], "base": memory[base.name]}
        sides[arm.name] = _side(arm, step, weights, seconds, rate, **told) | _gain(arm, base, step, weights, against)
    common = {key: value for key, value in asdict(base).items() if key not in ("kind", "reference")}
    same = {"answer_tokens": ready[base.name]["answer_tokens"], "threads": ready[base.name]["threads"]}
    return {**common, **same, "repeats": repeats, "matrix_flops": rate, "against": base.name, "sides": sides}


@dataclass(frozen=True)
class Taken:
    """What steps by turns took, by the names of the sides.

    Args:
        turns: Seconds, turn by turn.
        memory: What a step that measures memory said.
        ready: What each side said when it was built.
    """

    turns: list[dict[str, float]]
    memory: dict[str, dict[str, Any]]
    ready: dict[str, dict[str, Any]]


def by_turns(
    arms: Sequence[Arm], repeats: int, progress: Progress = iter, after: Callable[[], Any] = lambda: None
) -> Taken:
    """Runs one step of every side in each turn; another side begins each time.

    Args:
        arms: The sides; the last is what the others are compared with.
        repeats: Turns.
        progress: Wraps them for a progress bar.
        after: Called after each.

    Raises:
        ParityError: The sides' first gradients differ.
    """
    with workers(arms) as running:
        first = {worker.arm.name: worker.step() for worker in running}  # compiled, tuned and allocated once
        ready = {worker.arm.name: worker.ready for worker in running}
        check_same(arms, first, ready)
        turns = []
        for turn in progress(range(repeats)):
            order = [running[(turn + n) % len(running)] for n in range(len(running))]
            turns.append({worker.arm.name: worker.step()["seconds"] for worker in order})
            after()
        memory = {worker.arm.name: worker.memory_step() for worker in running}
    return Taken(turns, memory, ready)


def _side(
    arm: Arm,
    step: Step,
    weights: Weights,
    seconds: Sequence[float],
    rate: float,
    *,
    measured: dict[str, Any],
    ready: dict[str, Any],
    base: dict[str, Any],
) -> dict[str, Any]:
    median = statistics.median(seconds)
    needed = needed_flops(weights, step, arm.reference)
    return {
        "seconds": {"median": median, "least": min(seconds), "most": max(seconds), "all": list(seconds)},
        "pairs_per_second": arm.batch / median,
        "answer_tokens_per_second": ready["answer_tokens"] / median,
        "collate_seconds": ready["collate_seconds"],
        "peak_bytes": measured["peak_bytes"],
        "memory_share": measured["peak_bytes"] / base["peak_bytes"],
        "at_rest_bytes": measured.get("at_rest_bytes"),
        "encoder_passes": measured["encoder_rows"] / (arm.batch * step.shape.tower_tokens),
        "flops": needed,
        "flops_computed": computed_flops(weights, step, arm.kind, arm.reference, arm.device),
        "flops_share": needed / median / rate,
        "settings": ready["settings"],
    }


def _gain(arm: Arm, base: Arm, step: Step, weights: Weights, against: Sequence[float]) -> dict[str, Any]:
    if arm == base:
        return {}
    most = ceiling(weights, step, arm.kind, arm.reference, base.kind, base.reference)
    operations = computed_flops(weights, step, base.kind, base.reference, arm.device) / computed_flops(
        weights, step, arm.kind, arm.reference, arm.device
    )
    ratio = statistics.median(against)
    return {
        "ratio": {"median": ratio, "least": min(against), "most": max(against)},
        "ceiling": most,
        "reached": ratio / most,
        "ceiling_operations": operations,
    }


def check_same(arms: Sequence[Arm], first: dict[str, Any], ready: dict[str, Any]) -> None:
    """Refuses to compare sides that compute something else.

    Args:
        arms: The sides.
        first: What their first steps said.
        ready: What each side said when it was built.

    Raises:
        ParityError: Naming the sides and their gradient norms or numbers of tokens.
    """
    base = arms[-1].name
    for arm in arms[:-1]:
        ours, theirs = first[arm.name]["gradient_norm"], first[base]["gradient_norm"]
        tokens = (ready[arm.name]["answer_tokens"], ready[base]["answer_tokens"])
        if not math.isclose(ours, theirs, rel_tol=SAME_GRADIENT[arm.device]) or tokens[0] != tokens[1]:
            raise ParityError(
                f"{arm.name} and {base} compute different things: gradient norms {ours:.6g} and {theirs:.6g} "
                f"in the first step, {tokens[0]} and {tokens[1]} scored tokens",
                why="A ratio of their times would say nothing.",
                fix="Report the shape and the versions that mmdpo env prints.",
            )
