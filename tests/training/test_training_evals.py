"""Benchmarks while training: they change nothing, and stop the run where its rule says, on the checkpoint it says."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import mmdpo
from core.oracle import picture, record
from mmdpo import registry
from mmdpo.answering.answer_file import AnswerFile
from mmdpo.answering.evaluation import evaluate_run
from mmdpo.checking import check_run
from mmdpo.config import load_config, parse_config
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Sample
from mmdpo.evals.comparing.folders import compare_folders
from mmdpo.evals.stats import ratio
from mmdpo.interrupts import Interrupted
from mmdpo.jsonfiles import read_json_lines
from mmdpo.records import Records, save_records
from mmdpo.runs.settings import check_config
from mmdpo.runs.training import train
from mmdpo.runs.training_evals import TrainingEvals, undisturbed
from mmdpo.training.callbacks import Bar, RunCallback
from training.common import pairs, run_settings, saved_inputs
from training.test_processes import assert_equal_runs, logged, trained_weights


@dataclass(frozen=True)
class Scripted(Benchmark):
    """Scores that follow the step, whatever is answered; judging disturbs what training must not notice."""

    name = "scripted"
    rule = "as the script says"
    max_new_tokens = 2
    script: ClassVar[Mapping[int, tuple[int, int]]] = {}
    step: ClassVar[int] = 0
    scored: ClassVar[list[int]] = []

    def samples(self, data: Path) -> list[Sample]:
        return [Sample(str(n), "What is here?", {}, None, f"group-{n}") for n in range(int(data.read_text()))]

    def score(self, samples: Any, answers: Any) -> Any:
        self.scored.append(self.step)
        return super().score(samples, answers)

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        random.random(), np.random.random(), torch.rand(1)
        made_up, found = self.script.get(self.step, (50, 60))
        counts = {"claims": 100.0, "made_up": float(made_up), "present": 100.0, "found": float(found)}
        return Item(item_id, sample.group, answer.text, "", None, None, counts)

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        return [
            ratio("made_up_rate", "made_up", "claims", better="lower"),
            ratio("recall", "found", "present"),
            ratio("claims", "claims", "claims", better="neither"),
        ]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    """The benchmark, registered, which knows the step that is being made."""
    monkeypatch.setattr(registry.benchmarks, "_entries", registry.benchmarks._entries | {"scripted": Scripted})
    monkeypatch.setattr(Scripted, "step", 0)
    monkeypatch.setattr(Scripted, "scored", [])

    def on_step_begin(self: RunCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Scripted.step = state.global_step + 1

    monkeypatch.setattr(RunCallback, "on_step_begin", on_step_begin)
    return Scripted


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pairs, and questions about six images, two about each."""
    folder = saved_inputs(tmp_path_factory.mktemp("inputs"), pairs(8))
    (folder / "three").write_text("3", encoding="utf-8")
    questions = []
    for n in range(6):
        data = picture(n).data
        assert data is not None
        (folder / f"{n}.png").write_bytes(data)
        for k, thing in enumerate(("cat", "dog")):
            label = "yes" if (n + k) % 2 else "no"
            question = {"question_id": 2 * n + k, "image": f"{n}.png", "text": f"Is there a {thing}?", "label": label}
            questions.append(json.dumps(question) + "\n")
    (folder / "pope.jsonl").write_text("".join(questions), encoding="utf-8")
    return folder


def settings_of(inputs: Path, **sections: Any) -> dict[str, Any]:
    """A run with dropout, so that the random state counts; no benchmark unless one is given."""
    model = {"path": str(inputs / "model"), "lora": {"r": 4, "alpha": 8, "dropout": 0.2}}
    train = {"max_steps": 6, "save_strategy": "steps", "save_steps": 4, "learning_rate": 0.02}
    return run_settings(inputs, **{"model": model} | sections | {"train": train | sections.get("train", {})})


def of_script(inputs: Path, patience: int = 2, every: int = 1, **sections: Any) -> dict[str, Any]:
    """A run that stops by the script, which keeps its recall within two points."""
    stop = {"metric": "scripted_made_up_rate", "patience": patience, "keep": {"recall": 0.02}}
    benchmark = {"data": str(inputs / "three"), "every": every}
    return settings_of(inputs, **{"eval": {"scripted": benchmark}, "stop": stop} | sections)


