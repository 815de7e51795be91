"""Two processes that cut their halves of a step into different numbers of micro-batches train as one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmdpo.config import parse_config
from mmdpo.runs.training import train
from training.common import pairs, saved_inputs
from training.test_processes import KINDS, TRAIN, assert_equal_runs, settings_of, train_in_two


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = saved_inputs(tmp_path_factory.mktemp("inputs"), pairs(12))
    (folder / "held_out").symlink_to(folder / "data")
    return folder


STEP = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 2}
HALF = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 1}
WAYS: dict[str, dict[str, Any]] = {
    "one-pass": {"batches": {"max_tokens": 100}},
    "two-pass": {"batches": {"max_tokens": 100}, "two_pass": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_uneven_micro_batches_in_two_processes(inputs: Path, kind: str, way: str) -> None:
    alone = train(parse_config(settings_of(inputs, STEP)), inputs / f"{kind}-{way}-alone")
    run = train_in_two(inputs, f"{kind}-{way}", HALF | KINDS[kind], **WAYS[way])
    assert_equal_runs(run, alone, tolerance=1e-5)
    assert TRAIN["optim"] == "sgd", "Adam would hide a wrong scale"
