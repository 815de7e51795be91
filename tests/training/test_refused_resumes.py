"""What a resume refuses, and that a run which refused one is as it was; what it goes on with in the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmdpo.answering.evaluation import evaluate_run
from mmdpo.config import RunConfig, parse_config
from mmdpo.errors import ConfigError, DataError, MMDPOError
from mmdpo.evals.pope import Pope
from mmdpo.records import Media, Record, Records, save_records
from mmdpo.run import RunFolder
from mmdpo.runs import training
from mmdpo.runs.resuming import begun, last_checkpoint
from mmdpo.runs.settings import check_config
from mmdpo.runs.training import train
from mmdpo.training.callbacks import SilentRun
from mmdpo.training.checkpoints import check_readable, put_in_place, remove_unfinished
from training.common import pairs, run_settings, saved_inputs

FIELDS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pairs whose pictures are files, and questions about two of them."""
    folder = saved_inputs(tmp_path_factory.mktemp("inputs"), pairs(8))
    shutil.rmtree(folder / "data")
    save_records(Records(map(on_disk(folder / "media"), pairs(8)), folder / "media"), folder / "data")
    questions = [
        {"question_id": n, "image": f"pair-{n}.png", "text": f"Is there a {thing}?", "label": "yes"}
        for n, thing in enumerate(("cat", "dog"))
    ]
    (folder / "pope.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions), encoding="utf-8")
    return folder


def on_disk(folder: Path) -> Callable[[Record], Record]:
    """Writes a record's pictures to files of their own."""
    folder.mkdir()

    def written(record: Record) -> Record:
        for media in record.media.get("images", ()):
            assert media.data is not None
            (folder / f"{record.id}.png").write_bytes(media.data)
        return replace(record, media={"images": (Media(path=f"{record.id}.png"),)} if record.media else {})

    return written


def config_of(inputs: Path, *, evaluates: bool = False, **fields: Any) -> RunConfig:
    pope = {"pope": {"data": str(inputs / "pope.jsonl"), "images": str(inputs / "media"), "max_new_tokens": 2}}
    return parse_config(run_settings(inputs, train=FIELDS | fields, eval=pope if evaluates else {}))


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps that is done."""
    return train(config_of(inputs), tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def files_of(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


def manifest_of(run: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def noted(run: Path, **facts: Any) -> None:
    (run / "manifest.json").write_text(json.dumps(manifest_of(run) | facts), encoding="utf-8")


# ---- refused ----


def other_data(run: Path) -> None:
    noted(run, data_fingerprint="another")


def other_processes(run: Path) -> None:
    noted(run, records_per_step=4)


def cut_optimizer(run: Path) -> None:
    path = run / "checkpoints" / "checkpoint-4" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-200])


def as_it_was(run: Path) -> None:
    pass


REFUSED: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "other data": (other_data, {"max_steps": 6}, "training data have changed"),
    "other processes": (other_processes, {"max_steps": 6}, "2 records in all processes now, and had 4"),
    "an unreadable file": (cut_optimizer, {"max_steps": 6}, r"checkpoint-4/optimizer\.pt' cannot be read"),
    "fewer steps": (as_it_was, {"max_steps": 3}, r"with train\.max_steps=3 .* before step 4"),
    "fewer epochs": (as_it_was, {"max_steps": -1, "num_train_epochs": 0.5}, r"num_train_epochs=0\.5 .* before step 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_resume_leaves_no_trace_and_is_told_before_the_model_is_loaded(
    inputs: Path, run: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, fields, said = REFUSED[case]
    change(run)
    before = files_of(run)
    monkeypatch.setattr(training, "load_policy", None)
    with pytest.raises(MMDPOError, match=said):
        train(config_of(inputs, **fields), run, resume=True)
    assert files_of(run) == before


def test_every_process_refuses_by_itself(inputs: Path, run: Path) -> None:
    """What is compared is on the disk, not in the main process."""
    other_processes(run)
    config = config_of(inputs, max_steps=6)
    with pytest.raises(ConfigError, match="2 records in all processes now, and had 4"):
        begun(run, config, check_config(config, Path(), run)[1])


def test_epochs_that_come_to_the_same_steps_are_no_fewer(inputs: Path, run: Path) -> None:
    """Eight records make four steps of an epoch; 0.8 of it is rounded up to them."""
    config = config_of(inputs, max_steps=-1, num_train_epochs=0.8)
    found = begun(run, config, check_config(config, Path(), run)[1])
    assert found is not None
    assert found.step == 4


def test_a_resume_on_other_records_is_refused_by_name(inputs: Path, run: Path) -> None:
    picture = inputs / "media" / "pair-1.png"
    whole, before = picture.read_bytes(), files_of(run)
    picture.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(DataError, match=r"other records are set aside.*: 'pair-1' \(changed_media now\)"):
            train(config_of(inputs, max_steps=6), run, resume=True)
    finally:
        picture.write_bytes(whole)
    assert files_of(run) == before
    train(config_of(inputs, max_steps=6), run, resume=True)
    assert manifest_of(run)["counts"]["train"] == 8


@pytest.mark.parametrize("damage", ["cut off", "empty", "overwritten"])
@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "adapter_model.safetensors"])
def test_a_damaged_checkpoint_is_told_with_the_file_and_the_way_on(run: Path, name: str, damage: str) -> None:
    checkpoint = run / "checkpoints" / "checkpoint-4"
    check_readable(checkpoint)
    path = checkpoint / name
    whole = path.read_bytes()
    path.write_bytes({"cut off": whole[:-100], "empty": b"", "overwritten": bytes(len(whole))}[damage])
    with pytest.raises(DataError, match="cannot be read") as caught:
        check_readable(checkpoint)
    assert name in caught.value.what
    assert str(checkpoint) in caught.value.fix


# ---- gone on with ----


def test_the_error_of_an_earlier_attempt_is_not_that_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder.create(tmp_path / "run", config={}):
        _ = 1 / 0
    assert "ZeroDivisionError" in manifest_of(tmp_path / "run")["error"]
    with RunFolder.open(tmp_path / "run", command=["mmdpo"]):
        pass
    manifest = manifest_of(tmp_path / "run")
    assert "error" not in manifest
    assert "ZeroDivisionError" in manifest["resumed"][0]["error_before"]


def test_other_processes_read_the_run_and_write_nothing(run: Path) -> None:
    before, silent = files_of(run), SilentRun(run)
    silent.log({"step": 1})
    silent.note(counts={})
    silent.decide("layout", "plain", "none")
    assert files_of(run) == before
    assert silent.manifest == manifest_of(run)
    with pytest.raises(AttributeError):
        silent.nott()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_intervals_may_change_and_take_effect(inputs: Path, run: Path) -> None:
    fields = {"max_steps": 10, "logging_steps": 3, "save_steps": 5, "save_total_limit": 1, "ddp_timeout": 99}
    train(config_of(inputs, **fields), run, resume=True)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 6, 9]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["checkpoint-10"]


def test_a_run_that_is_trained_is_not_trained_again_for_what_changes_no_number(inputs: Path, run: Path) -> None:
    before = files_of(run)
    train(config_of(inputs, save_total_limit=1, save_steps=1, logging_steps=9), run, resume=True)
    assert files_of(run) == before


@pytest.mark.slow
def test_save_steps_may_not_change_where_they_choose_the_best_checkpoint(inputs: Path, tmp_path: Path) -> None:
    settings = config_of(inputs).model_dump() | {"data": {"path": str(inputs / "data"), "validation": 0.4}}
    other = settings | {"train": settings["train"] | {"save_steps": 1}}
    run = train(parse_config(settings), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train\.save_steps: 2 before, 1 now"):
        train(parse_config(other), run, resume=True)


# ---- the evaluation of the trained model ----


def fingerprint_of(run: Path, stage: str = "eval") -> str:
    told = json.loads((run / stage / "pope" / "generation.json").read_text(encoding="utf-8"))
    return str(told["model_fingerprint"])


def test_a_longer_run_is_evaluated_anew(inputs: Path, run: Path) -> None:
    config, longer = config_of(inputs, evaluates=True), config_of(inputs, evaluates=True, max_steps=6)
    (run / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    evaluate_run(run, config)
    shorter, base = fingerprint_of(run), files_of(run / "base_eval")
    train(longer, run, resume=True)
    assert not (run / "comparison.json").exists()
    evaluate_run(run, longer)
    assert fingerprint_of(run) != shorter
    assert fingerprint_of(run, "eval.1") == shorter
    assert files_of(run / "base_eval") == base, "the model before training is the same"
    assert (run / "comparison.json").is_file()
    assert (run / "eval.1" / "comparison.json").is_file()


@pytest.mark.slow
def test_a_longer_run_forgets_an_evaluation_that_was_interrupted(
    inputs: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, longer = config_of(inputs, evaluates=True), config_of(inputs, evaluates=True, max_steps=6)
    (run / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(Pope, "score", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(run, config)
    shorter = fingerprint_of(run)
    train(longer, run, resume=True)
    evaluate_run(run, longer)
    assert fingerprint_of(run) != shorter
    assert (run / "comparison.json").is_file()


@pytest.mark.slow
def test_the_evaluation_of_a_model_that_was_trained_no_further_stays(inputs: Path, run: Path) -> None:
    """Stopped after the model was saved: the checkpoint is of the last step."""
    config = config_of(inputs, evaluates=True)
    (run / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    evaluate_run(run, config)
    before = files_of(run / "eval")
    noted(run, exit=None)
    train(config, run, resume=True)
    assert files_of(run / "eval") == before


# ---- checkpoints of the same step ----


def checkpoint(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"told": text}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_checkpoint_of_the_same_step_is_never_lost(
    tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before a renaming, between the two, and after both."""
    final = checkpoint(tmp_path / "checkpoint-4", "old")
    made = checkpoint(tmp_path / "unfinished" / "checkpoint-4", "new")
    done, plain = [], Path.rename

    def rename(self: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        return plain(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        patched.setattr("mmdpo.training.checkpoints.remove_unfinished", lambda _: None)
        if renames == 2:
            put_in_place(made, final)
        else:
            with pytest.raises(KeyboardInterrupt):
                put_in_place(made, final)
    remove_unfinished(tmp_path)
    told = json.loads((final / "trainer_state.json").read_text(encoding="utf-8"))["told"]
    assert told == ("old" if renames == 0 else "new")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_a_run_killed_between_the_renames_goes_on_from_that_checkpoint(inputs: Path, run: Path) -> None:
    unfinished = run / "checkpoints" / "unfinished"
    shutil.copytree(run / "checkpoints" / "checkpoint-4", unfinished / "replaced")
    (run / "checkpoints" / "checkpoint-4").rename(unfinished / "checkpoint-4")
    assert str(last_checkpoint(run)).endswith("checkpoint-2")
    train(config_of(inputs, max_steps=5), run, resume=True)
    assert manifest_of(run)["resumed"][0]["step"] == 4
    assert not unfinished.exists()
