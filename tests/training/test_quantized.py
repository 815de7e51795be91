"""A base in four bits (QLoRA): loaded, trained for some steps, and only its adapter changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from mmdpo.config import parse_config
from mmdpo.runs.model import load_policy
from mmdpo.runs.training import train
from tiny import FAMILIES, Tiny
from tiny.base import build_model, set_generation
from training.common import pairs, run_settings, saved_inputs

pytest.importorskip("bitsandbytes", reason="the extra quant")
WIDTH = 128  # a block of 64 numbers shares its scale: narrower layers have none on a CPU


def wide() -> Tiny:
    """A tiny LLaVA whose layers are wide enough for four bits."""
    tiny = FAMILIES["llava"](hidden_size=WIDTH, intermediate_size=2 * WIDTH)
    config = tiny.model.config
    config.vision_config.hidden_size, config.vision_config.intermediate_size = WIDTH, 2 * WIDTH
    model = build_model(LlavaForConditionalGeneration, config, seed=0, dtype=torch.float32, attn_implementation="sdpa")
    set_generation(model, tiny.processor.tokenizer, ["</s>"])
    return Tiny("llava", model, tiny.processor, end_of_turn="</s>")


@pytest.mark.filterwarnings("ignore")  # bitsandbytes' own, of its slower paths on a CPU
def test_four_bits_train_an_adapter(tmp_path: Path) -> None:
    inputs = saved_inputs(tmp_path, pairs(4), build=wide)
    settings = run_settings(inputs, train={"max_steps": 3, "learning_rate": 1e-2})
    settings["model"]["quantize"] = "4bit"
    config = parse_config(settings)
    loaded = load_policy(config, torch.device("cpu"))
    kinds = {name: parameter.dtype for name, parameter in loaded.model.named_parameters()}
    language = [kind for name, kind in kinds.items() if "language_model" in name and "base_layer.weight" in name]
    assert language and set(language) == {torch.uint8}
    assert all(p.is_floating_point() and "lora" in n for n, p in loaded.model.named_parameters() if p.requires_grad)
    run = train(config, tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["decisions"]["layout"]["value"] == "shared"
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in logged if "loss" in line]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3), "policy and reference differ before the first step"
    assert losses[-1] != losses[0]
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
