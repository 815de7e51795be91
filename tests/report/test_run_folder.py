"""The run folder: never overwritten, never half written, complete enough to repeat the run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmdpo.errors import ConfigError, DataError
from mmdpo.jsonfiles import read_json, read_json_lines, write_json
from mmdpo.run import RunFolder, git_state


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "run", config={"seed": 1})
    before = {path.name: path.read_bytes() for path in first.path.iterdir()}
    with pytest.raises(ConfigError, match="--resume"):
        RunFolder.create(tmp_path / "run", config={"seed": 2})
    assert {path.name: path.read_bytes() for path in first.path.iterdir()} == before


def test_a_folder_with_other_files_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already holds files") as refusal:
        RunFolder.create(tmp_path, config={})
    assert "--resume" not in str(refusal.value)
    with pytest.raises(ConfigError, match="is a file"):
        RunFolder.create(tmp_path / "notes.txt", config={})


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path, config={"a": 1}).path == tmp_path


def test_manifest_holds_what_a_repetition_needs(tmp_path: Path) -> None:
    command = ["mmdpo", "train", "x.yaml"]
    with RunFolder.create(tmp_path / "run", config={}, command=command, data_fingerprint="abc") as run:
        assert run.manifest["exit"] is None
        run.decide("layout", "plain", "a window layer is shorter than the longest row")
        run.note(set_aside={"too_long": 2})
    manifest = read_json(tmp_path / "run" / "manifest.json")
    assert {"mmdpo", "torch", "transformers", "peft", "accelerate", "datasets", "python"} <= set(manifest["versions"])
    assert manifest["versions"]["mmdpo"] == "0.1.0"
    assert manifest["command"] == command
    assert manifest["data_fingerprint"] == "abc"
    assert manifest["decisions"]["layout"]["reason"].startswith("a window layer")
    assert manifest["set_aside"] == {"too_long": 2}
    assert manifest["exit"] == "ok"
    assert manifest["started"] <= manifest["ended"]
    assert manifest["seconds"] >= 0


class Stopped(Exception):
    exit_code = 130


@pytest.mark.parametrize(
    ("error", "exit_state"),
    [(KeyboardInterrupt(), "interrupted"), (Stopped(), "interrupted"), (ValueError("bad"), "failed")],
)
def test_manifest_tells_how_the_run_ended(tmp_path: Path, error: BaseException, exit_state: str) -> None:
    with pytest.raises(type(error)), RunFolder.create(tmp_path / "run", config={}):
        raise error
    manifest = read_json(tmp_path / "run" / "manifest.json")
    assert manifest["exit"] == exit_state
    assert manifest["ended"]
    assert manifest.get("error") == ("ValueError: bad" if exit_state == "failed" else None)


def test_git_state_names_commit_and_changes(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None

    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    state = git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == {**state, "dirty": True}


def test_config_is_kept_as_it_was_resolved(tmp_path: Path) -> None:
    config = {"seed": 0, "loss": {"dpo": {"beta": 0.1}}, "model": {"path": Path("models/ä")}}
    run = RunFolder.create(tmp_path / "run", config=config)
    read = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
    assert read == {"seed": 0, "loss": {"dpo": {"beta": 0.1}}, "model": {"path": "models/ä"}}
    assert list(read) == ["seed", "loss", "model"]


def test_log_keeps_every_event_as_valid_json(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    run = RunFolder.create(tmp_path / "run", config={})
    run.log({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "margin": numpy.float32(0.5)})
    line = (run.path / "log.jsonl").read_text()
    event = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert math.isnan(float(event["loss"]))
    assert float(event["grad_norm"]) == math.inf
    assert event["margin"] == 0.5


def test_resume_adds_time_and_does_not_swallow_an_event_after_a_torn_line(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", config={}) as run:
        run.log({"step": 1})
    with (run.path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    write_json(run.path / "manifest.json", {**run.manifest, "seconds": 100.0})
    with RunFolder.open(run.path, command=["mmdpo", "train", "--resume"]) as resumed:
        assert resumed.manifest["exit"] is None
        resumed.log({"step": 3})
    read = read_json_lines(run.path / "log.jsonl")
    assert [event["step"] for event in read.rows] == [1, 3]
    assert read.unreadable == 1
    assert resumed.manifest["seconds"] >= 100.0
    assert resumed.manifest["resumed"][0]["command"] == ["mmdpo", "train", "--resume"]


def test_opening_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        RunFolder.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="cannot read"):
        RunFolder.open(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    class Unwritable:
        def tolist(self) -> None:
            raise RuntimeError("the disk is full")

    write_json(tmp_path / "metrics.json", {"value": 1})
    with pytest.raises(RuntimeError):
        write_json(tmp_path / "metrics.json", {"value": Unwritable()})
    assert read_json(tmp_path / "metrics.json") == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_importing_the_run_folder_does_not_import_torch() -> None:
    program = "import sys, mmdpo.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
