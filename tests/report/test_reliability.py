"""The reliability diagram: one panel for each kind of probability, every bin with its interval, both stages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from mmdpo.evals.calibration import Predictions, calibration, summaries
from mmdpo.report.reliability import read_calibrations, reliability_figure, write_reliability


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
    figure = reliability_figure(read)
    assert figure is not None
    (axes,) = figure.axes
    drawn = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert drawn == [[[row["probability"], row["outcome"]] for row in one["table"]] for one in (before, after)]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0].startswith(f"before training: ECE {before['ece']['value']:.3f} (")
    assert labels[1].startswith(f"after training: ECE {after['ece']['value']:.3f} (")
    assert sorted(path.name for path in write_reliability(tmp_path)) == ["reliability.png", "reliability.svg"]


def test_without_calibrations_there_is_no_figure(tmp_path: Path) -> None:
    assert reliability_figure({}) is None
    assert write_reliability(tmp_path) == []
