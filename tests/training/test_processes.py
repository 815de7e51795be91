"""Two processes on one machine train as one process with the double batch does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mmdpo import launch
from mmdpo.config import parse_config
from mmdpo.interrupts import Interrupted
from mmdpo.records import Records, save_records
from mmdpo.runs.training import train
from training.common import pairs, run_settings, saved_inputs

PLUGIN = Path(__file__).with_name("every_rank.py")
KINDS: dict[str, dict[str, Any]] = {"ddp": {}, "fsdp2": {"fsdp": True, "fsdp_config": {"version": 2}}}
LOSS = {"dpo": {"beta": 0.3}, "nll": {"weight": 0.5, "per": "token"}}
BLIND = {"blind": {"term": "nll", "media": "blank"}}
# plain gradient descent: Adam would hide a wrong scale of the gradients
TRAIN = {"optim": "sgd", "learning_rate": 0.1, "eval_steps": 3, "load_best_model_at_end": False}
WHOLE = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 2}
HALVES = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 1}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = saved_inputs(tmp_path_factory.mktemp("inputs"), pairs(12))
    # five pairs do not divide by two processes: one of them gets a pair twice
    save_records(Records(pairs(17)[12:]), folder / "held_out", embed=True)
    return folder


def settings_of(inputs: Path, fields: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """A run with held-out pairs; `fields` are those of its `train:` section."""
    data = {"path": str(inputs / "data"), "validation": str(inputs / "held_out")}
    return run_settings(inputs, **{"loss": LOSS, "data": data} | sections, train=TRAIN | fields)


def train_in_two(inputs: Path, name: str, fields: dict[str, Any], **sections: Any) -> Path:
    """`mmdpo train NAME.yaml --processes 2`, as typed."""
    start = start_in_two(inputs, name, fields, **sections)
    _, errors = start.communicate()
    assert start.returncode == 0, errors
    return inputs / name


def start_in_two(
    inputs: Path, name: str, fields: dict[str, Any], *words: str, **sections: Any
) -> subprocess.Popen[str]:
    settings = settings_of(inputs, fields, **sections) | {"plugins": [str(PLUGIN)]}
    (inputs / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "mmdpo", "train", f"{name}.yaml", "--processes", "2", "--out", name, *words],
        cwd=inputs,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trained_weights(run: Path) -> dict[str, torch.Tensor]:
    folder, file = ("adapter", "adapter_model") if (run / "adapter").exists() else ("model", "model")
    return load_file(run / folder / f"{file}.safetensors")


def logged(run: Path) -> list[dict[str, float]]:
    """What the run logged, without what it measured of time."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(("runtime", "per_second", "flos"))} for line in lines]


