"""The run folder: what a run leaves, and that an interrupted one goes on as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmdpo import cli
from mmdpo.config import load_config, parse_config
from mmdpo.errors import ConfigError, DataError, ParityError
from mmdpo.interrupts import Interrupted
from mmdpo.runs.resuming import last_checkpoint
from mmdpo.runs.training import train
from mmdpo.training import callbacks
from mmdpo.training.callbacks import RunCallback
from mmdpo.training.reference_store import ReferenceStore
from training.common import pairs, run_settings, saved_inputs

SAVING = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_inputs(tmp_path_factory.mktemp("inputs"), pairs(8))


def settings_of(inputs: Path, **sections: Any) -> dict[str, Any]:
    """A run with dropout, so that the state of the random generator counts too."""
    model = {"path": str(inputs / "model"), "lora": {"r": 4, "alpha": 8, "dropout": 0.2}}
    return run_settings(inputs, **{"model": model, "train": SAVING} | sections)


def adapter_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def manifest_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "manifest.json").read_text(encoding="utf-8"))


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Sends this process a signal in the middle of a step."""
    logged = RunCallback.on_log

    def on_log(self: RunCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logged(self, args, state, control, **kwargs)
        if state.global_step == step:
            signal.raise_signal(number)

    monkeypatch.setattr(RunCallback, "on_log", on_log)


def test_an_interrupted_run_goes_on_where_it_stopped(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(settings_of(inputs))
    whole = train(config, tmp_path / "whole")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        stop_at(patched, 3, signal.SIGINT)
        with pytest.raises(Interrupted, match="SIGINT at step 4") as caught:
            train(config, tmp_path / "stopped")
    assert caught.value.exit_code == 130
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert manifest_of(tmp_path / "stopped")["exit"] == "interrupted"
    assert (tmp_path / "stopped" / "checkpoints" / "checkpoint-4").is_dir()
    assert not (tmp_path / "stopped" / "adapter").exists()

    resumed = train(config, tmp_path / "stopped", resume=True, command=["mmdpo", "train", "--resume"])

    for name, weight in adapter_of(whole).items():
        assert weight.equal(adapter_of(resumed)[name]), name
    assert [line["step"] for line in log_of(resumed) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert manifest_of(resumed)["exit"] == "ok"
    assert manifest_of(resumed)["resumed"][0]["command"] == ["mmdpo", "train", "--resume"]


def test_the_command_ends_with_130(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(settings_of(inputs)), encoding="utf-8")
    stop_at(monkeypatch, 1, signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["mmdpo", "train", str(config), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resume_with_another_reference_is_refused(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(settings_of(inputs))
    with monkeypatch.context() as patched:
        stop_at(patched, 2, signal.SIGINT)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "run")
    file = inputs / "model" / "model.safetensors"
    original = file.read_bytes()
    weights = load_file(file)
    head = next(name for name in weights if name.endswith("lm_head.weight"))
    save_file(weights | {head: weights[head] * 1.5}, file, metadata={"format": "pt"})
    try:
        with pytest.raises(ParityError, match="the run began with"):
            train(config, tmp_path / "run", resume=True)
    finally:
        file.write_bytes(original)
    assert manifest_of(tmp_path / "run")["exit"] == "failed"


def test_a_run_folder_is_never_overwritten(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="already holds files"):
        train(parse_config(settings_of(inputs)), run)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_a_run_that_another_process_writes_to_is_left_alone(inputs: Path, tmp_path: Path) -> None:
    """The lock is another process's; the system lets go of it when that one is killed."""
    config = parse_config(settings_of(inputs, train={"max_steps": 1, "save_strategy": "steps", "save_steps": 1}))
    run = train(config, tmp_path / "run")
    (run / "manifest.json").write_text(json.dumps(manifest_of(run) | {"exit": None}), encoding="utf-8")
    holds = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True)"
    words = [sys.executable, "-c", f"{holds}; input()", str(run / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(ConfigError, match="another process is at work"):
            train(config, run, resume=True)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        other.kill()
    train(config, run, resume=True)
    assert manifest_of(run)["exit"] == "ok"


def test_there_is_nothing_to_resume_in_a_new_folder(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        train(parse_config(settings_of(inputs)), tmp_path / "run", resume=True)


def test_what_a_run_leaves(inputs: Path, tmp_path: Path) -> None:
    """The checkpoint with the largest held-out margin is what is saved, without a pickle."""
    data = {"path": str(inputs / "data"), "validation": 0.4}
    fields = {"eval_steps": 1, "save_steps": 1, "learning_rate": 0.1, "lr_scheduler_type": "constant"}
    settings = settings_of(inputs, data=data, train=SAVING | fields, loss={"nll": {}, "dpo": {"beta": 0.5}})
    run = train(parse_config(settings), tmp_path / "run", command=["mmdpo", "train", "x.yaml"])

    margins = {e["step"]: e["eval_rewards/margins"] for e in log_of(run) if "eval_loss" in e}
    best = max(margins, key=lambda step: margins[step])
    assert len(margins) == 6
    assert best < 6, "the case is no case: the last checkpoint is the best one"
    kept = load_file(run / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors")
    for name, weight in adapter_of(run).items():
        assert weight.equal(kept[name]), name

    held_out = next(line for line in log_of(run) if "eval_loss" in line)
    for name in ("rewards/accuracies", "rewards/blind_accuracies"):
        assert held_out[f"eval_{name}_low"] <= held_out[f"eval_{name}"] <= held_out[f"eval_{name}_high"]
    assert {"eval_rewards/margins", "eval_diagnostics/media_gain", "eval_pairs"} <= held_out.keys()

    manifest = manifest_of(run)
    assert manifest["decisions"]["layout"]["value"] == "shared"
    assert manifest["decisions"]["reference"]["value"] == "adapter_off"
    assert manifest["command"] == ["mmdpo", "train", "x.yaml"]
    assert manifest["start_difference"] < 1e-5
    assert manifest["counts"]["train"] + manifest["counts"]["validation"] == 8
    assert (run / "config.yaml").is_file()
    assert (run / "set_aside.jsonl").read_text() == ""

    saved = sorted(path.name for path in (run / "adapter").rglob("*") if path.is_file())
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(saved)
    allowed = (".json", ".safetensors", ".md", ".jinja", ".txt")
    assert [name for name in saved if not name.endswith(allowed)] == []


@pytest.mark.slow
def test_a_resume_goes_on_with_the_same_run_only(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(inputs)
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_at(patched, 2, signal.SIGINT)
        with pytest.raises(Interrupted):
            train(parse_config(settings), run)
    before = (run / "manifest.json").read_bytes()

    other = {**settings, "loss": {"dpo": {"beta": 0.5}}, "train": settings["train"] | {"learning_rate": 1e-5}}
    with pytest.raises(ConfigError, match=r"2 settings differ[^$]*loss\.dpo\.beta: 0\.1 before, 0\.5 now") as caught:
        train(parse_config(other), run, resume=True)
    assert "train.learning_rate" in caught.value.what
    assert (run / "manifest.json").read_bytes() == before, "a refused resume leaves no trace"

    manifest = manifest_of(run)
    (run / "manifest.json").write_text(json.dumps(manifest | {"data_fingerprint": "another"}))
    with pytest.raises(DataError, match="data have changed"):
        train(parse_config(settings), run, resume=True)
    (run / "manifest.json").write_text(json.dumps(manifest))

    longer = parse_config({**settings, "train": settings["train"] | {"max_steps": 7, "logging_steps": 2}})
    train(longer, run, resume=True)
    assert load_config(run / "config.yaml") == longer


def test_without_a_checkpoint_a_run_begins_again_with_the_new_settings(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    wrong = {**settings_of(inputs), "layout": "plain", "data": {"path": str(tmp_path / "absent")}}
    with pytest.raises(DataError):
        train(parse_config(wrong), run)
    right = parse_config(settings_of(inputs))
    train(right, run, resume=True)
    assert load_config(run / "config.yaml") == right


@pytest.mark.slow
def test_the_terms_after_a_resume_are_means_over_its_own_steps(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(settings_of(inputs))
    with monkeypatch.context() as patched:
        stop_at(patched, 3, signal.SIGINT)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True)
    events = [line for line in log_of(tmp_path / "run") if "loss" in line]
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5, 6]
    for event in events:
        assert event["loss/dpo"] == pytest.approx(event["loss"], abs=1e-4)


@pytest.mark.slow
def test_an_unfinished_checkpoint_is_not_taken_and_is_removed(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither what a killed process was writing, nor a checkpoint that was copied in part."""
    config = parse_config(settings_of(inputs))
    whole = train(config, tmp_path / "whole")
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "adapter")
    (run / "manifest.json").write_text(json.dumps(manifest_of(run) | {"exit": None}), encoding="utf-8")
    checkpoints = run / "checkpoints"
    shutil.move(checkpoints / "checkpoint-6", checkpoints / "unfinished" / "checkpoint-6")
    shutil.copytree(checkpoints / "checkpoint-4", checkpoints / "checkpoint-5")
    (checkpoints / "checkpoint-5" / "trainer_state.json").write_text('{"global_st', encoding="utf-8")
    assert last_checkpoint(run) == str(checkpoints / "checkpoint-4")
    assert "checkpoint-5 is not whole and is passed by" in caplog.text
    train(config, run, resume=True)
    assert manifest_of(run)["resumed"][0]["step"] == 4
    assert manifest_of(run)["resumed"][0]["log_lines_cut"] == 3, "steps 5 and 6, and the time that the run took"
    for name, weight in adapter_of(whole).items():
        assert weight.equal(adapter_of(run)[name]), name
    assert not (checkpoints / "unfinished").exists()


def test_a_run_that_is_trained_is_not_trained_again(inputs: Path, tmp_path: Path) -> None:
    config = parse_config(settings_of(inputs))
    run = train(config, tmp_path / "run")
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    train(config, run, resume=True)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == files
    longer = parse_config(settings_of(inputs, train=SAVING | {"max_steps": 7}))
    train(longer, run, resume=True)
    assert [line["step"] for line in log_of(run) if "loss" in line] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.slow
def test_a_checkpoint_of_the_last_step_is_trained_no_further(inputs: Path, tmp_path: Path) -> None:
    """Eight records make four steps of an epoch: six steps end in the middle of one, where Trainer would go on."""
    config = parse_config(settings_of(inputs))
    run = train(config, tmp_path / "run")
    (run / "manifest.json").write_text(json.dumps(manifest_of(run) | {"exit": None}), encoding="utf-8")
    before, mean = adapter_of(run), log_of(run)[-1]["train_loss"]
    train(config, run, resume=True)
    assert max(line["step"] for line in log_of(run)) == 6
    assert log_of(run)[-1]["train_loss"] == mean
    assert mean == pytest.approx(sum(line["loss"] for line in log_of(run) if "loss" in line) / 6, abs=1e-5)
    assert all(weight.equal(before[name]) for name, weight in adapter_of(run).items())


def test_a_run_killed_before_it_had_a_manifest_goes_on(inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("model: {pa", encoding="utf-8")
    (run / ".manifest.json.17.tmp").write_text("{", encoding="utf-8")
    config = parse_config(settings_of(inputs, train={"max_steps": 1}))
    train(config, run, resume=True)
    assert load_config(run / "config.yaml") == config
    assert not (run / ".manifest.json.17.tmp").exists()


def test_a_step_of_other_size_is_refused(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, 2, signal.SIGINT)
        with pytest.raises(Interrupted):
            train(parse_config(settings_of(inputs)), tmp_path / "run")
    manifest = manifest_of(tmp_path / "run")
    assert manifest["records_per_step"] == 2
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest | {"records_per_step": 4}), encoding="utf-8")
    with pytest.raises(ConfigError, match="2 records in all processes now, and had 4"):
        train(parse_config(settings_of(inputs)), tmp_path / "run", resume=True)
    fewer = SAVING | {"per_device_train_batch_size": 1}
    with pytest.raises(ConfigError, match=r"train\.per_device_train_batch_size: 2 before, 1 now"):
        train(parse_config(settings_of(inputs, train=fewer)), tmp_path / "run", resume=True)


@pytest.mark.slow
def test_sigterm_while_preparing_keeps_the_reference_so_far(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of the batches that were done are on disk, and are not computed again."""
    settings = settings_of(inputs, reference={"kind": "cached", "cache": str(tmp_path / "numbers")})
    config = parse_config(settings | {"train": settings["train"] | {"per_device_eval_batch_size": 2}})
    computed: list[int] = []
    plain = ReferenceStore.add

    def add(self: ReferenceStore, identity: Any, mask: Any, values: Any, rows: Any) -> None:
        plain(self, identity, mask, values, rows)
        computed.append(len(rows))
        if len(computed) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ReferenceStore, "add", add)
    with pytest.raises(Interrupted, match="stopped while training or preparing it") as caught:
        train(config, tmp_path / "run")
    assert caught.value.exit_code == 130
    assert "--resume" in caught.value.fix
    assert manifest_of(tmp_path / "run")["exit"] == "interrupted"
    train(config, tmp_path / "run", resume=True)
    assert sum(computed) == 16, "two answers of eight pairs, each once"


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell starts commands in the background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_a_second_signal_stops_a_step_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    callback = RunCallback(None)
    with callback:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the launcher's echo of the first
        assert callback.signal == signal.SIGINT
        monkeypatch.setattr(callbacks, "ECHO_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
