"""What the run folder hears of the training."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather
from transformers import ProgressCallback, TrainerCallback, TrainingArguments

from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError
from mmdpo.jsonfiles import read_json, read_json_lines
from mmdpo.run import LOG_FILE, RunLog
from mmdpo.training.advice import Adviser

logger = logging.getLogger(__name__)
ECHO_SECONDS = 1.0
"""A launcher may pass on a Ctrl-C that the terminal has sent to all processes: what comes this soon is the same one."""


class SilentRun:
    """The run folder as all processes but the main one have it: they read it, and write nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        manifest = path / "manifest.json"
        self.manifest: dict[str, Any] = read_json(manifest) if manifest.is_file() else {}

    @property
    def checkpoints(self) -> Path:
        """The folder of the trainer's checkpoints, which the main process makes."""
        return self.path / "checkpoints"

    def log(self, event: Mapping[str, Any]) -> None:
        """Writes nothing."""

    def decide(self, name: str, value: Any, reason: str) -> None:
        """Writes nothing."""

    def note(self, **facts: Any) -> None:
        """Writes nothing."""


class Bar(ProgressCallback):
    """Trainer's progress bar with the margin beside it, and nothing printed: the run folder has the numbers.

    Attributes:
        shown: What is shown -> by which name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown = {"loss": "loss", "rewards/margins": "margin", "eval_rewards/accuracies": "held-out accuracy"}
        self._newest: dict[str, str] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Shows the newest values at the end of the bar."""
        bar = getattr(self, "training_bar", None)
        values = {self.shown[name]: f"{value:.3f}" for name, value in (logs or {}).items() if name in self.shown}
        self._newest |= values
        if bar is not None and values:
            bar.set_postfix(self._newest)


class FreshVariants(TrainerCallback):
    """Tells the encoder the epoch, so that media variants are drawn anew in each.

    Args:
        encoder: The encoder of the training batches.
        args: The training arguments.

    Raises:
        ConfigError: Workers that live on over epochs have encoders of their own.
    """

    def __init__(self, encoder: Encoder, args: TrainingArguments) -> None:
        if args.dataloader_persistent_workers:
            raise ConfigError(
                "data.variants is fresh, and train.dataloader_persistent_workers is on",
                why="Such workers keep the encoder of the first epoch, and would draw the same variants in each.",
                fix="Remove train.dataloader_persistent_workers, or use data.variants: fixed.",
            )
        self.encoder = encoder

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the epoch's batches are made."""
        self.encoder.epoch = int(state.epoch or 0)


class RunCallback(TrainerCallback):
    """Writes ``log.jsonl``; as a context manager, turns Ctrl-C and SIGTERM into a checkpoint at the end of the step.

    A step that hangs never ends: a second signal does what it would do without us.

    It also warns of numbers in their danger zone, of each rule once a run; the manifest keeps under ``advice`` what was
    said, with the last step at which it was so.

    Attributes:
        signal: The signal that this process has caught.
        stopping: Whether all processes are stopping because one of them has caught one.
    """

    def __init__(self, run: RunLog) -> None:
        self.run = run
        self._adviser = Adviser()
        self._advice: dict[str, dict[str, Any]] = {}
        self.signal: int | None = None
        self.stopping = False
        self._caught_at = 0.0
        self._process = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> RunCallback:
        """Takes over the signals; outside of the main thread there are none."""
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._before = {n: signal.signal(n, self._caught) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reads from the manifest which betas are configured; on a resume, also what was said and logged before it."""
        self._adviser = Adviser(_betas(self.run.manifest.get("objective", {})))
        if state.global_step > 0 and state.is_world_process_zero:
            self._advice = {entry["rule"]: entry for entry in self.run.manifest.get("advice", ())}
            for event in read_json_lines(self.run.path / LOG_FILE).rows:
                self._adviser.hear({name: float(value) for name, value in event.items() if value is not None})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps the newest values of what was said; an empty list where nothing was."""
        self.run.note(advice=list(self._advice.values()))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Saves and stops after a signal, all processes at the same step, whichever of them heard it first."""
        heard = self.signal or 0  # read once: another may come to one process alone, and waits for the next step
        if args.world_size > 1:
            heard = int(gather(torch.tensor([heard], device=args.device)).max())
        if heard:
            self.signal = heard
            self.stopping = control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """One line a log event, and a warning where a number is in its danger zone for the first time."""
        if state.is_world_process_zero:
            self.run.log({"step": state.global_step, **(logs or {})})
            self._advise(logs or {}, state.global_step)

    def _advise(self, logs: Mapping[str, Any], step: int) -> None:
        found = self._adviser.hear(logs)
        new = [one for one in found if one.rule not in self._advice]
        self._advice |= {one.rule: {**asdict(one), "step": step} for one in found}
        for one in new:
            logger.warning("step %d: %s", step, one)
        if new:
            self.run.note(advice=list(self._advice.values()))

    def _caught(self, number: int, frame: Any) -> None:
        del frame
        if os.getpid() != self._process:
            return  # a worker that loads records: this process still needs it, and ends it
        if self.signal is None:
            logger.warning("stopping at the end of this step; the checkpoint will be kept; once more stops at once")
            self.signal, self._caught_at = number, time.monotonic()
        elif time.monotonic() - self._caught_at > ECHO_SECONDS:
            self.__exit__()
            signal.raise_signal(number)


def _betas(objective: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """The betas of an objective as the manifest describes it."""
    return [float(term["beta"]) for term in objective.values() if isinstance(term.get("beta"), int | float)]
