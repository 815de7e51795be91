"""Leakage: every kind of evidence in the forms in which benchmarks come, what is no evidence, and removal."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from data_builders.care import near_copies
from data_builders.care.evaluation_sets import coco_id, read_evaluation_set, telling_name
from data_builders.care.leakage import LEAKAGE_FILE, find_leakage, without_leaks
from data_builders.care.near_copies import NearCopies, join_near_copies, looks
from data_builders.splits import MediaGroups, chosen_groups, media_groups, source_of, stratified_groups
from mmdpo.errors import ConfigError, DataError
from mmdpo.jsonfiles import read_json
from mmdpo.records import Candidate, Media, Record, Records, load_records, save_records, user_message
from mmdpo.verbs.data import add_to

PHOTOS = [
    "COCO_val2014_000000310196.jpg",
    "train2017/000000000042.jpg",
    "AMBER_7.jpg",
    "1.jpg",
    "beach.png",
]
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def photo(seed: int, size: int = 64) -> Image.Image:
    """A picture with structure: smooth noise, other for each seed."""
    noise = np.random.default_rng(seed).uniform(0, 255, (8, 8, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def record(number: int, name: str, answer: str = "A dog on a sandy beach.") -> Record:
    prompt = (user_message("What is there?", images=1),)
    media = {"images": (Media(name),)}
    return Record(f"r{number}", prompt, (Candidate(answer, score=2.0), Candidate("Nothing.", score=1.0)), media, True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for number, name in enumerate(PHOTOS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(root / name, quality=95) if name.endswith("jpg") else photo(number).save(root / name)
    records = [record(number, name, f"Answer {number} of five words.") for number, name in enumerate(PHOTOS)]
    splits = {"train": Records(records[:4], root), "validation": Records(records[4:], root)}
    provenance = {"builder": "ratings", "config": {"scale": {"min": 1, "max": 5}}}
    return save_records(splits, tmp_path / "pairs", provenance=provenance)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def found(data: Path, path: Path) -> dict[str, dict[str, str]]:
    return {leak.record: dict(leak.evidence) for leak in find_leakage(data, {"it": path}).leaks}


COCO = {"r0": {"coco_id": "310196"}}
POPE = '{"question_id": 1, "KEY": "COCO_val2014_000000310196.jpg", "text": "Is there a dog?", "label": "yes"}\n'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("pope.json", POPE.replace("KEY", "image"), COCO),
        ("pope.json", POPE.replace("KEY", "imange"), COCO),
        (
            "pope2.json",
            [{"image_id": 310196, "image_name": "/images/000000310196.jpg", "query": "Is there a dog?"}],
            COCO,
        ),
        ("chair.json.gz", {"310196": ["dog"], "7": ["cat"]}, COCO),
        ("captions.json", {"imgToEval": {"x": {"image_id": 310196, "caption": "A dog."}}}, COCO),
        ("instances_val.json", {"images": [{"id": 1, "file_name": "000000310196.jpg"}], "annotations": []}, COCO),
        ("vqa.json.gz", {"questions": [{"image_id": 42, "question": "Why?"}]}, {"r1": {"coco_id": "42"}}),
        (
            "vqa_answers.json",
            {"annotations": [{"image_id": 42, "answers": [{"answer": "yes"}]}]},
            {"r1": {"coco_id": "42"}},
        ),
        ("amber/query/all.json", [{"id": 1, "image": "AMBER_7.jpg", "query": "?"}], {"r2": {"same_name": "amber_7"}}),
        ("names.txt", "AMBER_7.jpg\r\n\n1.jpg\nother.jpg\n", {"r2": {"same_name": "amber_7"}}),
        ("ids.json", [42, "COCO_train2014_000000310196"], COCO | {"r1": {"coco_id": "42"}}),
        (
            "qa.jsonl",
            '{"question": "what is  there?", "answer": "answer 3 OF five words."}\n{"question": "?", "answer": "No."}',
            {"r3": {"same_text": "Answer 3 of five words."}},
        ),
        ("other_question.jsonl", '{"question": "And now?", "answer": "Answer 3 of five words.", "image": "x.jpg"}', {}),
        (
            "references.jsonl",
            '{"caption": "Answer 3 of five words."}',
            {"r3": {"same_text": "Answer 3 of five words."}},
        ),
    ],
)
def test_forms_of_benchmarks(data: Path, name: str, content: Any, expected: dict[str, Any]):
    assert found(data, write(data.parent / "eval" / name, content)) == expected
    if not name.endswith(".txt"):  # in a folder it may be a licence
        assert found(data, data.parent / "eval") == expected


def test_names_and_ids():
    assert coco_id("val2014/COCO_val2014_000000310196.jpg") == coco_id("000000310196.png") == "310196"
    assert coco_id("310196.jpg") is None and coco_id("COCO_val2014_310196.jpg") is None
    assert telling_name("a/AMBER_7.JPG") == "amber_7" and telling_name("v1.5 photo") == "v1.5 photo"
    assert telling_name("12345.jpg") is None and telling_name("123456789.jpg") == "123456789"


def test_the_same_file_and_near_copies_are_found_under_other_names(data: Path):
    folder = data.parent / "bench"
    folder.mkdir()
    (folder / "q.jpg").write_bytes((data.parent / "photos" / "1.jpg").read_bytes())
    photo(4).resize((40, 40)).convert("L").save(folder / "sub.png")
    photo(99).save(folder / "r.png")
    leaks = found(data, folder)
    assert leaks == {"r3": {"same_file": "q.jpg", "near_copy": "q.jpg"}, "r4": {"near_copy": "sub.png"}}
    whole = find_leakage(data, {"bench": folder, "pope": write(data.parent / "p.json", POPE.replace("KEY", "image"))})
    assert whole.summary() == {
        "records": {"train": 4, "validation": 1},
        "leaking": 3,
        "against": {
            "bench": {
                "holds": {"media": 3, "pictures": 3, "coco_ids": 0, "names": 3, "texts": 0, "unreadable": 0},
                "leaking": 2,
                "n": 5,
                "by_split": {"train": 1, "validation": 1},
                "by_evidence": {"same_file": 1, "near_copy": 2},
            },
            "pope": {
                "holds": {"media": 0, "pictures": 0, "coco_ids": 1, "names": 0, "texts": 0, "unreadable": 0},
                "leaking": 1,
                "n": 5,
                "by_split": {"train": 1},
                "by_evidence": {"coco_id": 1},
            },
        },
        "pictures_not_opened": 0,
    }


def test_another_data_set_of_records_is_an_evaluation_set(data: Path, tmp_path: Path):
    root = tmp_path / "elsewhere"
    root.mkdir()
    photo(4).save(root / "x.png")
    other = save_records(Records([record(9, "x.png", "Answer 3 of five words.")], root), tmp_path / "other")
    assert found(data, other) == {
        "r3": {"same_text": "Answer 3 of five words."},
        "r4": {"same_file": "x.png", "near_copy": "x.png"},
    }


def test_removal_writes_another_data_set(data: Path, tmp_path: Path):
    found = find_leakage(data, {"pope": write(tmp_path / "p.json", POPE.replace("KEY", "image"))})
    out = tmp_path / "clean"
    assert without_leaks(data, found, out) == {"train": 3, "validation": 1}
    assert [one.id for one in load_records(out)] == ["r1", "r2", "r3"]
    assert load_records(out, split="validation")[0] == load_records(data, split="validation")[0]
    assert load_records(out).media_path(load_records(out)[2].media["images"][0]) == tmp_path / "photos" / "1.jpg"
    provenance = read_json(out / "info.json")["provenance"]
    assert provenance["builder"] == "ratings" and provenance["leakage"]["leaking"] == 1
    assert read_json(out / LEAKAGE_FILE)["removed"] == [
        {"record": "r0", "split": "train", "against": "pope", "evidence": {"coco_id": "310196"}}
    ]
    assert sorted(path.name for path in out.iterdir()) == ["data", "info.json", LEAKAGE_FILE]
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        without_leaks(data, found, out)
    everything = find_leakage(data, {"photos": data.parent / "photos"})
    with pytest.raises(DataError, match="all 5 records leak"):
        without_leaks(data, everything, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.json", "", "is empty|not JSON"),
        ("numbers.json", {"a": 1}, None),
        ("nothing.json", [{"question": "Is it red?", "answer": "yes"}], "nothing in .* can be compared"),
        ("broken.json", "{", "JSON"),
    ],
)
def test_what_cannot_be_compared_is_refused(data: Path, name: str, content: Any, message: str | None):
    path = write(data.parent / name, content)
    if message is None:
        assert found(data, path) == {}
        return
    with pytest.raises(DataError, match=message):
        find_leakage(data, {"it": path})
    with pytest.raises(DataError):
        read_evaluation_set("it", data.parent / "absent")


def test_the_verb(data: Path, tmp_path: Path):
    app = typer.Typer()
    add_to(app)
    app.command("other")(lambda: None)
    pope = write(tmp_path / "p.json", POPE.replace("KEY", "image"))
    runner = CliRunner()
    seen = runner.invoke(app, ["leakage", str(data), "--against", f"pope={pope}", f"photos={data.parent / 'photos'}"])
    assert seen.exit_code == 1 and "the same COCO image by its id: 310196" in seen.stdout
    asked = ["leakage", str(data), f"pope={pope}", "--json"]
    told = json.loads(runner.invoke(app, asked).stdout)
    assert told["leaking"] == 1 and told["left"] is None and told["leaks"][0]["record"] == "r0"
    done = runner.invoke(app, [*asked, "--remove", "--out", str(tmp_path / "clean")])
    assert done.exit_code == 0 and json.loads(done.stdout)["left"] == {"train": 3, "validation": 1}
    for wrong in (["--remove"], ["--out", "x"], ["nameless"], [f"pope={pope}"], []):
        arguments = ["leakage", str(data), *([f"pope={pope}"] if wrong else []), *wrong]
        assert isinstance(runner.invoke(app, arguments).exception, ConfigError), wrong


def test_hashes_through_bands_are_those_of_all_comparisons():
    index, codes = near_copies._Codes(), np.random.default_rng(0).integers(0, 2**63, 50, np.uint64)
    index.extend(codes)
    generator = np.random.default_rng(1)
    for number, code in enumerate(codes.tolist()):
        for flips in range(9):
            other = code
            for bit in generator.choice(63, flips, replace=False).tolist():
                other ^= 1 << bit
            expected = [n for n, one in enumerate(codes.tolist()) if (one ^ other).bit_count() <= near_copies.NEAR]
            assert index.near(other) == expected
            assert (number in expected) == (flips <= near_copies.NEAR)


def test_hashes_are_those_of_imagehash():
    imagehash = pytest.importorskip("imagehash", reason="comes with the dev extra")
    greys = [photo(seed, 32).convert("L") for seed in range(20)]
    found = near_copies.perceptual_hashes(np.stack([np.asarray(grey) for grey in greys]))
    assert found.tolist() == [int(str(imagehash.phash(grey)), 16) for grey in greys]


def noise(seed: int) -> Image.Image:
    """A picture of smooth noise with something in every place."""
    values = np.random.default_rng(seed).integers(0, 200, (12, 16, 3), np.uint8)
    return Image.fromarray(values).resize((320, 240), Image.Resampling.BICUBIC)


def banner(picture: Image.Image) -> Image.Image:
    copy = picture.copy()
    copy.paste("black", (0, 200, 320, 240))
    return copy


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "smaller": lambda picture: picture.resize((100, 75)),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "brighter": lambda picture: picture.point([min(255, value * 5 // 4) for value in range(256)] * 3),
    "darker": lambda picture: picture.point([value * 3 // 5 for value in range(256)] * 3),
    "middle": lambda picture: picture.crop((32, 24, 288, 216)),
    "corner": lambda picture: picture.crop((0, 24, 288, 240)),
    "side": lambda picture: picture.crop((0, 0, 288, 240)),
    "text below": banner,
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_are_near_copies_of_their_picture_alone(name: str):
    pictures = [noise(seed) for seed in range(6)]
    index = NearCopies()
    for picture in pictures:
        index.add(near_copies.Look.of(picture))
    for number, picture in enumerate(pictures):
        copy = near_copies.Look.of(CHANGES[name](picture))
        assert index.all_near(copy) == [number]
        assert near_copies.are_alike(copy, near_copies.Look.of(picture)), "the copy may also come first"


def test_what_has_no_pattern_is_compared_by_its_brightness():
    plain = [near_copies.Look.of(Image.new("RGB", (8, 8), (grey, grey, grey))) for grey in (0, 10, 200)]
    assert near_copies.are_alike(plain[0], plain[1]) and not near_copies.are_alike(plain[0], plain[2])
    assert not near_copies.are_alike(plain[0], near_copies.Look.of(noise(0)))


def test_near_copies_stand_in_one_split(tmp_path: Path):
    for number in range(3):
        photo(number).save(tmp_path / f"{number}.png")
        photo(number).resize((32, 32)).save(tmp_path / f"{number} small.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    (tmp_path / "broken.png").write_text("no picture")
    names = sorted(path.name for path in tmp_path.iterdir())
    groups = MediaGroups()
    for number, name in enumerate(names):
        groups.add(record(number, name))
    pictures = [Media(name) for name in names]
    assert [item.path for item, look in looks(pictures, tmp_path) if look is None] == ["broken.png"]
    assert join_near_copies(pictures, tmp_path, groups.join) == 3
    by_name = dict(zip(names, groups.names(), strict=True))
    assert all(by_name[f"{number}.png"] == by_name[f"{number} small.png"] for number in range(3))
    assert len(set(by_name.values())) == 5


def test_each_source_gives_its_share():
    groups = [f"g{number}" for number in range(100)]
    strata = ["rare"] * 10 + ["often"] * 90
    for seed in range(5):
        chosen = stratified_groups(groups, strata, 0.1, seed)
        assert len(chosen) == 10 and sum(group in chosen for group in groups[:10]) == 1
    assert stratified_groups(groups, ["one"] * 100, 0.1, 3) == stratified_groups(groups, [""] * 100, 0.1, 3)
    for share in (0.0, 0.05, 0.5, 0.99):
        assert stratified_groups(groups, [""] * 100, share, 3) == chosen_groups(groups, share, 3)
    assert len(stratified_groups(groups, [str(number % 7) for number in range(100)], 0.05, 0)) == 5
    assert stratified_groups(["a"], ["x"], 0.5, 0) == stratified_groups([], [], 0.5, 0) == set()
    # a group of several sources goes with the one that most of its records have
    assert stratified_groups(["a", "a", "a", "b"], ["x", "y", "y", "y"], 0.5, 0) <= {"a", "b"}


def test_splits_by_source_keep_groups_whole():
    records = [
        Record(str(n), (user_message(f"q{n // 2}"),), (Candidate("a", source="m" if n < 40 else "w"), Candidate("b")))
        for n in range(80)
    ]
    groups = MediaGroups()
    for one in records:
        groups.add(one)
    splits = groups.splits(0.25, 0, by_source=True)
    assert [splits[:40].count("validation"), splits[40:].count("validation")] == [10, 10]
    assert all(splits[n] == splits[n + 1] for n in range(0, 80, 2))
    assert source_of(records[0]) == "\x1fm" and source_of(Record("x", (), (), meta={"source": "s"})) == "s"
    assert groups.names() == media_groups(records)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "coco_mini").is_dir(), reason="needs ../shared/data/coco_mini")
def test_on_real_files(tmp_path: Path):
    photos = sorted(path.relative_to(REAL / "coco_mini").as_posix() for path in (REAL / "coco_mini").rglob("*.jpg"))
    records = [record(number, name) for number, name in enumerate(photos)]
    data = save_records(Records(records, REAL / "coco_mini"), tmp_path / "pairs")
    sets = {
        "pope": REAL / "pope" / "coco",
        "chair": REAL / "chair_gt" / "imid_to_objects.json.gz",
        "amber": REAL / "amber",
    }
    told = find_leakage(data, sets).summary()["against"]
    assert {name: one["leaking"] for name, one in told.items()} == {
        "pope": 2,
        "chair": 159,
        "amber": 0,
    }  # see SOURCE.txt
