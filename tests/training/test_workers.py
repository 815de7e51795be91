"""Batches that workers make are those that the training process makes, and what they cost in waiting is told."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdpo.config import parse_config
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError, DataError, MMDPOError, ModelError
from mmdpo.media import MediaError
from mmdpo.records import Media
from mmdpo.runs.training import train
from mmdpo.training import workers
from mmdpo.training.token_batches import Batches
from mmdpo.training.workers import InWorker, carried, restored, unpacked, usual_workers
from training.common import loaded_model, make_trainer, pairs, run_settings, saved_inputs, trained

EIGHT = pairs(8)
LOSS = {"dpo": {"beta": 0.3}, "seen": {"term": "dpo", "media": "crop", "beta": 0.2}}


def run_with(
    folder: Path, count: int, *, batches: Batches | None = None, fresh: bool = False
) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Weights and losses after two epochs."""
    fields: dict[str, Any] = {"dataloader_num_workers": count, "per_device_train_batch_size": 2}
    if count:
        fields["dataloader_multiprocessing_context"] = "fork"
    trainer = make_trainer(
        loaded_model(spread=0.2), EIGHT, folder, loss=LOSS, batches=batches, num_train_epochs=2, **fields
    )
    trainer.collator.encoder.fresh = fresh
    if fresh:
        from mmdpo.training.callbacks import FreshVariants

        trainer.add_callback(FreshVariants(trainer.collator.encoder, trainer.args))
    trainer.train()
    return trained(trainer.loaded), [line.get("loss") for line in trainer.state.log_history]


BY_TOKENS = Batches(150, [len(r.candidates[1].text) for r in EIGHT])


@pytest.mark.parametrize(
    ("batches", "fresh"),
    [
        (None, False),
        (BY_TOKENS, True),
        pytest.param(None, True, marks=pytest.mark.slow),
        pytest.param(BY_TOKENS, False, marks=pytest.mark.slow),
    ],
)
def test_workers_change_nothing(tmp_path: Path, batches: Batches | None, fresh: bool) -> None:
    weights, losses = run_with(tmp_path / "alone", 0, batches=batches, fresh=fresh)
    by_workers, losses_by_workers = run_with(tmp_path / "two", 2, batches=batches, fresh=fresh)
    assert losses_by_workers == losses
    for name, weight in weights.items():
        assert torch.equal(by_workers[name], weight), name
    if fresh:  # or the comparison of fresh variants would show nothing
        assert run_with(tmp_path / "fixed", 0, batches=batches)[1] != losses


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_is_told_in_its_own_words(tmp_path: Path, count: int) -> None:
    """A file that disappears after the screening: no record is left out, and no traceback of a worker is shown."""
    bad = replace(EIGHT[0], media={"images": (Media(path="gone.png"),)})
    fields = {"dataloader_num_workers": count} | ({"dataloader_multiprocessing_context": "fork"} if count else {})
    trainer = make_trainer(loaded_model(), [*EIGHT[1:], bad], tmp_path, **fields)
    with pytest.raises(DataError) as found:
        trainer.train()
    assert "gone.png" in found.value.what and "Traceback" not in str(found.value)
    assert found.value.fix


def test_what_a_collator_raises_is_carried() -> None:
    def collate(_: Any) -> Any:
        raise MediaError("missing_media", "no file", why="It is needed.", fix="Copy it.")

    with pytest.raises(DataError) as found:
        unpacked(InWorker(collate)([]))
    assert (found.value.what, found.value.why, found.value.fix) == ("no file", "It is needed.", "Copy it.")
    for kind in (DataError, ModelError, ConfigError, MMDPOError):  # it ends the run with its own exit code
        assert type(restored(carried(kind("what", why="why", fix="fix")))) is kind
    with pytest.raises(ZeroDivisionError):  # an error of the code is no error of the data
        InWorker(lambda _: 1 // 0)([])


@pytest.mark.slow
def test_waiting_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = Encoder.prompt

    def slow(self: Encoder, *arguments: Any) -> Any:
        time.sleep(0.05)
        return prompt(self, *arguments)

    trainer = make_trainer(loaded_model(), EIGHT, tmp_path, per_device_train_batch_size=4, num_train_epochs=1)
    monkeypatch.setattr(Encoder, "prompt", slow)
    trainer.train()
    final = trainer.state.log_history[-1]
    assert 8 * 0.05 <= trainer.waited <= final["train_runtime"]
    assert final["train_waiting_runtime"] == pytest.approx(trainer.waited, abs=1e-3)
    assert trainer.waiting()["share"] == pytest.approx(trainer.waited / final["train_runtime"], abs=1e-3)


def test_a_run_says_its_workers_and_its_waiting(tmp_path: Path) -> None:
    inputs = saved_inputs(tmp_path, EIGHT)
    settings = run_settings(inputs, batches={"max_tokens": 150, "bucket": True}, train={"dataloader_num_workers": 1})
    run = train(parse_config(settings), tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["decisions"]["workers"] == {"value": 1, "reason": "as train.dataloader_num_workers says"}
    assert 0 < manifest["waiting"]["share"] < 1
    assert sum(manifest["lengths"].values()) == 8
    assert "train_waiting_runtime" in (run / "log.jsonl").read_text(encoding="utf-8")


def test_usual_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert [usual_workers("cpu"), usual_workers("cuda"), usual_workers("cuda", 4)] == [0, 8, 3]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert usual_workers("cuda") == 0
    monkeypatch.setattr(workers, "MOST", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert [usual_workers("cuda"), usual_workers("cuda", 8)] == [3, 1]
