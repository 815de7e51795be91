"""The verb: what it prints, what it writes, and how it fails."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mmdpo.bench import build, train
from mmdpo.bench import eval as bench_eval
from mmdpo.bench.build import write_table
from mmdpo.bench.eval import LOGITS, ONE, Alone, Ours, summary, ways_of
from mmdpo.bench.growth import AXES, draw
from mmdpo.bench.yes_no_data import draw_photos, questions, speaking_model
from mmdpo.cli import app
from mmdpo.errors import ConfigError, MMDPOError

RUN = CliRunner()
OPEN = Image.open


def test_the_kinds_are_listed() -> None:
    shown = RUN.invoke(app, ["bench", "--help"]).output
    for kind in ("train", "eval", "build", "growth"):
        assert kind in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--shape", "small-3k"], "no shape 'small-3k'"),
        (["train", "--reference", "stale"], "no way to get a reference"),
        (["train", "--device", "cuda"], "no GPU is visible"),
        (["eval", "--device", "cuda"], "no GPU is visible"),
        (["train", "--largest-batch", "--device", "cpu", "--no-trl"], "largest batch that fits"),
        (["growth", "--shape", "qwen9"], "no shape 'qwen9'"),
        (["growth", "--shape", "qwen2.5-vl-7b", "--no-trl"], "do not go with this shape"),
        (["train", "--answers", "100000", "--no-trl"], "--answers 100000 is too long"),
        (["ceilings", "--shape", "tiny", "--k", "2", "--k", "1"], "--k 1 is too small"),
        (["ceilings", "--shape", "tiny", "--answers", "-40"], "--answers -40 is too small"),
        (["eval", "--batches", "8", "--batches", "-3"], "--batches -3 is too small"),
        (["eval", "--images", "0"], "--images 0 is too small"),
        (["eval", "--width", "100"], "--width 100 is no multiple of 64"),
        (["eval", "--tokens", "449"], "--tokens 449 is too long"),
        (["eval", "--photos", "no-such-folder"], "holds no .jpg file"),
        (["build", "--ratings", "11"], "--ratings 11 is too small"),
        (["build", "--out", "/dev/null/numbers.json"], "--out is '/dev/null'"),
        (["growth", "--figure", "/dev/null/growth.png"], "--figure is '/dev/null'"),
    ],
)
def test_what_is_refused(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(bench_eval, "speaking_model", lambda *given: pytest.fail("a model was built"))
    result = RUN.invoke(app, ["bench", *words], standalone_mode=False)
    assert isinstance(result.exception, ConfigError)
    assert message in result.exception.what
    assert result.exception.why and result.exception.fix and result.exception.exit_code == 2


def test_numbers_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "numbers.json").write_text("{}", encoding="utf-8")
    result = RUN.invoke(app, ["bench", "build", "--out", str(tmp_path / "numbers.json")], standalone_mode=False)
    assert isinstance(result.exception, ConfigError)


@pytest.mark.slow
def test_build_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = ["bench", "build", "--ratings", "480", "--json", "--out", str(tmp_path / "made" / "build.json")]
    result = RUN.invoke(app, command, standalone_mode=False)
    assert result.exception is None
    told = json.loads(result.stdout)
    assert told == json.loads((tmp_path / "made" / "build.json").read_text(encoding="utf-8"))
    (row,) = told["builds"]
    assert row["ratings"] == 480
    assert 0 < row["pairs"] <= 40  # images of twelve ratings
    assert row["peak_mib"] > 50 and row["microseconds_per_rating"] == pytest.approx(1e6 * row["seconds"] / 480)


@pytest.mark.slow
def test_a_build_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A foreseen failure in its own words; any other by its last line."""
    monkeypatch.setattr(build, "write_table", lambda path, rows: path.write_text("no table", encoding="utf-8"))
    with pytest.raises(ConfigError, match="has no column") as caught:
        build.run([480])
    assert caught.value.fix and "Traceback" not in str(caught.value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(build, "PROGRAM", ["-c", "raise ValueError('none of ours')"])
    with pytest.raises(MMDPOError, match="480 ratings ended with code 1: ValueError: none of ours"):
        build.run([480])


def test_the_table_of_ratings_has_as_many_rows_as_are_asked_for(tmp_path: Path) -> None:
    write_table(tmp_path / "ratings.csv", 100)
    lines = (tmp_path / "ratings.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 101
    assert {len(line.split(",")) for line in lines} == {4}


def test_medians_of_ways_and_answers_that_differ() -> None:
    seconds = {ONE: [4.0, 2.0, 3.0], "transformers, 4 at a time": [1.0, 1.5, 2.0], LOGITS: [0.5, 0.25, 0.75]}
    answers = {ONE: ["yes", "no"], "transformers, 4 at a time": ["yes", "yes"], LOGITS: ["Yes", "no"]}
    found = summary(seconds, answers)
    assert (found["questions"], found["says_yes"]) == (2, 1)
    read = found["ways"][LOGITS]
    assert (read["times_one_at_a_time"], read["times_best_batch"], read["other_answers"]) == (6.0, 3.0, 0)
    assert found["ways"]["transformers, 4 at a time"]["other_answers"] == 1
    assert read["ms_per_question"] == 250.0


@pytest.mark.parametrize("tokens", [1, 2])
def test_every_turn_opens_its_photos_anew(tokens: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each photo once for all questions about it with mmdpo, once for every question with transformers alone."""
    asked = questions(draw_photos(tmp_path, 2))
    model, processor = speaking_model(56, 64, 1)
    alone, ours = Alone(model, processor, tmp_path, tokens), Ours(model, processor, tmp_path, tokens, asked)
    opened: list[Any] = []

    def heard(file: Any, *given: Any, **how: Any) -> Image.Image:
        opened.append(file)
        return OPEN(file, *given, **how)

    monkeypatch.setattr(Image, "open", heard)
    ways = ways_of(alone, ours, asked, (32,))
    found: dict[str, list[int]] = {name: [] for name in ways}
    for _ in range(2):
        for name, way in ways.items():
            opened.clear()
            assert len(way()) == 36
            found[name].append(len(opened))
    assert {name: counts for name, counts in found.items() if name.startswith("transformers")} == {
        ONE: [36, 36],
        "transformers, 32 at a time": [36, 36],
    }
    assert found["mmdpo, written 32 at a time"] == [2, 2]
    assert found.get(LOGITS, [2, 2]) == [2, 2] and (LOGITS in found) == (tokens == 1)


@pytest.mark.slow
def test_growth_is_drawn(tmp_path: Path) -> None:
    points = [
        {"axis": axis, "value": value, "side": side, "seconds": value * factor, "peak_bytes": value * 2**20}
        for axis, (_, values) in AXES.items()
        for value in values
        for side, factor in (("mmdpo", 1.0), ("trl", 2.0))
    ]
    drawn = draw({"points": points}, tmp_path, "growth")
    assert [path.name for path in drawn] == ["growth.svg", "growth.png"]
    text = drawn[0].read_text(encoding="utf-8")
    for axis in AXES:
        assert axis in text
    assert "seconds a step" in text and "trl" in text


@pytest.mark.slow
def test_train_is_measured_beside_trl(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL comes with the dev extra")
    command = ["--shape", "tiny", "--answers", "12", "--k", "2", "--k", "4", "--repeats", "2", "--device", "cpu"]
    result = RUN.invoke(app, ["bench", "train", *command, "--json"], standalone_mode=False)
    assert result.exception is None
    pairs, lists = json.loads(result.stdout)["comparisons"]
    assert list(pairs["sides"]) == ["mmdpo", "mmdpo, cached", "trl"]
    assert list(lists["sides"]) == ["mmdpo", "mmdpo, cached", "mmdpo, plain rows"]
    assert pairs["sides"]["trl"]["encoder_passes"] == 4.0
    for comparison in (pairs, lists):
        assert comparison["repeats"] == 2 and comparison["matrix_flops"] > 0
        for name, side in comparison["sides"].items():
            assert len(side["seconds"]["all"]) == 2 and side["peak_bytes"] > 0
            assert ("ratio" in side) == (name != comparison["against"])
    assert all(side["encoder_passes"] == 1.0 for side in lists["sides"].values())


@pytest.mark.slow
def test_a_side_that_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An error that nobody foresaw is told by its last line."""
    monkeypatch.setattr(train, "check", lambda plan: None)
    plan = train.Plan(shapes=("tiny",), answers=(12,), candidates=(2,), references=("fresh",), attention="none_such")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(MMDPOError, match=r"process of mmdpo ended with code 1: ValueError.*none_such"):
        train.run(plan)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 3])
def test_the_speed_of_answers_is_measured_and_they_agree(tokens: int, tmp_path: Path) -> None:
    shape = ["--images", "2", "--pixels", "56", "--width", "64", "--layers", "1", "--repeats", "1", "--batches", "4"]
    out = tmp_path / "speed.json"
    command = ["bench", "eval", *shape, "--tokens", str(tokens), "--device", "cpu", "--out", str(out)]
    assert RUN.invoke(app, command, standalone_mode=False).exception is None
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert found["questions"] == 36
    assert not found["not_shared"] and found["check_seconds"] > 0
    assert [row["other_answers"] for row in found["ways"].values()] == [0] * (4 if tokens == 1 else 3)
    if tokens == 1:
        assert 0 < found["says_yes"] < 36  # or agreement would say nothing
