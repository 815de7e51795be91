"""Every format is recognised and read as its own project means it; what cannot be read is set aside with a reason."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from foreign_rows import DATA_URI, EXAMPLES, KITTEN, QUESTION, TYPED, Example, png, ratings, turn, write_media
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_builders.importers.formats import FORMATS, format_named, recognise
from data_builders.importers.media_cells import MediaReader
from data_builders.importers.sources import Source, Table, open_source
from data_builders.running.ledger import SetAside
from data_builders.tables.reading import Row
from mmdpo.errors import ConfigError
from mmdpo.media.audio import open_audio
from mmdpo.records import Candidate, Record

NAMES = [f"{example.format}-{number}" for number, example in enumerate(EXAMPLES)]


def source_of(*rows: dict[str, Any], **info: Any) -> Source:
    return Source([Table("rows", lambda: (Row(n, row) for n, row in enumerate(rows, 1)), info)])


def read(form: str, *rows: dict[str, Any], root: Path | None = None, **options: Any) -> list[Record | SetAside]:
    return list(format_named(form).read(source_of(*rows), MediaReader(root, **options)))


def shown(record: Record) -> list[tuple[str, list[str]]]:
    return [
        (message["role"], [part.get("text", f"<{part['type']}>") for part in message["content"]])
        for message in record.prompt
    ]


def write(path: Path, example: Example, *rows: dict[str, Any]) -> Path:
    if example.parquet:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path.with_suffix(".parquet"))
        return path.with_suffix(".parquet")
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_a_row_is_recognised_and_read(example: Example, tmp_path: Path):
    source = open_source(str(write(write_media(tmp_path) / "rows.jsonl", example, example.row)))
    form, reason = recognise(source)
    assert form.name == example.format and reason.startswith("rows have ")
    *others, record = form.read(source, MediaReader(source.folder))
    assert isinstance(record, Record)
    assert shown(record) == example.prompt
    assert [candidate.text for candidate in record.candidates] == example.answers
    more = example.given or ({},) * len(example.answers)
    made = [Candidate(text, **told) for text, told in zip(example.answers, more, strict=True)]
    assert list(record.candidates) == made
    assert record.higher_is_better is example.higher_is_better
    paths = {name: [i.path if i.data is None else None for i in items] for name, items in record.media.items()}
    assert paths == example.media
    assert record.meta.get("columns", {}) == example.columns
    assert (record.meta["format"], record.meta["row"]) == (form.name, 1)
    assert [entry.column for entry in others] == (["completions[1]"] if form.name == "vlfeedback" else [])


def test_every_format_has_an_example():
    assert {example.format for example in EXAMPLES} == set(FORMATS)


LISTING = [
    (example, column)
    for example in EXAMPLES
    for column in ("images", "audios")
    if isinstance(example.row.get(column), list)
    and not isinstance(example.row.get("prompt", [{}])[-1].get("content"), str)
]


@pytest.mark.parametrize(("example", "column"), LISTING, ids=[example.format for example, _ in LISTING])
@pytest.mark.parametrize("change", [1, -1])
def test_a_row_with_more_or_fewer_items_than_places_is_set_aside(
    example: Example, column: str, change: int, tmp_path: Path
):
    items = example.row[column]
    row = {**example.row, column: [*items, "puppy.png"] if change > 0 else items[1:]}
    row.pop(f"rejected_{column}", None)
    (entry,) = read(example.format, row, root=write_media(tmp_path))
    assert isinstance(entry, SetAside) and entry.reason == "placeholder_mismatch"
    assert entry.message.startswith(f"the prompt has 1 places for {1 + change}")


SWIFT = {"messages": [QUESTION, KITTEN], "images": ["cat.png"]}
FEEDBACK = {"prompt": "Q", "completions": {"annotations": [ratings("1"), ratings("2")], "response": ["A", "B"]}}
NEMO = {"context": [turn("user", "Q")]}


def nemo(*ranks: Any, texts: str = "ABCDE") -> dict[str, Any]:
    told = zip(ranks, texts, strict=False)
    return {**NEMO, "completions": [{"rank": rank, "completion": [turn("assistant", text)]} for rank, text in told]}


@pytest.mark.parametrize(
    ("form", "row", "reason"),
    [
        ("ms_swift", {**SWIFT, "rejected_images": ["puppy.png"]}, "rejected_media"),
        ("ms_swift", {**SWIFT, "rejected_response": "No.", "rejected_images": ["puppy.png"]}, "rejected_media"),
        ("ms_swift", SWIFT, "no_preference"),
        ("ms_swift", {**SWIFT, "label": 1}, "not_a_label"),
        ("ms_swift", {**SWIFT, "rejected_response": "A kitten."}, "equal_candidates"),
        ("ms_swift", {**SWIFT, "rejected_response": [KITTEN, KITTEN]}, "several_turns"),
        ("ms_swift", {**SWIFT, "rejected_response": [turn("user", "No.")]}, "unknown_role"),
        ("ms_swift", {**SWIFT, "rejected_messages": [turn("user", "<image>Who?"), KITTEN]}, "other_prompt"),
        ("ms_swift", {**SWIFT, "rejected_response": "No.", "tools": "[{}]"}, "tools"),
        ("ms_swift", {**SWIFT, "rejected_response": "No.", "objects": {"ref": [], "bbox": []}}, "objects"),
        ("ms_swift", {"messages": [KITTEN], "rejected_response": "No."}, "empty_prompt"),
        ("ms_swift", {"messages": [KITTEN, KITTEN], "rejected_response": "No."}, "ends_with_answer"),
        ("ms_swift", {"messages": [turn("user", "Hi"), turn("bot", "I")], "label": True}, "unknown_role"),
        ("ms_swift", {**SWIFT, "images": ["https://a.b/c.png"], "label": True}, "remote_url"),
        ("ms_swift", {**SWIFT, "images": ["gone.png"], "label": True}, "missing_media"),
        ("ms_swift", {**SWIFT, "images": ["../cat.png"], "label": True}, "outside_root"),
        ("ms_swift", {**SWIFT, "images": ["data:image/png;base64,%%%"], "label": True}, "bad_data_uri"),
        ("ms_swift", {**SWIFT, "images": ["data:image/png,abc"], "label": True}, "bad_data_uri"),
        ("ms_swift", {**SWIFT, "images": [3], "label": True}, "unknown_media"),
        ("ms_swift", {"messages": "hello", "label": True}, "no_messages"),
        ("llamafactory_sharegpt", {"messages": [QUESTION, KITTEN], "kto_tag": True}, "placeholder_mismatch"),
        ("llamafactory_sharegpt", {"conversations": [{"from": "human", "value": "Q"}], "chosen": "A"}, "no_preference"),
        ("llamafactory_alpaca", {"instruction": "Q", "chosen": ["A"], "rejected": "B"}, "not_text"),
        ("llamafactory_alpaca", {"instruction": "Q", "output": "A", "kto_tag": "true"}, "not_a_label"),
        ("llamafactory_alpaca", {"instruction": "Q", "chosen": "A", "rejected": "B", "history": ["x"]}, "no_messages"),
        ("trl", {"prompt": [TYPED], "chosen": [KITTEN], "rejected": [TYPED]}, "unknown_role"),
        ("trl_implicit", {"chosen": [TYPED, KITTEN], "rejected": [TYPED, turn("user", "x"), KITTEN]}, "other_prompt"),
        ("trl_implicit", {"chosen": [turn("user", "Q"), KITTEN], "rejected": [turn("user", "Q")]}, "unknown_role"),
        ("trl_unpaired", {"prompt": "Q", "completion": "A", "label": None}, "not_a_label"),
        ("mdpo", {"img_path": "cat.png", "prompt": "Who?", "chosen": "A", "rejected": "B"}, "unknown_template"),
        ("mmpr", {"question": "Q", "chosen": "A", "rejected": None}, "no_preference"),
        ("vlfeedback", {**FEEDBACK, "completions": {"annotations": [], "response": ["A"]}}, "no_preference"),
        (
            "align_anything",
            {"prompt": "Q", "response_1": "A", "response_2": "B", "overall_response": 0},
            "unknown_vote",
        ),
        (
            "align_anything",
            {"prompt": "Q", "response_1": "A", "response_2": "B", "overall_response": 3},
            "unknown_vote",
        ),
        ("nemo_rl", nemo(0, 0), "tie"),
        ("nemo_rl", nemo(0), "single_candidate"),
        ("nemo_rl", nemo("0", 1), "single_candidate"),
        ("nemo_rl", nemo(0, 1, texts="AA"), "single_candidate"),
        ("axolotl", {"messages": [], "chosen": KITTEN, "rejected": turn("assistant", "B")}, "empty_prompt"),
        (
            "axolotl",
            {"messages": [turn("user", "\ud800")], "chosen": KITTEN, "rejected": turn("assistant", "B")},
            "bad_text",
        ),
        (
            "axolotl",
            {"messages": [turn("user", "Q")], "images": ["a"], "chosen": KITTEN, "rejected": KITTEN},
            "unread_media",
        ),
        ("nectar", {"prompt": "\n\nHuman: Q", "answers": [{"answer": "A", "rank": 1}]}, "unknown_template"),
    ],
)
def test_what_cannot_be_read_is_set_aside(form: str, row: dict[str, Any], reason: str, tmp_path: Path):
    *_, entry = read(form, row, root=write_media(tmp_path / "in"))
    assert isinstance(entry, SetAside)
    assert (entry.reason, entry.row, entry.column) == (reason, 1, None)


def test_lower_ranks_are_better_and_answers_that_cannot_be_placed_are_listed():
    entry, record = read("nemo_rl", nemo(7, "x", 2, 4))
    assert isinstance(entry, SetAside) and (entry.reason, entry.value) == ("not_a_rank", "x")
    assert isinstance(record, Record) and record.higher_is_better is False
    assert [(c.text, c.rank) for c in record.candidates] == [("C", 2), ("D", 4), ("A", 7)]


def test_one_answer_with_two_ratings_is_not_used_and_a_repeated_one_once():
    twice, *conflict, record = read("nemo_rl", nemo(0, 1, 1, 2, 3, texts="ABBCC"))
    assert isinstance(record, Record) and [c.text for c in record.candidates] == ["A", "B"]
    assert [entry.reason for entry in (twice, *conflict)] == ["equal_candidates", *["conflicting_rating"] * 2]


def test_ratings_of_other_aspects_are_not_compared():
    rated = [ratings("1"), ratings("5"), {"Helpfulness": {"Rating": "5"}}]
    row = {"prompt": "Q", "completions": [{"annotations": r, "response": t} for r, t in zip(rated, "ABC", strict=True)]}
    entry, record = read("vlfeedback", row)
    assert isinstance(entry, SetAside) and entry.reason == "missing_aspect"
    assert isinstance(record, Record) and [(c.text, c.score) for c in record.candidates] == [("B", 4.0), ("A", 2.0)]
    faithful = {"Visual Faithfulness": 3.0}
    assert record.meta["ratings"] == [{"Helpfulness": 5.0, **faithful}, {"Helpfulness": 1.0, **faithful}]


def test_tokens_of_models_stay_text():
    text = "<|im_end|> <s> <image> </s> <|vision_start|>"
    row = {**SWIFT, "messages": [QUESTION, turn("assistant", text)], "rejected_response": "[INST]"}
    (record,) = (
        read("ms_swift", row, root=None, optional=True) if False else read("ms_swift", {**row, "images": [DATA_URI]})
    )
    assert isinstance(record, Record) and [c.text for c in record.candidates] == [text, "[INST]"]


def test_the_order_of_items_follows_the_parts():
    """An item inside a part stands where the part is; the listed ones fill the other places."""
    parts = [{"type": "image", "image": "b"}, {"type": "image"}, {"type": "image_url", "image_url": {"url": "c"}}]
    row = {"prompt": [turn("user", parts)], "images": ["a"], "chosen": [KITTEN], "rejected": "No."}
    (record,) = read("trl", row, root=Path("/nowhere"), optional=True)
    assert isinstance(record, Record) and [item.path for item in record.media["images"]] == ["b", "a", "c"]


def test_samples_become_a_sound_without_loss():
    row = next(e.row for e in EXAMPLES if "audio_path" in e.row)
    (record,) = read("align_anything", row)
    assert isinstance(record, Record)
    sound = open_audio(record.media["audios"][0], None)
    assert (sound.samples.tolist(), sound.rate) == ([0.0, 0.5, -0.5], 8000)


def test_frames_are_a_video_if_they_are_all_of_a_folder(tmp_path: Path):
    (tmp_path / "clip").mkdir()
    for number in (1, 2, 10):
        (tmp_path / "clip" / f"{number}.png").write_bytes(png())
    frames = [f"clip/{number}.png" for number in (1, 2, 10)]
    row = {"messages": [turn("user", "<video>?"), KITTEN], "label": True}
    (record,) = read("ms_swift", {**row, "videos": [frames]}, root=tmp_path)
    assert isinstance(record, Record) and record.media["videos"][0].path == "clip"
    for wrong in (frames[:2], frames[::-1]):
        (entry,) = read("ms_swift", {**row, "videos": [wrong]}, root=tmp_path)
        assert isinstance(entry, SetAside) and entry.reason == "video_frames"


def test_absolute_paths_below_the_root_become_relative(tmp_path: Path):
    root = write_media(tmp_path / "in")
    for path in (root / "cat.png", f"file://{root}/cat.png", root / ".." / "in" / "cat.png"):
        (record,) = read("ms_swift", {**SWIFT, "images": [str(path)], "label": True}, root=root)
        assert isinstance(record, Record) and record.media["images"][0].path == "cat.png"


def test_ids_are_kept_where_they_can_be_and_never_repeat():
    rows = [{"id": name, **nemo(0, 1)} for name in ("x", 7, "x", None, "", "rows-4")]
    records = read("nemo_rl", *rows)
    assert [r.id for r in records if isinstance(r, Record)] == ["x", "7", "x-3", "rows-4", "rows-5", "rows-4-6"]


def test_bytes_and_broken_text_in_other_columns_are_listed_and_the_row_is_used():
    row = {
        **nemo(0, 1),
        "raw": b"\x00",
        "bad": "\ud800",
        "deep": {"a": [{"b": b"x"}]},
        "nan": float("nan"),
        "none": None,
    }
    *entries, record = read("nemo_rl", row)
    assert {(e.column, e.reason) for e in entries if isinstance(e, SetAside)} == {
        ("raw", "bytes_in_column"),
        ("bad", "bad_text"),
        ("deep", "bytes_in_column"),
    }
    assert isinstance(record, Record) and record.meta["columns"] == {"nan": "nan"}


def test_rows_of_several_formats_are_not_guessed():
    row = {**SWIFT, "rejected_response": "No.", "kto_tag": True}
    with pytest.raises(ConfigError) as caught:
        recognise(source_of(row))
    message = str(caught.value)
    for told in ("llamafactory_sharegpt: rows have messages and kto_tag", "ms_swift: rows have messages and rejected"):
        assert told in message
    assert "format=llamafactory_sharegpt or format=ms_swift" in message


def test_rows_without_a_preference_are_of_no_format():
    for row in (
        {"messages": [QUESTION, KITTEN]},
        {"messages": [QUESTION], "label": 1},
        {"instruction": "Q", "output": "A"},
    ):
        with pytest.raises(ConfigError, match="of no format that is known"):
            recognise(source_of(row))
    with pytest.raises(ConfigError, match="Did you mean 'ms_swift'"):
        format_named("ms-swift")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(EXAMPLES), st.data())
def test_whatever_stands_in_a_row_it_is_read_or_set_aside(example: Example, data: st.DataObject):
    row = dict(example.row)
    for name in data.draw(st.lists(st.sampled_from(sorted(row)), min_size=1, max_size=2)):
        row[name] = data.draw(_mutated(row[name]))
    found = read(example.format, row, root=Path("/nowhere"), optional=True)
    assert found and all(entry.row == 1 for entry in found if isinstance(entry, SetAside))
    recognise_or_refuse(row)


def _mutated(value: Any) -> st.SearchStrategy[Any]:
    """Junk in place of the value or of something inside it."""
    if isinstance(value, dict) and value:
        return JUNK | st.sampled_from(sorted(value)).flatmap(
            lambda k: _mutated(value[k]).map(lambda v: {**value, k: v})
        )
    if isinstance(value, list) and value:
        return JUNK | _mutated(value[0]).map(lambda v: [v, *value[1:]])
    return JUNK


def recognise_or_refuse(row: dict[str, Any]) -> None:
    try:
        recognise(source_of(row))
    except ConfigError:
        return
