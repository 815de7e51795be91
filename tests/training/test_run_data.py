"""Which records a run trains on and which it holds out: each from its own files, none lost and none in both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.oracle import picture, record
from mmdpo.config import parse_config
from mmdpo.errors import DataError
from mmdpo.objectives import make_objective
from mmdpo.policy import LoadedModel
from mmdpo.records import Media, Record, Records, load_records, save_records
from mmdpo.runs.data import Data, load_data
from mmdpo.runs.training import train
from training.common import loaded_model, pairs, run_settings, saved_inputs

TOO_LONG = record("long", "cat " * 600, ["A cat.", "Two dogs here."], picture(1))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return loaded_model("llava")


def read(loaded: LoadedModel, **data: Any) -> Data:
    config = parse_config({"model": {"path": "unused"}, "data": data})
    return load_data(config, loaded, make_objective({"dpo": {}}))


def names(records: Any) -> list[str]:
    return [one.id for one in records]


def on_disk(folder: Path, prefix: str, count: int = 4) -> Records:
    """Pairs with one photo each, as files of one folder that bear the same names in every such folder."""
    folder.mkdir(parents=True)
    made = []
    for n in range(count):
        photo = picture(100 * len(prefix) + n)
        (folder / f"{n}.png").write_bytes(photo.data or b"")
        made.append(record(f"{prefix}-{n}", "What is here?", ["A cat.", "Two dogs here."], Media(path=f"{n}.png")))
    return Records(made, folder)


def test_a_parquet_file_is_split_and_never_its_own_validation(loaded: LoadedModel, tmp_path: Path) -> None:
    save_records(Records(pairs(8)), tmp_path / "data", embed=True)
    data = read(loaded, path=str(tmp_path / "data" / "data" / "train.parquet"), validation=0.3)
    assert data.train and data.validation
    assert sorted(names(data.train) + names(data.validation)) == sorted(names(pairs(8)))


def test_the_data_sets_own_validation_comes_first_and_damage_is_not_hidden(loaded: LoadedModel, tmp_path: Path) -> None:
    splits = {"train": Records(pairs(8)[:5]), "validation": Records(pairs(8)[5:])}
    save_records(splits, tmp_path / "data", embed=True)
    data = read(loaded, path=str(tmp_path / "data"))
    assert (len(data.train), names(data.validation)) == (5, names(pairs(8)[5:]))
    assert not read(loaded, path=str(tmp_path / "data"), validation=0).validation
    shutil.copy(tmp_path / "data" / "info.json", tmp_path / "data" / "data" / "validation.parquet")
    with pytest.raises(DataError, match=r"validation\.parquet.* is damaged"):
        read(loaded, path=str(tmp_path / "data"))


def test_held_out_records_are_read_from_their_own_media_root(loaded: LoadedModel, tmp_path: Path) -> None:
    """Both folders have a 0.png: the one of the training data must not stand in for the other."""
    held_out = on_disk(tmp_path / "two" / "photos", "val")
    save_records(on_disk(tmp_path / "one" / "photos", "t"), tmp_path / "one" / "pairs")
    save_records(held_out, tmp_path / "two" / "pairs")
    data = read(loaded, path=str(tmp_path / "one" / "pairs"), validation=str(tmp_path / "two" / "pairs"))
    assert names(data.validation) == names(held_out)
    for shown, original in zip(data.validation, held_out, strict=True):
        (item,) = shown.media["images"]
        assert item.data == held_out.media_path(original.media["images"][0]).read_bytes()
        expected = loaded_units(data, record("x", "What is here?", ["A", "B"], Media(data=item.data)))
        assert loaded_units(data, shown) == expected


def loaded_units(data: Data, of: Record) -> list[str]:
    """What the vision encoder would get, by content."""
    return [unit.key for unit in data.encoder.prompt(of).units]


@pytest.mark.parametrize("own_split", [True, False])
def test_validation_that_was_asked_for_is_not_left_out_silently(
    loaded: LoadedModel, tmp_path: Path, own_split: bool
) -> None:
    splits = {"train": Records(pairs(3))} | ({"validation": Records([TOO_LONG])} if own_split else {})
    save_records(splits, tmp_path / "data", embed=True)
    save_records(Records([TOO_LONG]), tmp_path / "other", embed=True)
    options = {} if own_split else {"validation": str(tmp_path / "other")}
    with pytest.raises(DataError, match=r"none of the 1 records .* used for validation: .*too_long"):
        read(loaded, path=str(tmp_path / "data"), **options)


def test_a_run_lists_and_counts_held_out_records_too(tmp_path: Path) -> None:
    inputs = saved_inputs(tmp_path, [*pairs(3), TOO_LONG])
    save_records(Records([*pairs(6)[4:], TOO_LONG]), tmp_path / "other", embed=True)
    settings = run_settings(inputs, train={"max_steps": 1, "eval_strategy": "no", "load_best_model_at_end": False})
    settings["data"]["validation"] = str(tmp_path / "other")
    run = train(parse_config(settings), tmp_path / "run")
    lines = [json.loads(line) for line in (run / "set_aside.jsonl").read_text().splitlines()]
    assert [(line["split"], line["id"], line["reason"]) for line in lines] == [
        ("train", "long", "too_long"),
        ("validation", "long", "too_long"),
    ]
    assert json.loads((run / "manifest.json").read_text())["set_aside"] == {"too_long": 2}


def test_a_bare_file_or_a_moved_data_set_is_told_where_its_media_are(loaded: LoadedModel, tmp_path: Path) -> None:
    save_records(on_disk(tmp_path / "photos", "t"), tmp_path / "built" / "pairs")
    bare = shutil.copy(tmp_path / "built" / "pairs" / "data" / "train.parquet", tmp_path / "bare.parquet")
    with pytest.raises(DataError, match="missing_media"):
        read(loaded, path=str(bare), validation=0)
    assert len(read(loaded, path=str(bare), media_root=str(tmp_path / "photos"), validation=0).train) == 4
    moved = (tmp_path / "built").rename(tmp_path / "moved") / "pairs"
    with pytest.raises(DataError, match=r"names .*photos.* as its media root(.|\n)*data\.media_root"):
        read(loaded, path=str(moved))
    root = str(tmp_path / "photos")
    data = read(loaded, path=str(moved), media_root=root, validation=str(bare), validation_media_root=root)
    assert len(data.train) == len(data.validation) == 4


def test_the_fingerprint_is_of_everything_read(loaded: LoadedModel, tmp_path: Path) -> None:
    save_records(Records(pairs(6)), tmp_path / "data", embed=True)
    for name in ("a", "b"):
        save_records(Records([record(name, "What is here?", ["A cat.", f"Two {name}."])]), tmp_path / name, embed=True)
    path = str(tmp_path / "data")
    prints = [read(loaded, path=path, validation=share, limit=limit).fingerprint for share, limit in ((0, 2), (0.3, 5))]
    assert prints == [load_records(path).fingerprint()] * 2
    others = {read(loaded, path=path, validation=str(tmp_path / name)).fingerprint for name in ("a", "b")}
    assert len(others | set(prints)) == 3
