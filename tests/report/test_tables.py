"""Tables for papers and other programs: what is written is what was measured, and nothing in it is a command."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmdpo.jsonfiles import read_json, write_json
from mmdpo.report.reading import read_run
from mmdpo.report.run_pages import write_run_pages
from mmdpo.report.tables import COLUMNS, csv_table, escape, latex_table, write_tables

from .conftest import change, estimate

MakeRun = Callable[..., Path]


def corrected(entry: dict[str, Any], p_adjusted: float) -> dict[str, Any]:
    return {**entry, "difference": {**entry["difference"], "p_adjusted": p_adjusted}}


def test_csv_parsed_back_is_what_was_measured(make_run: MakeRun) -> None:
    run = make_run()
    metrics = {
        "chair_i": corrected(change(1 / 7, 0.1, p=1 / 3), 2 / 3),
        "chair_objects_per_caption": {**change(2.3, 2.1), "better": "neither"},
        "half_known": {"after": {"value": "nan", "n": 0}},
    }
    habits = {"chair_words_per_answer": {**change(9.5, 7.25), "label": "Words per answer", "percent": False}}
    write_json(run / "comparison.json", {"metrics": metrics, "habits": habits})
    rows = list(csv.DictReader(io.StringIO(csv_table([read_run(run)], ["first"]))))
    assert [row["metric"] for row in rows] == [*metrics, *habits]
    assert tuple(rows[0]) == COLUMNS
    for row, entry in zip(rows, [*metrics.values(), *habits.values()], strict=True):
        for name in COLUMNS[4:]:
            kind, _, end = name.partition("_")
            stage = {"p": "difference"}.get(kind, kind)
            key = name if kind == "p" else end or "value"
            expected = entry.get(stage, {}).get(key)
            written = float(row[name]) if row[name] else None
            assert written == (None if expected == "nan" else expected), (row["metric"], name)
    assert [row["better"] for row in rows] == ["lower", "neither", "neither", "neither"]
    assert rows[0]["role"] == "hallucination"


def test_several_runs_are_lines_of_one_csv_and_no_cell_is_a_formula(make_run: MakeRun) -> None:
    runs = [read_run(make_run(name)) for name in ("one", "two")]
    rows = list(csv.DictReader(io.StringIO(csv_table(runs, ["=1+1", 'a,"b"']))))
    assert [row["run"] for row in rows] == ["'=1+1"] * 5 + ['a,"b"'] * 5
    assert rows[0]["difference"].startswith("-")  # a negative number stays one


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b 5% R&D #1 $x$ {y}", r"a\_b 5\% R\&D \#1 \$x\$ \{y\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        (r"\input{secret}", r"\textbackslash{}input\{secret\}"),
        ("a < b > c | d", r"a \textless{} b \textgreater{} c \textbar{} d"),
        ("−1 – 2 ↓", r"$-$1 -- 2 $\downarrow$"),
        ("two\nlines % hidden", r"two lines \% hidden"),
    ],
)
def test_no_character_is_a_command_of_latex(text: str, expected: str) -> None:
    assert escape(text) == expected


def plain(latex: str) -> str:
    """A cell without the commands that the table itself uses; fails on any other."""
    text = re.sub(r"\\(textless|textgreater|textbar)\{\}", "", latex)
    text = re.sub(r"\\scriptsize |\$(-|\\(down|up)arrow|\^\{\*\}|[pn])\$|\\[_%&#${}]", "", text)
    assert not re.search(r"[\\$&#%_^~]", text), latex
    assert text.count("{") == text.count("}")
    return text


def body(latex: str) -> list[list[str]]:
    lines = latex.splitlines()
    assert [line for line in lines if line.startswith("%")] == lines[:3]
    inside = lines[lines.index(r"\toprule") + 1 : lines.index(r"\bottomrule")]
    rows = [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in inside if line != r"\midrule"]
    assert all(line.endswith(r" \\") for line in inside if line != r"\midrule")
    return [[cell.strip() for cell in row] for row in rows]


def test_latex_of_one_run_has_values_intervals_corrected_p_and_n(make_run: MakeRun) -> None:
    run = make_run()
    entry = corrected(change(0.132, 0.033, p=0.001), 0.02)
    entry["after"] = {**entry["after"], "n": 1480}
    entry["label"] = "[100%] Rate_of \\x"
    correction = {"method": "holm", "comparisons": 7, "level": 0.05}
    write_json(run / "comparison.json", {"metrics": {"chair_i": entry}, "correction": correction})
    latex = latex_table([read_run(run)], ["first"])
    heads, values, intervals = body(latex)
    assert heads == ["Measure", "Before", "After", "Difference", "$p$", "$n$"]
    assert values == [
        r"{[100\%] Rate\_of \textbackslash{}x $\downarrow$}",
        r"13.2\%",
        r"3.3\%",
        "$-$9.9 pts",
        "0.020",
        "500--1,480",
    ]
    assert [re.sub(r"\{\\scriptsize (.*)\}", r"\1", cell) for cell in intervals] == [
        "",
        "11.2 -- 15.2",
        "1.3 -- 5.3",
        "$-$10.9 to $-$8.9",
        "",
        "",
    ]
    assert "p is corrected for 7 comparisons (Holm's correction)" in latex
    assert r"\begin{tabular}{@{}lrrrrr@{}}" in latex


def test_latex_of_several_runs_is_one_column_each(make_run: MakeRun) -> None:
    runs = [read_run(make_run(name, recall_after=recall)) for name, recall in (("one", 0.96), ("two_%", 0.5))]
    latex = latex_table(runs, [run.name for run in runs])
    rows = body(latex)
    assert rows[0] == ["Measure", "Before", "one", r"two\_\%", "$n$"]
    assert {len(row) for row in rows} == {5}
    recall = next(place for place, row in enumerate(rows) if row[0].startswith("{Recall"))
    assert rows[recall] == [r"{Recall $\uparrow$}", r"97.1\%", r"96.0\%", r"50.0\%", "500"]
    assert rows[recall + 2][2:4] == [r"{\scriptsize $-$1.1 pts$^{*}$}", r"{\scriptsize $-$47.1 pts$^{*}$}"]
    unclear = next(place for place, row in enumerate(rows) if "random" in row[0])
    assert rows[unclear + 2][2] == r"{\scriptsize +0.2 pts}"
    for row in rows:
        for cell in row:
            plain(cell)


def test_what_is_undefined_is_no_number_in_latex(make_run: MakeRun) -> None:
    run = make_run()
    write_json(run / "comparison.json", {"metrics": {"chair_i": {**change(0.2, 0.0), "after": estimate(0.0, n=0)}}})
    values = body(latex_table([read_run(run)], ["first"]))[1]
    assert values[2] == "--"


@pytest.mark.slow
def test_tables_are_written_for_each_run_and_for_several_beside_their_page(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("one"), make_run("two")]
    page = write_run_pages(runs, tmp_path / "both" / "page.html")
    for run in runs:
        assert {path.name for path in (run / "tables").iterdir()} == {"table.csv", "table.tex"}
        assert (run / "figures" / "comparison.svg").is_file()
    beside = {path.name: path for path in page.parent.iterdir()}
    assert set(beside) == {"page.html", "table.csv", "table.tex", "comparison.svg", "comparison.png"}
    lines = beside["table.csv"].read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2 * 5
    first = {name: path.read_bytes() for name, path in beside.items()}
    write_run_pages(runs, page)
    assert {name: path.read_bytes() for name, path in beside.items()} == first


def test_nothing_measured_gives_no_tables(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    write_json(run / "comparison.json", {"metrics": {}})
    assert write_tables([read_run(run)], ["first"], tmp_path / "tables") == []
    assert not (tmp_path / "tables").exists()
    assert read_json(run / "comparison.json") == {"metrics": {}}
