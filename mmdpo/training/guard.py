"""Ends a run that cannot become anything, before a step makes its weights useless."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping

from mmdpo.errors import ModelError

logger = logging.getLogger(__name__)
PATIENCE = 10
"""Optimizer steps without any gradient, from the first on, after which a run ends."""

Values = Mapping[str, float]


class Guard:
    """Ends a run that cannot become anything: numbers that are not finite, or a loss that has no gradient.

    A step may have none by its records, of text alone where a projector trains: the first such step is warned of.

    Attributes:
        without_gradient: Steps without any gradient from the first on; None once there was one that had some.
    """

    def __init__(self) -> None:
        self.without_gradient: int | None = 0

    def hear(
        self,
        parts: Values,
        weights: Values,
        gradient: float,
        step: int,
        steps: int,
        who: Callable[[], tuple[str, str]] = lambda: ("", ""),
    ) -> None:
        """Looks at one optimizer step before the weights change.

        Args:
            parts: Each term's value before its weight, over all processes.
            weights: Factor of each at this step.
            gradient: Norm of the gradient, over all processes.
            step: Steps done before this one.
            steps: Steps of the run.
            who: Says which records it was, where a number is not finite, and what to do; called in that case alone.

        Raises:
            ModelError: A term or the gradient is not finite; or :data:`PATIENCE` steps from the first on, or all steps
                of the run, had no gradient.
        """
        wrong = [f"loss/{name} is {value}" for name, value in parts.items() if not math.isfinite(value)]
        if wrong or not math.isfinite(gradient):
            records, fix = who()
            raise ModelError(
                f"step {step + 1}: {', '.join(wrong) or f'the gradient norm is {gradient}'}{records}",
                why="The step would make the weights useless. It was not taken, and no trained model is saved.",
                fix=fix,
            )
        # a loss of 0 has nothing left to change; one whose weights are 0 by their schedules has not begun
        counts = any(weights[name] != 0 and value != 0 for name, value in parts.items())
        if gradient > 0:
            self.without_gradient = None
        if self.without_gradient is None or not counts:
            return
        self.without_gradient += 1
        told = ", ".join(f"loss/{name} is {value:.4g}" for name, value in parts.items())
        what = f"step {step + 1}: {told}, and the gradient is exactly 0, as in every step before"
        if self.without_gradient >= PATIENCE or self.without_gradient == step + 1 == steps:
            raise ModelError(
                what,
                why="The loss does not depend on the weights that train: nothing would be learnt. Nothing is saved.",
                fix="Look at the factors of the loss, and whether model.trainable names a part that it reads.",
            )
        if self.without_gradient == 1:
            logger.warning("%s. Nothing is learnt; the run ends if that goes on for %d steps", what, PATIENCE)
