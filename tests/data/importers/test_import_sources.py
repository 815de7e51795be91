"""Where rows come from: files in any form, folders of other toolkits, data sets of `datasets`; and what is refused."""

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from foreign_rows import KITTEN, QUESTION, TYPED, png, turn, typed_answer, wav, write_media
from PIL import Image

from data_builders.importers import hub, row_files
from data_builders.importers.formats import recognise
from data_builders.importers.media_cells import MediaReader
from data_builders.importers.row_files import read_rows
from data_builders.importers.sources import Source, Table, open_source
from data_builders.running.build import build
from data_builders.running.ledger import SetAside
from mmdpo.errors import ConfigError, DataError
from mmdpo.media import read_bytes
from mmdpo.records import Candidate, Record, Records, save_records, user_message

ROWS: list[dict[str, Any]] = [
    {"question": f"Q {n} \u2028 ü 猫", "chosen": "A\n[{", "rejected": 'B"}]\\'} for n in range(5)
]


def read(data: Path | str, **options: Any) -> list[Record | SetAside]:
    source = open_source(str(data), **options)
    form, _ = recognise(source)
    return list(form.read(source, MediaReader(source.folder)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_is_read_item_by_item(
    tmp_path: Path, encoding: str, chunk: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(row_files, "_CHUNK", chunk)
    path = tmp_path / "rows.json"
    text = "\n " + json.dumps(ROWS, indent=indent, ensure_ascii=False) + "\n"
    path.write_bytes(gzip.compress(text.encode(encoding)) if chunk == 7 else text.encode(encoding))
    rows = list(read_rows(path))
    assert [row.cells for row in rows] == ROWS
    assert [row.number for row in rows] == [1, 2, 3, 4, 5] and not any(row.problem for row in rows)


def test_a_json_file_may_hold_lines_and_a_bad_line_costs_one_row(tmp_path: Path):
    lines = [json.dumps(ROWS[0]), "{no json", json.dumps(ROWS[1]), "[1]"]
    for name in ("rows.json", "rows.jsonl", "rows.json.gz"):
        data = "\n".join(lines).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        first, bad, second, other = read(tmp_path / name)
        assert isinstance(first, Record) and isinstance(second, Record)
        assert isinstance(bad, SetAside) and isinstance(other, SetAside)
        assert (bad.reason, bad.row, other.reason, other.row) == ("unreadable_row", 2, "unreadable_row", 4)


def test_items_that_are_no_objects_are_set_aside(tmp_path: Path):
    (tmp_path / "rows.json").write_text(json.dumps([ROWS[0], 12, None, ROWS[1]]))
    found = read(tmp_path / "rows.json")
    assert [getattr(item, "reason", "record") for item in found] == ["record", *["unreadable_row"] * 2, "record"]


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a"', '[{"a": 1}', '[{"a": 1} oops]', "[" * 100_000])
def test_a_broken_list_is_an_error(tmp_path: Path, text: str):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=r"item [12] "):
        list(read_rows(tmp_path / "rows.json"))


def test_bytes_that_are_no_text_cost_their_row(tmp_path: Path):
    broken = json.dumps({**ROWS[0], "question": "Q1 ?"}).encode().replace(b"?", b"\xff")
    (tmp_path / "rows.json").write_bytes(b"[" + broken + b"," + json.dumps(ROWS[1]).encode() + b"]")
    bad, good = read(tmp_path / "rows.json")
    assert isinstance(bad, SetAside) and bad.reason == "bad_text" and isinstance(good, Record)


def info_of(folder: Path, **entries: Any) -> Path:
    write_media(folder)
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    return folder


OWN_NAMES = {
    "file_name": "mine.json",
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "talk", "chosen": "good", "rejected": "bad", "images": "pictures", "system": "rules"},
    "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "you"},
}
OWN_ROW = {
    "rules": "Be <image> brief.",
    "talk": [{"who": "me", "says": "<image>What is this?"}],
    "good": {"who": "you", "says": "A kitten."},
    "bad": {"who": "you", "says": "A puppy."},
    "pictures": ["cat.png"],
}


def test_dataset_info_names_columns_and_tags(tmp_path: Path):
    folder = info_of(tmp_path, mine=OWN_NAMES, taught={"file_name": "sft.json"})
    (folder / "mine.json").write_text(json.dumps([OWN_ROW]))
    for data in (folder, folder / "mine.json"):
        form, reason = recognise(open_source(str(data)))
        assert (form.name, reason) == (
            "llamafactory_sharegpt",
            "dataset_info.json declares mine as sharegpt with ranking",
        )
        (record,) = read(data)
        assert isinstance(record, Record)
        assert [turn["role"] for turn in record.prompt] == ["system", "user"]
        assert record.prompt[0]["content"] == [{"type": "text", "text": "Be <image> brief."}]
        assert (record.chosen.text, record.rejected.text) == ("A kitten.", "A puppy.")


def test_the_openai_form_gets_no_system_prompt(tmp_path: Path):
    entry = {"file_name": "k.jsonl", "formatting": "openai", "columns": {"messages": "messages", "kto_tag": "good"}}
    folder = info_of(tmp_path, k={**entry, "columns": {**entry["columns"], "images": "images"}})  # type: ignore[dict-item]
    (folder / "k.jsonl").write_text(json.dumps({"messages": [QUESTION, KITTEN], "images": ["a.png"], "good": True}))
    (record,) = read(folder)
    assert isinstance(record, Record) and [turn["role"] for turn in record.prompt] == ["user"]
    assert record.candidates[0].label is True


def test_one_of_several_entries_must_be_named(tmp_path: Path):
    folder = info_of(tmp_path, one=OWN_NAMES, two={**OWN_NAMES, "file_name": "other.json"}, far={"hf_hub_url": "a/b"})
    for name in ("mine", "other"):
        (folder / f"{name}.json").write_text(json.dumps([OWN_ROW]))
    with pytest.raises(ConfigError, match="With preferences or labels: one, two"):
        read(folder)
    assert isinstance(read(folder, subset="two")[0], Record)
    with pytest.raises(ConfigError, match="Did you mean 'one'"):
        read(folder, subset="on")
    with pytest.raises(ConfigError, match="leads to 'a/b'"):
        read(folder, subset="far")


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "gone.json"])
def test_files_that_a_data_set_names_lie_in_its_folder(tmp_path: Path, name: str):
    (tmp_path / "secret.json").write_text(json.dumps([OWN_ROW]))
    with pytest.raises(ConfigError, match="no file in"):
        read(info_of(tmp_path / "in", mine={**OWN_NAMES, "file_name": name}))
    (tmp_path / "in" / "dataset_info.json").unlink()
    (tmp_path / "in" / "meta.json").write_text(json.dumps({"x": {"root": "", "annotation": name}}))
    with pytest.raises(ConfigError, match="no file in"):
        read(tmp_path / "in")


