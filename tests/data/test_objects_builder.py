"""`objects`, mode rank: CHAIR per caption, guards and sources; worked by hand."""

from __future__ import annotations

import errno
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_builders.object_sources import Objects, ObjectsSource
from data_builders.running.build import BuildResult, build
from data_builders.tables import spool
from mmdpo.errors import ConfigError, DataError
from mmdpo.records.staging import Staging

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TABLE = {"1": ["dog", "couch", "person"], "2": ["car"], "3": []}
CAPTIONS = [
    (1, "A dog on a couch."),  # 2 of 2 there, finds 2
    (1, "A dog."),  # 1 of 1, finds 1
    (1, "A dog and a cat on a couch."),  # 2 of 3, finds 2
    (1, "A cat and a bird."),  # 0 of 2
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    (folder / "train").mkdir(parents=True)
    for index in (1, 2, 3):
        Image.new("RGB", (8, 8), (60 * index, 0, 0)).save(folder / "train" / f"{index}.png")
    (tmp_path / "objects.json").write_text(json.dumps(TABLE), encoding="utf-8")
    return folder


def run(root: Path, captions: list[Any], out: str = "out", **config: Any) -> BuildResult:
    data = root.parent / "captions.jsonl"
    rows = [row if isinstance(row, dict) else {"image_id": row[0], "caption": row[1]} for row in captions]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = {"mode": "rank", "annotations": root.parent / "objects.json", "media_root": root, "validation": 0.0}
    images = {"image_name": "{id}.png", "image_folders": ["val", "train"]}
    return build("objects", {**base, **images, "data": data, **config}, root.parent / out)


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


def texts(result: BuildResult) -> set[tuple[str, ...]]:
    return {tuple(candidate.text for candidate in record.candidates) for record in result.records}


def test_captions_are_ranked_by_what_is_there(root: Path) -> None:
    result = run(root, CAPTIONS)
    (record,) = result.records
    assert texts(result) == {("A dog on a couch.", "A cat and a bird.")}
    assert (record.chosen.score, record.rejected.score) == (1.0, 0.0)
    assert record.higher_is_better is True
    assert record.meta["chair"] == [{"named": 2, "wrong": 0, "found": 2}, {"named": 2, "wrong": 2, "found": 0}]
    assert record.media["images"][0].path == "train/1.png"
    assert reasons(result) == {"not_selected": 2}


def test_a_caption_is_not_better_because_it_says_less(root: Path) -> None:
    every = run(root, CAPTIONS, pairing="all")
    assert ("A dog.", "A dog and a cat on a couch.") not in texts(every)
    assert texts(every) == {
        ("A dog on a couch.", "A dog and a cat on a couch."),
        ("A dog on a couch.", "A cat and a bird."),
        ("A dog.", "A cat and a bird."),
        ("A dog and a cat on a couch.", "A cat and a bird."),
    }
    lenient = run(root, CAPTIONS, out="lenient", pairing="all", keep_recall=0.5)
    assert texts(lenient) - texts(every) == {("A dog.", "A dog and a cat on a couch.")}


def test_lists_and_margins(root: Path) -> None:
    listed = run(root, CAPTIONS, pairing="list")
    assert texts(listed) == {("A dog on a couch.", "A dog and a cat on a couch.", "A cat and a bird.")}
    wide = run(root, CAPTIONS, out="wide", pairing="all", min_margin=0.7)
    assert all(record.meta["margin"] == 1.0 for record in wide.records)
    assert reasons(wide) == {"no_margin": 1}


def test_every_row_is_accounted_for(root: Path) -> None:
    rows = [
        *CAPTIONS,
        (1, "a  DOG on a couch."),
        (2, "A car."),
        (1, "Nothing to see."),
        (9, "A dog."),
        (None, "A dog."),
        (1, ""),
        (1, 5),
        (1, "half \ud800"),
        (3, "A dog in the dark."),
        (3, "An empty place with a cat."),
        {"image_id": 1},
    ]
    result = run(root, rows)
    assert reasons(result) == {
        "not_selected": 2,
        "duplicate_row": 1,
        "single_caption": 1,
        "no_objects": 1,
        "not_annotated": 1,
        "no_image": 1,
        "empty_caption": 2,
        "not_text": 1,
        "bad_text": 1,
        "no_margin": 2,
    }
    assert result.quality["rows"] == {"read": 15, "used": 2, "set_aside": 13}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../{id}.png", "outside_root"),
        ("/etc/{id}", "outside_root"),
        ("https://x.org/{id}", "remote_url"),
        ("{id}.gif", "missing_media"),
    ],
)
def test_pictures_stay_inside(root: Path, name: str, reason: str) -> None:
    Image.new("RGB", (8, 8)).save(root.parent / "1.png")
    with pytest.raises(DataError, match=reason):
        run(root, CAPTIONS, image_name=name, image_folders=[])


