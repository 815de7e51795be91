"""TRL itself judges: what is exported goes through its data path, and its functions read rows as the importer does."""

import copy
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from foreign_rows import KITTEN, turn, write_media
from PIL import Image

from data_builders.importers.formats import format_named
from data_builders.importers.media_cells import MediaReader
from data_builders.importers.sources import Source, Table
from data_builders.importers.writing import write_records
from data_builders.tables.reading import Row
from mmdpo.records import Candidate, Media, Record, Records, user_message
from tiny import Tiny

trl = pytest.importorskip("trl", reason="TRL comes with the dev extra")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def records(root: Path, pictures: list[Image.Image], *, label: bool = False) -> Records:
    root.mkdir()
    made = []
    for number, picture in enumerate(pictures):
        picture.save(root / f"{number}.png")
        answers = (Candidate("A cat.", label=number % 2 == 0),) if label else (Candidate("A cat."), Candidate("A dog."))
        prompt = (user_message("Describe the image.", images=1),)
        made.append(Record(str(number), prompt, answers, {"images": (Media(f"{number}.png"),)}))
    return Records(made, root)


@pytest.mark.parametrize("form", ["trl", "trl_unpaired"])
def test_a_step_of_its_trainer(form: str, images: list[Image.Image], tiny_llava: Tiny, tmp_path: Path):
    """At the first step policy and reference are equal: DPO's loss is log 2, and KTO's is one half."""
    unpaired = form == "trl_unpaired"
    write_records(records(tmp_path / "in", images, label=unpaired), format_named(form), tmp_path / "out")
    path = str(tmp_path / "out" / "train.parquet")
    rows = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    arguments = (trl.KTOConfig if unpaired else trl.DPOConfig)(
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
    trainer = (trl.KTOTrainer if unpaired else trl.DPOTrainer)(
        model=tiny_llava.model,
        ref_model=copy.deepcopy(tiny_llava.model),
        args=arguments,
        train_dataset=rows,
        processing_class=tiny_llava.processor,
    )
    assert trainer.train().training_loss == pytest.approx(0.5 if unpaired else 0.6931, abs=1e-3)


def imported(form: str, row: dict[str, Any], root: Path) -> Record:
    source = Source([Table("rows", lambda: iter([Row(1, row)]))])
    (record,) = format_named(form).read(source, MediaReader(root))
    assert isinstance(record, Record)
    return record


def plainly(messages: list[dict[str, Any]]) -> list[Any]:
    """Messages with every content as a list of parts that hold a type and a text alone."""
    made = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = [{key: part[key] for key in ("type", "text") if part.get(key) is not None} for part in parts]
        made.append({"role": message["role"], "content": texts})
    return made


DIALOGUES = [
    [turn("system", "Be brief."), turn("user", "What is this?"), KITTEN, turn("user", "And <image>?")],
    [turn("user", "What is this?")],
]


@pytest.mark.parametrize("messages", DIALOGUES)
def test_pictures_of_plain_texts_stand_where_it_puts_them(messages: list[dict[str, Any]], tmp_path: Path):
    root = write_media(tmp_path)
    row = {
        "prompt": messages,
        "images": ["cat.png", "a.png"],
        "chosen": [KITTEN],
        "rejected": [turn("assistant", "No.")],
    }
    wanted = trl.data_utils.prepare_multimodal_messages(messages, images=row["images"])
    assert list(imported("trl", row, root).prompt) == plainly(wanted)


@pytest.mark.parametrize("messages", DIALOGUES)
def test_an_implicit_prompt_is_what_it_takes_for_the_prompt(messages: list[dict[str, Any]], tmp_path: Path):
    row = {"chosen": [*messages, KITTEN], "rejected": [*messages, turn("assistant", "No.")]}
    wanted = trl.extract_prompt(copy.deepcopy(row))
    record = imported("trl_implicit", row, tmp_path)
    assert list(record.prompt) == plainly(wanted["prompt"])
    assert [record.chosen.text, record.rejected.text] == [wanted[key][0]["content"] for key in ("chosen", "rejected")]


def test_an_implicit_prompt_comes_out_as_it_went_in(images: list[Image.Image], tmp_path: Path):
    write_records(records(tmp_path / "in", images), format_named("trl_implicit"), tmp_path / "out")
    rows = datasets.Dataset.from_parquet(str(tmp_path / "out" / "train.parquet"), cache_dir=str(tmp_path / "cache"))
    for number, row in enumerate(rows):
        split = trl.extract_prompt(row)
        assert plainly(split["prompt"]) == [user_message("Describe the image.", images=1)]
        assert json.dumps(plainly(split["chosen"])) == json.dumps(plainly([turn("assistant", "A cat.")]))
        assert row["images"][0].size == images[number].size
