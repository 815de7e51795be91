"""Sources: every way to name tables gives the same rows, safely; broken ones say what is wrong with them."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from data_builders.running.build import BuildResult, build
from data_builders.tables.config import TableConfig
from data_builders.tables.reading import Row, read_table
from data_builders.tables.sources import expand, open_source, source_folder, state_of
from data_builders.tables.tar_rows import tar_rows
from mmdpo.errors import ConfigError, DataError

ROWS = [{"image": f"{n // 2}.png", "caption": f"caption {n}", "rating": 1 + n % 2 * 4, "rater": "x"} for n in range(8)]


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.png").write_bytes(png(60 * n))
    return folder


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tar(path: Path, files: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def shards(folder: Path) -> str:
    """Two shards with the rows and the bytes of their pictures."""
    for shard in range(2):
        files: dict[str, Any] = {}
        for n in range(4 * shard, 4 * shard + 4):
            row = {"rating": ROWS[n]["rating"], "rater": "x", "image": "not this"}
            files[f"{n:04d}.json"] = json.dumps(row).encode()
            files[f"{n:04d}.txt"] = str(ROWS[n]["caption"]).encode()
            files[f"{n:04d}.png"] = png(60 * (n // 2))
        write_tar(folder / f"shard-{shard:04d}.tar", files)
    return str(folder / "shard-{0000..0001}.tar")


def run(data: Any, out: Path, **config: Any) -> BuildResult:
    defaults = {"scale": {"min": 1, "max": 5}, "higher_is_better": True, "validation": 0}
    return build("ratings", {"data": data, **defaults, **config}, out)


def texts(result: BuildResult) -> list[tuple[str, str, str]]:
    return sorted((one.chosen.text, one.rejected.text, one.media["images"][0].identity) for one in result.records)


def test_every_kind_of_source_gives_the_same_records(tmp_path: Path, photos: Path):
    whole = write_csv(tmp_path / "all.csv", ROWS)
    expected = run(whole, tmp_path / "out", media_root=photos)
    assert len(expected.records) == 4
    parts = tmp_path / "parts"
    parts.mkdir()
    for part in range(3):
        write_csv(parts / f"part {part:02d}.csv", ROWS[3 * part : 3 * part + 3])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))
    (tmp_path / "parquet").mkdir()
    for part in range(2):
        table = pyarrow.Table.from_pylist(ROWS[4 * part : 4 * part + 4])
        pyarrow.parquet.write_table(table, tmp_path / "parquet" / f"train-{part:05d}-of-00002.parquet")
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path / "saved splits")
    sources: dict[str, Any] = {
        "glob": str(parts / "part *.csv"),
        "range": str(parts / "part {00..02}.csv"),
        "list": [str(parts / f"part {part:02d}.csv") for part in range(3)],
        "gzip": tmp_path / "a.jsonl.gz",
        "folder": tmp_path / "parquet",
        "saved": tmp_path / "saved",
        "hub form of a saved folder": f"hf:{tmp_path / 'saved splits'}:test",
        "hub form of a folder of files": f"hf:{tmp_path / 'parquet'}",
    }
    for name, source in sources.items():
        result = run(source, tmp_path / f"out {name}", media_root=photos)
        assert texts(result) == texts(expected), name
        assert result.quality["rows"] == {"read": 8, "used": 8, "set_aside": 0}, name
        assert sorted(row for one in result.records for rows in one.meta["rows"] for row in rows) == [*range(1, 9)]


def test_shards_embed_their_pictures(tmp_path: Path, photos: Path):
    expected = run(write_csv(tmp_path / "all.csv", ROWS), tmp_path / "out", media_root=photos)
    result = run(shards(tmp_path), tmp_path / "tar", columns={"caption": "txt"})
    assert texts(result) == texts(expected)
    item = result.records[0].media["images"][0]
    assert item.data is not None and item.path is not None and item.path.endswith(".png")
    (tmp_path / "shard-0001.tar").unlink()
    with pytest.raises(ConfigError, match=r"there is no table .*shard-0001"):
        run(str(tmp_path / "shard-{0000..0001}.tar"), tmp_path / "missing", columns={"caption": "txt"})


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def test_hostile_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data_builders.tables.tar_rows.MAX_BYTES", 1000)
    path = write_tar(
        tmp_path / "a.tar",
        {
            "ok/1.json": b'{"a": 1}',
            "ok/1.cls": b"7",
            "2.json": b"[1]",
            "3.json": b"[" * 900,
            "4.jpg": link("4.jpg", "/etc/passwd"),
            "/etc/5.json": b"{}",
            "../6.json": b"{}",
            "7.jpg": bytes(2000),
            "noending": b"x",
            "8.txt": b"\xff text",
            "9.seg.png": b"png",
            "ok/1.txt": b"again",
        },
    )
    rows = list(tar_rows(path))
    assert [row.number for row in rows] == [*range(1, 12)][: len(rows)]
    told = {row.cells["__key__"]: row.problem for row in rows[:-1]}
    assert told["ok/1"] is None and rows[0].cells == {"__key__": "ok/1", "a": 1, "cls": "7"}
    for key, words in {
        "2": "holds a list, not an object",
        "3": "is no JSON",
        "4": "is a link or a device",
        "/etc/5": "leads out of the archive",
        "../6": "leads out of the archive",
        "7": "holds 2000 bytes, more than 1000",
        "noending": "has no suffix",
    }.items():
        assert told[key] is not None and words in told[key], key
    assert dict(rows[8].cells) == {"__key__": "8", "txt": "\udcff text"}
    assert set(rows[9].cells) == {"__key__", "seg.png", "image"}
    assert rows[-1].problem is not None and "must stand together" in rows[-1].problem


@pytest.mark.parametrize("name", ["cut.tar", "cut.tar.gz"])
def test_a_shard_that_is_cut_off(tmp_path: Path, name: str):
    whole = write_tar(
        tmp_path / "a", {f"{n}.txt": bytes(range(256)) * 20 for n in range(9)}, "w:gz" if "gz" in name else "w"
    )
    content = whole.read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read behind row"):
        list(tar_rows(tmp_path / name))
    (tmp_path / "no.tar").write_text("no archive")
    with pytest.raises(DataError, match="behind row 0"):
        list(tar_rows(tmp_path / "no.tar"))


def test_two_tables_need_the_same_columns_and_may_disagree(tmp_path: Path, photos: Path):
    first = write_csv(tmp_path / "a.csv", ROWS[:2])
    second = write_csv(tmp_path / "b.csv", [{**ROWS[0], "rating": 4}, {**ROWS[1], "rater": "y"}])
    result = run([first, second], tmp_path / "out", media_root=photos)
    assert result.quality["set_aside"] == {"conflicting_rating": 1}
    assert [(entry.row, entry.reason) for entry in result.set_aside] == [(3, "conflicting_rating")]
    other = write_csv(tmp_path / "c.csv", [{"picture": "0.png", "caption": "x", "rating": 1}])
    with pytest.raises(ConfigError, match="no column 'image'"):
        run([first, other], tmp_path / "other", media_root=photos)
    assert not (tmp_path / "other").exists()


def test_names_with_patterns(tmp_path: Path):
    for name in ("a1.csv", "a2.csv", "b[1].csv", "c{1..2}.csv"):
        (tmp_path / name).write_text("x\n")
    assert [path.name for path in expand(str(tmp_path / "a?.csv"))] == ["a1.csv", "a2.csv"]
    assert [path.name for path in expand(str(tmp_path / "{1..2}-{08..10}.csv"))][:4] == [
        "1-08.csv",
        "1-09.csv",
        "1-10.csv",
        "2-08.csv",
    ]
    for name in ("b[1].csv", "c{1..2}.csv"):  # files of just that name
        assert expand(str(tmp_path / name)) == [tmp_path / name]
    with pytest.raises(ConfigError, match="no file fits"):
        expand(str(tmp_path / "z*.csv"))
    for spec in ("a{3..1}.csv", "a{0..999999999}.csv"):
        with pytest.raises(ConfigError, match="no range of files"):
            expand(spec)


def test_the_folder_of_the_media(tmp_path: Path):
    inside = tmp_path / "data"
    inside.mkdir()
    for spec in (inside, inside / "a.csv", inside / "*.csv", inside / "s-{0..3}.tar", f"hf:{inside}:train"):
        assert source_folder(spec) == inside, spec
    assert source_folder(inside / "*" / "part-*.csv") == inside
    assert source_folder("hf:someone/something") == Path()


@pytest.mark.parametrize("spec", ["hf:", "hf:a/b:c:d:e"])
def test_names_of_the_hub(spec: str):
    with pytest.raises(ConfigError, match="names no data set of the hub"):
        open_source(spec)


def test_without_a_network_the_hub_is_a_clear_error(monkeypatch: pytest.MonkeyPatch):
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ConfigError, match="cannot be had from the hub: no network"):
        open_source("hf:someone/something:test")


def test_the_state_of_sources(tmp_path: Path):
    first, second = write_csv(tmp_path / "a1.csv", ROWS), write_csv(tmp_path / "a2.csv", ROWS)
    (tmp_path / "folder").mkdir()
    third = write_csv(tmp_path / "folder" / "x.csv", ROWS)

    def state(data: Any, **more: Any) -> list[str]:
        return list(state_of(TableConfig.model_validate({"data": data, **more})))

    assert state(first) == [str(first)]
    assert (
        state([first, second])
        == state(tmp_path / "a*.csv")
        == state(tmp_path / "a{1..2}.csv")
        == [str(first), str(second)]
    )
    assert state(tmp_path / "folder") == [str(third)]
    assert state("hf:a/b", media_root=tmp_path, prompt="What?\n" * 2000) == state(tmp_path / "z*") == []
    assert state(first, plugins=[str(second)]) == [str(first)]  # code is no source
    assert state(second, where={"caption": [str(first)]}) == [str(first), str(second)]


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", DEEP, "nested too deeply"),
        ("a.json", '[{"a": 1, "a": 2}]', "key 'a' twice"),
        ("a.csv", b"a,b,a\n1,2,3\n", "two columns 'a'"),
        ("a.csv.gz", b"no gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9999)[:-20], "cannot be read"),
        ("a.jsonl", '{"a": "x"}'.encode("utf-16") + b"\0", "cannot be read"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: str | bytes, message: str):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=message):
        list(read_table(tmp_path / name))


def test_broken_lines_are_rows_with_a_problem(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": 1}}\r\n{DEEP}\n{{"a": 1, "a": 2}}\r{{"a": 3}}\n')
    rows = list(read_table(path))
    assert rows[0] == Row(1, {"a": 1}) and rows[3] == Row(4, {"a": 3})
    assert rows[1].problem == "no JSON: it is nested too deeply" and "'a' twice" in str(rows[2].problem)


def test_a_parquet_column_named_twice(tmp_path: Path):
    table = pyarrow.table([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns 'a'"):
        read_table(tmp_path / "a.parquet")
