"""The ready configurations on real ratings, where they are at hand."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_builders.running.build import BuildResult, build
from mmdpo.config import read_yaml
from mmdpo.records.checks import validate_records

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
FLICKR = DATA / "flickr8k_expert" / "flickr8k.json"
PHOTOS = DATA / "flickr8k_images100" / "images"
RATED = DATA / "real_rated_with_media.json"

pytestmark = pytest.mark.skipif(not FLICKR.is_file(), reason=f"real ratings are not at {DATA}")


def run(name: str, out: Path, **config: Any) -> BuildResult:
    return build("ratings", {**read_yaml(ROOT / "configs" / f"{name}.yaml"), **config}, out)


@pytest.mark.slow
def test_flickr8k_expert_with_the_photos_that_are_there(tmp_path: Path):
    result = run("build_flickr8k_expert", tmp_path / "out", data=FLICKR, media_root=PHOTOS)
    quality = result.quality
    assert quality["rows"]["read"] == 16992 == quality["rows"]["used"] + quality["rows"]["set_aside"]
    assert quality["ratings"]["images"] == 6 and quality["ratings"]["n"] == 37 * 3
    assert quality["set_aside"]["missing_media"] == 16992 - 37 * 3
    assert validate_records(result.records, check_media=True) == []


@pytest.mark.slow
def test_flickr8k_expert_from_text_and_paths(tmp_path: Path):
    result = run("build_flickr8k_expert", tmp_path / "out", data=FLICKR, media_root=PHOTOS, media="optional")
    quality = result.quality
    assert (quality["ratings"]["captions"], quality["ratings"]["images"]) == (5664, 1000)
    assert not {"missing_media"} & quality["set_aside"].keys()
    assert len(result.records) > 1500
    assert max(Counter(r.media["images"][0].identity for r in result.records).values()) <= 4
    assert all(r.chosen.score - r.rejected.score >= 1 - 1e-9 for r in result.records)  # type: ignore[operator]
    assert quality["agreement"]["alpha_interval"]["low"] < 0.738 < quality["agreement"]["alpha_interval"]["high"]


def test_thumb_and_flickr8k_on_their_photos(tmp_path: Path):
    thumb = run("build_thumb", tmp_path / "thumb", data=RATED, validation=0.25)
    assert thumb.quality["rows"] == {"read": 20, "used": 20, "set_aside": 0}
    assert thumb.quality["rows_filtered_out"] == 67
    assert {name: {r.media["images"][0].path for r in part} for name, part in thumb.splits.items()}.keys() == {
        "train",
        "validation",
    }
    flickr = run(
        "build_thumb",
        tmp_path / "flickr",
        data=RATED,
        where={"source": "flickr8k_expert", "scale": "flickr8k-expert 1-4"},
        columns={"image": "media", "rating": "ratings", "rater": None},
        scale={"min": 1, "max": 4},
    )
    assert flickr.quality["rows"]["read"] == 37
    assert flickr.quality["ratings"]["n"] == 111
    assert validate_records(flickr.records, check_media=True) == []
