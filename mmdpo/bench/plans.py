"""What ``mmdpo bench train`` is asked to measure, and the sides that it then compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmdpo.bench.arms import Arm, require_trl
from mmdpo.bench.flops import REFERENCES, Reference
from mmdpo.bench.machine import checked_device
from mmdpo.bench.shapes import get_shape
from mmdpo.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        shapes: Names of models.
        answers: Lengths of answers.
        candidates: Answers to a record.
        references: How our side gets its reference.
        batch: Records in a step.
        repeats: Timed steps of each side.
        device: ``"cpu"`` or ``"cuda"``.
        checkpointing: None for what the shape says.
        attention: ``transformers``' name of the attention kernel.
        trl: Whether TRL is measured.
        seed: Of weights and data.
    """

    shapes: Sequence[str] = ("small-2k", "small-32k")
    answers: Sequence[int] = (90,)
    candidates: Sequence[int] = (2, 8)
    references: Sequence[Reference] = ("fresh", "cached")
    batch: int = 1
    repeats: int = 3
    device: str = "cpu"
    checkpointing: bool | None = None
    attention: str = "sdpa"
    trl: bool = True
    seed: int = 0


def check(plan: Plan) -> None:
    """Refuses what cannot be measured here, before anything is built."""
    for name in plan.shapes:
        get_shape(name)
    checked_device(plan.device)
    if min(plan.candidates, default=0) < 2 or min(plan.answers, default=0) < 2 or plan.repeats < 1 or plan.batch < 1:
        raise ConfigError(
            f"K {list(plan.candidates)}, answers {list(plan.answers)}, batch {plan.batch} or repeats {plan.repeats} "
            "is too small",
            why="A preference needs two answers, an answer a token and its end, a median a repeat.",
            fix="Use K and answers of 2 or more, batch and repeats of 1 or more.",
        )
    if plan.trl and 2 in plan.candidates:
        require_trl()


def arms_of(plan: Plan, shape: str, candidates: int, answer: int) -> list[Arm]:
    """The sides of one comparison; the last is what the others are compared with."""
    default = get_shape(shape).checkpointing
    common = Arm(
        "shared",
        shape,
        batch=plan.batch,
        candidates=candidates,
        answer=answer,
        checkpointing=default if plan.checkpointing is None else plan.checkpointing,
        device=plan.device,
        attention=plan.attention,
        seed=plan.seed,
    )
    ours = [replace(common, reference=reference) for reference in plan.references]
    if candidates > 2:
        return [*ours, replace(common, kind="plain")]
    return [*ours, replace(common, kind="trl")] if plan.trl else ours[::-1]


def references(names: Sequence[str]) -> tuple[Reference, ...]:
    """References by their names.

    Raises:
        ConfigError: There is none of that name.
    """
    found = []
    for name in names:
        if name not in REFERENCES:
            raise ConfigError(
                f"--reference {name!r} is no way to get a reference",
                why="It is computed in every step, or looked up.",
                fix=did_you_mean(name, REFERENCES),
            )
        found.append(REFERENCES[REFERENCES.index(name)])
    return tuple(found)
