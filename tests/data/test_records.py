"""Records survive the disk, and everything wrong with them is reported at once."""

import io
import json
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmdpo.errors import DataError
from mmdpo.records import Candidate, Media, Record, Records, load_records, prompt_text, save_records, user_message
from mmdpo.records.checks import Problem, validate_records
from mmdpo.records.files import list_splits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (4 + index, 4), (80 * index, 0, 0)).save(folder / f"{index}.png")
    return folder


def pair(name: str = "a", *, image: str = "0.png", **changes) -> Record:
    fields = {
        "id": name,
        "prompt": (user_message("What is <image> shown? </s>", images=1),),
        "candidates": (Candidate("A cat."), Candidate("A dog.")),
        "media": {"images": (Media(image),)},
    }
    return Record(**fields | changes)


def dialogue() -> Record:
    return Record(
        id="dialogue",
        prompt=(
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            user_message("First?", images=1),
            {"role": "assistant", "content": [{"type": "text", "text": "One."}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "And"}, {"type": "image"}, {"type": "text", "text": "this?"}],
            },
        ),
        candidates=(
            Candidate("Two.", score=3.5, source="model", spans=((0, 3),), token_ids=(5, 6)),
            Candidate("Tw", score=1.0, finished=False),
        ),
        media={"images": (Media("0.png"), Media("1.png"))},
        higher_is_better=True,
        meta={"nested": {"list": [1, None, "ü"]}, "absent": None},
    )


def without_hashes(record: Record) -> Record:
    media = {name: tuple(Media(item.path) for item in items) for name, items in record.media.items()}
    return Record(record.id, record.prompt, record.candidates, media, record.higher_is_better, record.meta)


@pytest.mark.parametrize("embed", [False, True])
def test_pairs_round_trip(root: Path, tmp_path: Path, embed: bool):
    records = Records([pair(), dialogue()], root)
    loaded = load_records(save_records(records, tmp_path / "out", embed=embed))
    assert [without_hashes(record) for record in loaded] == list(records)
    assert loaded.form == "pair"
    for record in loaded:
        for _, item in record.media_items():
            assert item.sha256 is not None
            assert (item.data == (root / item.path).read_bytes()) if embed else (item.data is None)
    assert loaded.media_root == (None if embed else root)


def test_fingerprint_is_that_of_the_content(root: Path, tmp_path: Path):
    records = Records([pair(), dialogue()], root)
    as_paths = load_records(save_records(records, tmp_path / "paths"))
    embedded = load_records(save_records(records, tmp_path / "bytes", embed=True))
    assert as_paths.fingerprint() == embedded.fingerprint()
    info = json.loads((tmp_path / "paths" / "info.json").read_text())
    assert info["splits"]["train"] == {"records": 2, "fingerprint": as_paths.fingerprint()}
    assert as_paths[::-1].fingerprint() != as_paths.fingerprint()
    swapped = pair(candidates=(Candidate("A dog."), Candidate("A cat.")))
    assert Records([swapped], root).fingerprint() != Records([pair()], root).fingerprint()


def test_lists_and_unpaired_round_trip(root: Path, tmp_path: Path):
    ranked = pair(
        candidates=(
            Candidate("a", score=1.0, rank=3),
            Candidate("b", score=2.0, rank=2),
            Candidate("c", score=9.0, rank=1),
        ),
        higher_is_better=True,
    )
    single = pair("b", candidates=(Candidate("good", label=True),))
    unpaired = Records(
        [single, pair("c", candidates=(Candidate("bad", label=False),), media={}, prompt=(user_message("Hi"),))], root
    )
    for name, records in {
        "list": Records([ranked], root),
        "unpaired": unpaired,
        "mixed": Records([ranked, single], root),
    }.items():
        loaded = load_records(save_records(records, tmp_path / name))
        assert [without_hashes(record) for record in loaded] == list(records)
    columns = datasets.Dataset.from_parquet(
        str(tmp_path / "unpaired/data/train.parquet"), cache_dir=str(tmp_path / "c")
    )
    assert columns["label"][:] == [True, False]
    assert columns["completion"][0] == [{"role": "assistant", "content": [{"type": "text", "text": "good"}]}]


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=20)
metas = st.dictionaries(texts, st.none() | st.booleans() | st.integers() | texts, max_size=3)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(texts, st.lists(texts, min_size=1, max_size=4, unique_by=str.strip), metas), min_size=1, max_size=4
    )
)
def test_any_text_round_trips(tmp_path_factory: pytest.TempPathFactory, rows: list):
    records = Records(
        Record(str(index), (user_message(prompt),), tuple(map(Candidate, answers)), meta=meta)
        for index, (prompt, answers, meta) in enumerate(rows)
    )
    assert list(load_records(save_records(records, tmp_path_factory.mktemp("any") / "out"))) == list(records)


