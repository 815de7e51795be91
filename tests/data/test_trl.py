"""The pair form goes into TRL's trainer as `load_dataset` gives it."""

import copy
import os
from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image

from mmdpo.records import Candidate, Media, Record, Records, save_records, user_message
from tiny import Tiny

trl = pytest.importorskip("trl", reason="TRL comes with the dev extra")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def dialogue(name: str, image: str) -> Record:
    prompt = (
        user_message("What is this?", images=1),
        {"role": "assistant", "content": [{"type": "text", "text": "A picture."}]},
        user_message("Say more.", images=0),
    )
    return Record(name, prompt, (Candidate("It is dark."), Candidate("It is bright.")), {"images": (Media(image),)})


@pytest.fixture
def records(tmp_path: Path, images: list[Image.Image]) -> Records:
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.png")
    single = [
        Record(
            str(index),
            (user_message("Describe the image.", images=1),),
            (Candidate("A cat.", score=2.0), Candidate("A dog.", score=1.0)),
            {"images": (Media(f"{index}.png"),)},
            higher_is_better=True,
            meta={"source": "test"},
        )
        for index in range(2)
    ]
    return Records([*single, dialogue("2", "2.png"), dialogue("3", "3.png")], tmp_path)


@pytest.mark.parametrize("embed", [True, False])
def test_one_step(records: Records, tiny_llava: Tiny, tmp_path: Path, embed: bool, monkeypatch: pytest.MonkeyPatch):
    out = save_records(records, tmp_path / "pairs", embed=embed)
    dataset = load_dataset(
        "parquet", data_files=str(out / "data/train.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    if not embed:
        monkeypatch.chdir(records.media_root or os.curdir)  # paths are opened as they stand
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=4,
        max_length=None,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = trl.DPOTrainer(
        model=tiny_llava.model,
        ref_model=copy.deepcopy(tiny_llava.model),
        args=arguments,
        train_dataset=dataset,
        processing_class=tiny_llava.processor,
    )
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=1e-3)
    assert trainer.state.global_step == 1
