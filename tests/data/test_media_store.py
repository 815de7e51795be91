"""Media that come as bytes inside a table: on disk while records are built, and in the records as they were."""

import io
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from data_builders.base import Ledger, Work
from data_builders.care.media_store import MediaStore
from data_builders.quality import sample as quality_sample
from data_builders.quality.sample import Draw
from data_builders.ratings import Ratings
from data_builders.ratings_config import RatingsConfig
from data_builders.running.build import build
from mmdpo.media import Media
from mmdpo.records import Candidate, Record, Records, load_records, save_records, user_message
from mmdpo.records import staging as records_staging

CONFIG = {"higher_is_better": True, "scale": {"min": 1, "max": 5}, "columns": {"rater": None}, "validation": 0.0}


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def table(folder: Path, *pictures: Any) -> Path:
    """Two rated captions of each picture."""
    rows = [
        {"image": {"bytes": data, "path": f"{n}.png"}, "caption": f"caption {k}", "rating": 1.0 + k}
        for n, data in enumerate(pictures)
        for k in range(2)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


def test_bytes_go_to_disk_once_and_come_back(tmp_path: Path):
    store = MediaStore(tmp_path / "media")
    plain, given = {"caption": "x"}, Media("a.png", data=png(1))
    assert store.light_cells(plain) is plain and not (tmp_path / "media").exists()
    cells = store.light_cells({"caption": "x", "image": {"bytes": png(1), "path": "a.png"}, "other": {"path": "b"}})
    light = store.light(given)
    assert cells == {"caption": "x", "image": light, "other": {"path": "b"}}
    assert light == Media("a.png", given.identity) and light in store
    assert store.whole(light) == Media("a.png", given.identity, png(1))
    assert store.light(Media("c.png", data=png(1))).path == "c.png"
    assert [path.name for path in (tmp_path / "media").iterdir()] == [given.identity]
    elsewhere = Media("b.png", sha256="0" * 64)
    assert elsewhere not in store and store.whole(elsewhere) is elsewhere and store.light(elsewhere) is elsewhere


def test_records_are_made_without_the_bytes_and_written_with_them(tmp_path: Path):
    data = table(tmp_path, png(1), png(2), b"no picture", png(1)[:40])
    work = Work(tmp_path, Ledger(()))
    made = list(Ratings().records(RatingsConfig(data=data, **CONFIG), work))  # type: ignore[arg-type]
    assert len(made) == 2 and all(item.data is None for record in made for _, item in record.media_items())
    result = build("ratings", {"data": data, **CONFIG}, tmp_path / "out")
    assert result.quality["set_aside"] == {"not_an_image": 4}
    found = {
        record.media["images"][0].path: record.media["images"][0].data for record in load_records(tmp_path / "out")
    }
    assert found == {"0.png": png(1), "1.png": png(2)}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "data", "info.json", "quality.json", "set_aside.jsonl",
    ]  # fmt: skip


def test_bytes_that_are_text_are_set_aside(tmp_path: Path):
    data = table(tmp_path, "iVBORw0KGgo=")
    other = tmp_path / "more.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(table(tmp_path, png(2))), other)
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(table(tmp_path, "iVBORw0KGgo=")), data)
    result = build("ratings", {"data": (data, other), **CONFIG}, tmp_path / "out")
    assert result.quality["set_aside"] == {"no_image": 2} and len(result.records) == 1
    assert result.set_aside[0].message == "its bytes are a text"


def pictures(count: int) -> list[Record]:
    answers = (Candidate("yes"), Candidate("no"))
    return [
        Record(str(n), (user_message("?", images=1),), answers, {"images": (Media(f"{n}.png", data=png(n)),)})
        for n in range(count)
    ]


def test_row_groups_hold_few_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records_staging, "BYTES_PER_GROUP", 3 * len(png(0)) // 2)
    save_records(Records(pictures(7)), tmp_path / "out")
    written = pyarrow.parquet.ParquetFile(tmp_path / "out" / "data" / "train.parquet")
    assert [written.metadata.row_group(n).num_rows for n in range(written.num_row_groups)] == [2, 2, 2, 1]
    assert [record.media["images"][0].data for record in load_records(tmp_path / "out")] == [png(n) for n in range(7)]


def test_the_quality_gate_keeps_the_bytes_of_some(monkeypatch: pytest.MonkeyPatch):
    records = pictures(9)
    first = sorted(record.media["images"][0].identity for record in records)[:3]
    monkeypatch.setattr(quality_sample, "EMBEDDED", 3 * max(len(png(n)) for n in range(9)))
    for order in (records, records[::-1]):
        draw = Draw(0, light=True)
        for record in order:
            draw.add(record, "train")
        drawn = draw.sample(None).records
        kept = {one.media["images"][0].sha256: one.media["images"][0].data for one in drawn}
        assert len(kept) == 9 and sorted(key for key, data in kept.items() if key and data is not None) == first
        assert {data for data in kept.values() if data is not None} <= {png(n) for n in range(9)}
