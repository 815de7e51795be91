"""The loss that `mmdpo new loss` writes: it passes its own test, is listed, and trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.oracle import picture, record
from mmdpo import registry
from mmdpo.cli import app
from mmdpo.config import parse_config
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.extensions.scaffold import LONGEST_NAME, write_new
from mmdpo.records import Records, save_records
from mmdpo.runs.training import train

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["new", "loss", "steady", "--out", str(tmp_path / "own")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["steady.py", "test_steady.py"]
    assert "python -m pytest" in result.stderr and "test_steady.py" in result.stderr


@pytest.mark.parametrize("name", ["two_words", "a" * LONGEST_NAME])
def test_they_pass_ruff(tmp_path: Path, name: str) -> None:
    write_new("loss", name, tmp_path)
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
def test_the_written_test_passes(tmp_path: Path) -> None:
    _, test = write_new("loss", "steady", tmp_path)
    assert outcome(test).startswith("6 passed")


@pytest.mark.slow
def test_the_written_test_finds_a_wrong_formula(tmp_path: Path) -> None:
    file, test = write_new("loss", "steady", tmp_path)
    right = file.read_text(encoding="utf-8")
    file.write_text(right.replace("self.pull * per_token**2", "self.pull * per_token"), encoding="utf-8")
    assert outcome(test).startswith("2 failed, 4 passed")


@pytest.mark.slow
def test_the_written_test_finds_a_mean_in_place_of_losses(tmp_path: Path) -> None:
    """The mean is the objective's to take; of one record alone it would look the same."""
    file, test = write_new("loss", "steady", tmp_path)
    right = file.read_text(encoding="utf-8")
    formula = "-F.logsigmoid(margin) + self.pull * per_token**2"
    assert right.count(formula) == 1
    file.write_text(right.replace(formula, f"({formula}).mean(0, keepdim=True)"), encoding="utf-8")
    assert outcome(test).startswith("2 failed, 4 passed")


def test_it_trains_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of the tiny model; what the plugin registers is forgotten after the test."""
    monkeypatch.setattr(registry.terms, "_entries", dict(registry.terms._entries))
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    write_new("loss", "steady", tmp_path)
    pairs = [record(str(n), "What is here?", ["A red star.", "A boat on a lake."], picture(n)) for n in range(4)]
    save_records(Records(pairs), tmp_path / "pairs")
    settings = {
        "plugins": ["steady.py"],
        "model": {"path": "playground", "lora": {"r": 4, "alpha": 8}},
        "data": {"path": str(tmp_path / "pairs"), "validation": 0},
        "loss": {"steady": {"beta": 0.2, "pull": 0.5}},
        "train": {"max_steps": 2, "logging_steps": 1, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"},
    }
    train(parse_config(settings), tmp_path / "run", folder=tmp_path)
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    losses = [event["loss/steady"] for event in events if "loss/steady" in event]
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)  # at the reference
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dpo", "a loss of that name is registered"),
        ("pair", "a loss of that name is registered"),
        ("Steady", "identifier in lower case"),
        ("class", "identifier in lower case"),
        ("two words", "identifier in lower case"),
        ("_steady", "start with a letter"),
        ("a" * (LONGEST_NAME + 1), f"at most {LONGEST_NAME} characters"),
        ("torch", "a Python module of that name is installed"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write_new("loss", name, tmp_path / "new")
    assert repr(name) in caught.value.what
    assert why in caught.value.why
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("there", ["steady.py", "test_steady.py"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine", encoding="utf-8")
    with pytest.raises(MMDPOError, match="exists"):
        write_new("loss", "steady", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text(encoding="utf-8") == "mine"


def test_an_unknown_kind_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_new("losss", "steady", tmp_path)
    assert "loss" in caught.value.why
    assert "loss, modality" in caught.value.fix
