"""What a side's process says when it fails, and what the comparison makes of it."""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from mmdpo.bench import processes
from mmdpo.bench.arms import Arm
from mmdpo.bench.worker import failure
from mmdpo.errors import ConfigError, DataError, MMDPOError, ModelError, ParityError
from mmdpo.training.out_of_memory import MemoryShortageError


def told_by(program: str, monkeypatch: pytest.MonkeyPatch) -> MMDPOError:
    """What the parent makes of a worker that runs this in place of its own program."""
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, "-S", "-c", program])
    with pytest.raises(MMDPOError) as caught, processes.workers([Arm("shared", "tiny")]):
        pass
    return caught.value


@pytest.mark.parametrize("kind", [ConfigError, DataError, ModelError, ParityError])
def test_a_side_that_fails_does_so_in_its_own_words(kind: type[MMDPOError], monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.dumps(failure(kind("what", why="why", fix="fix")))
    found = told_by(f"print({told!r})", monkeypatch)
    assert type(found) is kind and (found.what, found.why, found.fix) == ("what", "why", "fix")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryShortageError("out of memory while a micro-batch was trained on"),
        MemoryError("allocate"),
    ],
)
def test_a_side_that_does_not_fit_is_known(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    found = told_by(f"print({json.dumps(failure(error))!r})", monkeypatch)
    assert isinstance(found, processes.OutOfMemory)
    assert "does not fit with 1 records" in found.what and found.why == str(error)


def test_a_process_that_the_system_ends_did_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told_by("import os; os.kill(os.getpid(), 9)", monkeypatch)
    assert isinstance(found, processes.OutOfMemory)


def test_a_fault_of_the_program_is_told_by_its_last_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert failure(ValueError("wrong")) == {}
    found = told_by("raise ValueError('none of ours')", monkeypatch)
    assert type(found) is MMDPOError
    assert found.what == "the process of mmdpo ended with code 1: ValueError: none of ours"
    (kept,) = tmp_path.glob("mmdpo-bench-*.txt")
    assert str(kept) in found.fix and "Traceback" in kept.read_text(encoding="utf-8")
