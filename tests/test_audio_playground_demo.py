"""The whole story of sounds, small: ratings, pairs, DPO, before and after, and pages that speak of sounds."""

import csv
import json
import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.playground.audio.worlds import SOUNDS
from mmdpo.playground.demo import Plan, command, run_demo, summary_metrics
from mmdpo.playground.worlds import PICTURES, World
from mmdpo.records import load_records

TRAIN = {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4, "disable_tqdm": True}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(out, plan=Plan(world=SOUNDS, preference_scenes=24, captions=3, heldout_scenes=8, train=TRAIN))
    return out


@pytest.mark.slow
def test_ratings_become_pairs_with_a_clip_in_the_prompt(demo: Path) -> None:
    with (demo / "data/ratings.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["prompt"] for row in rows if row["prompt"].startswith("Describe")} == {"Describe the recording."}
    assert all((demo / "data/audios" / row["audio"]).is_file() for row in rows)
    records = load_records(demo / "pairs")
    assert len(records) > 10
    for record in records:
        assert [part["type"] for part in record.prompt[0]["content"]] == ["audio", "text"]
        assert [len(items) for items in record.media.values()] == [1]
        assert list(record.media) == ["audios"]


@pytest.mark.slow
def test_the_first_step_has_its_closed_form(demo: Path) -> None:
    """Policy and reference are equal before the first update: the sigmoid loss is log 2, the margin 0."""
    first = json.loads((demo / "tiny-whisper/log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["loss/dpo"] == pytest.approx(math.log(2), abs=1e-4)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_before_and_after_are_measured_on_clips(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text(encoding="utf-8"))
    for part in ("base", "tuned", "difference"):
        assert set(summary[part]) == set(summary_metrics(SOUNDS))
    assert "usual_sound_rate" in summary["base"]
    assert summary["base"]["recall"]["value"] >= 0.9, "the model that ships hears the clips"
    asked = json.loads((demo / "tiny-whisper/eval/pope/answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert list(asked["media"]) == ["audios"]


@pytest.mark.slow
def test_the_report_plays_the_clips_and_speaks_of_no_pictures(demo: Path) -> None:
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert "data:audio/wav;base64," in page
    shown = re.sub(r"data:[^\"']*", "", re.sub(r"<(style|script|svg).*?</\1>", "", page, flags=re.DOTALL))
    words = re.sub(r"<[^>]*>", " ", shown)
    assert not re.findall(r"[^.]*\b(?:picture|image|photo)s?\b[^.]*", words.split("Configuration")[0])


@pytest.mark.parametrize(("flags", "world"), [([], PICTURES), (["--audio"], SOUNDS)])
def test_the_verb_chooses_the_world(
    flags: list[str], world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Plan] = []

    def pretend(out: Path, *, plan: Plan, **_: object) -> dict[str, object]:
        asked.append(plan)
        return {"seconds": 1.0, "base": {}, "tuned": {}, "difference": {}}

    monkeypatch.setattr("mmdpo.playground.demo.run_demo", pretend)
    words = ["demo", *flags, "--seed", "3", "--scenes", "40", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (result.output, result.exception)
    assert asked == [Plan(world=world, seed=3, heldout_scenes=40)]
    assert ("--audio" in command(asked[0], tmp_path)) == (flags == ["--audio"])
