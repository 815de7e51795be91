"""The numbers of runs for other programs and for papers: one table as CSV, the same as LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from mmdpo.report.evaluated import Estimate
from mmdpo.report.measures import Measure, format_bounds, format_difference, format_interval, format_p, format_value
from mmdpo.report.reading import Change, Correction, Difference, Run
from mmdpo.report.rendering import write_whole

COLUMNS = (
    "run",
    "metric",
    "better",
    "role",
    *(f"{stage}{end}" for stage in ("before", "after") for end in ("", "_low", "_high", "_n")),
    *(f"difference{end}" for end in ("", "_low", "_high")),
    "p",
    "p_adjusted",
)
"""Of the CSV: fractions as they are, in full precision; nothing where there is no value."""
_FORMULA = ("=", "+", "-", "@")
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "−": "$-$",
    "–": "--",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}


def write_tables(runs: Sequence[Run], labels: Sequence[str], folder: Path) -> list[Path]:
    """Writes ``table.csv`` and ``table.tex``; nothing where nothing was measured.

    Args:
        runs: One, or several side by side.
        labels: Their names.
        folder: Made if needed.

    Returns:
        The files written.
    """
    if not any(_rows(run) for run in runs):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    texts = {folder / "table.csv": csv_table(runs, labels), folder / "table.tex": latex_table(runs, labels)}
    for path, text in texts.items():
        write_whole(path, text)
    return list(texts)


def csv_table(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """One line for each metric of each run, with the names of `COLUMNS` above.

    Texts that a spreadsheet would take for a formula begin with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run, label in zip(runs, labels, strict=True):
        for change in _rows(run):
            measure = change.measure
            writer.writerow(
                {
                    "run": _harmless(label),
                    "metric": _harmless(measure.name),
                    "better": measure.better or "neither",
                    "role": measure.role,
                    **_numbers("before", change.before),
                    **_numbers("after", change.after),
                    **_differences(change.difference),
                }
            )
    return text.getvalue()


def latex_table(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """A ``tabular`` in the style of booktabs: under each value its 95% interval.

    Of one run: before, after, difference, p, n. Of several: before, and for each run the value after training with the
    difference to before; before is that of the first run. Percentages are percent, their differences points.
    """
    one = len(runs) == 1
    body = _lines_of_one(runs[0]) if one else _lines_of_several(runs)
    heads = ["Before", "After", "Difference", "$p$", "$n$"] if one else ["Before", *map(escape, labels), "$n$"]
    notes = [
        "Made by mmdpo report; needs \\usepackage{booktabs}.",
        "Below each value its 95% interval.",
        _p_note(runs[0].correction) if one else "Below that the difference to before; a star where it is clear.",
    ]
    return "\n".join(
        [
            *(f"% {note}" for note in notes),
            rf"\begin{{tabular}}{{@{{}}l{'r' * len(heads)}@{{}}}}",
            r"\toprule",
            " & ".join(["Measure", *heads]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape(text: str) -> str:
    """A text on one line in which no character is a command of LaTeX."""
    return re.sub(".", lambda found: _ESCAPES.get(found[0], found[0]), " ".join(text.split()))


def _rows(run: Run) -> list[Change]:
    return [*run.changes, *run.habits]


def _lines_of_one(run: Run) -> list[str]:
    lines = []
    for change in _rows(run):
        measure, difference = change.measure, change.difference
        p = "--" if difference is None else _p(difference)
        cells = [_value(measure, change.before), _value(measure, change.after), _gap(change), p]
        lines.append(_line(_label(measure), *cells, _sizes([change.before, change.after])))
        bounds = "" if difference is None else escape(format_bounds(measure, difference.low, difference.high))
        lines.append(
            _line("", *map(_small, [_span(measure, change.before), _span(measure, change.after), bounds]), "", "")
        )
    return lines


def _lines_of_several(runs: Sequence[Run]) -> list[str]:
    by_run = [{change.measure.name: change for change in _rows(run)} for run in runs]
    lines = []
    for name in dict.fromkeys(name for changes in by_run for name in changes):
        changes = [changes.get(name) for changes in by_run]
        first = next(change for change in changes if change is not None)
        measure = first.measure
        values = [first.before, *(None if change is None else change.after for change in changes)]
        lines.append(_line(_label(measure), *(_value(measure, estimate) for estimate in values), _sizes(values)))
        lines.append(_line("", *(_small(_span(measure, estimate)) for estimate in values), ""))
        if any(change is not None and change.difference for change in changes):
            gaps = ["" if change is None else _gap(change, star=True) for change in changes]
            lines.append(_line("", "", *map(_small, gaps), ""))
    return lines


def _label(measure: Measure) -> str:
    # In braces, for a line that begins with a bracket or a star would belong to the end of the line before.
    return f"{{{escape(f'{measure.label} {measure.arrow}')}}}"


def _line(*cells: str) -> str:
    return " & ".join(cells) + r" \\"


def _small(text: str) -> str:
    return rf"{{\scriptsize {text}}}" if text else ""


def _value(measure: Measure, estimate: Estimate | None) -> str:
    if estimate is None or estimate.n == 0:
        return "--"
    return escape(format_value(measure, estimate.value))


def _span(measure: Measure, estimate: Estimate | None) -> str:
    return "" if estimate is None else escape(format_interval(measure, estimate.low, estimate.high))


def _gap(change: Change, *, star: bool = False) -> str:
    if change.difference is None:
        return "--"
    clear = star and change.outcome in ("better", "worse", "moved")
    return escape(format_difference(change.measure, change.difference.value)) + ("$^{*}$" if clear else "")


def _p(difference: Difference) -> str:
    p = difference.p if difference.p_adjusted is None else difference.p_adjusted
    return escape(format_p(p).removeprefix("p ").removeprefix("= ")) or "--"


def _p_note(correction: Correction | None) -> str:
    if correction is None:
        return "p is of each measure by itself."
    return f"p is corrected for {correction.comparisons} comparisons ({correction.words}); habits among themselves."


def _sizes(estimates: Sequence[Estimate | None]) -> str:
    """What the values are shares of, from the least to the most where they differ."""
    sizes = sorted({found.n for found in estimates if found is not None and found.n is not None})
    return "--".join(dict.fromkeys(f"{n:,}" for n in (sizes[0], sizes[-1]))) if sizes else "--"


def _numbers(stage: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {}
    names = ("", "_low", "_high", "_n")
    return dict(
        zip((f"{stage}{end}" for end in names), (estimate.value, estimate.low, estimate.high, estimate.n), strict=True)
    )


def _differences(difference: Difference | None) -> dict[str, float | None]:
    if difference is None:
        return {}
    bounds = {"difference": difference.value, "difference_low": difference.low, "difference_high": difference.high}
    return {**bounds, "p": difference.p, "p_adjusted": difference.p_adjusted}


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