def pope(inputs: Path, **fields: Any) -> dict[str, Any]:
    return {"data": str(inputs / "pope.jsonl"), "max_new_tokens": 3, "every": 2, "every_limit": 4, **fields}


def decisions_of(run: Path) -> dict[str, Any]:
    decisions: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["decisions"]
    return decisions


def saved_is_checkpoint(run: Path, step: int) -> bool:
    kept = load_file(run / "checkpoints" / f"checkpoint-{step}" / "adapter_model.safetensors")
    return all(weight.equal(kept[name]) for name, weight in trained_weights(run).items())


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Sends this process a signal in the middle of a step."""
    begun = RunCallback.on_pre_optimizer_step

    def on_pre_optimizer_step(self: RunCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        begun(self, args, state, control, **kwargs)
        if state.global_step + 1 == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunCallback, "on_pre_optimizer_step", on_pre_optimizer_step)


def test_a_run_stops_when_patience_is_over_and_keeps_its_best_checkpoint(
    inputs: Path,
    tmp_path: Path,
    scripted: type[Scripted],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Held-out records are scored beside it and choose nothing."""
    monkeypatch.setattr(scripted, "script", {1: (40, 60), 2: (30, 60), 3: (35, 60), 4: (30, 60), 5: (10, 60)})
    data = {"path": str(inputs / "data"), "validation": 0.4}
    settings = of_script(inputs, data=data, train={"eval_steps": 1, "save_steps": 1})
    with caplog.at_level(logging.INFO, logger="mmdpo.runs.training_evals"):
        run = train(parse_config(settings), tmp_path / "run")
    events = logged(run)
    rates = {event["step"]: event["eval/scripted_made_up_rate"] for event in events if "eval/scripted_recall" in event}
    assert rates == {0: 0.5, 1: 0.4, 2: 0.3, 3: 0.35, 4: 0.3}
    assert [event["step"] for event in events if "loss" in event] == [1, 2, 3, 4], "and the lines of the loss are there"
    assert [event["step"] for event in events if "eval_loss" in event] == [1, 2, 3, 4]
    assert saved_is_checkpoint(run, 2)
    assert not saved_is_checkpoint(run, 4), "the case is no case: the last weights are the best ones"
    words = "stopped at step 4 of 6: scripted_made_up_rate has not become better in 2 evaluations. "
    words += "scripted_made_up_rate was 0.5000 before training, 0.3000 at step 4; the best is 0.3000 at step 2"
    assert [record.getMessage() for record in caplog.records if record.name == "mmdpo.runs.training_evals"] == [words]
    assert decisions_of(run)["stopped"] == {"value": 4, "reason": words}
    assert decisions_of(run)["best_checkpoint"]["value"] == 2
    assert sorted(int(folder.name) for folder in (run / "training_eval").iterdir()) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_saying_less_is_not_better(
    inputs: Path, tmp_path: Path, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1 has lost two points of recall, and is kept; steps 2 to 6 make up less and less, and have lost more."""
    script = {1: (45, 58), **{step: (45 - 5 * step, 57) for step in range(2, 7)}}
    monkeypatch.setattr(scripted, "script", script)
    run = train(parse_config(of_script(inputs, patience=6)), tmp_path / "run")
    best = decisions_of(run)["best_checkpoint"]
    assert best["value"] == 1
    assert "step 6 does not count, because scripted_recall is 0.5700, more than 0.02 from 0.6000" in best["reason"]
    assert saved_is_checkpoint(run, 1)
    assert "stopped" not in decisions_of(run)


@pytest.mark.slow
def test_without_a_better_checkpoint_the_last_one_is_kept_and_not_called_better(
    inputs: Path, tmp_path: Path, scripted: type[Scripted], caplog: pytest.LogCaptureFixture
) -> None:
    run = train(parse_config(of_script(inputs, patience=9, every=4)), tmp_path / "run")
    assert [step for step in scripted.scored if step] == [4, 6], "at every fourth step, and after the last one"
    assert decisions_of(run)["best_checkpoint"]["value"] is None
    assert saved_is_checkpoint(run, 6)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "mmdpo.runs.training_evals"]
    assert said.startswith("no better checkpoint than the model before training: the last is kept.")


@pytest.mark.parametrize("fields", [{}, pytest.param({"activation_checkpointing": True}, marks=pytest.mark.slow)])
def test_training_is_the_same_with_and_without_evaluations(
    inputs: Path, tmp_path: Path, scripted: type[Scripted], fields: dict[str, Any]
) -> None:
    plain = train(parse_config(settings_of(inputs, train=fields)), tmp_path / "plain")
    evals = {
        "pope": pope(inputs, answer_by="both", every=1),
        "scripted": {"data": str(inputs / "three"), "every": 2},
    }
    evaluated = train(parse_config(settings_of(inputs, train=fields, eval=evals)), tmp_path / "evaluated")
    assert trained_weights(plain).keys() == trained_weights(evaluated).keys()
    for name, weight in trained_weights(plain).items():
        assert weight.equal(trained_weights(evaluated)[name]), name
    mine = [event for event in logged(evaluated) if not any(name.startswith("eval/") for name in event)]
    assert mine == logged(plain)


def test_modes_and_generators_are_left_as_they_were() -> None:
    """Also of a model of which one part only is in training mode, and after an error."""
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2).eval())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    with pytest.raises(ZeroDivisionError), undisturbed(model):
        model.eval()
        torch.rand(1), random.random(), np.random.random()
        raise ZeroDivisionError
    assert [module.training for module in model] == [True, False]
    assert torch.get_rng_state().equal(states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # type: ignore[index]


def test_an_evaluation_is_what_mmdpo_eval_gives(inputs: Path, tmp_path: Path) -> None:
    """Of the same weights, on the same images; and its change since step 0 is what `mmdpo compare` says."""
    run = train(parse_config(settings_of(inputs, eval={"pope": pope(inputs)})), tmp_path / "run")
    fields = {"data": str(inputs / "pope.jsonl"), "max_new_tokens": 3, "limit": 4}
    mmdpo.evaluate(str(run), {"pope": fields}, str(tmp_path / "after"))
    evaluated, afterwards = run / "training_eval" / "6" / "pope", tmp_path / "after" / "eval" / "pope"
    for file in ("answers.jsonl", "metrics.json"):
        assert (evaluated / file).read_text() == (afterwards / file).read_text()
    assert len((evaluated / "answers.jsonl").read_text().splitlines()) == 8, "all questions about four images"

    (event,) = [event for event in logged(run) if event["step"] == 6 and "eval/pope_f1" in event]
    gap = compare_folders(run / "training_eval" / "0", run / "training_eval" / "6")["metrics"]["pope_f1"]["difference"]
    told_by_log = [event[f"eval/pope_f1_change{end}"] for end in ("", "_low", "_high")]
    assert told_by_log == [gap["value"], gap["low"], gap["high"]]
    assert event["eval/pope_f1_low"] <= event["eval/pope_f1"] <= event["eval/pope_f1_high"]


@pytest.mark.slow
def test_a_run_that_goes_on_stands_where_it_stood(
    inputs: Path, tmp_path: Path, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at a step with an evaluation, which is made when the run goes on."""
    monkeypatch.setattr(scripted, "script", {1: (40, 60), 2: (30, 60), 3: (35, 60), 4: (36, 60), 5: (37, 60)})
    config = parse_config(of_script(inputs, patience=3))
    whole = train(config, tmp_path / "whole")
    scripted.step = 0
    with monkeypatch.context() as patched:
        stop_at(patched, 4)
        with pytest.raises(Interrupted, match="at step 4"):
            train(config, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "training_eval" / "4").exists()
    assert "best_checkpoint" not in decisions_of(tmp_path / "stopped")
    scripted.scored.clear()
    resumed = train(config, tmp_path / "stopped", resume=True)
    assert scripted.scored[1:] == [4, 5], "after the check of the configuration, only what was not there"
    assert decisions_of(resumed)["stopped"] == decisions_of(whole)["stopped"]
    assert decisions_of(resumed)["best_checkpoint"] == decisions_of(whole)["best_checkpoint"]
    for name, weight in trained_weights(whole).items():
        assert weight.equal(trained_weights(resumed)[name]), name
    for kind in ("loss", "eval/scripted_recall"):
        assert [e for e in logged(resumed) if kind in e] == [e for e in logged(whole) if kind in e]


@pytest.mark.slow
def test_evaluations_from_before_a_crash(
    inputs: Path, tmp_path: Path, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of other weights, whole or not, is made again, and that from before training must be there."""
    monkeypatch.setattr(scripted, "script", {2: (40, 60), 4: (30, 60), 6: (20, 60)})
    config = parse_config(settings_of(inputs, eval={"scripted": {"data": str(inputs / "three"), "every": 2}}))
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        with pytest.raises(Interrupted):
            train(config, run)
    folder = run / "training_eval"
    shutil.copytree(folder / "2", folder / "4")
    (folder / "6" / "scripted").mkdir(parents=True)
    for file, text in {"generation.json": '{"model_fingerprint": "other"}', "answers.part-0.jsonl": "{}\n"}.items():
        (folder / "6" / "scripted" / file).write_text(text, encoding="utf-8")

    (folder / "0").rename(tmp_path / "0")
    with pytest.raises(DataError, match="holds no evaluation"):
        train(config, run, resume=True)
    (tmp_path / "0").rename(folder / "0")
    train(config, run, resume=True)
    rates = {e["step"]: e["eval/scripted_made_up_rate"] for e in logged(run) if "eval/scripted_recall" in e}
    assert rates == {0: 0.5, 2: 0.4, 4: 0.3, 6: 0.2}


@pytest.mark.slow
def test_a_run_that_begins_again_with_other_settings_sets_its_evaluations_aside(
    inputs: Path, tmp_path: Path, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = {"data": str(inputs / "three"), "every": 1}
    broken = settings_of(inputs, eval={"scripted": benchmark}, train={"save_steps": 100})
    with monkeypatch.context() as patched:
        patched.setattr(RunCallback, "on_pre_optimizer_step", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(parse_config(broken), tmp_path / "run")
        scripted.scored.clear()
        with pytest.raises(ZeroDivisionError):
            train(parse_config(broken), tmp_path / "run", resume=True)
    assert len(scripted.scored) == 1, "after the check of the configuration, nothing: the weights are the same"
    scripted.step = 0
    (tmp_path / "run" / "training_eval" / "0" / "mine").touch()
    train(parse_config(broken | {"seed": 1}), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "training_eval.1" / "0" / "mine").is_file()
    assert not (tmp_path / "run" / "training_eval" / "0" / "mine").exists()


def test_the_bar_shows_the_newest_stop_metric(
    inputs: Path, tmp_path: Path, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, str]] = []
    on_log = Bar.on_log

    def spied(self: Bar, *events: Any, **more: Any) -> None:
        if self.training_bar is not None:
            monkeypatch.setattr(self.training_bar, "set_postfix", lambda values: shown.append(dict(values)))
        on_log(self, *events, **more)

    monkeypatch.setattr(Bar, "on_log", spied)
    monkeypatch.setattr(scripted, "script", {3: (25, 60)})
    train(parse_config(of_script(inputs, every=3, train={"disable_tqdm": False, "max_steps": 4})), tmp_path / "run")
    assert [values.get("scripted_made_up_rate") for values in shown] == [None, None, "0.250", "0.250", "0.500", "0.500"]
    assert all("loss" in values for values in shown[1:])


@pytest.mark.slow
def test_the_evaluations_at_the_end_are_made_as_configured(inputs: Path, tmp_path: Path) -> None:
    config = parse_config(
        settings_of(inputs, eval={"pope": pope(inputs, answer_by="logits", batch_size=5, every=None)})
    )
    run = train(config, tmp_path / "run")
    assert not (run / "training_eval").exists()
    evaluate_run(run, config)
    for stage in ("base_eval", "eval"):
        generation = json.loads((run / stage / "pope" / "generation.json").read_text(encoding="utf-8"))
        assert (generation["answer_by"], generation["batch_size"]) == ("logits", 5)
        assert json.loads((run / stage / "pope" / "metrics.json").read_text(encoding="utf-8"))["n"] == 12


# ---- before anything is loaded ----


def problems_of(inputs: Path, tmp_path: Path, **sections: Any) -> list[str]:
    """What `mmdpo check` and `mmdpo train` say is wrong, a line each."""
    with pytest.raises(ConfigError) as caught:
        check_config(parse_config(settings_of(inputs, **sections)), tmp_path, tmp_path)
    lines = caught.value.what.splitlines()
    return [line.strip() for line in lines[1:]] or [f"{caught.value.what}. {caught.value.why}"]


def test_every_mistake_of_a_stop_section_is_told_at_once(
    inputs: Path, tmp_path: Path, scripted: type[Scripted]
) -> None:
    evals = {
        "pope": pope(inputs, every=None),
        "scripted": {"data": str(inputs / "three"), "every": 3, "answer_by": "logits"},
    }
    stop = {"metric": "claims", "keep": {"recal": 0.1, "pope_recall": 0.1}}
    fields = {
        "save_strategy": "best",
        "metric_for_best_model": "eval_loss",
        "lr_scheduler_type": "greedy",
        "fsdp": True,
    }
    data = {"path": str(inputs / "data"), "validation": 0.4}
    found = problems_of(inputs, tmp_path, eval=evals, stop=stop, train=fields, data=data)
    for line, told_as in zip(
        found,
        (
            "eval.scripted.answer_by is 'logits', but scripted asks no yes/no questions",
            "the weights are sharded",
            "train.metric_for_best_model is set, and so is stop:",
            "train.save_strategy is 'best'",
            "train.lr_scheduler_type is 'greedy'",
            "stop.metric: 'claims' is neither better when higher nor when lower",
            "stop.keep: 'recal' is no metric of pope or scripted. Did you mean 'recall'",
            "stop.keep: 'pope_recall' is of pope, and eval.pope has no every",
        ),
        strict=True,
    ):
        assert told_as in line


@pytest.mark.parametrize(
    ("sections", "told_as"),
    [
        ({"stop": {"metric": "pope_f1"}}, "no benchmark of eval: has every"),
        ({"stop": {"metric": "pope_f2"}, "eval": {"pope": {}}}, "Did you mean 'pope_f1'"),
        ({"stop": {"metric": "pope_f1"}, "eval": {"pope": {"every": 4}, "ciem": {}}}, "eval.ciem.data"),
        (
            {
                "stop": {"metric": "pope_f1", "keep": {"scripted_recall": 0}},
                "eval": {"pope": {"every": 4}, "scripted": {"every": 3}},
            },
            "'scripted_recall' is evaluated every 3 steps, and the stop metric every 4",
        ),
        ({"eval": {"pope": {"limit": 1}}}, "fewer than two images"),
        ({"eval": {"mmhal": {}}}, "there is no judge"),
    ],
)
def test_mistakes_alone(
    inputs: Path, tmp_path: Path, scripted: type[Scripted], sections: dict[str, Any], told_as: str
) -> None:
    question = {"question": "What is it?", "gt_answer": "A cat.", "image_content": ["cat"], "image_src": "0.png"}
    rows = [{**question, "question_type": "attribute", "image_id": str(n), "model_answer": ""} for n in range(2)]
    (inputs / "mmhal.json").write_text(json.dumps(rows), encoding="utf-8")
    data = {"pope": "pope.jsonl", "ciem": "absent", "mmhal": "mmhal.json", "scripted": "three"}
    given = {
        name: {"data": str(inputs / data[name]), "every": 2} | fields
        for name, fields in sections.get("eval", {"pope": {"every": None}}).items()
    }
    assert told_as in " ".join(problems_of(inputs, tmp_path, **sections | {"eval": given}))


def test_a_check_says_what_is_evaluated_and_what_stops_the_run(
    inputs: Path, tmp_path: Path, scripted: type[Scripted]
) -> None:
    console = Console(file=io.StringIO(), width=200)
    evals = {"pope": pope(inputs, every=90), "scripted": {"data": str(inputs / "three"), "every": 2}}
    for block in check_run(parse_config(of_script(inputs, eval=evals)), tmp_path):
        console.print(block)
    said = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "pope every 90 steps on up to 4 images; scripted every 2 steps on up to 100 images" in said
    assert "eval.pope.every is 90, and the run has 6 steps: it is evaluated at its start and its end" in said
    assert "best checkpoint by scripted_made_up_rate, while recall stays within 0.02 of step 0" in said
    assert "stops early after 2 evaluations without a better one" in said


def test_sharded_weights_are_refused(inputs: Path) -> None:
    trainer: Any = SimpleNamespace(is_fsdp_enabled=True, is_deepspeed_enabled=False)
    config = parse_config(settings_of(inputs, eval={"pope": pope(inputs)}))
    with pytest.raises(ConfigError, match="sharded"):
        TrainingEvals(trainer, config, None, lambda: False)


@pytest.mark.slow
def test_two_processes_evaluate_and_stop_as_one(inputs: Path, tmp_path: Path) -> None:
    """Each answers half of the questions; the trained weights, the log and the answers are those of one process.

    The model learns to say yes, which is right, until patience is over.
    """
    rows = [json.loads(line) | {"label": "yes"} for line in (inputs / "pope.jsonl").read_text().splitlines()]
    (inputs / "yes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = [record(f"yes-{n}", row["text"], ["Yes", "No"], picture(n % 6)) for n, row in enumerate(rows[:8])]
    save_records(Records(said), inputs / "yes", embed=True)
    sections = {
        "data": {"path": str(inputs / "yes"), "validation": 0},
        "loss": {"dpo": {"beta": 1.0}},
        "eval": {"pope": pope(inputs, data=str(inputs / "yes.jsonl"), answer_by="logits", every=1, every_limit=6)},
        "stop": {"metric": "pope_accuracy", "patience": 2, "keep": {"pope_recall": 0.0}},
    }
    fields = {"optim": "sgd", "learning_rate": 0.3, "max_steps": 9, "save_strategy": "steps"}
    for name, batch in (("alone", 4), ("two", 2)):
        settings = run_settings(inputs, **sections, train=fields | {"per_device_train_batch_size": batch})
        (tmp_path / f"{name}.yaml").write_text(json.dumps(settings), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "mmdpo", "train", "two.yaml", "--processes", "2", "--out", "two"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert " ".join(ended.stderr.split()).count("has not become better in 2 evaluations") == 1, "one process says it"
    run, alone = tmp_path / "two", train(load_config(tmp_path / "alone.yaml"), tmp_path / "alone")
    assert_equal_runs(run, alone, tolerance=1e-6)
    rates = [event["eval/pope_accuracy"] for event in logged(run) if "eval/pope_accuracy" in event]
    assert max(rates) > rates[0]
    assert 3 < len(rates) < 10, "the case is no case: it did not stop early"
    for step in range(len(rates)):
        ours, theirs = (folder / "training_eval" / str(step) / "pope" / "answers.jsonl" for folder in (run, alone))
        for mine, other in zip(read_json_lines(ours).rows, read_json_lines(theirs).rows, strict=True):
            assert mine.keys() == other.keys() and mine["answer"] == other["answer"]
            assert mine["p_yes"] == pytest.approx(other["p_yes"], abs=1e-5)
    assert decisions_of(run)["stopped"] == decisions_of(alone)["stopped"]
    assert decisions_of(run)["best_checkpoint"] == decisions_of(alone)["best_checkpoint"]
    assert saved_is_checkpoint(run, decisions_of(run)["best_checkpoint"]["value"])


@pytest.mark.slow
def test_a_signal_in_an_evaluation_keeps_its_answers_and_the_step(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation at step 0, then that at step 2, is stopped after two answers; no question is asked twice."""
    config = parse_config(settings_of(inputs, eval={"pope": pope(inputs, every_limit=3)}, train={"max_steps": 4}))
    whole = train(config, tmp_path / "whole")
    asked: list[tuple[str, str]] = []
    plain = AnswerFile.add

    def add(self: AnswerFile, row: Mapping[str, Any]) -> None:
        plain(self, row)
        asked.append((self.folder.parent.name, str(row["question_id"])))
        if len(asked) in (2, 8):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(AnswerFile, "add", add)
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match="stopped while"):
        train(config, run)
    assert asked == [("0", "0"), ("0", "1")]
    with pytest.raises(Interrupted, match="by SIGTERM at step 2"):
        train(config, run, resume=True)
    assert (run / "checkpoints" / "checkpoint-2").is_dir()
    train(config, run, resume=True)
    assert len(asked) == len(set(asked)) == 18, "three evaluations of six questions"
    for kind in ("loss", "eval/pope_accuracy"):
        assert [e for e in logged(run) if kind in e] == [e for e in logged(whole) if kind in e]
    for name, weight in trained_weights(whole).items():
        assert weight.equal(trained_weights(run)[name]), name
