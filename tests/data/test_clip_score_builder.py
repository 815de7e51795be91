"""`mmdpo build clip_score`: cosines of a tiny CLIP, worked again from its parts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from data_builders.running import journal
from data_builders.running.build import BuildResult, build
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.launch import launch
from mmdpo.models.clip_score import PROMPT
from mmdpo.records import load_records

TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
TEXTS = ["a dog", "a very long caption of a dog that is on the grass", "two cats", "word " * 40]


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "tiny-clip-rank.json").write_text(json.dumps(TOWERS))
    open_clip.add_model_config(tmp_path / "tiny-clip-rank.json")
    torch.manual_seed(1)
    path = tmp_path / "clip.safetensors"
    save_file(open_clip.create_model("tiny-clip-rank").state_dict(), path)
    yield path
    del open_clip.factory._MODEL_CONFIGS["tiny-clip-rank"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    write(folder, [{"image": f"{index}.png", "answer": text} for index in range(3) for text in TEXTS])
    return folder


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rank(photos: Path, weights: Path, out: str = "out", **config: Any) -> BuildResult:
    resume = config.pop("resume", False)
    values: dict[str, Any] = {"data": photos / "answers.jsonl", "model": "tiny-clip-rank", "weights": weights}
    return build("clip_score", values | {"validation": 0.0} | config, photos.parent / out, resume=resume)


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


@torch.no_grad()
def cosines(photo: Path, weights: Path) -> dict[str, float]:
    model, _, transform = open_clip.create_model_and_transforms("tiny-clip-rank", pretrained=str(weights))
    model.eval()
    seen = model.encode_image(transform(Image.open(photo))[None])[0]
    said = model.encode_text(open_clip.get_tokenizer("tiny-clip-rank")([PROMPT + text.strip() for text in TEXTS]))
    values = torch.nn.functional.cosine_similarity(said, seen[None]).tolist()
    return {text.strip(): value for text, value in zip(TEXTS, values, strict=True)}


def test_scores_are_cosines_and_the_closest_answer_comes_first(photos: Path, weights: Path) -> None:
    result = rank(photos, weights, pairing="list")
    assert len(result.records) == 3
    for record in result.records:
        worked = cosines(photos / str(record.media["images"][0].path), weights)
        assert {c.text: c.score for c in record.candidates} == pytest.approx(worked, abs=2e-5)
        assert [c.text for c in record.candidates] == sorted(worked, key=lambda text: -worked[text])
        assert record.higher_is_better and record.meta["scored_by"] == "tiny-clip-rank"


def test_what_clip_does_not_see_and_how_it_likes_length_is_told(photos: Path, weights: Path) -> None:
    result = rank(photos, weights)
    assert result.quality["clip_score"] == {"model": "tiny-clip-rank", "answers": 12, "cut": 6}
    within = []
    for index in range(3):
        worked = cosines(photos / f"{index}.png", weights)
        values = np.array([[worked[text.strip()], len(text.split())] for text in TEXTS])
        within.append(values - values.mean(0))
    expected = np.corrcoef(np.concatenate(within).T)[0, 1]
    assert result.quality["scores"]["length_correlation"] == pytest.approx(expected, abs=1e-3)
    assert any("6 of 12 answers reach the end" in note for note in result.quality["notes"])
    assert any("CLIP likes the" in note for note in result.quality["notes"]) == (abs(expected) >= 0.3)


def test_lengths_can_be_balanced(photos: Path, weights: Path) -> None:
    pairs = rank(photos, weights, pairing="all", balance_length=True).records
    longer = sum(len(p.chosen.text.split()) > len(p.rejected.text.split()) for p in pairs)
    shorter = sum(len(p.chosen.text.split()) < len(p.rejected.text.split()) for p in pairs)
    assert longer == shorter


def test_an_interrupted_build_scores_only_what_it_lacks(
    photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rank(photos, weights, "whole")
    kept: list[str] = []
    plain = journal.append_json_line

    def stop(path: Path, row: dict[str, Any]) -> None:
        if len(kept) == 7:
            raise KeyboardInterrupt
        kept.append(row["key"])
        plain(path, row)

    monkeypatch.setattr(journal, "append_json_line", stop)
    with pytest.raises(KeyboardInterrupt):
        rank(photos, weights)
    again: list[str] = []
    monkeypatch.setattr(journal, "append_json_line", lambda path, row: (again.append(row["key"]), plain(path, row)))
    result = rank(photos, weights, resume=True)
    assert result.records.fingerprint() == whole.records.fingerprint()
    assert len(kept) + len(again) == 13 and not set(kept) & set(again)


def test_other_weights_do_not_go_on(photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, rows = journal.append_json_line, []

    def stop(path: Path, row: dict[str, Any]) -> None:
        if rows:
            raise KeyboardInterrupt
        rows.append(row)
        plain(path, row)

    monkeypatch.setattr(journal, "append_json_line", stop)
    with pytest.raises(KeyboardInterrupt):
        rank(photos, weights)
    monkeypatch.undo()
    torch.manual_seed(2)
    save_file(open_clip.create_model("tiny-clip-rank").state_dict(), weights)
    with pytest.raises(ConfigError, match=r"clip\.safetensors|not what the interrupted build was made with"):
        rank(photos, weights, resume=True)


def test_rows_that_cannot_be_used(photos: Path, weights: Path) -> None:
    rows = [{"image": name, "answer": text} for name in ("0.png", "7.png", "../0.png") for text in ("a dog", "a cat")]
    write(photos, [*rows, {"image": "0.png", "answer": "a dog "}, {"image": "0.png", "answer": " "}])
    found = reasons(rank(photos, weights))
    assert found == {"missing_media": 2, "outside_root": 2, "duplicate_row": 1, "empty_caption": 1}


def test_prompts_without_a_picture_are_set_aside(photos: Path, weights: Path) -> None:
    with pytest.raises(MMDPOError, match="2 not_one_image"):
        write(photos, [{"answer": "a"}, {"answer": "b"}])
        rank(photos, weights, columns={"image": None})


@pytest.mark.parametrize(
    ("config", "message"),
    [({"model": "no-such"}, "does not know"), ({"weights": "clip.pt"}, "safetensors"), ({"weights": None}, "weights")],
)
def test_wrong_settings_are_told(photos: Path, weights: Path, config: dict[str, Any], message: str) -> None:
    values = {"data": photos / "answers.jsonl", "model": "tiny-clip-rank", "weights": weights}
    with pytest.raises(ConfigError, match=message):
        build("clip_score", values | config, photos.parent / "out")
    assert not (photos.parent / "out").exists()


@pytest.mark.slow
def test_two_processes_score_what_one_scores(photos: Path, weights: Path) -> None:
    plugin = photos.parent / "tiny.py"
    config = weights.parent / "tiny-clip-rank.json"
    plugin.write_text(f"import open_clip\nopen_clip.add_model_config({str(config)!r})\n", encoding="utf-8")
    one = rank(photos, weights, "one")
    out = photos.parent / "two"
    words = [f"data={photos / 'answers.jsonl'}", "model=tiny-clip-rank", f"weights={weights}", "validation=0"]
    assert launch(["build", "clip_score", *words, f"plugins=[{plugin}]", "--out", str(out)], 2) == 0
    assert load_records(out).fingerprint() == one.records.fingerprint()
