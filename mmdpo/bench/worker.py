"""The process of one side: builds its trainer, then runs one optimizer step each time that it is told to.

    python -m mmdpo.bench.worker        lines of JSON on stdin and stdout; everything that libraries print is on stderr

Each side has a process of its own, so that its peak of memory is its own, and steps of several sides can take turns.
The first line on stdin is an :class:`mmdpo.bench.arms.Arm`. Then ``"step"`` and ``"memory"`` run a step, and ``"stop"``
or the end of the input ends the process.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from mmdpo.bench.arms import Arm, build_side
from mmdpo.bench.meters import EncoderRows, GradientNorm, StepClock, StepMemory
from mmdpo.errors import MMDPOError
from mmdpo.training.out_of_memory import MemoryShortageError, is_shortage
from mmdpo.training.workers import carried


class Turns(TrainerCallback):
    """Runs the trainer step by step, by the lines of a pipe."""

    def __init__(self, lines: Any, answers: Any, device: str) -> None:
        self.lines, self.answers = lines, answers
        self.clock, self.memory = StepClock(device), StepMemory(device)
        self.rows: EncoderRows | None = None
        self.norm = GradientNorm()
        self.asked = ""

    def tell(self, **values: Any) -> None:
        """One line for the parent."""
        self.answers.write(json.dumps(values) + "\n")
        self.answers.flush()

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Waits for the first turn."""
        self._wait(control)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Keeps the first step's gradient norm, which shows that both sides compute the same."""
        self.norm.take(given["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Says what the step took, and waits for the next turn."""
        found: dict[str, Any] = {"seconds": self.clock.read()}
        if self.asked == "memory":
            found |= self.memory.read()
        if self.rows is not None:
            found["encoder_rows"] = self.rows.read()
        self.tell(**found, gradient_norm=self.norm.value)
        self._wait(control)

    def _wait(self, control: Any) -> None:
        self.asked = self.lines.readline().strip()
        if self.asked in ("", "stop"):
            control.should_training_stop = True
        if self.asked == "memory":
            self.memory.begin()
        self.clock.begin()


def failure(error: Exception) -> dict[str, Any]:
    """What the parent is told of an error: that memory ran out, or a foreseen failure; nothing of any other."""
    if isinstance(error, MemoryShortageError) or is_shortage(error):
        return {"out_of_memory": str(error).strip().split("\n")[0]}
    return {"error": carried(error)} if isinstance(error, MMDPOError) else {}


def main() -> None:
    """Runs one side until its input ends."""
    lines, answers = sys.stdin, os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    first = json.loads(lines.readline())
    arm = Arm(**first)
    turns = Turns(lines, answers, arm.device)
    with tempfile.TemporaryDirectory() as folder:
        try:
            side = build_side(arm, Path(folder), turns)
            turns.rows = EncoderRows(side.model)
            turns.tell(
                answer_tokens=side.answer_tokens,
                collate_seconds=side.collate_seconds(),
                settings=side.settings,
                threads=torch.get_num_threads(),
            )
            side.trainer.train()
        except Exception as error:
            told = failure(error)
            if not told:
                raise
            turns.tell(**told)


if __name__ == "__main__":
    main()