def test_a_mixture_is_read_with_its_roots_and_weights(tmp_path: Path):
    write_media(tmp_path / "images" / "one")
    row = {"image": "cat.png", "question": "Q", "chosen": "A", "rejected": "B"}
    for name in ("x", "y"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    entry = {"root": "images/one/", "annotation": "x.jsonl", "data_augment": False, "repeat_time": 2.5, "length": 1}
    meta = {"x": entry, "y": {**entry, "root": "elsewhere", "annotation": "y.jsonl"}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    for data in (tmp_path, tmp_path / "meta.json"):
        record, entry_of_y = read(data)
        assert isinstance(record, Record) and isinstance(entry_of_y, SetAside)
        assert record.media["images"][0].path == "images/one/cat.png"
        assert (record.meta["entry"], record.meta["repeat_time"]) == ("x", 2.5)
        assert (entry_of_y.reason, entry_of_y.row) == ("missing_media", 2)
        assert entry_of_y.message.startswith("y.jsonl row 1: ")
    assert len(read(tmp_path, subset="x")) == 1


def test_a_mixture_with_a_file_that_was_cut_off_is_told(tmp_path: Path):
    write_media(tmp_path)
    row = {"image": "cat.png", "question": "Q", "chosen": "A", "rejected": "B"}
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    (tmp_path / "meta.json").write_text(json.dumps({"x": {"root": "", "annotation": "x.jsonl", "length": 529}}))
    result = build("import", {"data": str(tmp_path), "validation": 0}, tmp_path / "out")
    assert result.quality["notes"][-1] == "x.jsonl has 2 rows, and meta.json says 529"
    assert len(result.quality["notes"]) == 2


def test_paths_of_a_mixture_may_start_above_it(tmp_path: Path):
    write_media(tmp_path / "set" / "images")
    (tmp_path / "set" / "x.jsonl").write_text(
        json.dumps({"image": "a.png", "question": "Q", "chosen": "A", "rejected": "B"})
    )
    meta = {"x": {"root": "set/images", "annotation": "set/x.jsonl", "repeat_time": 1}}
    (tmp_path / "set" / "meta.json").write_text(json.dumps(meta))
    (record,) = read(tmp_path / "set", root=tmp_path)
    assert isinstance(record, Record) and record.media["images"][0].path == "set/images/a.png"


def test_a_folder_of_parts_is_read_in_order_and_other_splits_are_told(tmp_path: Path):
    (tmp_path / "data").mkdir()
    for part in (0, 1):
        datasets.Dataset.from_list(ROWS[2 * part : 2 * part + 2]).to_parquet(
            tmp_path / "data" / f"train-0000{part}-of-00002.parquet"
        )
    (tmp_path / "data" / "test-00000-of-00001.parquet").write_bytes(b"")
    source = open_source(str(tmp_path))
    assert [row.cells["question"] for table in source.tables for row in table.rows()] == [
        row["question"] for row in ROWS[:4]
    ]
    assert source.notes == ["not read, because split=train: data/test-00000-of-00001.parquet"]
    (tmp_path / "data" / "more.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match=r"no split 'validation'.*\n.*data/more.jsonl"):
        open_source(str(tmp_path), split="validation")


def saved(tmp_path: Path) -> datasets.Dataset:
    Image.new("RGB", (4, 3)).save(tmp_path / "cat.png")
    (tmp_path / "dog.wav").write_bytes(wav())
    rows = [
        {
            "images": [str(tmp_path / "cat.png")],
            "audio": str(tmp_path / "dog.wav"),
            "prompt": [turn("user", [*TYPED["content"], {"type": "audio"}])],
            "chosen": typed_answer("A"),
            "rejected": typed_answer("B"),
        }
    ] * 3
    made = datasets.Dataset.from_list(rows)
    made = made.cast_column("audio", datasets.Audio())
    return made.cast_column("images", datasets.List(datasets.Image()))


def test_saved_data_sets_are_read_without_decoding(tmp_path: Path):
    made = saved(tmp_path)
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "many"))
    for folder in ("one", "many"):
        source = open_source(str(tmp_path / folder))
        form, _ = recognise(source)
        records = list(form.read(source, MediaReader(tmp_path)))
        assert form.name == "trl" and len(records) == 3
        for record in records:
            assert isinstance(record, Record)
            assert [item.data for _, item in record.media_items()] == [(tmp_path / "cat.png").read_bytes(), wav()]
    with pytest.raises(ConfigError, match="no split 'dev'"):
        open_source(str(tmp_path / "many"), split="dev")
    (tmp_path / "one" / "dataset_info.json").write_text("[]")
    with pytest.raises(DataError, match="cannot be loaded"):
        open_source(str(tmp_path / "one"))


def test_streamed_data_sets_are_read_without_decoding(tmp_path: Path):
    source = Source([Table("streamed", lambda: hub.rows_of(saved(tmp_path).to_iterable_dataset()))])
    records = list(recognise(source)[0].read(source, MediaReader(tmp_path)))
    assert len(records) == 3 and isinstance(records[2], Record)
    found = [read_bytes(item, tmp_path) for _, item in records[2].media_items()]
    assert found == [(tmp_path / "cat.png").read_bytes(), wav()]


def test_data_sets_of_the_hub_are_streamed(monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def load(*given: Any, **options: Any) -> datasets.IterableDataset:
        asked.append((given, options))
        if given[0] == "no/one":
            raise FileNotFoundError("nothing there")
        return datasets.Dataset.from_list(ROWS).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [type(item) for item in read("some/pairs", split="test", subset="en")] == [Record] * 5
    assert asked == [(("some/pairs", "en"), {"split": "test", "streaming": True})]
    with pytest.raises(ConfigError, match="cannot be had from the hub: nothing there"):
        hub.hub_table("no/one", "train", None)


def test_our_own_data_sets_are_not_imported(tmp_path: Path):
    record = Record("r", (user_message("Q"),), (Candidate("A", score=1.0), Candidate("B")), higher_is_better=True)
    save_records(Records([record]), tmp_path / "records")
    with pytest.raises(ConfigError, match="a data set of records already"):
        open_source(str(tmp_path / "records"))


def test_nothing_there(tmp_path: Path):
    with pytest.raises(ConfigError, match="no file, folder or hub data set"):
        open_source(str(tmp_path / "gone.json"))
    with pytest.raises(ConfigError, match="no file of rows"):
        open_source(str(tmp_path))
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(DataError, match="no file of rows that is read here"):
        open_source(str(tmp_path / "rows.txt"))
    (tmp_path / "rows.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no row can be read"):
        recognise(open_source(str(tmp_path / "rows.jsonl")))


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.startswith("/cat.png")
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def test_addresses_are_fetched_only_if_allowed(tmp_path: Path, server: str):
    row = {"messages": [QUESTION, KITTEN], "label": True}
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({**row, "images": [server + path]}) for path in ("/cat.png?x=1", "/gone.png"))
    )
    assert [entry.reason for entry in read(tmp_path / "rows.jsonl") if isinstance(entry, SetAside)] == [
        "remote_url"
    ] * 2
    source = open_source(str(tmp_path / "rows.jsonl"))
    record, entry = recognise(source)[0].read(source, MediaReader(tmp_path, allow_remote=True))
    assert isinstance(record, Record) and isinstance(entry, SetAside)
    (item,) = record.media["images"]
    assert (item.path, item.data, entry.reason) == ("cat.png", png(), "not_fetched")


def test_large_items_are_refused(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data_builders.importers.media_cells.MAX_BYTES", 10)
    row = {"messages": [QUESTION, KITTEN], "label": True}
    uri = "data:image/png;base64," + "AAAA" * 4
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({**row, "images": [item]}) for item in (uri, f"{server}/cat.png"))
    )
    source = open_source(str(tmp_path / "rows.jsonl"))
    found = recognise(source)[0].read(source, MediaReader(tmp_path, allow_remote=True))
    assert [entry.reason for entry in found if isinstance(entry, SetAside)] == ["too_large"] * 2
