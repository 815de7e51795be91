"""Features across the steps of a run: when they are kept, that nothing changes but the encoder's work, what is told."""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from core.oracle import picture
from mmdpo.answering.evaluation import evaluate_run
from mmdpo.checking import check_run
from mmdpo.collate import Collator
from mmdpo.config import FeaturesSection, parse_config
from mmdpo.errors import ConfigError
from mmdpo.forward.step_cost import StepCost, language_passes
from mmdpo.jsonfiles import read_json, write_json, write_json_lines
from mmdpo.objectives import make_objective
from mmdpo.runs.feature_choice import Choice, Measured, choose, measure
from mmdpo.runs.training import train
from training.common import encoder_of, loaded_model, pairs, run_settings, saved_inputs

RECORDS = pairs(6)
"""Five of them with three images of 9 patches; the tower has three layers."""


@contextmanager
def tower_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Images that pass a layer of any CLIP tower, call by call."""
    calls: list[int] = []
    plain = CLIPEncoderLayer.forward

    def counting(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(hidden_states))
        return plain(self, hidden_states, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(CLIPEncoderLayer, "forward", counting)
        yield calls


def run(folder: Path, out: Path, features: dict[str, Any], **sections: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """The adapter of a run of three epochs, and the decision about its features."""
    options = {"train": {"learning_rate": 0.05, "max_steps": 9}} | sections
    settings = run_settings(folder, features=features, **options)
    done = train(parse_config(settings), out)
    decision = read_json(out / "manifest.json")["decisions"]["features"]
    return load_file(done / "adapter" / "adapter_model.safetensors"), decision


@pytest.mark.slow
def test_a_run_with_a_cache_is_the_run_without_and_a_second_one_encodes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start-up check and what the model's own forward encodes for it are the same in all of them."""
    folder = saved_inputs(tmp_path, RECORDS)
    adapters, calls = {}, {}
    cases = {
        "off": {"cache": "off"},
        "memory": {"cache": "memory"},
        "disk": {"cache": "disk"},
        "again": {"cache": "disk"},
    }
    for name, features in cases.items():
        with tower_calls(monkeypatch) as seen:
            adapters[name], decision = run(folder, tmp_path / name, features)
        calls[name] = sum(seen)
        assert decision["value"] == features["cache"]
    for values in adapters.values():
        for name, expected in adapters["off"].items():
            torch.testing.assert_close(values[name], expected, rtol=0, atol=1e-6)
    layers, images = 3, 3
    assert calls["disk"] == calls["memory"]
    assert calls["disk"] - calls["again"] == layers * images
    assert calls["off"] > calls["memory"] + layers * 9
    assert len(list((folder / "data.features").glob("*/*/*.safetensors"))) == images


@pytest.mark.slow
def test_training_evaluations_validation_and_the_cached_reference_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_inputs(tmp_path, pairs(8))
    sections: dict[str, Any] = {
        "reference": {"kind": "cached"},
        "train": {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2},
        "data": {"path": str(folder / "data"), "validation": 0.3},
    }
    counts = {}
    for name in ("off", "first", "second"):
        with tower_calls(monkeypatch) as seen:
            run(folder, tmp_path / name, {"cache": "off" if name == "off" else "disk"}, **sections)
        shutil.rmtree(folder / "data.reference")
        counts[name] = sum(seen)
    layers, images = 3, 3
    assert counts["first"] - counts["second"] == layers * images  # what is left is the start-up check's own
    assert counts["off"] - counts["second"] > 3 * layers * images


