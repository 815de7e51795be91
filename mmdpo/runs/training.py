"""From a configuration to a trained adapter in a run folder: what ``mmdpo train`` does, step by step."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import set_seed
from transformers import TrainingArguments

from mmdpo.config import RunConfig
from mmdpo.interrupts import GO_ON, Interrupted, telling_signals
from mmdpo.jsonfiles import write_json_lines
from mmdpo.objectives import Objective
from mmdpo.parity import LayoutDecision, choose_layout
from mmdpo.policy import LoadedModel
from mmdpo.progress import Progress
from mmdpo.reference import Reference, make_reference
from mmdpo.run import RunFolder, RunLog
from mmdpo.run_lock import at_work, exclusive
from mmdpo.runs.cached_reference import cache_reference, live_source, start_tolerance
from mmdpo.runs.data import Data, probe_records, read_sources, screened
from mmdpo.runs.feature_choice import RunFeatures, keep_features
from mmdpo.runs.model import load_policy, save_trained, write_composed
from mmdpo.runs.resuming import (
    SET_ASIDE,
    Begun,
    begun,
    check_same_data,
    check_same_records,
    is_trained,
    kept_of,
    last_checkpoint,
    mend,
    records_per_step,
    rewrite_config,
    set_evaluations_aside,
    set_final_evaluation_aside,
)
from mmdpo.runs.settings import check_config, scheduled, what_trains
from mmdpo.runs.training_evals import TrainingEvals
from mmdpo.trainer import PreferenceTrainer
from mmdpo.training.batch_search import TokenSearch, planned
from mmdpo.training.callbacks import RunCallback, SilentRun
from mmdpo.training.checkpoints import remove_unfinished
from mmdpo.training.screening import count_reasons
from mmdpo.training.sharding import load_whole
from mmdpo.training.workers import workers_reason

logger = logging.getLogger(__name__)


def train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    folder: Path = Path(),
    command: Sequence[str] = tuple(sys.argv),
    progress: Progress = iter,
) -> Path:
    """Trains and leaves a run folder.

    Args:
        config: The configuration.
        out: The run folder; must be new unless ``resume``.
        resume: Go on from the last checkpoint in it.
        folder: Folder that relative plugin paths start from.
        command: What was typed, for the manifest.
        progress: Wraps long loops for a progress bar.

    Returns:
        The run folder.

    Raises:
        MMDPOError: Something foreseen went wrong; the manifest says what.
    """
    objective, arguments = check_config(config, folder, out)
    if resume:
        mend(out)
    done = resume and is_trained(out, config)
    found = begun(out, config, arguments) if resume and not done else None
    PartialState().wait_for_everyone()  # all have read the run folder before the main process changes it
    if done:
        logger.info("%s is trained already", out)
        return out

    def prepare() -> Ready:
        write_composed(config, out)
        return prepare_run(config, objective, arguments, progress, out, found)

    well = telling_signals("training or preparing it", f"What is done is kept in {out}: checkpoints and answers.")
    with well, _run_folder(config, out, resume, found, command, prepare) as (run, ready):
        _train(config, ready, run, found, progress)
    return out


def _train(config: RunConfig, ready: Ready, run: RunLog, found: Begun | None, progress: Progress) -> None:
    """From the first step, or from the checkpoint of a run that goes on, to the saved model."""
    callback = RunCallback(run)
    trainer = _built(config, ready, run, callback, progress)
    began_with = run.manifest.get("reference_start") if found is not None else None
    with trainer.telling_memory(ready.data.train):
        start = trainer.check_start(began_with, start_tolerance(trainer))
    if start is not None and found is None:
        run.note(reference_start=start.reference, start_difference=start.difference)
    if any(section.every is not None for section in config.eval.values()):
        evaluations = TrainingEvals(
            trainer,
            config,
            run,
            interrupted=lambda: callback.stopping,
            progress=progress,
            heard=lambda: callback.signal is not None,
        )
        trainer.add_callback(evaluations)
    with callback:
        trainer.train(resume_from_checkpoint=found and found.checkpoint)
    run.note(waiting=trainer.waiting())
    step = trainer.state.global_step
    if callback.signal is not None:
        raise Interrupted(
            f"stopped by {signal.Signals(callback.signal).name} at step {step}",
            why=f"The checkpoint is in {run.checkpoints}.",
            fix=GO_ON,
        )
    saved_before = run.manifest.get("saved_step") == step and found is not None and found.step == step
    if PartialState().is_main_process and not saved_before:
        set_final_evaluation_aside(run.path)
    save_trained(trainer, ready.loaded, run.path)
    run.note(saved_step=step)


@dataclass(frozen=True)
class Ready:
    """A run before its first step.

    Args:
        objective: The objective.
        arguments: The training arguments, finished.
        loaded: The model with its adapters.
        data: The screened records.
        layout: How answers are laid out, and why.
    """

    objective: Objective
    arguments: TrainingArguments
    loaded: LoadedModel
    data: Data
    layout: LayoutDecision


def prepare_run(
    config: RunConfig,
    objective: Objective,
    arguments: TrainingArguments,
    progress: Progress = iter,
    run: Path | None = None,
    found: Begun | None = None,
) -> Ready:
    """Loads the model, screens the records and tries the layout: what ``mmdpo check`` and ``mmdpo train`` share.

    Raises:
        DataError: A run that goes on (``found``, in the folder ``run``) began with other records.
    """
    set_seed(config.seed)
    sources = read_sources(config, objective)  # before the model: what is wrong with the data is told at once
    if found is not None:
        check_same_data(found.manifest, sources.fingerprint)
    load_whole()
    loaded = load_policy(config, arguments.device, run)
    data = screened(sources, config, loaded, objective, progress)
    if found is not None and run is not None:
        check_same_records(found, run, data)
    layout = choose_layout(loaded.inner, data.encoder, probe_records(data), objective.views, config.layout)
    return Ready(objective, scheduled(arguments, config, objective, data), loaded, data, layout)


def _built(
    config: RunConfig, ready: Ready, run: RunLog, callback: RunCallback, progress: Progress
) -> PreferenceTrainer:
    """The trainer with its caches, and what the run folder keeps of all that was decided."""
    data = ready.data
    features = RunFeatures(config, ready.objective, ready.arguments, ready.loaded, data, ready.layout.layout)
    run.decide("features", *keep_features(features))
    trainer = _trainer(config, ready, run, callback)
    if data.validation:
        run.decide("blind", *trainer.blind)
    _note(run, run.path, ready)
    if config.reference.kind == "cached" and trainer.reference is not None:
        folder = config.reference.folder(config.data.path)
        with trainer.telling_memory(data.train):
            worst = cache_reference(trainer, folder, progress)
        run.decide("reference", "cached", f"in {folder}; computed again, {worst:.2g} nats a token off")
    return trainer


def _trainer(config: RunConfig, ready: Ready, run: RunLog, callback: RunCallback) -> PreferenceTrainer:
    """Decides the reference, keeps all decisions in the manifest, and builds the trainer."""
    objective, arguments, loaded, data = ready.objective, ready.arguments, ready.loaded, ready.data
    run.decide("layout", ready.layout.layout, ready.layout.reason)
    run.decide("trains", *what_trains(config))
    workers = arguments.dataloader_num_workers
    run.decide("workers", workers, workers_reason(workers, "dataloader_num_workers" in config.train))
    if arguments.load_best_model_at_end:
        direction = "largest" if arguments.greater_is_better else "smallest"
        run.decide("best_checkpoint", arguments.metric_for_best_model, f"the {direction} value is kept")
    reference = _reference(config, loaded) if objective.needs_reference else None
    if reference is not None:
        run.decide("reference", reference.kind, "the live weights before training")
    trainer = PreferenceTrainer(
        loaded,
        objective,
        reference,
        data.encoder,
        data.train,
        args=arguments,
        validation_records=data.validation,
        validation_groups=data.groups,
        layout=ready.layout.layout,
        two_pass=config.two_pass,
        branches_per_row=config.branches_per_row,
        records_per_row=config.records_per_row,
        rows_per_chunk=config.rows_per_chunk,
        batches=planned(config.batches, data.screening.packed),
        callbacks=[callback],
    )
    if config.batches.max_tokens == "auto":
        trainer.add_callback(TokenSearch(trainer, data.screening.packed, partial(run.decide, "max_tokens")))
    return trainer


def _reference(config: RunConfig, loaded: LoadedModel) -> Reference:
    if config.reference.kind == "cached":
        return live_source(loaded)
    return make_reference(loaded, config.reference.kind)


def _note(run: RunLog, out: Path, ready: Ready) -> None:
    """Keeps in the run folder what is trained on what."""
    data = ready.data
    run.note(
        data_fingerprint=data.fingerprint,
        records_per_step=records_per_step(ready.arguments),
        objective=ready.objective.describe(),
        trained=ready.loaded.decisions,
        counts={"train": len(data.train), "validation": len(data.validation)},
        kept=kept_of(data),
        terms=dict(data.screening.terms),
        set_aside=count_reasons(data.set_aside),
        tokenised=dict(data.screening.ways),
        lengths=dict(data.screening.measured),
    )
    if PartialState().is_main_process:
        write_json_lines(out / SET_ASIDE, [asdict(entry) for entry in data.set_aside])


@contextmanager
def _run_folder(
    config: RunConfig,
    out: Path,
    resume: bool,
    found: Begun | None,
    command: Sequence[str],
    prepare: Callable[[], Ready],
) -> Iterator[tuple[RunLog, Ready]]:
    """The run folder, and what is trained in it.

    Nothing in it changes before a resume is known to be of the same run with the same records, and alone with it.
    """
    if not PartialState().is_main_process:
        yield SilentRun(out), prepare()
        return
    created = None if resume else RunFolder.create(out, config=config.model_dump(mode="json"), command=command)
    with exclusive(out):
        if created is None and last_checkpoint(out) != (found and found.checkpoint):
            raise at_work(out)  # of a process that was at work until this one had the folder alone
        ready = None if found is None else prepare()
        with created or _opened(config, out, found, command) as run:
            yield run, ready or prepare()


def _opened(config: RunConfig, out: Path, found: Begun | None, command: Sequence[str]) -> RunFolder:
    """An interrupted run's folder, without what comes after the checkpoint."""
    if found is None:
        set_evaluations_aside(out, config)
    run = RunFolder.open(out, command=command, step=0 if found is None else found.step)
    remove_unfinished(out / "checkpoints")
    rewrite_config(out, config)
    return run
