"""The whole story small: the demo on a few scenes, and every verb on what it left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.playground.demo import RUN, SUMMARY_METRICS, Plan, run_demo

TRAIN = {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "logging_steps": 1, "disable_tqdm": True}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(out, plan=Plan(preference_scenes=40, captions=3, heldout_scenes=12, train=TRAIN))
    return out


def mmdpo(*words: Any, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def fails(*words: Any) -> MMDPOError:
    error = CliRunner().invoke(app, [str(word) for word in words]).exception
    assert isinstance(error, MMDPOError), error
    return error


def test_demo_leaves_what_it_promises(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text(encoding="utf-8"))
    assert set(summary) == {"seconds", "base", "tuned", "difference"}
    for part in ("base", "tuned", "difference"):
        assert set(summary[part]) == set(SUMMARY_METRICS)
        assert all({"value", "low", "high", "n"} <= set(entry) for entry in summary[part].values())
    for name in SUMMARY_METRICS:
        change = summary["tuned"][name]["value"] - summary["base"][name]["value"]
        assert summary["difference"][name]["value"] == pytest.approx(change, abs=1e-9)
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert "POPE adversarial" in page
    assert "no picture" not in page
    assert "missing media" not in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for name in ("config.yaml", "manifest.json", "log.jsonl", "README.md", "adapter/adapter_model.safetensors"):
        assert (demo / RUN / name).is_file(), name
    with pytest.raises(ConfigError, match="is not empty"):
        run_demo(demo, plan=Plan())


def test_first_logged_step_has_its_closed_form(demo: Path) -> None:
    first = json.loads((demo / RUN / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["loss/dpo"] == pytest.approx(0.693147, abs=1e-4)
    assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert first["rewards/accuracies"] == 0.5


def test_train_check_and_eval_from_the_command(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mmdpo("cp", "start")
    settings = [f"data.path={demo / 'pairs'}", "train.max_steps=2", "train.disable_tqdm=true"]
    assert "train" in mmdpo("check", "start.yaml", *settings)
    mmdpo("train", "start.yaml", *settings, "--out", "first")
    assert (tmp_path / "first" / "report.html").is_file()
    assert "already holds a run" in fails("train", "start.yaml", *settings, "--out", "first").what
    data = ["--data", f"pope={demo / 'heldout/pope'}", "--images", f"pope={demo / 'heldout/images'}", "--limit", "6"]
    mmdpo("eval", "first", "pope", *data, "--out", "after")
    mmdpo("eval", "playground", "pope", *data, "--out", "before")
    compared = json.loads(mmdpo("compare", "before", "after", "--json"))
    assert compared["metrics"]["pope_adversarial_accuracy"]["difference"]["n"] == 6
    assert fails("compare", "before", "after", "--fail-under", "pope_adversarial_f1=1.01").exit_code == 1
    assert fails("compare", "before", "after", "--fail-under", "f2=0.5").exit_code == 2
    mmdpo("merge", "first", "--out", "merged")
    mmdpo("eval", "merged", "pope", *data, "--out", "merged-eval")
    answers = [(tmp_path / name / "eval/pope/answers.jsonl").read_text() for name in ("after", "merged-eval")]
    assert answers[0] == answers[1]


def test_looking_at_data_and_names(demo: Path) -> None:
    assert "chosen" in mmdpo("show", demo / "pairs", "-n", 2)
    mmdpo("quality", demo / "pairs")
    for kind in ("losses", "builders", "benchmarks", "modalities", "configs", "families"):
        assert json.loads(mmdpo("ls", kind, "--json"))
    assert "'losses'" in fails("ls", "loses").why
    assert json.loads(mmdpo("env", "--json"))["torch"]


def test_the_demo_folders_can_be_compared(demo: Path) -> None:
    """In a fresh process, where nothing has imported the demo's own benchmark yet."""
    words = [sys.executable, "-m", "mmdpo", "compare", demo / RUN / "base_eval", demo / RUN / "eval", "--json"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["metrics"]["usual_object_rate"]["better"] == "lower"


def test_a_score_is_written_with_its_items_and_never_over_another(demo: Path, tmp_path: Path) -> None:
    folder = demo / RUN / "eval" / "usual_object"
    words = ["score", "usual_object", "--data", demo / "heldout/usual.json"]
    words += ["--answers", demo / RUN / "eval/chair/answers.jsonl", "--out", tmp_path / "score.json"]
    mmdpo(*words)
    assert (tmp_path / "items.jsonl").read_bytes() == (folder / "items.jsonl").read_bytes()
    assert "exists" in fails(*words).what


def test_scoring_answers_again_needs_no_model(demo: Path) -> None:
    folder = demo / RUN / "eval" / "chair"
    words = ["--data", demo / "heldout/objects.json", "--answers", folder / "answers.jsonl"]
    again = json.loads(mmdpo("score", "chair", *words, "--synonyms", demo / "heldout/synonyms.txt"))
    assert again["metrics"] == json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert "synonyms" in fails("score", "chair", *words, "--synonims", "x").why
