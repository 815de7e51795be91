"""The builder that `mmdpo new builder` writes: it passes its own test, is listed, and accounts for every row."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from data_builders.running.build import build
from mmdpo import registry
from mmdpo.cli import app
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.extensions.scaffold import LONGEST_NAME, write_new
from mmdpo.records import load_records

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ROWS = [
    ["image", "question", "chosen", "rejected"],
    ["lake.png", "What is it?", "A lake.", "A wood."],
    ["lake.png", "", "Water.", "Trees."],
    ["gone.png", "What is it?", "A lake.", "A wood."],
    ["lake.png", "What is it?", "A lake.", "A lake."],
    ["lake.png", "What is it?", "A lake."],
]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plugin registers is forgotten after the test."""
    monkeypatch.setattr(registry.builders, "_entries", dict(registry.builders._entries))
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The two files, and a table of which two of five rows can be used."""
    write_new("builder", "stars", tmp_path)
    Image.new("RGB", (8, 8), (52, 128, 184)).save(tmp_path / "lake.png")
    with (tmp_path / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(ROWS)
    return tmp_path


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["new", "builder", "stars", "--out", str(tmp_path / "own")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["stars.py", "test_stars.py"]


@pytest.mark.parametrize("name", ["two_words", "a" * LONGEST_NAME])
def test_they_pass_ruff(tmp_path: Path, name: str) -> None:
    write_new("builder", name, tmp_path)
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, *settings, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_it_builds_records_and_accounts_for_every_row(written: Path) -> None:
    settings = {"data": written / "table.csv", "validation": 0, "plugins": ["stars.py"]}
    result = build("stars", settings, written / "out", folder=written)
    assert [(r.id, r.chosen.text, r.rejected.text) for r in result.records] == [
        ("stars-1", "A lake.", "A wood."),
        ("stars-2", "Water.", "Trees."),
    ]
    assert [r.prompt[0]["content"][-1]["text"] for r in result.records] == ["What is it?", "Describe the image."]
    assert {item.path for r in result.records for item in r.media["images"]} == {"lake.png"}
    assert {entry.row: entry.reason for entry in result.set_aside} == {
        3: "missing_media",
        4: "equal_captions",
        5: "unreadable_row",
    }
    assert result.quality["rows"] == {"read": 5, "used": 2, "set_aside": 3}


def test_the_command_lists_and_runs_it(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written)
    listed = CliRunner().invoke(app, ["ls", "builders", "--json", "--plugin", "stars.py"])
    (what,) = [row["what"] for row in json.loads(listed.stdout) if row["name"] == "stars"]
    assert what.startswith("Pairs from a table of image, question, chosen and rejected.")
    words = ["build", "stars", "data=table.csv", "plugins=[stars.py]", "columns.question=chosen", "--out", "pairs"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (result.output, result.exception)
    assert load_records("pairs")[0].prompt[0]["content"][-1]["text"] == "A lake."


def outcome(test: Path) -> str:
    """The last line that pytest prints of a file."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test.name]
    done = subprocess.run(command, cwd=test.parent, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_written_test_passes(written: Path) -> None:
    assert outcome(written / "test_stars.py").startswith("8 passed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong", "failures"),
    [
        ("(Candidate(pair.chosen), Candidate(pair.rejected))", "(Candidate(pair.rejected), Candidate(pair.chosen))", 1),
        ("            work.ledger.use(pair.row)\n", "", 7),  # rows that nobody accounts for; only a bad table is left
        ('sound_reasons = ("equal_captions",)', "sound_reasons = ()", 1),
        ("if pair.chosen == pair.rejected:", "if False:", 2),
        ("config.columns.settings(), work", "(), work", 1),  # a column that is not there
    ],
)
def test_the_written_test_finds_a_wrong_builder(written: Path, right: str, wrong: str, failures: int) -> None:
    file = written / "stars.py"
    text = file.read_text(encoding="utf-8")
    assert text.count(right) == 1
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    assert outcome(written / "test_stars.py").startswith(f"{failures} failed")


def test_the_page_shows_what_is_written(written: Path) -> None:
    _, _, section = (ROOT / "docs/data.md").read_text(encoding="utf-8").partition("## A builder of your own\n")
    assert f"```python\n{(written / 'stars.py').read_text(encoding='utf-8')}```\n" in section


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ratings", "a builder of that name is registered"),
        ("import", "identifier in lower case"),
        ("Stars", "identifier in lower case"),
        ("json", "installed"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write_new("builder", name, tmp_path / "new")
    assert why in caught.value.why
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(written: Path) -> None:
    with pytest.raises(MMDPOError, match="exists"):
        write_new("builder", "stars", written)
