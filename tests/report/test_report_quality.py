"""The quality page, made from what the builder really writes, and the page of single records."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from data_builders.quality import measure
from data_builders.running.build import build
from mmdpo.records import load_records
from mmdpo.report import write_quality_page, write_records_page
from mmdpo.report.quality import mark_differences

from .conftest import SCRIPT
from .parsed_page import assert_self_contained


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Twelve pictures with a good and a bad caption, three raters; one picture is missing, one rating is no number."""
    for place in range(12):
        Image.new("RGB", (48, 48), (20 * place, 100, 150)).save(tmp_path / f"{place}.png")
    with (tmp_path / "ratings.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "rating", "rater"])
        for place in range(13):  # the last picture is not there
            for rater in ("ann", "bob", SCRIPT):
                table.writerow([f"{place}.png", f"a red cat on a mat {place} {SCRIPT}", 4, rater])
                table.writerow([f"{place}.png", f"a blue cat on a mat {place}", 1 + (rater == "bob"), rater])
        table.writerow(["0.png", "a third caption", "many", "ann"])
    config = {"data": str(tmp_path / "ratings.csv"), "scale": {"min": 1, "max": 5}, "higher_is_better": True}
    build("ratings", config, tmp_path / "out")
    return tmp_path / "out"


def test_quality_page_says_what_became_of_every_row(built: Path, tmp_path: Path) -> None:
    quality = json.loads((built / "quality.json").read_text())
    path = write_quality_page(quality, tmp_path / "quality.html", media_root=tmp_path)
    html = path.read_text(encoding="utf-8")
    page = assert_self_contained(html)
    text = " ".join(page.text.split())
    assert "<script" not in html
    for expected in (
        "12 pairs on 12 pictures, from 79 rows.",
        "72 used, 7 set aside",
        "missing media the picture is not there 6 7.6%",
        "not a number the rating is no number 1 1.3%",
        "Krippendorff's alpha",
        "ann",
        "Length bias",
        "Examples",
    ):
        assert expected in text, expected
    pictures = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    records = quality["records"]
    shown = len(records["ambiguous"]["examples"]) + 2 * len(records["media_duplicates"].get("examples", []))
    assert len(pictures) == len(records["examples"]) + shown
    assert "What stands out" in text and "the longer one is chosen in 100.0%" in text
    assert f"{quality['agreement']['alpha_interval']['value']:.2f}" in text
    assert write_quality_page(quality, tmp_path / "again.html", media_root=tmp_path).read_text() == html


def test_quality_of_records_alone_and_without_their_pictures(built: Path, tmp_path: Path) -> None:
    records = load_records(built, media_root=tmp_path)
    path = write_quality_page(measure(records), tmp_path / "quality.html", title="DATA", media_root=tmp_path / "out")
    text = " ".join(assert_self_contained(path.read_text(encoding="utf-8")).text.split())
    assert text.startswith("DATA")
    assert "Where the rows went" not in text
    assert "missing media" in text  # in the place of each picture
    assert "Margins" in text


def test_quality_page_of_nothing(tmp_path: Path) -> None:
    path = write_quality_page({"n": 0, "form": "pair", "media": {}, "examples": []}, tmp_path / "quality.html")
    assert "0 pairs." in assert_self_contained(path.read_text(encoding="utf-8")).text


def test_records_page_shows_media_prompt_and_candidates(built: Path, tmp_path: Path) -> None:
    records = load_records(built, media_root=tmp_path)
    path = write_records_page(records, tmp_path / "records.html", count=5)
    html = path.read_text(encoding="utf-8")
    page = assert_self_contained(html)
    assert "<script" not in html
    assert f"The first 5 of {len(records)} records (pair)." in " ".join(page.text.split())
    assert html.count("data:image/png") == 5
    assert "<b>blue</b>" in html
    assert "<b>red</b>" in html


def test_differences_are_marked_only_between_texts_that_are_alike() -> None:
    assert mark_differences("a red cat", "a blue cat & dog") == [
        "a <b>red</b> cat",
        "a <b>blue</b> cat <b>&amp; dog</b>",
    ]
    assert mark_differences("two men talk", "a <b> runs") == ["two men talk", "a &lt;b&gt; runs"]
