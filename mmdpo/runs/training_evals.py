"""Benchmarks while training: small evaluations every so many steps, and stopping early by them.

An evaluation is a folder ``RUN/training_eval/STEP/BENCH`` with the answers, items and metrics that ``mmdpo eval`` would
write. Where a run stands is worked out from these folders alone, so a resumed run stands where the interrupted one did.
Training is the same with and without evaluations, to the last bit.
"""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from mmdpo.answering.answer_file import GENERATION_FILE, model_fingerprint
from mmdpo.answering.evaluation import answer_and_score
from mmdpo.config import RunConfig
from mmdpo.errors import DataError
from mmdpo.evals.base import Interval, Result
from mmdpo.evals.result import METRICS_FILE
from mmdpo.evals.runner import compare, make_benchmark
from mmdpo.jsonfiles import read_json
from mmdpo.progress import Progress
from mmdpo.run import RunLog
from mmdpo.runs.eval_settings import never_reached, sharded
from mmdpo.runs.resuming import EVALUATIONS
from mmdpo.runs.stopping import Standing, StopRule, Which, directions, standing, stop_rule, told
from mmdpo.shard import Shard
from mmdpo.trainer import PreferenceTrainer
from mmdpo.training.callbacks import Bar
from mmdpo.training.two_pass import Generators

logger = logging.getLogger(__name__)


class EvaluationStopped(KeyboardInterrupt):
    """A signal came in the middle of an evaluation; what is answered is kept."""