def test_splits_and_moving_the_folder(root: Path, tmp_path: Path):
    home = tmp_path / "before"
    home.mkdir()
    root.rename(home / "media")
    splits = {"train": Records([pair()], home / "media"), "validation": Records([pair("b")], home / "media")}
    save_records(splits, home / "pairs")
    home.rename(tmp_path / "after")
    moved = load_records(tmp_path / "after" / "pairs", split="validation")
    assert moved[0].id == "b"
    assert moved.media_path(moved[0].media["images"][0]).read_bytes()
    assert list_splits(tmp_path / "after" / "pairs") == ["train", "validation"]
    with pytest.raises(DataError, match=r"no split 'test'.*\nIt has: train, validation"):
        load_records(tmp_path / "after" / "pairs", split="test")


def test_a_file_has_one_split(root: Path, tmp_path: Path):
    splits = {"train": Records([pair()], root), "validation": Records([pair("b")], root)}
    files = save_records(splits, tmp_path / "out") / "data"
    assert load_records(files / "validation.parquet")[0].id == "b"
    assert load_records(files / "validation.parquet", split="validation")[0].id == "b"
    with pytest.raises(DataError, match="no split 'validation'"):
        load_records(files / "train.parquet", split="validation")


@pytest.mark.parametrize(
    ("chosen", "trusted"),
    [
        ("photos", True),
        ("../media", True),
        ("..", True),
        ("../..", False),
        ("../../elsewhere", False),
        ("/", False),
        ("/etc", False),
    ],
)
def test_a_data_set_may_not_choose_any_folder(root: Path, tmp_path: Path, chosen: str, trusted: bool):
    out = save_records(Records([pair()], root), tmp_path / "home" / "out")
    info = json.loads((out / "info.json").read_text())
    (out / "info.json").write_text(json.dumps(info | {"media_root": chosen, "folder": "/where/it/was/written"}))
    assert load_records(out, media_root="/").media_root == Path("/")
    if trusted:
        assert load_records(out).media_root == (out / chosen).resolve()
    else:
        with pytest.raises(DataError, match="as its media root"):
            load_records(out)


def test_media_elsewhere_are_found_as_long_as_the_data_set_stays(root: Path, tmp_path: Path):
    out = save_records(Records([pair()], root), tmp_path / "home" / "out")
    assert load_records(out).media_root == root
    with pytest.raises(DataError, match="as its media root"):
        load_records(out.rename(tmp_path / "home" / "moved"))


def test_the_whole_file_system_is_no_media_root_even_at_home(root: Path, tmp_path: Path):
    absolute = pair(image=str(root / "0.png"))
    out = save_records(Records([absolute], "/"), tmp_path / "out")
    with pytest.raises(DataError, match="as its media root"):
        load_records(out)
    assert load_records(out, media_root="/")[0].media["images"][0].sha256


def test_nothing_is_overwritten_and_nothing_empty_is_saved(root: Path, tmp_path: Path):
    save_records(Records([pair()], root), tmp_path / "out")
    with pytest.raises(DataError, match="already holds a data set"):
        save_records(Records([pair()], root), tmp_path / "out")
    with pytest.raises(DataError, match="no records to save"):
        save_records(Records([]), tmp_path / "empty")
    with pytest.raises(DataError, match="no data set"):
        load_records(tmp_path / "absent")


def test_a_parquet_file_of_something_else(tmp_path: Path):
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(str(tmp_path / "other.parquet"))
    with pytest.raises(DataError, match=r"row 0 .* is not a record"):
        load_records(tmp_path / "other.parquet")


def test_a_plain_trl_file_loads(tmp_path: Path):
    answer = [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]
    rows = [{"prompt": [dict(user_message("Hi"))], "chosen": answer, "rejected": answer}]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "trl.parquet"))
    assert load_records(tmp_path / "trl.parquet")[0].chosen.text == "A cat."


def test_embedded_images_open_in_datasets(root: Path, tmp_path: Path):
    save_records(Records([pair(image="1.png")], root), tmp_path / "out", embed=True)
    rows = datasets.Dataset.from_parquet(str(tmp_path / "out/data/train.parquet"), cache_dir=str(tmp_path / "cache"))
    assert rows[0]["images"][0].size == (5, 4)


