"""Wrong settings are told before anything starts, all at once and with the nearest name."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmdpo.config import load_config, parse_config, read_yaml, shipped_configs
from mmdpo.errors import ConfigError, ModelError
from mmdpo.models.load import load_pretrained
from mmdpo.runs.settings import REFUSED, training_arguments

LEAST: dict[str, Any] = {"model": {"path": "m"}, "data": {"path": "d"}}


def test_every_problem_is_told_at_once() -> None:
    wrong = {
        "model": {"path": "m", "trainabel": "llm", "lora": {"rank": 8}, "attention": "fast"},
        "data": {},
        "referense": {"kind": "copy"},
        "eval": {"pope": {"data": "x", "limits": 5}},
    }
    with pytest.raises(ConfigError) as caught:
        parse_config(wrong, "run.yaml")
    lines = caught.value.what.splitlines()
    assert lines[0] == "run.yaml has 6 problems:"
    told = "\n".join(lines)
    for pattern in (
        r"model\.trainabel: unknown key\. Did you mean 'trainable'",
        r"model\.lora\.rank: unknown key",
        r"model\.attention: .*fast",
        r"data\.path: required",
        r"referense: unknown key\. Did you mean 'reference'",
        r"eval\.pope\.limits: unknown key\. Did you mean 'limit'",
    ):
        assert re.search(pattern, told), pattern
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": {"path": "d", "validation": 1.0}},
        {"data": {"path": "d", "limit": 0}},
        {"model": {"path": "m", "lora": {"r": 0}}},
        {"model": {"path": "m", "lora": {"dropout": 1.0}}},
        {"layout": "tree"},
        {"seed": "often"},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="1 problem"):
        parse_config(LEAST | wrong)


def test_lora_null_means_full_training() -> None:
    assert parse_config({**LEAST, "model": {"path": "m", "lora": None}}).model.lora is None
    assert parse_config(LEAST).model.lora is not None


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_breaks_the_run_is_named(name: str, tmp_path: Path) -> None:
    config = parse_config(LEAST | {"train": {name: True}})
    with pytest.raises(ConfigError, match=rf"train\.{name} cannot be set") as caught:
        training_arguments(config, tmp_path)
    assert REFUSED[name] in caught.value.why


def test_an_unknown_training_field_gets_its_nearest_name(tmp_path: Path) -> None:
    config = parse_config(LEAST | {"train": {"learning_rat": 1e-5}})
    with pytest.raises(ConfigError, match=r"train\.learning_rat is unknown") as caught:
        training_arguments(config, tmp_path)
    assert "learning_rate" in caught.value.why


def test_a_training_field_of_a_wrong_value_is_told(tmp_path: Path) -> None:
    config = parse_config(LEAST | {"train": {"eval_strategy": "sometimes"}})
    with pytest.raises(ConfigError, match="sometimes"):
        training_arguments(config, tmp_path)


def test_the_shell_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {path: m}\ndata: {path: d}\nloss: {dpo: {beta: 0.2}, nll: {weight: 1.0}}\n")
    config = load_config(file, ["loss.nll=null", "loss.dpo.beta=0.5", "train.learning_rate=1e-4", "data.path=e"])
    assert config.loss == {"dpo": {"beta": 0.5}, "nll": None}
    assert config.train == {"learning_rate": 1e-4}
    assert config.data.path == "e"


@pytest.mark.parametrize(
    ("text", "overrides", "told"),
    [
        ("model: {path: m\n", [], "not valid YAML"),
        ("- a\n- b\n", [], "not a mapping"),
        ("seed: ${nothing.there}\n", [], "cannot read"),
        ("seed: 1\n", ["seed"], "has no '='"),
        ("seed: 1\n", ["loss={dpo: {beta: 1}"], "override 'loss=.* is not valid YAML"),
        ("seed: 1\n", ["data=[a.csv,b.csv"], "override 'data=.* is not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(text: str, overrides: list[str], told: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_config(file, overrides)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("k={id}.jpg", "{id}.jpg"),
        ("k={stem}", "{stem}"),
        ("k={id:0>12}.jpg", "{id:0>12}.jpg"),
        ("k={}", {}),
        ("k={a: {}}", {"a": {}}),
        ("k=yes", "yes"),
        ("k=[yes, No, say no]", ["yes", "No", "say no"]),
        ("k={a: off}", {"a": "off"}),
        ("k=true", True),
        ("k=1e-5", 1e-5),
        ("k=null", None),
        ("k=*.tar", "*.tar"),
        ("k='yes'", "yes"),
        ("k=a=b", "a=b"),
    ],
)
def test_values_of_the_shell_are_read_as_they_were_typed(override: str, value: object) -> None:
    assert read_yaml(None, [override]) == {"k": value}


def test_a_field_that_is_a_switch_takes_the_words_too(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {path: m}\ndata: {path: d}\n")
    assert load_config(file, ["two_pass=yes"]).two_pass is True


def test_a_base_of_four_bits_needs_an_adapter() -> None:
    values: dict[str, object] = {"model": {"path": "m", "quantize": "4bit", "lora": None}, "data": {"path": "d"}}
    with pytest.raises(ConfigError, match="4 bits cannot be trained"):
        parse_config(values)
    assert parse_config({"model": {"path": "m", "quantize": "4bit"}, "data": {"path": "d"}}).model.lora is not None


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("path", ["./absent", "/absent/model", "a/b/c", "absent"])
def test_a_model_that_is_not_there_is_told(path: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_pretrained(path)


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a model"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("name", [name for name, path in shipped_configs().items() if "model" in read_yaml(path)])
def test_a_shipped_training_configuration_is_valid(name: str, tmp_path: Path) -> None:
    config = load_config(shipped_configs()[name])
    train = {key: value for key, value in config.train.items() if key not in ("bf16", "fp16", "tf32")}
    training_arguments(config.model_copy(update={"train": train | {"use_cpu": True}}), tmp_path)


def test_help_is_quick_and_imports_no_torch() -> None:
    program = (
        "import sys; sys.argv = ['mmdpo', '--help']\n"
        "from mmdpo.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'scipy', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    assert ended.returncode == 0, ended.stderr
    assert "train" in ended.stdout
    assert seconds < 3  # 0.2 s alone; a machine that does other things gets some air
