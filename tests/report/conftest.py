"""Run folders with known numbers and drawn pictures, made through the same calls that training uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmdpo.jsonfiles import read_json_lines, write_json, write_json_lines
from mmdpo.run import RunFolder

SCRIPT = "<script>alert('x')</script>"


def estimate(value: float, half: float = 0.02, n: int = 500) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def change(before: float, after: float, half: float = 0.01, p: float = 0.0001) -> dict[str, Any]:
    difference = {"value": after - before, "low": after - before - half, "high": after - before + half, "p": p}
    return {"before": estimate(before), "after": estimate(after), "difference": difference}


def log_training(run: RunFolder, *, steps: int = 60, chosen: float = 0.02, rejected: float = -0.05) -> None:
    """Rewards that move by a fixed amount a step, so that the end of every curve is known."""
    for step in range(1, steps + 1):
        run.log(
            {
                "step": step,
                "loss": 0.7 - 0.005 * step,
                "loss/dpo": 0.5 - 0.005 * step,
                "loss/nll": 0.2,
                "rewards/chosen": chosen * step,
                "rewards/rejected": rejected * step,
                "rewards/margins": (chosen - rejected) * step,
                "rewards/accuracies": 0.5 + 0.005 * step,
            }
        )
        if step % 20 == 0:
            accuracy = {"eval_rewards/accuracies": 0.8, "eval_rewards/accuracies_low": 0.7}
            run.log({"step": step, "eval_loss": 0.5, **accuracy, "eval_rewards/accuracies_high": 0.88})


def caption(item: int, image: Path, raw: str, right: list[str], wrong: list[str]) -> dict[str, Any]:
    shared = {"id": item, "group": image.name, "image": str(image), "prompt": "Describe the picture."}
    return {**shared, "raw": raw, "parsed": raw, "objects": right + wrong, "hallucinated": wrong}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes ``tmp_path/NAME``: five captions (2 better, 1 mixed, 1 worse, 1 unchanged), curves, a comparison."""

    def make(name: str = "first", *, recall_after: float = 0.96, chosen: float = 0.02) -> Path:
        config = {"seed": 0, "model": {"path": "org/base-7b"}, "data": {"path": "runs/pairs"}}
        command = ["mmdpo", "train", "a config.yaml", "seed=0"]
        with RunFolder.create(tmp_path / name, config=config, command=command, data_fingerprint="f00dfeed") as run:
            run.decide("layout", "shared", "both layouts agreed to 2e-6")
            run.note(
                set_aside={"too_long": 3},
                counts={"train": 1900},
                objective={"dpo": {"formula": "-log sigmoid(beta * x)", "source": "arXiv:2305.18290"}},
            )
            log_training(run, chosen=chosen)
            picture = tmp_path / "scene.png"
            Image.new("RGB", (64, 64), "#3366cc").save(picture)
            says = {
                "base_eval": [
                    ("a cat and a dog", ["cat"], ["dog"]),
                    (f"a cat and a lamp {SCRIPT}", ["cat"], ["lamp"]),
                    ("a cat, a cup and a dog", ["cat", "cup"], ["dog"]),
                    ("a cat", ["cat"], []),
                    ("a cup", ["cup"], []),
                ],
                "eval": [
                    ("a cat", ["cat"], []),
                    ("a cat", ["cat"], []),
                    ("a cat", ["cat"], []),
                    ("a cat and two dogs", ["cat"], ["dog"]),
                    ("a cup", ["cup"], []),
                ],
            }
            for stage, captions in says.items():
                items = [caption(place, picture, *answer) for place, answer in enumerate(captions)]
                metrics = {"benchmark": "chair", "rule": "lemma", "n": 5, "unparsed": 1, "flags": ["note: a flag"]}
                metrics["metrics"] = {"chair_i": estimate(0.1), "recall": estimate(0.9)}
                run.write_evaluation("chair", answers=[{"a": 1}], items=items, metrics=metrics, stage=stage)
            run.write_comparison(
                {
                    "metrics": {
                        "chair_i": change(0.132, 0.033),
                        "recall": change(0.971, recall_after),
                        "pope_adversarial_f1": change(0.803, 0.945),
                        "pope_random_f1": change(0.982, 0.984, p=0.4),
                        "objects_per_caption": change(2.3, 2.1),
                    },
                    "story": f"What happened {SCRIPT}",
                }
            )
        return tmp_path / name

    return make


@pytest.fixture
def make_sounding_run(make_run: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """The run of `make_run`, with a clip of its own for each answer, as evaluations record them."""

    def make(name: str = "first") -> Path:
        run = make_run(name)
        clips = tmp_path / "clips"
        clips.mkdir()
        for place in range(5):
            soundfile.write(clips / f"{place}.wav", 0.1 * np.sin(np.arange(2000) * (place + 1) / 9), 16_000)
        for stage in ("base_eval", "eval"):
            folder = run / stage / "chair"
            rows = [
                {key: value for key, value in item.items() if key not in ("image", "prompt")}
                for item in read_json_lines(folder / "items.jsonl").rows
            ]
            write_json_lines(folder / "items.jsonl", rows)
            asked = [
                {"image_id": row["id"], "prompt": "What is heard?", "media": {"audios": [f"{row['id']}.wav"]}}
                for row in rows
            ]
            write_json_lines(folder / "answers.jsonl", asked)
            write_json(folder / "generation.json", {"media_root": str(clips)})
        return run

    return make
