"""The page with everything in it: slices, probabilities, benchmarks during training, up to five runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmdpo.jsonfiles import read_json, write_json, write_json_lines
from mmdpo.report.drawing import save_figure
from mmdpo.report.figures import write_figures
from mmdpo.report.pages import write_report
from mmdpo.report.reading import read_run
from mmdpo.report.slice_figures import slice_figure
from mmdpo.report.slices import slices

from .conftest import SCRIPT, change, estimate
from .parsed_page import assert_self_contained

MakeRun = Callable[..., Path]


def pope_items(wrong: int) -> list[dict[str, Any]]:
    """Forty questions for an absent object, some answered with yes; objects, kinds and answers that hold markup."""
    return [
        {
            "id": f"q{place}",
            "group": f"image{place}",
            "image": f"image{place}.png",
            "prompt": f"Is there a dog{SCRIPT} in the image?",
            "label": "no",
            "raw": f"Yes {SCRIPT}" if place < wrong else "No",
            "parsed": "yes" if place < wrong else "no",
            "correct": place >= wrong,
            "p_yes": 0.8 if place < wrong else 0.1,
            "counts": {f"<b>{place % 2}</b>_questions": 1.0},
        }
        for place in range(40)
    ]


@pytest.fixture
def make_full_run(make_run: MakeRun) -> Callable[..., Path]:
    """A run with questions, probabilities, and benchmarks during training."""

    def make(name: str = "first", after: int = 4) -> Path:
        run = make_run(name)
        for stage, wrong in (("base_eval", 16), ("eval", after)):
            folder = run / stage / "pope"
            folder.mkdir(parents=True)
            write_json_lines(folder / "items.jsonl", pope_items(wrong))
            write_json(
                folder / "metrics.json",
                {"benchmark": "pope", "rule": "official", "n": 40, "metrics": {"accuracy": estimate(1 - wrong / 40)}},
            )
        trained = [{"step": 0, "eval/pope_f1": 0.8, "eval/chair_i": 0.2}, {"step": 60, "eval/pope_f1": 0.9}]
        write_json_lines(run / "log.jsonl", trained)
        return run

    return make


def text_of(page: Path) -> str:
    return " ".join(assert_self_contained(page.read_text(encoding="utf-8")).text.split())


def test_every_section_is_in_the_page(make_full_run: MakeRun) -> None:
    run = make_full_run()
    text = text_of(write_report([run]))
    for expected in (
        "Where it fails",
        "Answers that say yes, of those to questions for an object that is not in the picture.",
        "40.0%",  # 16 of 40 before
        "10.0%",
        "n = 40",
        "3 slices and pairs were looked at",
        "some stand there by chance",
        "chair: its items do not say which objects are there",
        "Do probabilities come true?",
        "POPE: yes, among yes and no",
        "Hallucination and recall while it trained",
    ):
        assert expected in text, expected
    assert text.index("What it gained") < text.index("Where it fails") < text.index("Do probabilities come true?")


def test_rates_and_calibration_in_the_page_are_those_of_the_items(make_full_run: MakeRun) -> None:
    """Before: 16 of 40 said yes at .8, the others at .1, and never was it right: ECE is the mean probability."""
    text = text_of(write_report([make_full_run()]))
    assert f"before training {(16 * 0.8 + 24 * 0.1) / 40:.3f}" in text
    assert f"after training {(4 * 0.8 + 36 * 0.1) / 40:.3f}" in text
    assert f"{(16 * 0.64 + 24 * 0.01) / 40:.3f}" in text  # Brier


def test_markup_of_models_and_data_is_text_everywhere(make_full_run: MakeRun) -> None:
    html = write_report([make_full_run(name="run<script>x")]).read_text(encoding="utf-8")
    assert_self_contained(html)
    assert "<script" not in html
    assert "<b>0</b>" not in html
    assert "dog&lt;script&gt;" in html
    assert "&lt;b&gt;0&lt;/b&gt;" in html


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes_and_every_figure_as_png_and_svg(
    make_full_run: MakeRun, tmp_path: Path
) -> None:
    run = make_full_run()
    first = write_report([run], tmp_path / "a.html").read_bytes()
    assert write_report([run], tmp_path / "b.html").read_bytes() == first
    written = write_figures(run)
    names = {path.stem for path in written}
    assert names == {
        "comparison",
        "reliability",
        "slices_pope_asked",
        "slices_pope_kind_of_question",
        "trends",
    }
    assert sorted(path.name for path in written) == sorted(f"{name}.{end}" for name in names for end in ("png", "svg"))
    svg = run / "figures" / "slices_pope_asked.svg"
    drawn = svg.read_bytes()
    (one,) = (one for one in slices([read_run(run)], ["first"])[0] if one.name == "pope_asked")
    save_figure(slice_figure(one), svg.parent, svg.stem)
    assert svg.read_bytes() == drawn


@pytest.mark.slow
def test_five_runs_stand_side_by_side(make_full_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_full_run(f"run{place}", after=place) for place in range(5)]
    page = write_report(runs, tmp_path / "page.html")
    text = text_of(page)
    assert "5 runs side by side" in text
    for place in range(5):
        assert f"run{place}" in text
        assert f"{100 * place / 40:.1f}%" in text  # each run's rate of wrong answers
    assert text.count("p-values are in the reports of the single runs") == 1


def test_an_unconfirmed_change_and_its_corrected_p_stand_in_the_table(make_run: MakeRun) -> None:
    run = make_run()
    comparison = read_json(run / "comparison.json")
    comparison["metrics"]["chair_i"]["difference"] |= {"p": 0.02, "p_adjusted": 0.1234}
    comparison["correction"] = {"method": "holm", "comparisons": 5, "level": 0.05}
    write_json(run / "comparison.json", comparison)
    text = text_of(write_report([run]))
    assert "−10.9 to −8.9 not confirmed 0.020corrected 0.12" in text
    assert "and its corrected p-value is below the level" in text


def test_an_undefined_metric_is_no_number_in_the_page(make_run: MakeRun) -> None:
    run = make_run()
    undefined = {**change(0.4321, 0.0), "after": estimate(0.0, n=0)}
    write_json(run / "comparison.json", {"metrics": {"chair_i": undefined, "recall": change(0.9, 0.9)}})
    text = text_of(write_report([run]))
    assert "43.2%" in text
    assert "undefined" in text
    assert "−43.2 pts" not in text


def test_lines_of_items_that_cannot_be_read_are_counted(make_full_run: MakeRun) -> None:
    run = make_full_run()
    with (run / "eval" / "pope" / "items.jsonl").open("a") as file:
        file.write("{torn\n")
    assert "1 line(s) of eval/pope/items.jsonl could not be read" in text_of(write_report([run]))


def test_a_run_with_evaluations_after_training_only_has_its_slices(make_full_run: MakeRun) -> None:
    run = make_full_run()
    (run / "comparison.json").unlink()
    for path in sorted((run / "base_eval").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    text = text_of(write_report([run]))
    assert "10.0%" in text
    assert "40.0%" not in text


def test_truths_of_several_parts_are_read_as_words(make_full_run: MakeRun) -> None:
    run = make_full_run()
    for stage in ("base_eval", "eval"):
        items = pope_items(3)
        items[1]["prompt"] = "How many?"
        items[0] |= {"label": {"truth": ["sky", "sea"], "hallu": ["sun"]}}
        items[1] |= {"label": ["two", "two", "2"]}
        write_json_lines(run / stage / "pope" / "items.jsonl", items[:2])
    text = text_of(write_report([run]))
    assert "(truth: sky, sea)" in text
    assert "(truth: two, 2)" in text
