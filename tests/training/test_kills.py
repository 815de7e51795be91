"""A run that is killed with SIGKILL, wherever it is, and started again ends as one that was never killed."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from core.oracle import picture
from training.common import pairs, run_settings, saved_inputs
from training.kills import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SCRIPT = Path(__file__).with_name("kills.py")
TIMES = ("_runtime", "_per_second", "seconds")
SAVING = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3, "logging_steps": 2, "save_total_limit": 1}
RUNS: dict[str, dict[str, Any]] = {
    # running values of the loss (two passes), the reference in a cache, held-out pairs, evaluations that choose
    "cached": {
        "loss": {"bco": {"term": "bco"}},
        "reference": {"kind": "cached"},
        "stop": {"metric": "pope_accuracy", "patience": 9},
        "train": SAVING | {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1},
    },
    # variants that are drawn anew in each epoch, the best checkpoint by held-out pairs
    "fresh": {
        "loss": {"dpo": {}, "cond_pref": {"media": "crop:0.3"}},
        "train": SAVING | {"eval_strategy": "steps", "eval_steps": 3},
    },
}
EXPECTED_KILLS = 19
"""In each of the runs."""


def inputs_of(folder: Path) -> Path:
    """Pairs with images, and yes/no questions."""
    records = [record for record in pairs(16) if record.media]
    saved_inputs(folder, records)
    rows = []
    for n in range(4):
        data = picture(n).data
        assert data is not None
        (folder / f"{n}.png").write_bytes(data)
        row = {"question_id": n, "image": f"{n}.png", "text": "Is there a cat?", "label": "yes" if n % 2 else "no"}
        rows.append(json.dumps(row) + "\n")
    (folder / "pope.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


def settings_of(inputs: Path, root: Path, name: str) -> dict[str, Any]:
    sections = dict(RUNS[name])
    if "reference" in sections:
        sections["reference"] = sections["reference"] | {"cache": str(root / "cache.reference")}
    pope = {"data": str(inputs / "pope.jsonl"), "max_new_tokens": 2, "every": 3, "every_limit": 3}
    model = {"path": str(inputs / "model"), "lora": {"r": 4, "alpha": 8, "dropout": 0.2}}
    data = {"path": str(inputs / "data"), "validation": 0.3, "variants": "fresh" if name == "fresh" else "fixed"}
    return run_settings(inputs, **{"model": model, "data": data, "eval": {"pope": pope}} | sections)


def killed_with_its_children(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a launcher and to what it has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    process.kill()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    process.communicate()


def log_of(run: Path) -> list[dict[str, Any]]:
    """What a run logged, without what it measured of time."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith(TIMES)} for line in lines]


def results_of(run: Path) -> dict[str, Any]:
    """Every evaluation, by its folder."""
    names = ("answers.jsonl", "items.jsonl", "metrics.json")
    return {str(p.relative_to(run)): p.read_text(encoding="utf-8") for n in names for p in sorted(run.rglob(n))}


def assert_same_run(run: Path, whole: Path) -> None:
    assert log_of(run) == log_of(whole)
    for name, weight in load_file(whole / "adapter" / "adapter_model.safetensors").items():
        assert weight.equal(load_file(run / "adapter" / "adapter_model.safetensors")[name]), name
    assert results_of(run) == results_of(whole)
    kept = [sorted(path.name for path in (each / "checkpoints").iterdir()) for each in (run, whole)]
    assert kept[0] == kept[1]
    decisions = [json.loads((each / "manifest.json").read_text())["decisions"] for each in (run, whole)]
    assert decisions[0].get("best_checkpoint") == decisions[1].get("best_checkpoint")
    assert not [path for path in run.rglob("*") if path.name.endswith((".tmp", ".part")) or path.name == "unfinished"]


def assert_nothing_twice(run: Path) -> None:
    """Each process begins after the newest checkpoint, and no answer is given twice."""
    told = [line.split() for line in run.with_suffix(".done").read_text(encoding="utf-8").splitlines()]
    checkpoint = {number: int(rest[0]) for number, what, *rest in told if what == "from"}
    steps = collections.defaultdict(list)
    for number, what, *rest in told:
        if what == "step":
            steps[number].append(int(rest[0]))
    for number, made in steps.items():
        assert made == list(range(checkpoint[number] + 1, checkpoint[number] + 1 + len(made)))
    answers = collections.Counter(tuple(rest) for _, what, *rest in told if what == "answer")
    assert set(answers.values()) <= {1}, [one for one, times in answers.items() if times > 1]


@pytest.mark.parametrize(("name", "seed"), [("cached", 1), ("fresh", 2)])
def test_a_killed_run_ends_as_one_that_was_never_killed(tmp_path: Path, name: str, seed: int) -> None:
    """Twice in each kind of file that the run writes, once in the middle of a line; in steps, and by the clock."""
    inputs, root = inputs_of(tmp_path / "inputs"), tmp_path / "runs"
    root.mkdir()
    plan = {
        "config": settings_of(inputs, root, name),
        "root": str(root),
        "seed": seed,
        "at": [[1, False], [3, True]],
        "by_time": 3,
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": tests}
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "plan.json")], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads((root / "told.json").read_text(encoding="utf-8"))
    told = found["told"]
    for one in told:
        assert one["code"] in (0, -9), (one, (root / one["out"]).with_suffix(".errors").read_text()[-3000:])
    assert not found["waiting"], "kills that never came"
    kills = [one for one in told if one["code"] == -9]
    assert len(kills) >= EXPECTED_KILLS
    assert {one["kind"] for one in kills} == {*KINDS, "step", "time"} - ({"cache"} if name == "fresh" else set())
    finished = [root / one["out"] for one in told if one["code"] == 0]
    for run in finished:
        assert_same_run(run, root / "whole")
        assert_nothing_twice(run)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds child processes in /proc")
def test_two_killed_processes_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Each has generators and sums of its own; a coupled loss, with dropout. Killed in a step and in a checkpoint."""
    settings = settings_of(inputs_of(tmp_path / "inputs"), tmp_path, "cached") | {"eval": {}, "stop": None}
    del settings["reference"]
    settings["train"] |= {"max_steps": 7, "eval_steps": 3, "per_device_eval_batch_size": 1}
    settings["plugins"] = [str(Path(__file__).with_name("waits.py"))]
    (tmp_path / "run.yaml").write_text(json.dumps(settings), encoding="utf-8")
    waiting = tmp_path / "waiting"

    def start(out: str, *words: str, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mmdpo", "train", "run.yaml", "--processes", "2", "--out", out, *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "WAITING": str(waiting)} | variables
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    def finish(out: str, *words: str) -> None:
        process = start(out, *words)
        _, errors = process.communicate()
        assert process.returncode == 0, errors

    finish("whole")
    for words, place in (((), "step 5"), (("--resume",), "checkpoint 6")):
        killed = start("run", *words, WAIT_AT=place)
        while killed.poll() is None and not waiting.exists():
            time.sleep(0.05)
        assert waiting.exists(), killed.communicate()[1]
        killed_with_its_children(killed)
        waiting.unlink()
    finish("run", "--resume")
    resumed = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["resumed"]
    assert [one["step"] for one in resumed] == [3, 3]
    assert_same_run(tmp_path / "run", tmp_path / "whole")
