"""Everything that is written about runs when they are done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmdpo.report.bars import comparison_figure
from mmdpo.report.card import write_card
from mmdpo.report.drawing import save_figure
from mmdpo.report.figures import write_figures
from mmdpo.report.pages import run_labels, write_report
from mmdpo.report.reading import read_run
from mmdpo.report.tables import write_tables


def write_run_pages(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes figures, tables and card of each run, and one report of all.

    Of several runs the table and the bars side by side are written too, beside the report.

    Args:
        runs: Run folders.
        out: The report's file; see :func:`mmdpo.report.write_report`.

    Returns:
        The report's file.
    """
    for run in runs:
        read = read_run(run)
        write_figures(run)
        write_tables([read], [read.name], run / "tables")
        write_card(run)
    page = write_report(runs, out)
    if len(runs) > 1:
        read_all = [read_run(run) for run in runs]
        labels = run_labels(read_all)
        write_tables(read_all, labels, page.parent)
        figure = comparison_figure([(label, run.changes) for label, run in zip(labels, read_all, strict=True)])
        if figure is not None:
            save_figure(figure, page.parent, "comparison")
    return page
