"""docs/composed.md runs from top to bottom, with tiny models in the folders that it names."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import soundfile
import torch
import yaml
from transformers import WhisperConfig, WhisperModel

from composed.languages import WHISPER, clip, language_model
from mmdpo.config import parse_config
from mmdpo.models.load import load_pretrained
from mmdpo.records import Candidate, Media, Record, Records, save_records

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "composed.md"
SMALL_STEP = {
    "train.use_cpu=true",
    "train.bf16=false",
    "train.gradient_accumulation_steps=1",
    "train.per_device_train_batch_size=2",
    "train.num_train_epochs=2",
    "train.report_to=none",
    "data.validation=0.0",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`models/llm`, `models/whisper`, `sounds`, `captions.csv` and `runs/votes`, as on the page."""
    llm, tokenizer = language_model("llama")
    llm.generation_config.eos_token_id = 2
    llm.save_pretrained(tmp_path / "models" / "llm")
    tokenizer.save_pretrained(tmp_path / "models" / "llm")
    sizes = {
        "vocab_size": 64,
        "pad_token_id": 0,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 8,
    }
    WhisperModel(WhisperConfig(**WHISPER, **sizes)).save_pretrained(tmp_path / "models" / "whisper")
    (tmp_path / "sounds").mkdir()
    lines = ["file,caption"]
    for number, name in enumerate(["bark", "rain", "bell", "car"]):
        sound = clip(0.5 + number / 4, 22_050, number)
        soundfile.write(tmp_path / "sounds" / f"{name}.wav", sound.samples, sound.rate)
        lines.append(f"{name}.wav,There is a {name}.")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    question = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What is heard?"}]}
    votes = [
        Record(
            id=name,
            prompt=(question,),
            candidates=(Candidate(f"There is a {name}."), Candidate("No birds at all.")),
            media={"audios": (Media(f"{name}.wav"),)},
        )
        for name in ("bark", "rain", "bell", "car")
    ]
    save_records(Records(votes, media_root=str(tmp_path / "sounds")), tmp_path / "runs" / "votes")
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(folder: Path) -> None:
    np.save(folder / "one.npy", np.ones((3, 12), np.float32))
    printed = run([sys.executable, "-c", "\n".join(blocks("python"))], folder)
    assert "49 tokens for an image" in printed

    lines = [line for line in "\n".join(blocks("bash")).splitlines() if line]
    for line in lines:
        extra = sorted(SMALL_STEP) if line.startswith("mmdpo train") else []
        run([sys.executable, "-m", *shlex.split(line), *extra], folder)

    base, _ = load_pretrained(str(folder / "runs" / "warm_up" / "base"))
    warm, processor = load_pretrained(str(folder / "runs" / "warm_up" / "model"))
    moved = {
        name
        for (name, value), (_, other) in zip(warm.named_parameters(), base.named_parameters(), strict=True)
        if not torch.equal(value, other)
    }
    assert moved == {name for name, _ in base.named_parameters() if ".projectors.audio." in name}
    assert processor.media["audio"]["stack"] == 8
    adapter = json.loads((folder / "runs" / "preferences" / "adapter" / "adapter_config.json").read_text())
    assert all("language_model" in name for name in adapter["target_modules"])


def test_configurations_of_the_page_and_the_package_are_taken() -> None:
    (text,) = blocks("yaml")
    config = parse_config({**yaml.safe_load(text), "data": {"path": "x"}})
    assert config.model.compose is not None
    shipped = yaml.safe_load((ROOT / "configs" / "compose_whisper.yaml").read_text(encoding="utf-8"))
    assert parse_config(shipped).model.trainable == "projector"


def test_facts_of_the_page() -> None:
    """49 patches of ViT-B-32; 50 frames a second."""
    vision = open_clip.get_model_config("ViT-B-32")["vision_cfg"]
    assert (vision["image_size"] // vision["patch_size"]) ** 2 == 49
    from mmdpo.modalities.whisper import RATE, SAMPLES_PER_FRAME

    assert RATE / SAMPLES_PER_FRAME == 50
