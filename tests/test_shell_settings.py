"""Settings given on the command line: what replaces the file's and what is merged with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.errors import ConfigError
from mmdpo.objectives import make_objective
from mmdpo.verbs.commandline import run_config

MAPPING = "loss: {dpo: {beta: 0.1}, nll: {weight: 1.0}}"
NAME = "loss: mdpo"
NEITHER = "seed: 3"


@pytest.mark.parametrize(
    ("file", "words", "expected"),
    [
        (MAPPING, [], {"dpo": {"beta": 0.1}, "nll": {"weight": 1.0}}),
        (MAPPING, ["loss=mdpo"], "mdpo"),
        (MAPPING, ["loss={mdpo: {beta: 0.2}}"], {"mdpo": {"beta": 0.2}}),
        (MAPPING, ["loss={dpo: {beta: 0.2}}"], {"dpo": {"beta": 0.2}}),
        (MAPPING, ["loss.dpo.beta=0.2"], {"dpo": {"beta": 0.2}, "nll": {"weight": 1.0}}),
        (MAPPING, ["loss.nll=null"], {"dpo": {"beta": 0.1}, "nll": None}),
        (MAPPING, ["loss.mdpo.beta=0.2"], {"dpo": {"beta": 0.1}, "nll": {"weight": 1.0}, "mdpo": {"beta": 0.2}}),
        (MAPPING, ["loss=mdpo", "loss.mdpo.beta=0.2"], {"mdpo": {"beta": 0.2}}),
        (MAPPING, ["loss.mdpo.beta=0.2", "loss=mdpo"], {"mdpo": {"beta": 0.2}}),
        (MAPPING, ["loss={mdpo: {}}", "loss.nll.weight=2"], {"mdpo": {}, "nll": {"weight": 2}}),
        (NAME, [], "mdpo"),
        (NAME, ["loss={dpo: {}}"], {"dpo": {}}),
        (NAME, ["loss.mdpo.beta=0.2"], {"mdpo": {"beta": 0.2}}),
        (NAME, ["loss.nll.weight=2"], {"mdpo": {}, "nll": {"weight": 2}}),
        (NEITHER, ["loss={mdpo: {}}"], {"mdpo": {}}),
        (NEITHER, ["loss.nll.weight=2"], {"nll": {"weight": 2}}),
        (MAPPING, ["data.path=other", "seed=4"], {"dpo": {"beta": 0.1}, "nll": {"weight": 1.0}}),
    ],
)
def test_a_whole_loss_replaces_and_a_setting_merges(file: str, words: list[str], expected: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"model: {{path: playground}}\ndata: {{path: pairs}}\n{file}\n", encoding="utf-8")
    config = run_config(path, words)
    assert config.loss == expected
    assert config.data.path == ("other" if "data.path=other" in words else "pairs")


def test_a_name_is_the_loss_without_settings() -> None:
    """So a name in the file and a setting on the shell can be merged."""
    assert make_objective("mdpo").terms == make_objective({"mdpo": {}}).terms


@pytest.mark.parametrize("word", ["loss=", "loss=null", "loss={a: 1}", "loss={a", "loss.dpo", "los={dpo: {}}"])
def test_words_that_name_no_loss(word: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"model: {{path: playground}}\ndata: {{path: pairs}}\n{MAPPING}\n", encoding="utf-8")
    with pytest.raises(ConfigError):
        run_config(path, [word])


@pytest.mark.parametrize("verb", ["train", "check"])
def test_the_help_tells_the_rule(verb: str) -> None:
    told = " ".join(CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output.split())
    assert "loss={...} replace the file's loss" in told
    assert "loss.NAME.key=value changes it" in told
