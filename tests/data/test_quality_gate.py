"""The gate as a whole: what is drawn, thresholds and verdicts, the command, builds that fail it or are interrupted."""

import csv
import errno
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from data_builders.quality import finding, load_thresholds, measure, measure_folder, with_checks
from data_builders.quality.sample import Draw, ranked
from data_builders.running.build import build
from mmdpo.cli import app
from mmdpo.errors import ConfigError, DataError
from mmdpo.records import Candidate, Media, Record, Records, save_records, user_message


def pair(place: int, chosen: str = "one two three", rejected: str = "one two") -> Record:
    media = {"images": (Media(f"{place}.png"),)}
    candidates = (Candidate(f"{chosen} {place}"), Candidate(f"{rejected} {place}"))
    return Record(f"{place:05}", (user_message("Look.", images=1),), candidates, media)


def judged(name: str, value: float | None, low: float | None = None, high: float | None = None) -> str:
    one = finding(name, {"value": value, "low": low, "high": high, "n": 10}, "told")
    checks = with_checks({"n": 10, "findings": [one]})["checks"]
    return next(check["verdict"] for check in checks if check["name"] == name)


def test_which_records_are_drawn_depends_on_seed_and_id_alone():
    records = [pair(n) for n in range(300)]
    drawn = []
    for order in (records, random.Random(0).sample(records, 300)):
        draw = Draw(seed=1, limit=40)
        for record in order:
            draw.add(record, "train")
        drawn.append({record.id for record in draw.sample(None).records})
    assert drawn[0] == drawn[1] and len(drawn[0]) == 40
    other = Draw(seed=2, limit=40)
    for record in records:
        other.add(record, "train")
    assert {record.id for record in other.sample(None).records} != drawn[0]


def test_counts_are_over_all_and_the_rest_over_the_drawn():
    numbers = measure(Records([pair(n) for n in range(100)]), limit=30)
    assert (numbers["n"], numbers["measured_on"], numbers["length"]["longer_is_chosen"]["n"]) == (100, 30, 30)
    assert numbers["contradictions"]["comparisons"] == 100 and numbers["media"] == {"images": 100}


def test_lists_are_compared_by_score_and_unrated_answers_left_out():
    candidates = (Candidate("a", score=1.0), Candidate("b c", score=3.0), Candidate("d"), Candidate("e f g", score=2.0))
    record = Record("1", (user_message("?"),), candidates, {}, higher_is_better=True)
    assert [candidate.text for _, candidate in ranked(record)] == ["b c", "e f g", "a"]
    length = measure(Records([record]))["length"]
    assert length["longer_is_chosen"]["n"] == 2 and length["chosen_mean"] == 2.0
    ordered = tuple(Candidate(text, rank=rank) for text, rank in (("a", 2), ("b", 1), ("c", 3)))
    assert [c.text for _, c in ranked(Record("1", (), ordered, {}, higher_is_better=False))] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.55, 0.50, 0.60, "pass"),
        (0.70, 0.55, 0.80, "pass"),  # beyond the bound, but so might chance be
        (0.70, 0.61, 0.80, "warn"),
        (0.30, 0.20, 0.39, "warn"),
        (0.95, 0.91, 0.99, "fail"),
        (0.70, None, None, "warn"),
        (None, None, None, "not measured"),
    ],
)
def test_a_bound_counts_where_the_whole_interval_is_beyond(
    value: float | None, low: float | None, high: float | None, verdict: str
):
    assert judged("length_bias", value, low, high) == verdict


def test_every_finding_of_every_family_has_a_threshold_and_the_worst_come_first():
    records = Records([pair(n) for n in range(60)])
    quality = with_checks(measure(records))
    assert "findings" not in quality
    verdicts = [check["verdict"] for check in quality["checks"]]
    assert verdicts == sorted(verdicts, key=["fail", "warn", "pass", "not measured"].index)
    length = next(check for check in quality["checks"] if check["name"] == "length_bias")
    assert length["verdict"] == "fail" and "100.0%" in length["message"] and length["why"]


