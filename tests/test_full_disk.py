"""A full disk, while training and while the page is written: an error that says so, and a run that goes on."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from mmdpo import cli, pipeline
from mmdpo.config import parse_config
from mmdpo.errors import DataError
from mmdpo.interrupts import DiskFullError, is_full, telling_full_disk
from mmdpo.runs.training import train
from mmdpo.trainer import PreferenceTrainer
from training.common import pairs, run_settings, saved_inputs
from training.test_processes import trained_weights

FULL = Path("/dev/full")
"""A device that refuses every byte as a full disk does."""
needs_device = pytest.mark.skipif(not FULL.is_char_device(), reason="a system without /dev/full")


def raised(write: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:
        write()
    return caught.value


@needs_device
def test_the_errors_of_a_full_disk_are_known() -> None:
    def note() -> None:
        try:
            torch.save({"a": torch.zeros(100)}, FULL)
        except RuntimeError:
            raise ValueError("the note of that fails too") from None

    for write in (lambda: torch.save({"a": torch.zeros(100)}, FULL), lambda: FULL.write_text("a"), note):
        assert is_full(raised(write))
    assert is_full(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert is_full(OSError(errno.EDQUOT, "Disk quota exceeded"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        RuntimeError("unable to write to file </torch_17>: No space left on device (28)"),  # shared memory
        ValueError("28"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error).split("<")[0].replace("[", r"\[")), telling_full_disk("", ""):
        raise error


def test_an_error_that_is_told_already_is_not_told_again() -> None:
    with pytest.raises(DataError), telling_full_disk("", ""):
        raise DataError("the disk is full") from OSError(errno.ENOSPC, "No space left on device")


@needs_device
def test_a_run_goes_on_when_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First there is none for the second checkpoint's optimizer, then none for the page."""
    inputs = saved_inputs(tmp_path, pairs(4))
    saving = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "optim": "adamw_torch"}
    config, out = parse_config(run_settings(inputs, train=saving)), tmp_path / "run"
    save = PreferenceTrainer._save_optimizer_and_scheduler

    def save_to_full_disk(self: PreferenceTrainer, folder: str) -> None:
        if self.state.global_step > 1:
            torch.save(self.optimizer.state_dict(), FULL)
        save(self, folder)

    with monkeypatch.context() as patch, pytest.raises(DiskFullError, match="full while training") as caught:
        patch.setattr(PreferenceTrainer, "_save_optimizer_and_scheduler", save_to_full_disk)
        pipeline.run(config, out)
    assert str(out) in caught.value.why
    assert caught.value.fix == "Make room. Go on with the same command and --resume."
    monkeypatch.setattr(pipeline, "write_run_pages", lambda _: FULL.write_text("page"))
    with pytest.raises(DiskFullError, match="No space left on device"):
        pipeline.run(config, out, resume=True)
    weights = trained_weights(out)
    monkeypatch.setattr(pipeline, "write_run_pages", lambda runs: (runs[0] / "report.html").write_text("page"))
    assert pipeline.run(config, out, resume=True).is_file()
    for name, weight in trained_weights(train(config, tmp_path / "whole")).items():
        assert weight.equal(weights[name])


def test_every_verb_tells_of_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def verb(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "items.jsonl")

    monkeypatch.setattr(cli, "app", verb)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "items.jsonl" in told and "Make room. Give the same command again" in told
