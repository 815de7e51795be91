"""The pages for people: one self-contained HTML file each, without a single external resource."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmdpo.errors import ConfigError
from mmdpo.report import diagnostics, provenance
from mmdpo.report.balance import balance
from mmdpo.report.bars import comparison_figure
from mmdpo.report.drawing import inline_svg
from mmdpo.report.figures import training_figure
from mmdpo.report.grids import grids
from mmdpo.report.reading import Change, Run, read_run
from mmdpo.report.reliability import side_by_side
from mmdpo.report.rendering import write_page
from mmdpo.report.sections import reliability_section, slice_section
from mmdpo.report.slices import slices
from mmdpo.report.trends import trends_figure
from mmdpo.report.verdict import judge, limits
from mmdpo.report.words import word_for

CLASS_WORDS = {
    "better": "better",
    "mixed": "mixed: fewer wrong mentions but also fewer right ones, or more of both",
    "worse": "worse",
    "unchanged": "unchanged",
}


def write_report(runs: Sequence[Path], out: Path | None = None, *, each: int = 4, seed: int = 0) -> Path:
    """Writes one ``report.html`` about one run, or about several side by side.

    Args:
        runs: Run folders. The items shown are chosen by the first.
        out: The file to write; by default ``report.html`` in the run, or beside several runs.
        each: Items shown of each class (better, mixed, worse, unchanged) and benchmark.
        seed: Picks them.

    Returns:
        The file written.

    Raises:
        ConfigError: A folder holds no run, or none is given.
        DataError: A file of a run is broken.
    """
    if not runs:
        raise ConfigError("no run was given", why="A report is about at least one.", fix="mmdpo report RUN...")
    read = [read_run(Path(run)) for run in runs]
    labels = run_labels(read)
    if out is None:
        out = (read[0].path if len(read) == 1 else common_folder(read)) / "report.html"
    rows = _table(read)
    return write_page(
        out,
        "report.html.j2",
        title=labels[0] if len(read) == 1 else f"{len(read)} runs side by side",
        runs=[_run_view(run, label, place) for place, (run, label) in enumerate(zip(read, labels, strict=True))],
        several=len(read) > 1,
        sides=balance(read),
        rows=[row for row in rows if not row["part"]],
        parts=[row for row in rows if row["part"]],
        corrected=any(run.correction for run in read),
        word=word_for(plural for run in read for plural in run.media),
        paired=any(change.difference for run in read for change in run.changes),
        shared_before=_shares_before(read),
        tiles=_tiles(read[0]) if len(read) == 1 else [],
        bars=_bars(read, labels),
        **slice_section(*slices(read, labels)),
        **reliability_section(side_by_side([run.path for run in read], labels)),
        grids=grids(read, each=each, seed=seed),
        class_words=CLASS_WORDS,
        each=each,
        seed=seed,
        limits=limits(read),
    )


def _run_view(run: Run, label: str, place: int) -> dict[str, Any]:
    figure = training_figure(run.training, run.validation)
    curves = figure and inline_svg(figure, f"training{place}", f"Training curves of {label}")
    trends = trends_figure(run)
    watched = diagnostics.diagnostics_figure(run.training, run.validation)
    return {
        "label": label,
        "run": run,
        "verdict": judge(run),
        "curves": curves or "",
        "trends": (trends and inline_svg(trends, f"trends{place}", f"Benchmarks while {label} trained")) or "",
        "trends_panels": len(trends.axes) if trends else 0,
        "watched": (watched and inline_svg(watched, f"diagnostics{place}", f"Diagnostics of {label}")) or "",
        "warnings": diagnostics.warnings(run),
        "held_out": diagnostics.held_out(run),
        "held_out_pairs": diagnostics.held_out_pairs(run),
        "facts": provenance.facts(run),
        "counts": provenance.counts(run),
        "set_aside": provenance.set_aside(run),
        "objective": provenance.objective(run),
        "decisions": provenance.decisions(run),
        "versions": provenance.versions(run),
        "command": provenance.command(run),
    }


def _tiles(run: Run) -> list[Change]:
    """The few changes that a reader should see first: of hallucination and, where it was measured, of what it cost."""
    complete = [change for change in run.changes if change.before and change.after and change.difference]
    of_role: dict[str, list[Change]] = {role: [] for role in ("hallucination", "coverage", "capability", "other")}
    for change in complete:
        if change.measure.better and not change.undefined:
            of_role[change.measure.role].append(change)
    first = [*of_role["hallucination"][:2], *of_role["coverage"][:1], *of_role["capability"][:1]]
    rest = [change for found in of_role.values() for change in found if change not in first]
    return (first + rest)[:4]


def _table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for each metric or habit of any run, with that run's change in each column; those of a part are told."""
    by_run = [{change.measure.name: change for change in (*run.changes, *run.habits)} for run in runs]
    habits = {change.measure.name for run in runs for change in run.habits}
    names = dict.fromkeys(name for changes in by_run for name in changes)
    rows = []
    for name in names:
        changes = [changes.get(name) for changes in by_run]
        first = next(change for change in changes if change is not None)
        part = name in habits or "/" in name
        rows.append({"measure": first.measure, "changes": changes, "before": first.before, "part": part})
    return rows


def _shares_before(runs: Sequence[Run]) -> bool:
    """All runs were compared with the same numbers before training: one column serves them all."""
    befores = [{change.measure.name: change.before for change in run.changes} for run in runs]
    return all(before == befores[0] for before in befores)


def _bars(runs: Sequence[Run], labels: Sequence[str]) -> Markup:
    columns: list[tuple[str, Sequence[Change]]] = [
        (label, run.changes) for label, run in zip(labels, runs, strict=True)
    ]
    figure = comparison_figure(columns)
    if figure is None:
        return Markup("")
    return inline_svg(figure, "comparison", "Bars of every metric before and after training")


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Short names that tell the runs apart: folder names, or paths where folder names repeat."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [str(run.path) for run in runs]


def common_folder(runs: Sequence[Run]) -> Path:
    """The folder that all runs lie in."""
    return Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
