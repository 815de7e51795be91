"""Evaluations that are killed, and evaluations in several processes: the same answers, byte for byte."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.launch import ProcessKilledError, launch

KILLER = """
import os, signal
from pathlib import Path
from mmdpo.answering.answer_file import AnswerFile

MARK = Path(__file__).with_name("mark")
plain, added = AnswerFile.add, []


def add(self, row):
    plain(self, row)
    added.append(row)
    if self.shard.index == {index} and len(added) == 4 and not MARK.exists():
        MARK.touch()
        with self.own.open("a", encoding="utf-8") as file:
            file.write('{{"question_id": "1')  # as a process leaves it that is killed while it writes
        os.kill(os.getpid(), signal.SIGKILL)


AnswerFile.add = add
"""
"""A plugin that kills one of the processes, the first time, after its fourth answer."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three questions about each of six images, not side by side."""
    folder = tmp_path_factory.mktemp("data")
    rows: list[dict[str, Any]] = []
    for number in range(6):
        Image.new("RGB", (64, 64), (40 * number, 90, 120)).save(folder / f"{number}.png")
        for thing in ("star", "boat", "yellow house"):
            row = {"image": f"{number}.png", "text": f"Is there a {thing} in the image?"}
            rows.append({"question_id": len(rows), **row, "label": "no" if thing == "boat" else "yes"})
    rows = rows[::2] + rows[1::2]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def words(data: Path, out: Path, *more: str) -> list[str]:
    questions = str(data / "questions.jsonl")
    return ["eval", "playground", "pope", "--data", f"pope={questions}", "--batch-size", "4", "--out", str(out), *more]


def in_this_process(data: Path, out: Path, *more: str) -> bytes:
    """The answers of one process that nobody kills."""
    result = CliRunner().invoke(app, words(data, out, *more))
    assert result.exit_code == 0, (result.output, result.exception)
    return answers(out)


def answers(out: Path) -> bytes:
    return (out / "eval" / "pope" / "answers.jsonl").read_bytes()


def killer(folder: Path, index: int) -> Path:
    path = folder / "killer.py"
    path.write_text(KILLER.format(index=index), encoding="utf-8")
    return path


def files(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "eval" / "pope").iterdir())


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_with_what_is_missing(data: Path, tmp_path: Path) -> None:
    command = words(data, tmp_path / "killed", "--plugin", str(killer(tmp_path, 0)))
    killed = subprocess.run([sys.executable, "-m", "mmdpo", *command], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert files(tmp_path / "killed") == ["answers.part-0.jsonl", "generation.json"]
    kept = (tmp_path / "killed/eval/pope/answers.part-0.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(kept) == 5 and kept[4] == '{"question_id": "1'
    again = in_this_process(data, tmp_path / "killed")
    assert again == in_this_process(data, tmp_path / "whole")
    assert set(kept[:4]) < set(again.decode().splitlines())
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_write_the_answers_of_one(data: Path, tmp_path: Path) -> None:
    assert launch(words(data, tmp_path / "two"), 2) == 0
    assert answers(tmp_path / "two") == in_this_process(data, tmp_path / "one")
    assert files(tmp_path / "two") == files(tmp_path / "one")
    told = json.loads((tmp_path / "two/eval/pope/generation.json").read_text(encoding="utf-8"))
    assert told["processes"] == 2


@pytest.mark.slow
def test_two_processes_read_the_probabilities_of_one(data: Path, tmp_path: Path) -> None:
    """What stands beside a question in its batch may change the last digits, and nothing else."""
    assert launch(words(data, tmp_path / "two", "--answer-by", "both"), 2) == 0
    one = in_this_process(data, tmp_path / "one", "--answer-by", "both")
    for first, second in zip(lines(one), lines(answers(tmp_path / "two")), strict=True):
        for name in ("yes", "no", "p_yes"):
            assert first.pop(name) == pytest.approx(second.pop(name), abs=1e-5)
        assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_one_of_two_processes_is_killed_and_the_same_command_goes_on(index: int, data: Path, tmp_path: Path) -> None:
    """Also with another number of processes than before."""
    command = words(data, tmp_path / "killed", "--plugin", str(killer(tmp_path, index)))
    with pytest.raises(ProcessKilledError, match=f"process {index} .* SIGKILL"):
        launch(command, 2)
    assert not (tmp_path / "killed/eval/pope/metrics.json").exists()
    if index == 0:
        again = in_this_process(data, tmp_path / "killed")
    else:
        assert launch(command, 2) == 0
        again = answers(tmp_path / "killed")
    assert again == in_this_process(data, tmp_path / "whole")


def lines(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.decode().splitlines()]