@pytest.mark.slow
def test_training_and_the_benchmarks_of_a_run_share_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both benchmarks ask about the photos of the pairs and a new one, before and after training: that one is encoded
    once, and a second run's benchmarks encode nothing.
    """
    folder = saved_inputs(tmp_path, RECORDS)
    media = [*{item.identity: item for record in RECORDS for _, item in record.media_items()}.values(), picture(9)]
    for n, item in enumerate(media):
        assert item.data is not None
        (folder / f"{n}.png").write_bytes(item.data)
    asked = [{"question_id": n, "image": f"{n}.png", "text": "A cat?", "label": "yes"} for n in range(len(media))]
    write_json_lines(folder / "pope.json", asked)
    write_json(folder / "chair.json", {str(n): ["cat"] for n in range(len(media))})
    (folder / "names.txt").write_text("cat\n", encoding="utf-8")
    shared: dict[str, Any] = {"images": str(folder), "max_new_tokens": 2}
    chair = {"synonyms": str(folder / "names.txt"), "image_name": "{id}.png"}
    benchmarks = {
        "pope": {"data": str(folder / "pope.json"), **shared},
        "chair": {"data": str(folder / "chair.json"), "options": chair, **shared},
    }
    calls = {}
    for name, cache in (("off", "off"), ("first", "disk"), ("second", "disk")):
        settings = run_settings(folder, features={"cache": cache}, eval=benchmarks)
        config = parse_config(settings)
        train(config, tmp_path / name)
        files = len(list((folder / "data.features").glob("*/*/*.safetensors")))
        assert files == {"off": 0, "first": len(media) - 1, "second": len(media)}[name]
        with tower_calls(monkeypatch) as seen:
            evaluate_run(tmp_path / name, config)
        calls[name] = sum(seen)
    layers = 3
    assert calls == {"off": 4 * layers * len(media), "first": layers, "second": 0}
    for stage, benchmark in itertools.product(("base_eval", "eval"), benchmarks):
        texts = [(tmp_path / name / stage / benchmark / "answers.jsonl").read_text("utf-8") for name in calls]
        assert texts[0] == texts[1] == texts[2]


@pytest.mark.slow
def test_narrow_storage_is_told(tmp_path: Path) -> None:
    folder = saved_inputs(tmp_path, RECORDS)
    _, decision = run(folder, tmp_path / "run", {"cache": "memory", "dtype": "bfloat16"})
    assert decision["reason"].endswith("kept as bfloat16")


# --- what is decided ------------------------------------------------------------------------------------------------


def test_an_encoder_that_trains_is_refused_or_left_alone(tmp_path: Path) -> None:
    folder = saved_inputs(tmp_path, RECORDS)
    model = {"path": str(folder / "model"), "trainable": "all", "lora": {"r": 4, "alpha": 8}}
    with pytest.raises(ConfigError, match=r"features.cache is memory, and an encoder trains"):
        run(folder, tmp_path / "refused", {"cache": "memory"}, model=model)
    settings = run_settings(folder, model=model, features={"cache": "auto"})
    train(parse_config(settings), tmp_path / "auto")
    decision = read_json(tmp_path / "auto" / "manifest.json")["decisions"]["features"]
    assert decision["value"] == "off" and "trains" in decision["reason"]


def found(share: float, *, gigabytes: float = 0.5, uses: float = 3.0) -> Measured:
    return Measured(StepCost(share, (1 - share) / 4, 4), gigabytes * 2**30 / 100, 100, uses)


@pytest.mark.parametrize(
    ("measured", "processes", "value", "words"),
    [
        (found(0.09), 1, "off", "under 10% of a step"),
        (found(0.11), 1, "memory", "11.0% of a step's operations; a cache would save 7.3%"),
        (found(0.11), 2, "disk", "in data.features"),
        (found(0.3, gigabytes=10), 1, "disk", "in data.features"),
        (found(0.3, gigabytes=100), 1, "off", "more than features.disk_gb 50"),
        (found(0.3, uses=1.0), 1, "off", "save 0.0%"),
        (None, 1, "off", "no record has media"),
    ],
)
def test_auto(measured: Measured | None, processes: int, value: str, words: str) -> None:
    store = loaded_model().inner.mmdpo_scoring.features
    choice: Choice = choose(FeaturesSection(), store, Path("data.features"), lambda: measured, processes)
    assert choice.value == value and words in choice.reason
    assert (choice.folder is not None) == (value == "disk")


def test_operations_and_bytes_of_a_tiny_llava() -> None:
    """Worked by hand: patches and a class token through layers of four products, attention and two of the MLP."""
    loaded = loaded_model()
    vision, text = loaded.inner.config.vision_config, loaded.inner.config.text_config
    patches, width, inside = 9, vision.hidden_size, vision.intermediate_size
    tokens, wide = patches + 1, text.hidden_size
    layer = 4 * tokens * width**2 + 2 * tokens * width * inside + 2 * tokens**2 * width
    tower = patches * 3 * vision.patch_size**2 * width + vision.num_hidden_layers * layer
    projector = patches * (width * wide + wide**2)
    collator = Collator(encoder_of(loaded), make_objective({"dpo": {}}).views)
    result = measure(loaded.model, collator, RECORDS[:3], [1, 2, 3], passes=3.0, epochs=2.0)
    assert result is not None
    assert result.cost.encoder == 2 * 2 * (tower + projector)  # two of the three are measured
    assert result.bytes_each == patches * wide * 4
    assert (result.items, result.uses) == (3, 2.0)
    assert 0 < result.cost.encoder_share < 1
    assert result.saved == pytest.approx(result.cost.encoder_share / 2)
    assert loaded.inner.mmdpo_scoring.features.cached is None


def test_passes_through_the_language_model() -> None:
    """LoRA with checkpointing and a live reference: forward, again, backward, reference."""
    assert language_passes(whole=False, checkpointing=True, reference=True, two_pass=False) == 4
    assert language_passes(whole=True, checkpointing=False, reference=False, two_pass=True) == 4


def test_check_tells_gain_and_bytes(tmp_path: Path) -> None:
    folder = saved_inputs(tmp_path, RECORDS)
    for features in ({}, {"cache": "disk"}):
        config = parse_config(run_settings(folder, features=features))
        console = Console(record=True, width=400, file=io.StringIO())
        for block in check_run(config, tmp_path):
            console.print(block)
        (line,) = [text for text in console.export_text().splitlines() if "feature cache" in text]
        assert "of a step's operations" in line and "MB an item" in line and "for 3" in line
    assert not (folder / "data.features").exists()


def test_a_folder_that_would_not_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="it would not be read"):
        parse_config({"model": {"path": "m"}, "data": {"path": "d"}, "features": {"cache": "memory", "folder": "f"}})
    with pytest.raises(ConfigError, match="memory_gb"):
        parse_config({"model": {"path": "m"}, "data": {"path": "d"}, "features": {"memory_gb": 0}})
    assert (
        parse_config({"model": {"path": "m"}, "data": {"path": "d"}, "features": {"cache": False}}).features.cache
        == "off"
    )
