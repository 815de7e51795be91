"""Two processes on one machine train as one process with the double batch does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mmdpo.config import parse_config
from mmdpo.pipeline import train
from mmdpo.records import Records, save_records
from training.common import pairs, run_settings, saved_inputs

PLUGIN = Path(__file__).with_name("every_rank.py")
KINDS: dict[str, dict[str, Any]] = {"ddp": {}, "fsdp2": {"fsdp": True, "fsdp_config": {"version": 2}}}
LOSS = {"dpo": {"beta": 0.3}, "nll": {"weight": 0.5, "per": "token"}}
# plain gradient descent: Adam would hide a wrong scale of the gradients
TRAIN = {"optim": "sgd", "learning_rate": 0.1, "eval_steps": 3, "load_best_model_at_end": False}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = saved_inputs(tmp_path_factory.mktemp("inputs"), pairs(12))
    # five pairs do not divide by two processes: one of them gets a pair twice
    save_records(Records(pairs(17)[12:]), folder / "held_out", embed=True)
    return folder


def settings_of(inputs: Path, **train: Any) -> dict[str, Any]:
    data = {"path": str(inputs / "data"), "validation": str(inputs / "held_out")}
    return run_settings(inputs, loss=LOSS, data=data, train=TRAIN | train)


@pytest.fixture(scope="module")
def alone(inputs: Path) -> Path:
    """The run of one process with the double batch."""
    settings = settings_of(inputs, per_device_train_batch_size=4, per_device_eval_batch_size=2)
    return train(parse_config(settings), inputs / "alone")


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def logged(run: Path) -> list[dict[str, float]]:
    """What the run logged, without what it measured of time."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(("runtime", "per_second", "flos"))} for line in lines]


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "mmdpo", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one_with_the_double_batch(inputs: Path, alone: Path, kind: str) -> None:
    cut = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 1}
    settings = settings_of(inputs, **cut, **KINDS[kind]) | {"plugins": [str(PLUGIN)]}
    config = inputs / f"{kind}.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")

    ended = command("train", config.name, "--processes", "2", "--out", kind, cwd=inputs)

    assert ended.returncode == 0, ended.stderr
    first, second = (load_file(inputs / kind / f"rank{rank}.safetensors") for rank in range(2))
    assert bool(first.pop("sharded")) == bool(second.pop("sharded")) == (kind == "fsdp2")
    saved, expected = weights_of(inputs / kind), weights_of(alone)
    assert saved.keys() == expected.keys()
    for name, weight in saved.items():
        assert (weight - expected[name]).abs().max() <= 1e-6, name
    for ours, theirs in zip(logged(inputs / kind), logged(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert weight.equal(second[name]), name
        assert weight.equal(saved[name.replace(".default", "")]), name