class TrainingEvals(TrainerCallback):
    """Evaluates before the first step, every so many steps and after the last one; stops as ``stop:`` says.

    Args:
        trainer: The trainer.
        config: The configuration; benchmarks without ``every`` are left to the end of the run.
        run: The run folder.
        interrupted: Whether all processes stop after this step: the checkpoint is then written without an evaluation,
            which is made when the run goes on.
        progress: Wraps long loops for a progress bar.
        heard: Whether this process has caught a signal. One process alone then stops in the middle of an evaluation,
            several finish it, because they wait for each other there.

    Raises:
        ConfigError: The weights are sharded.
    """

    def __init__(
        self,
        trainer: PreferenceTrainer,
        config: RunConfig,
        run: RunLog,
        interrupted: Callable[[], bool],
        progress: Progress = iter,
        heard: Callable[[], bool] = lambda: False,
    ) -> None:
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise sharded()
        self.trainer, self.config, self.run, self.interrupted = trainer, config, run, interrupted
        self.folder = run.path / EVALUATIONS
        self.sections = {name: section for name, section in config.eval.items() if section.every is not None}
        self.benchmarks = {name: make_benchmark(name, **section.options) for name, section in self.sections.items()}
        self.shard = Shard.of_this_process()
        self._progress = progress if self.shard.is_main else iter
        self._heard, self._stopped = heard, False
        self.before: dict[str, Result] = {}
        self.evaluations: dict[int, dict[Which, Interval]] = {}
        self.rule: StopRule | None = None
        self.standing: Standing | None = None
        # not by TrainingArguments, which would ask for a metric of the held-out records and save when those are scored
        trainer.args.load_best_model_at_end |= config.stop is not None

    # ---- events ----

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluates the model before training, or reads what was found up to the checkpoint.

        Raises:
            DataError: A metric of ``stop:`` is undefined before training; or the run goes on, and the evaluation from
                before training is not there.
        """
        for words in never_reached(self.config, state.max_steps):
            self._say(logging.WARNING, words)
        if state.global_step == 0:
            self._evaluate(0, list(self.sections))
        else:
            self._read_until(state.global_step)
        if self.config.stop is not None:
            known = {name: directions(self.benchmarks[name], found.items) for name, found in self.before.items()}
            self.rule = stop_rule(self.config.stop, known)
            self._show(self.rule.metric)
            self._judge(args, state, control)
        if state.global_step > 0:
            self._evaluate_due(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluates what is due; where a signal comes meanwhile, the checkpoint of this step is written first."""
        try:
            self._evaluate_due(args, state, control)
        except EvaluationStopped:
            self._stopped = control.should_save = control.should_training_stop = True

    def _evaluate_due(self, args: Any, state: Any, control: Any) -> None:
        step, last = state.global_step, state.global_step >= state.max_steps
        done = {which.benchmark for which in self.evaluations.get(step, ())}
        due = [
            n for n, section in self.sections.items() if n not in done and (last or step % (section.every or 1) == 0)
        ]
        if self.interrupted() or not due:
            return
        self._evaluate(step, due)
        if self.rule is not None and self.rule.metric.benchmark in due:
            self._judge(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Says which checkpoint is kept."""
        if self.rule is None or self.standing is None or self.interrupted() or self._stopped:
            return
        words = told(self.rule, self.standing)
        if state.best_model_checkpoint is None:
            self._say(
                logging.WARNING, f"no better checkpoint than the model before training: the last is kept. {words}"
            )
        self.run.decide("best_checkpoint", self.standing.best_step or None, words)

    # ---- evaluations ----

    def _evaluate(self, step: int, names: Sequence[str]) -> None:
        """Evaluates and logs; an evaluation that is there already, from before an interruption, is read."""
        logs: dict[str, float] = {}
        for name in names:
            result = self._result(step, name)
            if step == 0:
                self.before[name] = result
            self._keep(step, name, result)
            logs |= logged(name, result, None if step == 0 else self.before[name])
        wanted = self.trainer.control.should_log
        self.trainer.log(logs)
        self.trainer.control.should_log = wanted  # this was not the step's own line, which a log event calls off

    def _result(self, step: int, name: str) -> Result:
        folder, section = self._place(step, name), self.sections[name]
        model = self.trainer.model
        fresh = _answered_by(model, folder)  # by a process that was killed after this step
        if not fresh or not (folder / METRICS_FILE).is_file():
            if self.shard.is_main and folder.is_dir() and not fresh:
                shutil.rmtree(folder)
            with undisturbed(model), self.trainer.accelerator.autocast():
                self.trainer.loaded.inner.mmdpo_scoring.features.clear()
                answer_and_score(
                    model,
                    self.trainer.loaded.processor,
                    self.benchmarks[name],
                    section.while_training,
                    folder,
                    section.batch_size,
                    self._until_a_signal,
                    answer_by=section.answer_by,
                    shard=self.shard,
                )
        return Result.load(folder)

    def _keep(self, step: int, name: str, result: Result) -> None:
        measured = {Which(name, metric): value for metric, value in result.metrics.items()}
        self.evaluations[step] = self.evaluations.get(step, {}) | measured

    def _read_until(self, step: int) -> None:
        """Reads the evaluations up to a checkpoint; those after it belong to steps that are made again."""
        for name in self.sections:
            if not (self._place(0, name) / METRICS_FILE).is_file():
                raise DataError(
                    f"{str(self._place(0, name))!r} holds no evaluation",
                    why="Without that from before training it is not known what has become better or worse.",
                    fix="Restore the folder, or start a new run with another --out.",
                )
            self.before[name] = Result.load(self._place(0, name))
            for metrics in self.folder.glob(f"*/{name}/{METRICS_FILE}"):
                number = int(metrics.parents[1].name)
                if number <= step:
                    self._keep(number, name, Result.load(metrics.parent))

    def _place(self, step: int, name: str) -> Path:
        return self.folder / str(step) / name

    def _until_a_signal(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in self._progress(items):
            if self.shard.count == 1 and self._heard():
                raise EvaluationStopped
            yield item

    # ---- stopping ----

    def _judge(self, args: Any, state: Any, control: Any) -> None:
        """Tells Trainer which checkpoint is the best, so that it saves, keeps and loads it; stops when it is time."""
        assert self.rule is not None
        now = standing(self.rule, {n: found for n, found in self.evaluations.items() if self.rule.metric in found})
        best = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{now.best_step}"
        self.standing = now
        state.best_metric, state.best_global_step = now.best, now.best_step or None
        state.best_model_checkpoint = str(best) if best.is_dir() else None
        if now.best_step == state.global_step > 0:
            control.should_save = True
        elif now.best_step and not best.is_dir():
            self._say(logging.WARNING, f"the best checkpoint, {best}, is gone; {told(self.rule, now)}")
        if now.waited >= self.rule.patience and state.global_step < state.max_steps:
            control.should_training_stop = control.should_save = True
            why = f"{self.rule.metric.name} has not become better in {now.waited} evaluations"
            words = f"stopped at step {state.global_step} of {state.max_steps}: {why}. {told(self.rule, now)}"
            self._say(logging.WARNING, words)
            self.run.decide("stopped", state.global_step, words)

    def _show(self, metric: Which) -> None:
        """Lets the progress bar show the newest value."""
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, Bar):
                callback.shown[f"eval/{metric.name}"] = metric.name

    def _say(self, level: int, words: str) -> None:
        if self.shard.is_main:
            logger.log(level, "%s", words)


def _answered_by(model: Any, folder: Path) -> bool:
    """Whether the answers in a folder, all or some, are of a model with these weights."""
    told = folder / GENERATION_FILE
    return told.is_file() and read_json(told).get("model_fingerprint") == model_fingerprint(model)


def logged(name: str, result: Result, before: Result | None) -> dict[str, float]:
    """An evaluation as a log event: each metric with its interval, and with that of its change since step 0.

    Args:
        name: The benchmark.
        result: The evaluation.
        before: That of the model before training; None if it is this one.

    Returns:
        ``eval/NAME``, ``eval/NAME_low``, ``eval/NAME_high``, ``eval/NAME_change`` and so on, names as in
        ``comparison.json``; nothing of a metric that is undefined.
    """
    gaps = {} if before is None else compare(before, result)
    values: dict[str, float | None] = {}
    for metric, measured in result.metrics.items():
        if measured.n == 0:
            continue
        key = f"eval/{Which(name, metric).name}"
        values |= {key: measured.value, f"{key}_low": measured.low, f"{key}_high": measured.high}
        if before is not None and before.metrics[metric].n > 0:
            gap = gaps[metric]["difference"]
            values |= {f"{key}_change{end}": gap[of] for end, of in (("", "value"), ("_low", "low"), ("_high", "high"))}
    return {key: value for key, value in values.items() if value is not None}


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Leaves the modes of a model's modules, and all random generators, as they were."""
    modes = [(module, module.training) for module in model.modules()]
    torch_states, python_state, numpy_state = Generators.now(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        torch_states.restore()
        random.setstate(python_state)
        np.random.set_state(numpy_state)
