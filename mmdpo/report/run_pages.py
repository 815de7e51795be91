"""Everything that is written about runs when they are done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmdpo.report.card import write_card
from mmdpo.report.figures import write_figures
from mmdpo.report.pages import write_report


def write_run_pages(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes figures and card of each run, and one report of all.

    Args:
        runs: Run folders.
        out: The report's file; see :func:`mmdpo.report.write_report`.

    Returns:
        The report's file.
    """
    for run in runs:
        write_figures(run)
        write_card(run)
    return write_report(runs, out)
