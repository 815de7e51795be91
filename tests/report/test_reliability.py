"""The reliability diagram: one panel for each kind of probability, every bin with its interval, both stages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from mmdpo.evals.calibration import Predictions, calibration, summaries
from mmdpo.jsonfiles import write_json_lines
from mmdpo.report.reliability import read_calibrations, reliability_figure, side_by_side, write_reliability


def measured(temperature: float) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=400) * 2
    outcomes = (generator.random(400) < expit(logits / temperature)).astype(float)
    return summaries({"yes": calibration(Predictions(logits, outcomes, [str(n) for n in range(400)]), draws=100)})


def write(run: Path, stage: str, temperature: float) -> dict[str, Any]:
    folder = run / stage / "yes_no"
    folder.mkdir(parents=True)
    found = measured(temperature)
    (folder / "calibration.json").write_text(json.dumps({"calibration": found}), encoding="utf-8")
    return found["yes"]


def test_both_stages_are_drawn_with_their_bins(tmp_path: Path) -> None:
    before, after = write(tmp_path, "base_eval", 1.0), write(tmp_path, "eval", 3.0)
    read = read_calibrations(tmp_path)
    assert read == {"yes_no/yes": {"base_eval": before, "eval": after}}
    figure = reliability_figure(side_by_side([tmp_path], ["run"]))
    assert figure is not None
    (axes,) = figure.axes
    drawn = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert drawn == [[[row["probability"], row["outcome"]] for row in one["table"]] for one in (before, after)]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0].startswith(f"before training: ECE {before['ece']['value']:.3f} (")
    assert labels[1].startswith(f"after training: ECE {after['ece']['value']:.3f} (")
    assert sorted(path.name for path in write_reliability(tmp_path)) == ["reliability.png", "reliability.svg"]


def test_items_with_the_probability_of_yes_are_calibrated_by_themselves(tmp_path: Path) -> None:
    """Four questions on two images, one bin: ECE is |mean probability - share of yes|, Brier the mean square."""
    said = [("a", 0.9, "yes"), ("a", 0.6, "no"), ("b", 0.8, "yes"), ("b", 0.1, "no")]
    items = [{"id": n, "group": image, "p_yes": p, "label": label} for n, (image, p, label) in enumerate(said)]
    others = [{"id": 9, "group": "c", "label": "yes"}, {"id": 10, "group": "c", "p_yes": 0.5, "label": ["cat"]}]
    folder = tmp_path / "eval" / "pope"
    folder.mkdir(parents=True)
    write_json_lines(folder / "items.jsonl", [*items, *others])
    found = read_calibrations(tmp_path)["pope/yes"]["eval"]
    assert (found["n"], found["groups"]) == (4, 2)
    assert found["ece"]["value"] == pytest.approx(0.6 - 0.5)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.04 + 0.01) / 4)
    figure = reliability_figure(side_by_side([tmp_path], ["run"]))
    assert figure is not None
    assert figure.axes[0].get_title(loc="left") == "POPE: yes, among yes and no"


def test_probabilities_of_exactly_zero_and_one_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "eval" / "pope"
    folder.mkdir(parents=True)
    items = [{"id": n, "group": n, "p_yes": float(n % 2), "label": ("no", "yes")[n % 2]} for n in range(40)]
    write_json_lines(folder / "items.jsonl", items)
    assert read_calibrations(tmp_path)["pope/yes"]["eval"]["brier"] == pytest.approx(0.0, abs=1e-12)


def test_several_runs_share_a_panel_and_the_first_gives_what_was_before(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    before = write(first, "base_eval", 1.0)
    write(second, "base_eval", 2.0)
    after = [write(first, "eval", 3.0), write(second, "eval", 4.0)]
    models = side_by_side([first, second], ["one", "two"])
    assert models == {"yes_no/yes": {"before training": before, "one": after[0], "two": after[1]}}
    figure = reliability_figure({**models, "preferences/reward": models["yes_no/yes"], "x/yes": models["yes_no/yes"]})
    assert figure is not None
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]
    assert [axes.get_xlim()[0] for axes in figure.axes[:3]] == pytest.approx([-0.02, 0.48, -0.02])


def test_without_calibrations_there_is_no_figure(tmp_path: Path) -> None:
    assert reliability_figure({}) is None
    assert write_reliability(tmp_path) == []
