"""Figures come from the log and the comparison, look the same every time, and follow the theme of a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest
from PIL import Image

from mmdpo.jsonfiles import read_json_lines, write_json, write_json_lines
from mmdpo.report.bars import BARS, comparison_figure
from mmdpo.report.drawing import inline_svg
from mmdpo.report.figures import histogram_figure, training_figure, write_figures
from mmdpo.report.reading import read_run
from mmdpo.report.trends import LINES, trends_figure

from .conftest import change

MakeRun = Callable[..., Path]


@pytest.mark.slow
def test_figures_are_written_as_svg_and_png_and_repeat_exactly(make_run: MakeRun) -> None:
    run = make_run()
    written = write_figures(run)
    assert sorted(path.name for path in written) == [
        "comparison.png",
        "comparison.svg",
        "training.png",
        "training.svg",
    ]
    first = {path: path.read_bytes() for path in written}
    write_figures(run)
    assert {path: path.read_bytes() for path in written} == first
    with Image.open(run / "figures" / "training.png") as image:
        assert image.width > 1000


def test_a_run_without_numbers_has_no_figures(make_run: MakeRun) -> None:
    run = make_run()
    (run / "log.jsonl").write_text("")
    (run / "comparison.json").write_text('{"metrics": {}}')
    assert write_figures(run) == []


def test_training_curves_are_the_logged_values(make_run: MakeRun) -> None:
    read = read_run(make_run())
    figure = training_figure(read.training[:30], read.validation)
    assert figure is not None
    rewards, margin, accuracy, loss = figure.axes
    chosen = next(line for line in rewards.lines if line.get_label() == "chosen")
    assert list(chosen.get_ydata()) == pytest.approx([0.02 * step for step in range(1, 31)])
    assert list(chosen.get_xdata()) == list(range(1, 31))
    assert any(list(line.get_ydata()) == [0, 0] for line in margin.lines)  # the zero line
    assert any(list(line.get_ydata()) == [0.5, 0.5] for line in accuracy.lines)  # chance
    assert {"total", "dpo", "nll"} <= {line.get_label() for line in loss.lines}
    (validation,) = (bar for bar in accuracy.containers if bar.get_label().startswith("validation"))
    points, _, (segments,) = validation
    assert list(points.get_xdata()) == [20, 40, 60]
    low, high = segments.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.7, 0.88))


def test_displacement_is_noted_in_the_figure(make_run: MakeRun) -> None:
    def notes(chosen: float) -> str:
        figure = training_figure(read_run(make_run(f"run{chosen}", chosen=chosen)).training, [])
        assert figure is not None
        return " ".join(text.get_text() for text in figure.axes[0].texts)

    assert "likelihood displacement" in notes(-0.02).replace("\n", " ")
    assert notes(0.02) == ""


def test_bars_carry_values_intervals_direction_and_n(make_run: MakeRun) -> None:
    read = read_run(make_run())
    figure = comparison_figure([("first", read.changes)])
    assert figure is not None
    lower, higher = figure.axes
    assert lower.get_title(loc="left") == "Lower is better ↓"
    assert higher.get_title(loc="left") == "Higher is better ↑"
    assert [bar.get_width() for bar in lower.patches] == [0.132, 0.033]
    assert list(lower.lines[0].get_xdata()) == pytest.approx([0.112, 0.152])
    assert [label.get_text() for label in lower.get_yticklabels()] == ["CHAIR_i  (n = 500)"]
    assert "Objects per caption" not in str([label.get_text() for label in higher.get_yticklabels()])
    assert comparison_figure([("first", [])]) is None


def test_a_figure_of_many_metrics_keeps_those_of_hallucination_and_says_how_many_there_are(make_run: MakeRun) -> None:
    run = make_run()
    metrics = {f"vqa_{place}_accuracy": change(0.5, 0.6) for place in range(60)}
    write_json(run / "comparison.json", {"metrics": {**metrics, "chair_i": change(0.2, 0.1)}})
    figure = comparison_figure([("first", read_run(run).changes)])
    assert figure is not None
    lower, higher = figure.axes
    assert [label.get_text() for label in lower.get_yticklabels()] == ["CHAIR_i  (n = 500)"]
    assert len(lower.patches) + len(higher.patches) == BARS
    assert [text.get_text() for text in figure.texts] == [f"{BARS // 2} of 61 measures; all are in the table"]


def test_evaluations_during_training_are_curves_with_their_intervals(make_run: MakeRun) -> None:
    run = make_run()
    rows = read_json_lines(run / "log.jsonl").rows
    for step, rate, recall in ((0, 0.4, 0.9), (20, 0.3, 0.88), (40, 0.2, 0.7)):
        rates = {"eval/chair_i": rate, "eval/chair_i_low": rate - 0.1, "eval/chair_i_high": rate + 0.05}
        changes = {"eval/chair_i_change": -0.1, "eval/vqa_accuracy/number_change": 0.2}
        rows.append({"step": step, **rates, **changes, "eval/chair_recall": recall, "eval/objects_per_caption": 2.0})
    write_json_lines(run / "log.jsonl", sorted(rows, key=lambda row: row["step"]))
    figure = trends_figure(read_run(run))
    assert figure is not None
    lower, higher = figure.axes
    points, _, (segments,) = lower.containers[0]
    assert (list(points.get_xdata()), list(points.get_ydata())) == ([0, 20, 40], [0.4, 0.3, 0.2])
    assert segments.get_segments()[1][:, 1] == pytest.approx([0.2, 0.35])
    assert [text.get_text() for text in lower.get_legend().get_texts()] == ["CHAIR_i"]
    assert [list(drawn.lines[0].get_ydata()) for drawn in higher.containers] == [[0.9, 0.88, 0.7]]
    assert {"trends.svg", "trends.png"} <= {path.name for path in write_figures(run)}
    assert len(read_run(run).training) == 60


def test_more_curves_than_can_be_read_are_counted(make_run: MakeRun) -> None:
    run = make_run()
    write_json_lines(run / "log.jsonl", [{"step": 0} | {f"eval/pope_{place}_f1": 0.5 for place in range(LINES + 3)}])
    figure = trends_figure(read_run(run))
    assert figure is not None
    (higher,) = figure.axes
    assert len(higher.containers) == LINES
    assert "3 more in log.jsonl" in higher.get_title(loc="left")
    assert trends_figure(read_run(make_run("without"))) is None


def test_inline_svg_follows_the_theme_and_escapes(make_run: MakeRun) -> None:
    read = read_run(make_run())
    before = dict(mpl.rcParams)
    figure = comparison_figure([("a<b", read.changes), ("$x_$ -->", read.changes)])
    assert figure is not None
    svg = inline_svg(figure, "bars", 'what "it" shows <here>')
    assert svg.startswith('<svg class="figure" viewBox="')
    assert 'aria-label="what &quot;it&quot; shows &lt;here&gt;"' in svg
    assert "var(--blue, #0072b2)" in svg
    assert "a&lt;b" in svg
    assert "$x_$ --&gt;" in svg
    assert "<metadata" not in svg
    assert "<b" not in svg
    assert all(piece.startswith("bars-") for piece in svg.split('id="')[1:])
    assert dict(mpl.rcParams) == before


def test_histogram_bars_stand_on_their_edges() -> None:
    figure = histogram_figure([0.0, 1.0, 3.0], [4, 2], "rating margin")
    bars = figure.axes[0].patches
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in bars] == [(0.0, 1.0, 4), (1.0, 2.0, 2)]
