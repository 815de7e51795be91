"""The model card: front matter that the hub reads, results with intervals, nothing that Markdown could misread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mmdpo.jsonfiles import read_json, write_json
from mmdpo.report.card import write_card
from mmdpo.report.rendering import _markdown_code, _markdown_fence, _markdown_text

MakeRun = Callable[..., Path]


def front_matter(card: Path) -> dict[str, object]:
    return yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])


def test_front_matter_has_license_base_model_and_results(make_run: MakeRun) -> None:
    card = write_card(make_run())
    assert card.name == "README.md"
    head = front_matter(card)
    assert head["license"] == "other"
    assert head["base_model"] == "org/base-7b"
    assert head["library_name"] == "peft"
    assert "hallucination" in head["tags"]
    (model,) = head["model-index"]
    assert model["name"] == "first"
    metrics = {
        metric["type"]: (metric, result["dataset"]) for result in model["results"] for metric in result["metrics"]
    }
    chair, dataset = metrics["chair_i"]
    assert chair["value"] == 0.033
    assert chair["args"] == pytest.approx({"low": 0.013, "high": 0.053, "confidence": 0.95, "n": 500})
    assert dataset["type"] == "chair"
    assert metrics["recall"][1]["type"] == "chair"
    assert metrics["pope_random_f1"][1]["type"] == "held-out"


def test_card_tells_results_objective_data_loading_and_limits(make_run: MakeRun) -> None:
    text = write_card(make_run(), license="apache-2.0").read_text(encoding="utf-8")
    for expected in (
        "license: apache-2.0",
        "| CHAIR\\_i ↓ | 13.2% (11.2 – 15.2) | 3.3% (1.3 – 5.3) | −9.9 pts (−10.9 to −8.9) | < 0.001 | 500 |",
        "`-log sigmoid(beta * x)`",
        "Preference records from `runs/pairs`.",
        "* training records: 1,900",
        "3 × too long",
        "AutoModelForMultimodalLM.from_pretrained('org/base-7b', dtype=\"auto\")",
        'PeftModel.from_pretrained(base, "adapter")',
        "mmdpo train 'a config.yaml' seed=0",
        "seed of training",
    ):
        assert expected in text, expected


def test_a_full_model_and_a_local_base_are_described_as_such(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    (run / "model").mkdir()
    local = tmp_path / "base"
    local.mkdir()
    (run / "config.yaml").write_text(f"model: {{path: {local}}}\n")
    head = front_matter(write_card(run))
    assert "base_model" not in head
    assert head["library_name"] == "transformers"
    assert "PeftModel" not in (run / "README.md").read_text()


def test_a_card_of_a_listening_model_says_so(make_sounding_run: MakeRun) -> None:
    card = write_card(make_sounding_run())
    head = front_matter(card)
    assert head["pipeline_tag"] == "audio-text-to-text"
    (model,) = head["model-index"]
    assert {result["task"]["type"] for result in model["results"]} == {"audio-text-to-text"}
    assert "over the evaluated clips; differences are paired (same clips, same questions)" in card.read_text()


def test_a_base_that_the_auto_classes_do_not_know_is_loaded_by_this_package(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    (run / "config.yaml").write_text("model: {compose: {llm: org/llm}}\n")
    (run / "base").mkdir()
    write_json(run / "base" / "config.json", {"model_type": "mmdpo_composed"})
    assert 'mmdpo.load(".")' in write_card(run).read_text()
    write_json(run / "base" / "config.json", {"model_type": "llava"})
    assert "PeftModel.from_pretrained" in write_card(run).read_text()
    (run / "config.yaml").write_text("model: {path: audio-playground}\n")
    assert 'mmdpo.load(".")' in write_card(run).read_text()


def test_a_run_without_results_gets_a_card(make_run: MakeRun) -> None:
    run = make_run()
    manifest = read_json(run / "manifest.json")
    write_json(run / "comparison.json", {"metrics": {}})
    write_json(run / "manifest.json", {key: manifest[key] for key in ("exit",)})
    text = write_card(run).read_text(encoding="utf-8")
    assert "This model has not been evaluated." in text
    assert "model-index" not in text


def test_markdown_is_escaped() -> None:
    assert _markdown_text("a|b *c*\n<d> [e](f) `g`") == r"a\|b \*c\* \<d\> \[e\](f) \`g\`"
    assert _markdown_code("a`b") == "`` a`b ``"
    assert _markdown_fence("x\n```\ny", "sh") == "````sh\nx\n```\ny\n````"