def test_text_stays_text(root: Path) -> None:
    captions = [(1, "A dog <image> </s>."), (1, "A cat <|im_end|>.")]
    assert texts(run(root, captions)) == {("A dog <image> </s>.", "A cat <|im_end|>.")}


def test_settings_that_cannot_work(root: Path) -> None:
    with pytest.raises(ConfigError, match="data names their table"):
        build("objects", {"mode": "rank", "annotations": root.parent / "objects.json"}, root.parent / "out")
    with pytest.raises(ConfigError, match="no column 'text'"):
        run(root, CAPTIONS, columns={"answer": "text"})
    with pytest.raises(ConfigError, match="kinds are weights"):
        run(root, CAPTIONS, kinds={"object": -1})


# ---- sources ----

COCO = {
    "images": [{"id": 1, "file_name": "a 1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
    "annotations": [{"image_id": 1, "category_id": 18}],
    "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
}


def present(**config: Any) -> dict[str, set[str]]:
    return {key: set(image.present) for key, image in Objects(ObjectsSource(**config)).images.items()}


def test_coco_annotations_and_captions(tmp_path: Path) -> None:
    (tmp_path / "instances_val.json").write_text(json.dumps(COCO))
    assert present(annotations=tmp_path) == {"1": {"dog"}, "2": set()}
    said = {"images": COCO["images"], "annotations": [{"image_id": 2, "caption": "Two sofas."}]}
    (tmp_path / "captions_val.json").write_text(json.dumps(said))
    assert present(annotations=tmp_path) == {"1": {"dog"}, "2": {"couch"}}


def test_detections_need_a_score_and_names(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    found = tmp_path / "results.json.gz"
    rows = [{"image_id": 1, "category_id": 18, "score": 0.9}, {"image_id": 1, "category_id": 3, "score": 0.4}]
    found.write_bytes(gzip.compress(json.dumps(rows).encode()))
    names = tmp_path / "coco.json"
    assert present(annotations=found, categories=names) == {"1": {"dog"}}
    assert present(annotations=found, categories=names, min_score=0.4) == {"1": {"dog", "car"}}
    with pytest.raises(DataError, match=r"categories .* are numbers"):
        present(annotations=found)
    for bad in ({"score": "4/5"}, {"score": float("nan")}, {"score": 1.5}, {"category_id": 99}, {"score": None}):
        found.write_bytes(gzip.compress(json.dumps([rows[0] | bad]).encode()))
        with pytest.raises(DataError, match=r"entry 1 of .* is no detection"):
            present(annotations=found, categories=names)


@pytest.mark.parametrize("form", ["yaml list", "yaml table", "text"])
def test_yolo_labels(tmp_path: Path, form: str) -> None:
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "000000000007.txt").write_text("1 0.5 0.5 0.1 0.1\r\n0 0.5 0.5 0.1 0.1 0.2\r\n", newline="")
    (labels / "8.txt").write_text("")
    names = tmp_path / ("names.txt" if form == "text" else "names.yaml")
    forms = {"yaml list": "names: [dog, sofa]", "yaml table": "names: {0: dog, 1: sofa}", "text": "dog\nsofa\n"}
    names.write_text(forms[form])
    objects = Objects(ObjectsSource(annotations=tmp_path / "labels", categories=names))
    assert {key: set(image.present) for key, image in objects.images.items()} == {"7": {"couch"}, "8": set()}
    assert objects.media(objects.images["7"]).path == "train/000000000007.jpg"
    (labels / "8.txt").write_text("2 0.5 0.5 0.1 0.1")
    with pytest.raises(DataError, match="is no detection"):
        Objects(ObjectsSource(annotations=tmp_path / "labels", categories=names))


def test_labels_of_two_pictures_of_the_same_name(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "7.txt").write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / "names.txt").write_text("dog")
    with pytest.raises(DataError, match="two pictures '7'"):
        present(annotations=tmp_path / "labels", categories=tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[]"),
        ("a.json", '{"categories": [{"id": 1}]}'),
        ("a.yaml", "names: 5"),
        ("a.yaml", "- dog"),
        ("a.yaml", "names: [dog"),
        ("a.txt", "  "),
    ],
)
def test_files_without_names(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="names"):
        present(annotations=tmp_path / "labels", categories=tmp_path / name)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED}")
def test_places_are_those_that_chair_counts() -> None:
    objects = Objects(ObjectsSource(annotations=SHARED / "coco_mini" / "annotations"))
    texts = [caption for image in objects.images.values() for caption in image.captions]
    for path in (SHARED / "chair_model_captions").glob("r1*.jsonl"):
        texts += [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()[:100]]
    for text in texts:
        counted = [mention.category for mention in objects.chair.names.mentions(objects.chair.base_words(text))]
        assert [name.category for name in objects.named(text)] == counted, text


