"""What ``mmdpo bench train`` is asked to measure, and the sides that it then compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmdpo.bench.arms import Arm, require_trl
from mmdpo.bench.flops import REFERENCES, Reference
from mmdpo.bench.machine import checked_device
from mmdpo.bench.models import build_model, build_processor
from mmdpo.bench.shapes import SHAPES, Shape, get_shape
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
    """Refuses what cannot be measured here, before anything is built.

    Raises:
        ConfigError: Naming the option.
    """
    check_sizes(plan.shapes, plan.answers, plan.candidates)
    for option, value in (("--batch", plan.batch), ("--repeats", plan.repeats)):
        if value < 1:
            raise ConfigError(
                f"{option} {value} is too small",
                why="A step needs a record, a median a repeat.",
                fix="Use 1 or more.",
            )
    if not 0 <= plan.seed < 2**32:
        raise ConfigError(
            f"--seed {plan.seed} is no seed",
            why="The generators of random numbers take 32 bits.",
            fix="Use 0 or more, less than 4294967296.",
        )
    checked_device(plan.device)
    for name in plan.shapes:
        _check_shape(name, plan)
    if plan.trl and 2 in plan.candidates:
        require_trl()


def check_sizes(shapes: Sequence[str], answers: Sequence[int], candidates: Sequence[int]) -> None:
    """Refuses shapes that there are not, and lengths and numbers of answers that no step can have.

    Raises:
        ConfigError: Naming the option.
    """
    for option, values in (("--k", candidates), ("--answers", answers)):
        if min(values, default=0) < 2:
            raise ConfigError(
                f"{option} {min(values, default=0)} is too small",
                why="A preference needs two answers, an answer a token and its end.",
                fix="Use 2 or more.",
            )
    for name in shapes:
        check_length(name, get_shape(name), max(answers))


def check_length(name: str, shape: Shape, answer: int) -> None:
    """Refuses answers that end beyond the model's last position.

    Raises:
        ConfigError: Naming the longest that there is room for.
    """
    positions = shape.text["max_position_embeddings"]
    if shape.prefix + answer > positions:
        raise ConfigError(
            f"--answers {answer} is too long for {name}",
            why=f"Its prompt has {shape.prefix} tokens, and the model {positions:,} positions.",
            fix=f"Use {positions - shape.prefix:,} or less.",
        )


def _check_shape(name: str, plan: Plan) -> None:
    """Refuses a model that is too large for a CPU, or does not have the attention kernel; allocates nothing."""
    shape = get_shape(name)
    if plan.device == "cpu" and shape.device != "cpu":
        small = ", ".join(known for known, one in SHAPES.items() if one.device == "cpu")
        raise ConfigError(
            f"--shape {name} is for a GPU, and the device is cpu",
            why="Each side has a copy of its own, of four bytes a weight, and a step takes hours.",
            fix=f"Use a machine with a GPU, or one of {small}.",
        )
    try:
        build_model(shape, build_processor(shape).tokenizer, device="meta", attention=plan.attention)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"--attention {plan.attention!r} does not go with {name} here",
            why=str(error).strip().splitlines()[0],
            fix="Use sdpa or eager.",
        ) from error


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
    return tuple(dict.fromkeys(found))