def test_thresholds_of_the_users_own(tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_text("length_bias: {warn: {above: 0.99}, fail: {}}\n")
    own = load_thresholds(path)
    assert own["length_bias"].warn.above == 0.99 and own["length_bias"].warn.below is None
    assert own["length_bias"].title == "Length bias"
    assert own["text_only"] == load_thresholds()["text_only"], "what is not named stays"
    for text, message in (
        ("lenght_bias: {}", "length_bias"),
        ("length_bias: {warn: {over: 1}}", "unknown key"),
        ("length_bias: {warn: {above: many}}", "above"),
        ("- a", "is no table of checks"),
        ("a: [", "cannot read"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_thresholds(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_thresholds(tmp_path / "absent.yaml")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set whose longer answer is always the chosen one, on pictures that are there."""
    (tmp_path / "photos").mkdir()
    for n in range(60):
        Image.new("RGB", (8, 8), (4 * n, 0, 0)).save(tmp_path / "photos" / f"{n}.png")
    return save_records(Records([pair(n) for n in range(60)], tmp_path / "photos"), tmp_path / "pairs")


def mmdpo(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_writes_both_forms_and_strict_exits_one(data: Path, tmp_path: Path):
    told = mmdpo("quality", data, "--json")
    assert told.exit_code == 0
    assert {"records", "checks"} <= json.loads(told.stdout).keys()
    strict = mmdpo("quality", data, "--strict", "--out", tmp_path / "out")
    assert isinstance(strict.exception, DataError) and strict.exception.exit_code == 1
    assert "length_bias" in strict.exception.what
    assert json.loads((tmp_path / "out/quality.json").read_text())["records"]["n"] == 60
    assert "What stands out" in (tmp_path / "out/quality.html").read_text(encoding="utf-8")
    again = mmdpo("quality", data, "--out", tmp_path / "out")
    assert isinstance(again.exception, ConfigError) and again.exception.exit_code == 2
    (tmp_path / "own.yaml").write_text(
        "{length_bias: {fail: {}}, style_shortcut: {fail: {}}, text_only: {fail: {}}, duplicate_media: {fail: {}}}"
    )
    assert mmdpo("quality", data, "--strict", "--thresholds", tmp_path / "own.yaml").exit_code == 0


def test_problems_exit_one_without_strict(data: Path, tmp_path: Path):
    (tmp_path / "photos" / "3.png").unlink()
    assert mmdpo("quality", data).exit_code == 0, "media are looked at when asked for"
    found = mmdpo("quality", data, "--media")
    assert found.exit_code == 1 and "missing_media" in found.stdout


def test_one_split_and_a_file_that_is_no_data_set(data: Path, tmp_path: Path):
    assert measure_folder(data, split="train")["n"] == 60
    with pytest.raises(DataError, match="has no split"):
        measure_folder(data, split="test")
    with pytest.raises(DataError, match="no data set"):
        measure_folder(tmp_path / "nowhere")


def test_the_folder_and_the_records_in_memory_give_the_same(data: Path, tmp_path: Path):
    records = Records([pair(n) for n in range(60)], tmp_path / "photos")
    in_memory, on_disk = measure(records), measure_folder(data)
    for key in ("length", "text_only", "style", "repeated", "questions", "objects", "contradictions"):
        one, two = flat(in_memory[key]), flat(on_disk[key])
        assert one.keys() == two.keys(), key
        for name, value in one.items():
            expected = pytest.approx(two[name], rel=1e-9, abs=1e-12) if isinstance(value, float) else two[name]
            assert value == expected, f"{key}{name}"


def flat(found: Any, name: str = "") -> dict[str, Any]:
    """Every value with its path: the rows come in another order, so sums differ in their last bits."""
    if isinstance(found, dict | list):
        items = found.items() if isinstance(found, dict) else enumerate(found)
        return {path: value for key, entry in items for path, value in flat(entry, f"{name}/{key}").items()}
    return {name: found}


def write_table(folder: Path, count: int = 30) -> dict[str, Any]:
    with (folder / "ratings.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "rating", "rater"])
        for place in range(count):
            for rater in ("ann", "bob"):
                table.writerow([f"{place}.png", f"a red cat on a mat {place}", 2, rater])
                table.writerow([f"{place}.png", f"a cat {place}", 1, rater])
    return {
        "data": str(folder / "ratings.csv"),
        "scale": {"min": 1, "max": 5},
        "higher_is_better": True,
        "media": "optional",
    }


def test_a_build_tells_where_even_the_chosen_answer_is_bad(tmp_path: Path):
    quality = build("ratings", write_table(tmp_path), tmp_path / "out").quality
    level = next(check for check in quality["checks"] if check["name"] == "chosen_level")
    assert (level["value"], level["verdict"]) == (1.0, "fail") and "scale (1 to 5)" in level["message"]
    assert quality["records"]["chosen_level"]["rejected_worst"] == 1.0
    again = measure_folder(tmp_path / "out")
    assert again["chosen_level"] == quality["records"]["chosen_level"], "the data set remembers its scale"


def test_a_strict_build_that_fails_a_check_leaves_the_records_and_exits_one(tmp_path: Path):
    config = write_table(tmp_path)
    words = ["data=" + config["data"], "scale.min=1", "scale.max=5", "higher_is_better=true", "media=optional"]
    done = mmdpo("build", "ratings", *words, "--out", tmp_path / "out", "--strict")
    assert isinstance(done.exception, DataError) and "quality check" in done.exception.what
    assert (tmp_path / "out/quality.html").is_file() and (tmp_path / "out/data/train.parquet").is_file()
    assert not (tmp_path / "out/.building").exists()
    assert mmdpo("build", "ratings", *words, "--out", tmp_path / "other").exit_code == 0
    failed = [check["name"] for check in json.loads((tmp_path / "out/quality.json").read_text())["checks"]]
    (tmp_path / "own.yaml").write_text("".join(f"{name}: {{warn: {{}}, fail: {{}}}}\n" for name in failed))
    own = ["--strict", "--thresholds", tmp_path / "own.yaml"]
    assert mmdpo("build", "ratings", *words, "--out", tmp_path / "lenient", *own).exit_code == 0
    (tmp_path / "own.yaml").write_text("no_check: {}\n")
    unknown = mmdpo("build", "ratings", *words, "--out", tmp_path / "unknown", *own)
    assert isinstance(unknown.exception, ConfigError) and not (tmp_path / "unknown").exists()


def test_votes_for_the_first_answer_have_the_interval_that_the_builder_measured():
    votes = {"n": 12, "a": 9, "b": 1, "tie": 2, "pairs": 6, "clips": 3}
    told = {"value": 0.9, "low": 0.3, "high": 1.0, "n": 10}  # three clips say less than ten votes do

    def position(**numbers: Any) -> dict[str, Any]:
        checks = with_checks({"records": {"n": 6}, "votes": votes, **numbers})["checks"]
        return next(check for check in checks if check["name"] == "position_bias")

    measured, counted = position(first_wins=told), position()
    assert (measured["low"], measured["high"], measured["verdict"]) == (0.3, 1.0, "pass")
    # Wilson, 1927: (0.9 + z^2/20 -+ z sqrt(0.009 + z^2/400)) / (1 + z^2/10), z = 1.959964
    assert (counted["low"], counted["high"]) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    nothing = position(first_wins={"value": None, "low": None, "high": None, "n": 0})
    assert nothing["low"] == counted["low"]


def test_an_interruption_while_the_checks_run_leaves_no_half_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    config = write_table(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("data_builders.running.build.measure_stream", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build("ratings", config, tmp_path / "out")
    assert not (tmp_path / "out/data").exists() and not (tmp_path / "out/quality.json").exists()
    resumed = build("ratings", config, tmp_path / "out", resume=True)
    assert resumed.quality["records"]["n"] == 30


def test_a_full_disk_leaves_no_half_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, value: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    config = write_table(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("data_builders.running.build.write_json", full)
        with pytest.raises(DataError, match="No space left"):
            build("ratings", config, tmp_path / "out")
    assert not (tmp_path / "out/data").exists()
    assert len(build("ratings", config, tmp_path / "out", resume=True).records) == 30


def test_odd_texts_and_records_are_measured():
    texts = ["<image> </s> <|im_end|>", "\x00\u200b", "a" * 20000, "é" * 50, "🙂 🙂", "x\ny\r\nz"]
    records = [
        Record(str(n), (user_message(text),), (Candidate(text), Candidate(text + " more")))
        for n, text in enumerate(texts)
    ]
    records.append(Record("none", (user_message("?"),), ()))
    records.append(Record("half", (user_message("?"),), (Candidate("\ud800 x"), Candidate("y"))))
    quality = with_checks(measure(Records(records)))
    assert quality["problems"] == {"no_candidates": 1, "bad_text": 1}
    assert next(c for c in quality["checks"] if c["name"] == "problems")["verdict"] == "fail"
    assert with_checks(measure(Records([])))["n"] == 0


def test_the_page_of_the_gate_tells_every_check_with_its_bounds():
    page = (Path(__file__).resolve().parents[2] / "docs" / "quality.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(" `"): cells[3:5] for line in page.splitlines() if (cells := line.split("|"))[1:2]}
    for name, threshold in load_thresholds().items():
        for told, bounds in zip(rows[name], (threshold.warn, threshold.fail), strict=True):
            words = [f"{side} {value:g}" for side in ("above", "below") if (value := getattr(bounds, side)) is not None]
            assert told.strip() == ", ".join(words), name
