"""Warnings, curves and held-out values of a run's diagnostics, as the page shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mmdpo.report.card import write_card
from mmdpo.report.diagnostics import diagnostics_figure, held_out, warnings
from mmdpo.report.figures import write_figures
from mmdpo.report.pages import write_report
from mmdpo.report.reading import read_run
from mmdpo.run import RunFolder
from mmdpo.training.advice import advice

from .conftest import SCRIPT
from .parsed_page import assert_self_contained

MakeRun = Callable[..., Path]
HELD_OUT = {
    "eval_pairs": 1234.0,
    "eval_rewards/accuracies": 0.8,
    "eval_rewards/accuracies_low": 0.7,
    "eval_rewards/accuracies_high": 0.88,
    "eval_diagnostics/chosen_change": -0.2,
    "eval_diagnostics/length_correlation": 0.6123,
    "eval_diagnostics/kl_k3": 0.0123,
    "eval_diagnostics/displacement": 0.25,
}


@pytest.fixture
def watched(make_run: MakeRun) -> Path:
    """The usual run with diagnostics at 20 steps, one validation, and what was said of it."""
    path = make_run()
    (path / "log.jsonl").unlink()
    run = RunFolder.open(path)
    for step in range(1, 21):
        run.log({"step": step, "loss": 0.5, "diagnostics/chosen_change": -0.01 * step, "diagnostics/displacement": 0.3})
    run.log({"step": 20, **HELD_OUT})
    said = advice({**HELD_OUT, "eval_diagnostics/kl_k2": 0.01})
    assert [one.rule for one in said] == ["chosen_fell", "length"]
    run.note(advice=[{**asdict(one), "step": 20} for one in said])
    return path


def text_of(page: Path) -> str:
    return " ".join(assert_self_contained(page.read_text(encoding="utf-8")).text.split())


def test_the_page_shows_warnings_with_value_number_and_remedy(watched: Path) -> None:
    text = text_of(write_report([watched]))
    for expected in (
        "While it trained, 2 numbers came into a danger zone",
        "diagnostics/chosen_change was −0.2 on 1,234 held-out pairs, last so at step 20",
        "danger zone: below -0.1 nats a token",
        "To try: pairs of balanced lengths",
        "At the last validation, 1,234 held-out pairs",
        "Change of the chosen answers, nats a token",
    ):
        assert expected in text, expected


def test_a_run_without_warnings_says_nothing_of_any(make_run: MakeRun) -> None:
    text = text_of(write_report([make_run()]))
    assert "danger zone" not in text
    assert "Change of the chosen answers" not in text


def test_the_card_keeps_the_warnings(watched: Path) -> None:
    card = write_card(watched).read_text(encoding="utf-8")
    assert "was 0.612 on 1,234 held-out pairs" in card


def test_held_out_values_are_written_with_units_signs_and_intervals(watched: Path) -> None:
    rows = {row["label"]: (row["value"], row["bounds"]) for row in held_out(read_run(watched))}
    assert rows == {
        "In the right order": ("80.0%", "70.0% to 88.0%"),
        "Change of the chosen": ("−0.2 nats a token", ""),
        "Pairs that fell": ("25.0%", ""),
        "Length and margin": ("+0.612", ""),
        "KL, k3": ("0.0123 nats a token", ""),
    }


def test_curves_are_the_logged_values(watched: Path) -> None:
    read = read_run(watched)
    figure = diagnostics_figure(read.training, read.validation)
    assert figure is not None
    change, distance, shares, correlation = figure.axes
    line = next(line for line in change.lines if line.get_label() == "training")
    assert list(line.get_ydata()) == pytest.approx([-0.01 * step for step in range(1, 21)])
    assert {text.get_text() for text in shares.get_legend().get_texts()} == {"both answers fell", "both fell, held-out"}
    assert [text.get_text() for text in correlation.get_legend().get_texts()] == ["held-out"]
    assert [text.get_text() for text in distance.get_legend().get_texts()] == ["held-out, k3"]
    assert {path.name for path in write_figures(watched)} >= {"diagnostics.png", "diagnostics.svg"}


def test_a_panel_without_values_says_so() -> None:
    figure = diagnostics_figure([{"step": 1, "diagnostics/displacement": 0.5}], [])
    assert figure is not None
    change, distance, shares, correlation = figure.axes
    for axes in (change, distance, correlation):
        assert [text.get_text() for text in axes.texts] == ["not logged"]
    assert not shares.texts
    assert diagnostics_figure([{"step": 1, "loss": 0.5}], []) is None


@pytest.mark.parametrize("entry", [{}, {"rule": SCRIPT, "metric": SCRIPT, "value": "nan", "pairs": None}])
def test_an_entry_of_another_version_breaks_no_page(make_run: MakeRun, entry: dict[str, Any]) -> None:
    path = make_run()
    RunFolder.open(path).note(advice=[entry])
    assert len(warnings(read_run(path))) == 1
    html = write_report([path]).read_text(encoding="utf-8")
    assert_self_contained(html)
    assert "<script" not in html