def test_embedding_needs_the_file(root: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"absent\.png"):
        save_records(Records([pair(image="absent.png")], root), tmp_path / "out", embed=True)


@pytest.mark.parametrize("embed", [False, True])
def test_a_save_that_fails_names_the_record_and_does_not_block_the_next(root: Path, tmp_path: Path, embed: bool):
    out = tmp_path / "out"
    outside = pair("b", image="../x.png"), "record 'b': .*outside"
    no_json = pair("b", meta={"x": object()}), "record 'b' holds something that JSON cannot"
    for broken, message in (outside, no_json):
        with pytest.raises(DataError, match=message):
            save_records(Records([pair(), broken], root), out, embed=embed)
        assert not list(out.iterdir())
    save_records(Records([pair()], root), out, embed=embed)
    assert sorted(entry.name for entry in out.iterdir()) == ["data", "info.json"]
    assert load_records(out)[0].id == "a"


def kinds(*records: Record, root: Path | None = None, check_media: bool = False) -> list[str]:
    return [problem.kind for problem in validate_records(Records(records, root), check_media=check_media)]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"prompt": (), "media": {}}, "empty_prompt"),
        ({"prompt": ({"role": "robot", "content": [{"type": "image"}]},)}, "unknown_role"),
        ({"prompt": ({"role": "user", "content": "text"},)}, "bad_part"),
        ({"prompt": ({"role": "user", "content": [{"type": "image", "image": "x"}]},)}, "bad_part"),
        ({"prompt": (user_message("half a pair: \ud83d", images=1),)}, "bad_text"),
        (
            {
                "prompt": (
                    user_message("x", images=1),
                    {"role": "assistant", "content": [{"type": "text", "text": "y"}]},
                )
            },
            "ends_with_answer",
        ),
        ({"prompt": (user_message("x", images=2),)}, "placeholder_mismatch"),
        ({"prompt": (user_message("<image> in text is no place"),)}, "placeholder_mismatch"),
        ({"media": {"images": (Media("0.png"),), "audios": (Media("a.wav"),)}}, "placeholder_mismatch"),
        ({"media": {"images": (Media(),)}}, "missing_media"),
        ({"candidates": ()}, "no_candidates"),
        ({"candidates": (Candidate(" \n"), Candidate("b"))}, "empty_candidate"),
        ({"candidates": (Candidate("a"), Candidate("a "))}, "equal_candidates"),
        ({"candidates": (Candidate("a\udc80"), Candidate("b"))}, "bad_text"),
        ({"candidates": (Candidate("a", score=1.0), Candidate("b"))}, "missing_direction"),
        ({"candidates": (Candidate("a", rank=2), Candidate("b", rank=1)), "higher_is_better": False}, "wrong_order"),
        (
            {"candidates": (Candidate("a", score=float("nan")), Candidate("b")), "higher_is_better": True},
            "bad_score",
        ),
        ({"candidates": (Candidate("abc", spans=((1, 4),)), Candidate("b"))}, "bad_span"),
    ],
)
def test_each_problem_has_its_kind(changes: dict, kind: str, tmp_path: Path):
    record = pair(**changes)
    assert kinds(record) == [kind]
    with pytest.raises(DataError, match=kind):
        save_records(Records([record], tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_problem_is_reported_with_its_row():
    records = Records([pair(), pair(candidates=(Candidate(""), Candidate(""))), pair("c", prompt=())])
    found = [(problem.row, problem.id, problem.kind) for problem in validate_records(records)]
    assert found == [
        (1, "a", "duplicate_id"),
        (1, "a", "empty_candidate"),
        (1, "a", "empty_candidate"),
        (1, "a", "equal_candidates"),
        (2, "c", "empty_prompt"),
    ]
    assert isinstance(validate_records(records)[0], Problem)


def test_media_are_checked_on_request(root: Path):
    (root / "text.jpg").write_text("hello")
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    (root / "cut.jpg").write_bytes(buffer.getvalue()[:400])
    names = ["0.png", "text.jpg", "cut.jpg", "absent.png", "../x.png"]
    records = [pair(name, image=name) for name in names]
    assert kinds(*records, root=root) == []
    found = ["not_an_image", "truncated_image", "missing_media", "outside_root"]
    assert kinds(*records, root=root, check_media=True) == found


def test_prompt_text_is_the_last_question():
    assert prompt_text(dialogue()) == "And\nthis?"


def test_only_pairs_have_a_chosen_answer():
    assert pair().chosen.text == "A cat." and pair().rejected.text == "A dog."
    with pytest.raises(DataError, match="is no pair"):
        _ = pair(candidates=(Candidate("a"),)).chosen
