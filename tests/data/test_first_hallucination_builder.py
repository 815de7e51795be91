"""`first_hallucination`: where answers go apart, what is marked, and what becomes of every row; worked by hand."""

from __future__ import annotations

import errno
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_builders.running.build import BuildResult, build
from data_builders.tables import spool
from mmdpo.errors import ConfigError, DataError
from mmdpo.records.marks import mark_first_difference, mark_first_hallucinated
from mmdpo.records.staging import Staging

TABLE = {"1": ["dog", "couch", "person"], "2": ["car"]}
WRONG = "A dog sits there. A cat lies on a couch beside it. It is dark."  # no cat
RIGHT = "We see a pet. Somebody rests on the soft couch now. It is night."


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for index in (1, 2):
        Image.new("RGB", (8, 8), (60 * index, 0, 0)).save(folder / f"{index}.png")
    (tmp_path / "objects.json").write_text(json.dumps(TABLE), encoding="utf-8")
    return folder


def configured(root: Path, **config: Any) -> dict[str, Any]:
    base = {"annotations": root.parent / "objects.json", "media_root": root, "validation": 0.0}
    return {**base, "image_name": "{id}.png", "data": root.parent / "captions.jsonl", **config}


def run(root: Path, captions: list[Any], out: str = "out", **config: Any) -> BuildResult:
    rows = [{"image_id": row[0], "caption": row[1]} for row in captions]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (root.parent / "captions.jsonl").write_text(text, encoding="utf-8")
    return build("first_hallucination", configured(root, **config), root.parent / out)


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


def test_both_answers_begin_alike_and_only_the_ends_are_marked(root: Path) -> None:
    result = run(root, [(1, WRONG), (1, RIGHT)])
    (record,) = result.records
    assert record.chosen.text == "A dog sits there. Somebody rests on the soft couch now."
    assert record.rejected.text == "A dog sits there. A cat lies on a couch beside it."
    marked = [candidate.text[slice(*candidate.spans[0])] for candidate in record.candidates]
    assert marked == ["Somebody rests on the soft couch now.", "A cat lies on a couch beside it."]
    # the marks are those that the losses of docs/marks.md would find themselves
    for marking in (mark_first_difference, mark_first_hallucinated):
        assert [c.spans for c in marking(record).candidates] == [c.spans for c in record.candidates]
    assert record.meta["sentence"] == 2 and record.meta["absent"] == ["cat"] and record.meta["rows"] == [2, 1]
    assert result.quality["first_wrong_sentence"] == {"2": 1}
    assert result.quality["rows"] == {"read": 2, "used": 2, "set_aside": 0}


@pytest.mark.parametrize(
    "other",
    [
        "We see a pet. A bird rests on the soft couch now.",  # wrong as well
        "We see a pet. It is very dark and quiet in here.",  # about no object that is there
        "We see a pet. Couch.",  # far shorter
        "We see a pet. A dog sits over there.",  # says what the beginning said
        "Somebody rests on the soft couch now.",  # a first sentence
    ],
)
def test_what_does_not_continue_well(root: Path, other: str) -> None:
    with pytest.raises(DataError, match="no_continuation"):
        run(root, [(1, WRONG), (1, other)])


def test_any_right_sentence_will_do_if_asked_for(root: Path) -> None:
    captions = [(1, WRONG), (1, "We see a pet. It is very dark and quiet in here.")]
    (record,) = run(root, captions, continuation="any").records
    assert record.chosen.text == "A dog sits there. It is very dark and quiet in here."


def test_the_first_sentence_may_be_the_wrong_one(root: Path) -> None:
    result = run(root, [(1, "A cat on a couch."), (1, "A person on a couch. It is dark.")])
    (record,) = result.records
    assert (record.chosen.text, record.rejected.text) == ("A person on a couch.", "A cat on a couch.")
    assert record.chosen.spans == ((0, len(record.chosen.text)),)


def test_every_row_is_accounted_for(root: Path) -> None:
    captions = [
        (1, WRONG),
        (1, RIGHT),
        (1, WRONG),
        (1, WRONG.replace("It is dark.", "It rains.")),  # the same up to the wrong sentence
        (1, "A dog."),
        (2, "A truck."),
        (9, "A dog."),
        (None, "A dog."),
        (1, ""),
        (1, 7),
        (1, "half \ud800"),
    ]
    result = run(root, captions)
    assert reasons(result) == {
        "duplicate_row": 2,
        "no_hallucination": 1,
        "no_continuation": 1,
        "not_annotated": 1,
        "no_image": 1,
        "empty_caption": 1,
        "not_text": 1,
        "bad_text": 1,
    }
    assert result.quality["rows"] == {"read": 11, "used": 2, "set_aside": 9}


@pytest.mark.parametrize(
    ("name", "reason"),
    [("../{id}.png", "outside_root"), ("https://x.org/{id}", "remote_url"), ("{id}.gif", "missing_media")],
)
def test_pictures_stay_inside(root: Path, name: str, reason: str) -> None:
    Image.new("RGB", (8, 8)).save(root.parent / "1.png")
    with pytest.raises(DataError, match=reason):
        run(root, [(1, WRONG), (1, RIGHT)], image_name=name)


def test_text_stays_text(root: Path) -> None:
    (record,) = run(root, [(1, f"<image> </s> {WRONG}"), (1, RIGHT)]).records
    assert record.rejected.text.startswith("<image> </s> A dog")
    assert [part["type"] for part in record.prompt[0]["content"]] == ["image", "text"]


def test_captions_have_to_be_given(root: Path) -> None:
    with pytest.raises(ConfigError, match="data names the table of captions"):
        build("first_hallucination", {"annotations": root.parent / "objects.json"}, root.parent / "out")


def test_interrupted_or_in_parts_the_records_are_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [(1, WRONG), (2, "A truck on a road."), (1, RIGHT), (2, "A car on a road.")]
    whole = run(root, captions)
    assert len(whole.records) == 2
    for error, seen in ((OSError(errno.ENOSPC, "No space left"), DataError), (KeyboardInterrupt(), KeyboardInterrupt)):

        def stopped(self: Staging, record: Any, error: BaseException = error) -> Any:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(Staging, "add", stopped)
            with pytest.raises(seen):
                build("first_hallucination", configured(root), root.parent / "again", resume=True)
        assert not (root.parent / "again" / "data").exists()
    resumed = build("first_hallucination", configured(root), root.parent / "again", resume=True)
    assert list(resumed.records) == list(whole.records)
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": 1})
    parts = run(root, captions, out="parts")
    assert sorted(parts.records, key=lambda one: one.id) == sorted(whole.records, key=lambda one: one.id)
