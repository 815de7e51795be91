"""The examples of custom modalities and their tutorial page run; the full runs show that the media are used."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mmdpo import registry
from mmdpo.cli import app
from mmdpo.conformance import check
from mmdpo.modalities.embeddings import Embeddings

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {"sensor": ("sensor", "movements"), "audio_events": ("event", "clips")}
PAGE = ROOT / "docs" / "modalities.md"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registered names, imported scripts and the search path are as they were, after each test."""
    monkeypatch.setattr(registry.modalities, "_entries", dict(registry.modalities._entries))
    monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in {"two_stages", "movements", "clips"} or name.startswith(("mmdpo_plugin_", "example_")):
            del sys.modules[name]


def script(folder: str, name: str = "run") -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{folder}_{name}", ROOT / "examples" / folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", EXAMPLES)
def test_an_example_keeps_the_contract_on_its_own_items(folder: str, tmp_path: Path) -> None:
    modality, generator = EXAMPLES[folder]
    made = script(folder, generator)
    write = made.write_series if folder == "sensor" else made.write_clips
    events = write(tmp_path, 40, 0)
    plugin = script(folder, modality)
    kind = registry.modalities.get(modality)
    from mmdpo.records import Media

    items = sorted((kind().load(Media(name), tmp_path) for name in events), key=len)
    pair = next(n for n in range(len(items) - 1) if len(items[n]) == len(items[n + 1]))
    chosen = [items[pair], items[pair + 1], items[0], items[-1]]
    encoder = plugin.SensorWindows() if folder == "sensor" else Embeddings(dim=2 * len(plugin.CLASSES))
    assert check(kind(), encoder, chosen) == []
    shares = [np.mean([happens[event] for happens in events.values()]) for event in made.QUESTIONS]
    assert all(0.2 < share < 0.8 for share in shares)


def test_frames_that_are_no_probabilities_are_refused(tmp_path: Path) -> None:
    from mmdpo.media import Media, MediaError

    plugin = script("audio_events", "event")
    np.save(tmp_path / "logits.npy", np.full((3, len(plugin.CLASSES)), -1.5))
    with pytest.raises(MediaError, match=r"frames of 'logits\.npy' go from -1\.5 to -1\.5"):
        plugin.EventModality().load(Media("logits.npy"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("folder", EXAMPLES)
def test_a_short_run_goes_through_both_stages(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps each: everything but the learning."""
    made = script(folder)
    example = dataclasses.replace(made.EXAMPLE, items={"warm_up": 8, "pairs": 8, "held_out": 6})
    steps = ["train.max_steps=2", "train.per_device_train_batch_size=4"]
    results = made.run(example, tmp_path, {"warm_up": steps, "dpo": steps})
    assert (tmp_path / "runs" / "dpo" / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    assert {results[title]["clean"]["n"] for title in results if title != "seconds"} == {12}
    assert "after the supervised stage" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("folder", EXAMPLES)
def test_a_full_run_shows_that_the_media_are_used(folder: str, tmp_path: Path) -> None:
    made = script(folder)
    results = made.run(made.EXAMPLE, tmp_path)
    assert results["untrained"]["gain"]["low"] < 0.05
    for title in ("after the supervised stage", "after DPO"):
        assert results[title]["clean"]["low"] > 0.8
        assert results[title]["blank"]["high"] < 0.62
        assert results[title]["gain"]["low"] > 0.2


def run_page(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs a page's blocks top to bottom: Python in one namespace, YAML into the file that it names, commands."""
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {}
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(block, "docs/modalities.md", "exec"), namespace)
        elif language == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", block)):
            Path(name.group(1)).write_text(block, encoding="utf-8")
        for line in block.splitlines() if language == "bash" else ():
            if line.startswith("mmdpo "):
                result = CliRunner().invoke(app, shlex.split(line)[1:])
                assert result.exit_code == 0, (line, result.output, result.exception)
    return namespace


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With few series and two steps a stage; the slow test runs it as it stands."""
    text, stages = re.subn(r"max_steps: \d+", "max_steps: 2\n  disable_tqdm: true", PAGE.read_text(encoding="utf-8"))
    text, sets = re.subn(r"(make\(\"\w+\"), \d+", r"\1, 12", text)
    assert (stages, sets) == (2, 3)
    namespace = run_page(text, tmp_path, monkeypatch)
    assert namespace["found"].clean.n == 24
    assert "gain" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_ends_in_a_model_that_uses_its_sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8").replace("max_steps:", "disable_tqdm: true\n  max_steps:")
    found = run_page(text, tmp_path, monkeypatch)["found"]
    assert found.clean.low > 0.8
    assert found.gain.low > 0.2
