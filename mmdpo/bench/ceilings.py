"""``mmdpo bench ceilings``: how many times faster a step can be, from token counts alone. Nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdpo.bench.data import Sizes
from mmdpo.bench.flops import REFERENCES, Layout, Step, ceiling, needed_flops, shape_weights
from mmdpo.bench.plans import check_sizes
from mmdpo.bench.shapes import get_shape


def run(
    shapes: Sequence[str], answers: Sequence[int], candidates: Sequence[int], checkpointing: bool | None = None
) -> dict[str, Any]:
    """The ceilings of several shapes.

    Args:
        shapes: Their names.
        answers: Lengths of answers.
        candidates: Answers to a record: 2 against TRL, more against our own plain rows.
        checkpointing: None for what a shape says.

    Returns:
        ``ceilings``: for each, ``shape``, ``answer``, ``candidates``, ``against``, ``checkpointing``, ``parameters``
        (of linear layers that an image and a token meet), ``prefix``, ``needed_flops`` of one record with its reference
        computed, and the ceiling with the reference ``fresh``, ``cached``, and looked up with the images' ``features``.

    Raises:
        ConfigError: A shape is unknown, or a length or number of answers is none that a step can have.
    """
    check_sizes(shapes, answers, candidates)
    found = []
    for name in shapes:
        shape, weights = get_shape(name), shape_weights(name)
        for count in candidates:
            against: Layout = "trl" if count == 2 else "plain"
            for answer in answers:
                step = Step(
                    shape, Sizes(1, count, answer), shape.checkpointing if checkpointing is None else checkpointing
                )
                found.append(
                    {
                        "shape": name,
                        "answer": answer,
                        "candidates": count,
                        "against": against,
                        "checkpointing": step.checkpointing,
                        "parameters": weights.layers + weights.head + weights.tower,
                        "prefix": shape.prefix,
                        "needed_flops": needed_flops(weights, step, "fresh"),
                        **{str(kind): ceiling(weights, step, "shared", kind, against) for kind in REFERENCES},
                    }
                )
    return {"kind": "ceilings", "ceilings": found}
