"""What the run folder hears of the training."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class SilentRun:
    """What the other processes of a run have in place of the run folder: they write nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.manifest: dict[str, Any] = {}

    def __enter__(self) -> SilentRun:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None


class RunCallback(TrainerCallback):
    """Writes ``log.jsonl``, and turns Ctrl-C and SIGTERM into a checkpoint at the end of the step."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes over the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._caught)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Saves and stops after a signal."""
        if self.signal is not None:
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """One line a log event."""
        if state.is_world_process_zero:
            self.run.log({"step": state.global_step, **(logs or {})})

    def _caught(self, number: int, frame: Any) -> None:
        del frame
        logger.warning("stopping at the end of this step; the checkpoint will be kept")
        self.signal = number