def assert_equal_runs(ours: Path, theirs: Path, tolerance: float) -> None:
    expected = trained_weights(theirs)
    assert trained_weights(ours).keys() == expected.keys()
    for name, weight in trained_weights(ours).items():
        assert (weight - expected[name]).abs().max() <= tolerance, name
    for line, other in zip(logged(ours), logged(theirs), strict=True):
        assert line == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def alone(inputs: Path) -> Path:
    """The run of one process with the double batch."""
    return train(parse_config(settings_of(inputs, WHOLE)), inputs / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_as_one_with_the_double_batch(inputs: Path, alone: Path, kind: str) -> None:
    run = train_in_two(inputs, kind, HALVES | KINDS[kind])
    assert_equal_runs(run, alone, tolerance=1e-6)
    first, second = (load_file(run / f"rank{rank}.safetensors") for rank in range(2))
    assert bool(first["sharded"]) is bool(second["sharded"]) is (kind == "fsdp2")
    assert first.keys() == second.keys()
    assert all(weight.equal(second[name]) for name, weight in first.items())


EVALUATING = {"eval_strategy": "steps", "eval_steps": 1}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {"model": {"lora": None}}),
    "base-changed": ({}, {"model": {"lora": {"r": 4, "alpha": 8, "init": "pissa"}}}),
    "projector": ({}, {"model": {"trainable": "llm+projector"}}),  # which some batches, without an image, do not use
    "checkpointing": ({"activation_checkpointing": True}, {}),
    "two-passes": ({}, {"two_pass": True}),
    "chunks": ({}, {"rows_per_chunk": 1, "loss": LOSS | BLIND}),  # one or two in a batch, with an image or without
    "best-checkpoint": ({"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1} | EVALUATING, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_train_is_the_same_in_two_processes(inputs: Path, kind: str, variant: str) -> None:
    fields, sections = VARIANTS[variant]
    model = {"path": str(inputs / "model"), "lora": {"r": 4, "alpha": 8}} | sections.get("model", {})
    sections = sections | {"model": model}
    name = f"{kind}-{variant}"
    alone = train(parse_config(settings_of(inputs, WHOLE | fields, **sections)), inputs / f"{name}-alone")
    run = train_in_two(inputs, name, HALVES | fields | KINDS[kind], **sections)
    assert_equal_runs(run, alone, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_stops_all_processes_at_the_same_step(inputs: Path, kind: str) -> None:
    saving = {"max_steps": 12, "save_strategy": "steps", "save_steps": 100, "eval_steps": 100, "optim": "adamw_torch"}
    fields = HALVES | KINDS[kind] | saving
    whole = train_in_two(inputs, f"{kind}-whole", fields)
    name = f"{kind}-stopped"
    running = start_in_two(inputs, name, fields)
    log = inputs / name / "log.jsonl"
    while running.poll() is None and not (log.is_file() and log.read_text().count("\n") >= 2):
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate()
    assert running.returncode == 130, errors
    assert len(list((inputs / name / "checkpoints").glob("checkpoint-*"))) == 1

    resumed = start_in_two(inputs, name, fields, "--resume")
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    expected = trained_weights(whole)
    for key, weight in trained_weights(inputs / name).items():
        assert weight.equal(expected[key]), key


def python(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program])


def test_the_exit_code_is_that_of_the_process_that_failed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are not waited for: a process in a collective may never come back."""
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.2)
    running = [python("import time; time.sleep(60)"), python("raise SystemExit(2)")]
    try:
        assert launch._first_failure(running) == (1, 2)
    finally:
        for process in running:
            process.kill()
            process.wait()


def launch_programs(monkeypatch: pytest.MonkeyPatch, *programs: str) -> int:
    """What `launch` makes of programs in place of the command, one for each process."""
    plain, left = subprocess.Popen, list(programs)
    monkeypatch.setattr(subprocess, "Popen", lambda _, **how: plain([sys.executable, "-c", left.pop(0)], **how))
    return launch.launch(["train"], len(programs))


def test_nothing_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch_programs(monkeypatch, "", "") == 0


def test_of_a_killed_process_the_signal_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(launch.ProcessKilledError) as caught:
        launch_programs(monkeypatch, "", "import os; os.kill(os.getpid(), 9)")
    assert caught.value.what == "process 1 (of 0 to 1) was killed by SIGKILL"
    assert caught.value.exit_code == 137, "as in a shell"
    assert "--resume" in caught.value.fix


def test_a_process_that_lost_the_killed_one_is_not_the_cause() -> None:
    """Both are found ended at the same look."""
    running = [python("raise SystemExit(1)"), python("import os; os.kill(os.getpid(), 9)")]
    for process in running:
        process.wait()
    assert launch._first_failure(running) == (1, -9)


PATIENT = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
assert os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"] == "2"
assert os.environ["RANK"] == os.environ["LOCAL_RANK"]
ready = pathlib.Path(os.environ["READY"])
if os.environ["RANK"] == "1": ready.touch()
while not ready.exists(): time.sleep(0.01)
if os.environ["RANK"] == "0": os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""


def test_a_signal_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each process gets it, what they make of it is the exit code, and the handlers are given back."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    plain = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: plain([sys.executable, "-c", PATIENT], **options))
    monkeypatch.setenv("READY", str(tmp_path / "ready"))
    assert launch.launch(["train"], 2) == 130
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_signal_while_the_processes_start_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when the first process is there, and not yet among those that signals are passed on to."""
    plain, started = subprocess.Popen, []

    def start(_: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(plain([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        os.kill(os.getpid(), signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(Interrupted, match="while starting 2 processes"):
        launch.launch(["train"], 2)
    assert [process.poll() for process in started] in ([-signal.SIGKILL], [-signal.SIGTERM])


def test_a_signal_that_a_process_could_not_handle_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    send = "import os, signal, time; time.sleep(0.3); os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    with pytest.raises(Interrupted, match="SIGTERM ended process 0 before") as caught:
        launch_programs(monkeypatch, send, "import time; time.sleep(60)")
    assert caught.value.exit_code == 130
    assert "Give the same command again" in caught.value.fix
