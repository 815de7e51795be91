"""The files of `configs/accelerate/`: accelerate reads every key of them, and runs of two processes start from them."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from mmdpo.config import parse_config
from mmdpo.launch import _free_port
from mmdpo.runs.training import train
from training.test_processes import HALVES, PLUGIN, WHOLE, assert_equal_runs, inputs, settings_of  # noqa: F401

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
STAGES = {"zero2": "2", "zero3": "3"}


def launched(name: str, *words: str) -> argparse.Namespace:
    """What `accelerate launch --config_file NAME.yaml WORDS -m mmdpo train` makes of the file."""
    words = ("--config_file", str(FOLDER / f"{name}.yaml"), *words, "-m", "mmdpo", "train")
    arguments: argparse.Namespace = _validate_launch_command(launch_command_parser().parse_args([*words]))[0]
    return arguments


def test_there_is_one_for_each_engine() -> None:
    assert FILES == ["ddp", "fsdp2", "zero2", "zero3"]


@pytest.mark.parametrize("name", FILES)
def test_accelerate_knows_every_key(name: str) -> None:
    """Of the file, and of the section of its engine; it refuses the ones that it does not know in neither case."""
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.num_machines == 1
    assert config.num_processes == 8
    known = set(vars(launch_command_parser().parse_args(["-m", "mmdpo"])))
    given = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for section in ("fsdp_config", "deepspeed_config"):
        assert set(given.get(section, {})) <= known


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_accelerate_launches_the_engine(name: str) -> None:
    arguments = launched(name)
    assert (arguments.multi_gpu, arguments.use_fsdp) == (name == "ddp", name == "fsdp2")
    assert arguments.module
    assert arguments.training_script == "mmdpo"
    if name == "fsdp2":
        assert arguments.fsdp_version == 2
        assert arguments.fsdp_state_dict_type == "FULL_STATE_DICT"


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_options_place_a_machine_among_several(name: str) -> None:
    place = {"num_machines": 2, "machine_rank": 1, "main_process_ip": "10.0.0.1", "main_process_port": 29500}
    words = [word for key, value in place.items() for word in (f"--{key}", str(value))]
    arguments = launched(name, *words, "--num_processes", "16")
    assert {key: getattr(arguments, key) for key in place} == place
    assert arguments.num_processes == 16


@pytest.mark.parametrize("name", STAGES)
def test_the_deepspeed_configurations_are_complete(name: str) -> None:
    """Read as a file, without DeepSpeed; with it, as `accelerate launch` reads them."""
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == DistributedType.DEEPSPEED
    assert str(config.deepspeed_config["zero_stage"]) == STAGES[name]
    if importlib.util.find_spec("deepspeed") is not None:
        assert launched(name).use_deepspeed


def launch_two(
    folder: Path, name: str, out: str, plugins: Sequence[Path] = (PLUGIN,)
) -> subprocess.CompletedProcess[str]:
    """A run of two processes, as typed; the plugin allows FSDP on the CPU."""
    settings = settings_of(folder, HALVES) | {"plugins": list(map(str, plugins))}
    (folder / f"{out}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    options = ["--config_file", str(FOLDER / f"{name}.yaml"), "--num_processes", "2"]
    port = ["--main_process_port", str(_free_port())]
    words = ["-m", "mmdpo", "train", f"{out}.yaml", "--out", out]
    return subprocess.run(
        [*accelerate, *options, *port, *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_two_launched_processes_train_as_one(name: str, inputs: Path) -> None:  # noqa: F811
    run = inputs / f"launched-{name}"
    done = launch_two(inputs, name, run.name)
    assert done.returncode == 0, done.stderr
    alone = train(parse_config(settings_of(inputs, WHOLE)), inputs / f"launched-{name}-alone")
    assert_equal_runs(run, alone, tolerance=1e-6)
    first, second = (load_file(run / f"rank{rank}.safetensors") for rank in range(2))
    assert bool(first["sharded"]) is (name == "fsdp2")
    assert all(torch.equal(weight, second[key]) for key, weight in first.items())


@pytest.mark.slow
def test_nothing_is_sharded_on_cpus_and_that_is_said(inputs: Path) -> None:  # noqa: F811
    done = launch_two(inputs, "fsdp2", "unsharded", plugins=())
    assert done.returncode != 0
    assert "FSDP is asked for, and the processes train on CPUs" in done.stderr
