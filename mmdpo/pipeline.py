"""A whole run: trained, evaluated before and after, compared, and shown on its page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from mmdpo.answering.evaluation import evaluate_run
from mmdpo.config import RunConfig
from mmdpo.interrupts import telling_full_disk, telling_signals, telling_signals_at_start
from mmdpo.progress import Progress
from mmdpo.report import write_run_pages
from mmdpo.run_lock import exclusive
from mmdpo.runs.training import train


def run(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    folder: Path = Path(),
    command: Sequence[str] = tuple(sys.argv),
    progress: Progress = iter,
) -> Path:
    """Trains, lets the model before and after answer the benchmarks of ``eval:``, and writes the report.

    Several processes train together; the main one does the rest. The arguments are those of
    :func:`mmdpo.runs.training.train`.

    Returns:
        The run's page.

    Raises:
        MMDPOError: Something foreseen went wrong; what is done is kept in the run folder.
    """
    with telling_full_disk("training, evaluating or reporting", f"What is done is kept in {out}."):
        with telling_signals_at_start():  # train() itself tells of what comes later
            train(config, out, resume=resume, folder=folder, command=command, progress=progress)
        if PartialState().is_main_process:
            with telling_signals("evaluating and reporting the trained model", f"It is in {out}, answers as well."):
                if config.eval:
                    with exclusive(out):
                        evaluate_run(out, config, progress=progress)
                write_run_pages([out])
    return out / "report.html"
