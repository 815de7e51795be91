"""Records are staged in their order, in any mixture of shapes, into as many files as they need, or not at all."""

from pathlib import Path

import pytest
from PIL import Image

from mmdpo.errors import DataError
from mmdpo.jsonfiles import read_json
from mmdpo.media import MediaError
from mmdpo.records import Candidate, Media, Record, Records, load_records, user_message
from mmdpo.records import staging as records_staging
from mmdpo.records.staging import Staging


def record(number: int, answers: int = 2, **media: tuple[Media, ...]) -> Record:
    candidates = tuple(Candidate(f"answer {k}", source="s") for k in range(answers))
    counts = {name: len(items) for name, items in media.items()}
    return Record(f"r{number}", (user_message("What?", **counts),), candidates, media, meta={"rows": [number]})


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    folder = tmp_path / "staged"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    return folder


def test_a_mixture_keeps_its_order(staged: Path, tmp_path: Path):
    photo = (Media("a.png"),)
    records = [
        record(
            number,
            1 + number % 3,
            **({"images": photo} if number % 2 else {}),
            **({"audios": photo} if number % 5 == 0 else {}),
        )
        for number in range(30)
    ]
    staging = Staging(staged, tmp_path)
    assert all(staging.add(one) for one in records) and staging.n == 30
    assert [one.id for one in staging.records()] == [one.id for one in records]
    splits = ["validation" if number % 4 == 0 else "train" for number in range(30)]
    (tmp_path / "out").mkdir()
    staging.finish(tmp_path / "out", splits, {})
    info = read_json(tmp_path / "out" / "info.json")
    assert info["form"] == "list" and info["media"] == ["audios", "images"]
    for name in ("train", "validation"):
        loaded = load_records(tmp_path / "out", split=name)
        wanted = [one for one, split in zip(records, splits, strict=True) if split == name]
        assert [(one.id, one.prompt, one.candidates) for one in loaded] == [
            (one.id, one.prompt, one.candidates) for one in wanted
        ]
        assert info["splits"][name] == {"records": len(wanted), "fingerprint": loaded.fingerprint()}


def test_large_splits_become_several_files(staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records_staging, "ROWS_PER_FILE", 7)
    monkeypatch.setattr(records_staging, "ROWS_PER_GROUP", 3)
    staging = Staging(staged, None)
    records = [record(number) for number in range(16)]
    for one in records:
        staging.add(one)
    out = tmp_path / "out"
    out.mkdir()
    staging.finish(out, ["train"] * 15 + ["validation"], {})
    assert sorted(path.name for path in (out / "data").iterdir()) == [
        *(f"train-{number:05d}-of-00003.parquet" for number in range(3)),
        "validation.parquet",
    ]
    assert load_records(out).fingerprint() == Records(records[:15]).fingerprint()
    (out / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match="1 are missing: train-00001-of-00003"):
        load_records(out)


def test_what_cannot_be_a_record_is_not_taken(staged: Path, tmp_path: Path):
    staging = Staging(staged, tmp_path)
    assert staging.add(record(1)) and not staging.add(record(1)) and not staging.add(record(2, 0))
    with pytest.raises(DataError, match="2 problems: 1 duplicate_id, 1 no_candidates"):
        staging.require_valid("it")
    staging.start_split()
    assert staging.add(record(1))
    with pytest.raises(DataError, match="the media name 'details' is the name of another column"):
        staging.add(record(9, details=(Media("a.png"),)))


@pytest.mark.parametrize(
    ("path", "kind"),
    [("../a.png", "outside_root"), ("/etc/hostname", "outside_root"), ("http://x/a.png", "remote_url")],
)
def test_media_stay_in_their_root(staged: Path, tmp_path: Path, path: str, kind: str):
    staging = Staging(staged, tmp_path / "staged")
    with pytest.raises(MediaError, match="record 'r1'") as caught:
        staging.add(record(1, images=(Media(path),)))
    assert caught.value.kind == kind
