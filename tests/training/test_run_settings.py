"""What is found out before anything is loaded, and what is derived where the user set nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmdpo.checking import check_run
from mmdpo.config import parse_config
from mmdpo.errors import ConfigError
from mmdpo.objectives import make_objective
from mmdpo.runs.settings import check_config, scheduled, training_arguments
from mmdpo.runs.training import train
from training.common import pairs, run_settings, saved_inputs

LEAST: dict[str, Any] = {"model": {"path": "m"}, "data": {"path": "d"}}
NLL = {"dpo": None, "nll": {}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_inputs(tmp_path_factory.mktemp("inputs"), pairs(8))


def finished(fields: dict[str, Any], held_out: int = 2, loss: dict[str, Any] | None = None) -> Any:
    """The training arguments of 80 records."""
    config = parse_config(LEAST | {"train": {"use_cpu": True, "max_steps": 40} | fields})
    arguments = training_arguments(config, Path("runs/x"))
    data: Any = SimpleNamespace(train=[None] * 80, validation=[None] * held_out)
    return scheduled(arguments, config, make_objective(loss or {"dpo": {}}), data)


@pytest.mark.parametrize(
    ("fields", "loss", "metric", "greater"),
    [
        ({}, None, "eval_rewards/margins", True),
        ({}, NLL, "eval_loss", False),
        ({"metric_for_best_model": "eval_loss"}, None, "eval_loss", False),
        ({"metric_for_best_model": "eval_rewards/accuracies"}, None, "eval_rewards/accuracies", True),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, None, "eval_rewards/margins", True),
    ],
)
def test_the_best_checkpoint_has_the_direction_of_its_metric(
    fields: dict[str, Any], loss: dict[str, Any] | None, metric: str, greater: bool
) -> None:
    arguments = finished(fields, loss=loss)
    assert arguments.load_best_model_at_end
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == (metric, greater)


@pytest.mark.parametrize(
    ("fields", "evaluates", "saves", "best"),
    [
        ({}, ("steps", 10), ("steps", 10), True),
        ({"eval_steps": 4}, ("steps", 4), ("steps", 4), True),
        ({"eval_steps": 4, "save_steps": 6}, ("steps", 4), ("steps", 6), False),
        ({"eval_strategy": "epoch"}, ("epoch", 10), ("epoch", 10), True),
        ({"save_strategy": "no"}, ("steps", 10), ("no", 10), False),
        ({"save_strategy": False}, ("steps", 10), ("no", 10), False),
        ({"save_strategy": "epoch"}, ("steps", 10), ("epoch", 10), False),
        ({"eval_strategy": "no"}, ("no", None), ("steps", 500), False),
        ({"load_best_model_at_end": True}, ("steps", 10), ("steps", 10), True),
    ],
)
def test_saving_follows_evaluating(
    fields: dict[str, Any], evaluates: tuple[str, int], saves: tuple[str, int], best: bool
) -> None:
    arguments = finished(fields)
    assert arguments.eval_strategy == evaluates[0]
    assert evaluates[0] == "epoch" or arguments.eval_steps == evaluates[1]
    assert arguments.save_strategy == saves[0]
    assert saves[0] != "steps" or arguments.save_steps == saves[1]
    assert arguments.load_best_model_at_end is best


def test_nothing_held_out() -> None:
    assert finished({}, held_out=0).eval_strategy == "no"
    with pytest.raises(ConfigError, match="no record is held out"):
        finished({"eval_strategy": "epoch"}, held_out=0)


def test_fields_that_do_not_go_together_are_an_error_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="train: section is refused"):
        finished({"load_best_model_at_end": True, "save_strategy": "epoch"})


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ({"nll": {"per": "tokens"}}, r"loss\.nll\.per is 'tokens'\n.*'token'"),
        ({"dpo": {"reduction": "summ"}}, r"loss\.dpo\.reduction is 'summ'"),
        ({"dpo": {"beta": "abc"}}, r"loss\.dpo\.beta is 'abc'"),
        ({"dpo": {"beta": None}}, r"loss\.dpo\.beta is None"),
        ({"dpo": {"beta": -1}}, r"loss\.dpo\.beta is -1\n.*rejected"),
        ({"dpo": {"beta": 0}}, r"loss\.dpo\.beta is 0\n"),
        ({"dpo": {"weight": float("nan")}}, r"loss\.dpo\.weight is nan"),
    ],
)
def test_values_of_a_term_are_checked(loss: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_objective(loss)


def test_a_number_that_yaml_reads_as_text_is_a_number() -> None:
    assert make_objective({"dpo": {"beta": "1e-1"}}).describe()["dpo"]["beta"] == 0.1


def test_every_section_tells_its_problems_at_once(tmp_path: Path) -> None:
    (tmp_path / "questions.json").write_text(
        json.dumps({"question_id": 1, "image": "absent.jpg", "text": "Is there a cat?", "label": "yes"}) + "\n"
    )
    config = parse_config(
        {
            **LEAST,
            "loss": {"dpo": {"beta": 0, "betta": 1}, "nlll": {}},
            "train": {"learning_rat": 1, "label_names": [], "accelerator_config": {"even_batches": False}},
            "eval": {
                "pop": {"data": "x"},
                "chair": {"data": str(tmp_path / "absent.json")},
                "pope": {"data": str(tmp_path / "questions.json")},
            },
        }
    )
    with pytest.raises(ConfigError) as caught:
        check_config(config, tmp_path, tmp_path)
    lines = caught.value.what.splitlines()
    assert lines[0] == "the configuration has 9 problems:"
    for line, told in zip(
        lines[1:],
        (
            "loss.dpo.beta is 0",
            "loss.dpo.betta is unknown",
            "'nlll'",
            "train.label_names cannot be set",
            "train.accelerator_config.even_batches cannot be set",
            "train.learning_rat is unknown. Did you mean 'learning_rate'",
            "eval.pop: unknown name 'pop'",
            "absent.json' does not exist",
            "absent.jpg' does not exist",
        ),
        strict=True,
    ):
        assert told in line


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("dataloader_num_workers", -1, "a whole number, 0 or more"),
        ("dataloader_num_workers", True, "a whole number, 0 or more"),
        ("dataloader_prefetch_factor", 0, "a whole number, 1 or more"),
        ("per_device_train_batch_size", 0, "a whole number, 1 or more"),
        ("gradient_accumulation_steps", 1.5, "a whole number, 1 or more"),
        ("max_steps", 0, "1 or more"),
        ("num_train_epochs", -1, "above 0"),
        ("learning_rate", "fast", "a number, 0 or more"),
        ("learning_rate", float("nan"), "a number, 0 or more"),
        ("bf16", "no", "true or false"),
    ],
)
def test_values_that_training_would_fail_on_are_refused_before(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=rf"train\.{name} is {value!r}\nIt is .*{rule}"):
        finished({name: value})


def test_values_that_training_takes() -> None:
    workers = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 1, "dataloader_persistent_workers": True}
    assert finished(workers).dataloader_prefetch_factor == 1
    assert finished({"max_steps": -1, "num_train_epochs": 0.5, "dataloader_prefetch_factor": None}).max_steps == -1
    with pytest.raises(ConfigError, match="persistent_workers is on"):
        finished({"dataloader_persistent_workers": True})


@pytest.mark.parametrize(
    "section",
    [
        {"batches": {"max_tokens": True}},
        {"records_per_row": True},
        {"seed": True},
        {"seed": -1},
        {"features": {"memory_gb": True}},
        {"stop": {"metric": "pope.f1", "keep": {"chair.recall": True}}},
    ],
)
def test_true_is_no_number(section: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"a number, and not true or false|greater than or equal to 0"):
        parse_config({**LEAST, **section})


@pytest.mark.parametrize(
    ("section", "setting"),
    [
        ({"reference": {"kind": "cached", "cache": "FILE"}}, "reference.cache"),
        ({"reference": {"kind": "cached", "cache": "FILE/below/it"}}, "reference.cache"),
        ({"reference": {"kind": "cached", "cache": "/proc/xx"}}, "reference.cache"),
        ({"reference": {"kind": "cached"}, "data": {"path": "FILE/records"}}, "reference.cache"),
        ({"features": {"cache": "disk", "folder": "/proc/abc"}}, "features.folder"),
        ({"features": {"cache": "auto", "folder": "FILE"}}, "features.folder"),
        ({"features": {"cache": "disk"}, "data": {"path": "FILE/records"}}, "features.folder"),
    ],
)
def test_a_cache_that_cannot_be_made_is_refused(section: dict[str, Any], setting: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    section = json.loads(json.dumps(section).replace("FILE", str(file)))
    with pytest.raises(ConfigError, match=f"{setting} is ") as caught:
        check_config(parse_config({**LEAST, **section}), tmp_path, tmp_path)
    assert caught.value.fix


def test_a_cache_that_can_be_made_is_not_made_by_the_check(tmp_path: Path) -> None:
    folders = {"reference": {"kind": "cached", "cache": str(tmp_path / "a" / "b")}}
    folders |= {"features": {"cache": "disk", "folder": str(tmp_path / "c")}}
    config = parse_config({**LEAST, **folders, "train": {"use_cpu": True}})
    check_config(config, tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())


def test_train_and_check_find_a_wrong_benchmark_before_they_load_anything(tmp_path: Path) -> None:
    config = parse_config(LEAST | {"eval": {"pope": {"data": "x", "options": {"parsr": "first"}}}})
    with pytest.raises(ConfigError, match="parsr"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="parsr"):
        list(check_run(config, tmp_path))


def test_an_adapter_trains_what_it_was_made_for() -> None:
    with pytest.raises(ConfigError, match=r"remove model\.trainable"):
        parse_config({**LEAST, "model": {"path": "m", "adapter": "a", "trainable": "all"}})
    assert parse_config({**LEAST, "model": {"path": "m", "adapter": "a", "trainable": "llm"}}).model.adapter == "a"


def test_a_run_without_pairs_keeps_the_checkpoint_with_the_smallest_loss(inputs: Path, tmp_path: Path) -> None:
    settings = run_settings(
        inputs,
        loss=NLL,
        data={"path": str(inputs / "data"), "validation": 0.4},
        train={"max_steps": 2, "save_strategy": "steps", "eval_steps": 1},
    )
    run = train(parse_config(settings), tmp_path / "run")
    decisions = json.loads((run / "manifest.json").read_text())["decisions"]
    assert decisions["best_checkpoint"]["value"] == "eval_loss"
    assert decisions["trains"]["value"] == "lora"


def test_a_check_tells_what_validation_lacks(inputs: Path, tmp_path: Path) -> None:
    config = parse_config(run_settings(inputs, train={"eval_strategy": "epoch"}))
    with pytest.raises(ConfigError, match="no record is held out"):
        list(check_run(config, tmp_path))
