"""Out of memory in a benchmark while training: the message names it and its setting, not a batch of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmdpo.answering.answers import Answering
from mmdpo.answering.memory import telling_answer_memory
from mmdpo.config import parse_config
from mmdpo.runs.training import train
from mmdpo.training.out_of_memory import MemoryShortageError
from training.test_training_evals import inputs, pope, settings_of  # noqa: F401


def test_a_run_names_the_benchmark(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """At the second step, when a batch of records was scored before."""
    run = Answering.run

    def short(self: Answering, samples: Any, file: Any, progress: Any) -> None:
        if file.folder.parent.name == "2":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0")
        run(self, samples, file, progress)

    monkeypatch.setattr(Answering, "run", short)
    settings = settings_of(inputs, eval={"pope": pope(inputs, batch_size=4)})
    with pytest.raises(MemoryShortageError) as caught:
        train(parse_config(settings), tmp_path / "run")
    assert caught.value.what == "out of memory while the model answered pope: 4 questions at a time"
    assert caught.value.why.startswith("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "eval.pope.batch_size=2" in caught.value.fix
    assert "per_device" not in str(caught.value)


def test_one_question_that_does_not_fit_is_not_halved() -> None:
    with pytest.raises(MemoryShortageError) as caught, telling_answer_memory("chair", 1):
        raise MemoryError
    assert "batch_size" not in caught.value.fix


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"), telling_answer_memory("chair", 8):
        raise RuntimeError("shape mismatch")