# ---- interruptions ----


def test_parts_of_what_memory_holds_give_the_same_records(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [*CAPTIONS, (2, "A car."), (2, "A truck."), (3, "A cat.")]
    whole = run(root, captions, pairing="all")
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": 2})
    parts = run(root, captions, out="parts", pairing="all")
    assert sorted(parts.records, key=lambda one: one.id) == sorted(whole.records, key=lambda one: one.id)


def test_a_full_disk_leaves_nothing_half_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(root, CAPTIONS)

    def full(self: Staging, record: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Staging, "add", full)
        with pytest.raises(DataError, match="No space left"):
            run(root, CAPTIONS, out="again")
    assert not (root.parent / "again" / "data").exists()

    def stopped(self: Staging, record: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Staging, "add", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(root, CAPTIONS, out="stopped")
    base = {"mode": "rank", "annotations": root.parent / "objects.json", "media_root": root, "validation": 0.0}
    more = {"image_name": "{id}.png", "image_folders": ["val", "train"], "data": root.parent / "captions.jsonl"}
    resumed = build("objects", {**base, **more}, root.parent / "stopped", resume=True)
    assert list(resumed.records) == list(whole.records)


def test_a_picture_has_no_more_pairs_than_its_cap(root: Path) -> None:
    """Scores 1, 1, 2/3 and 0; what the worse one finds, the better one finds: (1 or 2, 0), (1, 2/3), (2/3, 0)."""
    every = run(root, CAPTIONS, pairing="all", min_margin=0.01)
    assert len(every.records) == 4
    two = run(root, CAPTIONS, "two", pairing="all", min_margin=0.01, max_pairs_per_image=2)
    assert texts(two) == {("A dog on a couch.", "A cat and a bird."), ("A dog.", "A cat and a bird.")}
    assert reasons(two) == {"not_selected": 1}
    # over all prompts of a picture, and of each picture by itself
    asked = [{"image_id": 1, "caption": text, "q": prompt} for _, text in CAPTIONS for prompt in ("What?", "Where?")]
    asked += [{"image_id": 2, "caption": text, "q": "What?"} for text in ("A car.", "A dog.")]
    one = run(root, asked, "one", columns={"prompt": "q"}, max_pairs_per_image=1)
    assert [record.media["images"][0].path for record in one.records] == ["train/1.png", "train/2.png"]


def test_the_longer_caption_is_chosen_as_often_as_the_shorter_one(root: Path) -> None:
    """Three pairs: the longer caption wins by 1 and by 1/2, the shorter one by 1."""
    captions = [
        *[{"image_id": 1, "caption": text, "q": "a"} for text in ("A dog rests here on a couch.", "A cat.")],
        *[{"image_id": 2, "caption": text, "q": "a"} for text in ("A nice car in the street.", "A car, a dog.")],
        *[{"image_id": 2, "caption": text, "q": "b"} for text in ("A car.", "A big dog in the street.")],
    ]
    config: dict[str, Any] = {"columns": {"prompt": "q"}}
    assert len(run(root, captions, **config).records) == 3
    result = run(root, captions, "balanced", balance_length=True, **config)
    assert texts(result) == {("A dog rests here on a couch.", "A cat."), ("A car.", "A big dog in the street.")}
    assert reasons(result) == {"length_balance": 2}


def test_an_id_is_no_path(root: Path) -> None:
    """Annotations without names of files, as COCO's objects by id: a pattern or the captions' rows name them."""
    with pytest.raises(ConfigError, match="which file picture '1' is") as refused:
        run(root, CAPTIONS, image_name=None, media="optional")
    assert "image_name=" in str(refused.value) and "columns.image" in str(refused.value)
    named = [{"image_id": "000001.png" if place else 1, "caption": text} for place, (_, text) in enumerate(CAPTIONS)]
    Image.new("RGB", (8, 8)).save(root / "train" / "000001.png")
    result = run(root, named, image_name=None)
    assert texts(result) == {("A dog on a couch.", "A cat and a bird.")}
    assert result.records[0].media["images"][0].path == "train/000001.png"
    assert [note for note in result.quality["notes"] if "1 pictures are called as the rows" in note]


def test_detections_do_not_make_up_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    found = tmp_path / "results.json"
    rows = [{"image_id": image, "category_id": 18, "score": 0.9} for image in (1, "b.jpg")]
    found.write_text(json.dumps(rows))
    objects = Objects(ObjectsSource(annotations=found, categories=tmp_path / "coco.json"))
    assert objects.media(objects.images["b"]).path == "b.jpg"
    with pytest.raises(ConfigError, match="which file picture '1' is"):
        objects.media(objects.images["1"])
    assert objects.media(objects.images["1"], "set/1.jpg").path == "set/1.jpg"
