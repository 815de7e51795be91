"""The benchmark that `mmdpo new benchmark` writes: it passes its own test, is listed, scores, and models answer it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from mmdpo import registry
from mmdpo.cli import app
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.extensions.scaffold import LONGEST_NAME, write_new

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ROWS = [
    {"id": "1", "image": "lake.png", "question": "What is it?", "answer": "a lake"},
    {"id": "2", "image": "lake.png", "question": "Which colour is it?", "answer": "blue"},
    {"id": "3", "image": "wood.png", "question": "What is it?", "answer": "a wood"},
]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plugin registers is forgotten after the test."""
    monkeypatch.setattr(registry.benchmarks, "_entries", dict(registry.benchmarks._entries))
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The two files, questions about two pictures, and answers of which two of three are right."""
    write_new("benchmark", "colours", tmp_path)
    for name in ("lake", "wood"):
        Image.new("RGB", (64, 64), (52, 128, 184)).save(tmp_path / f"{name}.png")
    said = ["A lake.", "red", "a wood"]
    answers = [{"id": row["id"], "text": text} for row, text in zip(ROWS, said, strict=True)]
    for file, rows in (("questions", ROWS), ("answers", answers)):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def mmdpo(*words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--plugin", "colours.py"])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["new", "benchmark", "colours", "--out", str(tmp_path / "own")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["colours.py", "test_colours.py"]


@pytest.mark.parametrize("name", ["two_words", "a" * LONGEST_NAME])
def test_it_is_short_and_passes_ruff(tmp_path: Path, name: str) -> None:
    file, _ = write_new("benchmark", name, tmp_path)
    assert len(file.read_text(encoding="utf-8").splitlines()) < 40
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, *settings, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def outcome(test: Path) -> str:
    """The last line that pytest prints of a file."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test.name]
    done = subprocess.run(command, cwd=test.parent, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_written_test_passes(written: Path) -> None:
    assert outcome(written / "test_colours.py").startswith("12 passed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong", "failures"),
    [
        ("said == sample.target.lower()", "said in sample.target.lower()", 1),  # an empty answer would be right
        ("said == sample.target.lower()", "sample.target.lower() in said", 3),  # "a whale", "whales", "no whale"
        ('.rstrip(".")', "", 1),
        ('t["answer"], t["image"])', 't["answer"], t["id"])', 1),  # the unit of the intervals
    ],
)
def test_the_written_test_finds_a_wrong_rule(written: Path, right: str, wrong: str, failures: int) -> None:
    file = written / "colours.py"
    text = file.read_text(encoding="utf-8")
    assert text.count(right) == 1
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    assert outcome(written / "test_colours.py").startswith(f"{failures} failed")


def test_it_scores(written: Path) -> None:
    """In a process of its own, where nothing but ``--plugin`` can have made the name known."""
    words = ["score", "colours", "--data", "questions.jsonl", "--answers", "answers.jsonl", "--plugin", "colours.py"]
    command = [sys.executable, "-m", "mmdpo", *words]
    done = subprocess.run(command, cwd=written, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["metrics"]["accuracy"] | {"low": 0, "high": 0} == {"value": 2 / 3, "low": 0, "high": 0, "n": 3}
    assert (told["n"], told["unparsed"], told["flags"]) == (3, 0, [])


def test_it_is_listed_answered_and_compared(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written)
    (listed,) = json.loads(mmdpo("ls", "benchmarks", "colours", "--json"))
    assert listed["reads"].startswith("JSON lines {id, image, question, answer}")
    mmdpo("eval", "playground", "colours", "--data", "colours=questions.jsonl", "--out", "a")
    rows = (written / "a/eval/colours/answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["media"] for row in rows] == [{"images": [row["image"]]} for row in ROWS]
    words = ["--data", "questions.jsonl", "--answers", "answers.jsonl", "--out", "b/colours/metrics.json"]
    mmdpo("score", "colours", *words)
    compared = json.loads(mmdpo("compare", "a", "b", "--json"))["metrics"]["colours_accuracy"]
    assert (compared["before"]["n"], compared["after"]["value"]) == (3, pytest.approx(2 / 3))


def test_a_missing_data_file_is_told_with_its_form(written: Path) -> None:
    words = ["eval", "playground", "colours", "--plugin", str(written / "colours.py"), "--out", str(written / "out")]
    for given in ([], ["--data", "colours=gone.jsonl"]):
        error = CliRunner().invoke(app, [*words, *given]).exception
        assert isinstance(error, ConfigError)
        assert "colours reads: JSON lines {id, image, question, answer}" in error.why
    assert not (written / "out").exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pope", "a benchmark of that name is registered"),
        ("Colours", "identifier in lower case"),
        ("json", "installed"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write_new("benchmark", name, tmp_path / "new")
    assert why in caught.value.why
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(written: Path) -> None:
    with pytest.raises(MMDPOError, match="exists"):
        write_new("benchmark", "colours", written)
