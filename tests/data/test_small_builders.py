"""`thumbs`, `corrections` and `rankings`: what becomes of rows, worked by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from errno import ENOSPC
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import BaseModel

from data_builders.corrections import CorrectionColumns, CorrectionsConfig, changed_share
from data_builders.rankings import RankingColumns, RankingsConfig
from data_builders.rating.pairing import PairingConfig
from data_builders.running.build import BuildResult, build
from data_builders.tables import spool
from data_builders.tables.config import TableConfig
from data_builders.thumbs import ThumbColumns, ThumbsConfig
from mmdpo.errors import ConfigError, DataError
from mmdpo.objectives import make_objective

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for index in range(4):
        Image.new("RGB", (8, 8), (60 * index, 0, 0)).save(folder / f"{index}.png")
    return folder


def run(name: str, root: Path, rows: list[dict[str, Any]], out: str = "out", **config: Any) -> BuildResult:
    data = root.parent / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return build(name, {"data": data, "media_root": root, "validation": 0.0, **config}, root.parent / out)


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


# ---- thumbs ----

WORDS: dict[str, Any] = {"up": ["like", 1], "down": ["dislike", 0]}


def thumb(image: int, answer: str, given: Any, rater: str | None = None) -> dict[str, Any]:
    return {"image": f"{image}.png", "answer": answer, "thumb": given, "rater": rater}


def test_thumbs_become_unpaired_records(root: Path) -> None:
    rows = [
        thumb(0, "a dog", "Like"),
        thumb(0, "a dog", 1),
        thumb(0, "a dog", "dislike"),  # two of three like it
        thumb(0, "a cat", "0"),
        thumb(1, "a bus", "like"),
        thumb(1, "a bus", "DISLIKE "),  # as many either way
        thumb(1, "a car", "meh"),
        thumb(1, "", "like"),
        thumb(9, "a car", "like"),
    ]
    result = run("thumbs", root, rows, **WORDS)
    found = {record.candidates[0].text: record.candidates[0].label for record in result.records}
    assert found == {"a dog": True, "a cat": False}
    assert {record.form for record in result.records} == {"unpaired"}
    assert reasons(result) == {"unknown_thumb": 1, "empty_caption": 1, "missing_media": 1, "tie": 2}
    assert result.quality["rows"] == {"read": 9, "used": 4, "set_aside": 5}
    assert result.quality["thumbs"] == {"up": 1, "down": 1}
    (dog,) = [record for record in result.records if record.candidates[0].label]
    assert dog.meta == {"builder": "thumbs", "up": 2, "down": 1, "rows": [1, 2, 3]}


def test_a_person_has_one_thumb_for_an_answer(root: Path) -> None:
    rows = [thumb(0, "a", "like", "ann"), thumb(0, "a", "like", "ann"), thumb(0, "a", "dislike", "ann")]
    result = run("thumbs", root, rows, **WORDS, columns={"rater": "rater"})
    assert reasons(result) == {"duplicate_row": 1, "conflicting_vote": 1}
    assert result.records[0].candidates[0].label is True


@pytest.mark.parametrize(("up", "down"), [([True], [False]), (["yes"], ["no"]), (["on"], ["off"])])
def test_words_that_yaml_reads_as_booleans_are_those_words(up: list[Any], down: list[Any], root: Path) -> None:
    """`up: [yes]` of a YAML file arrives as True."""
    cells = ["yes", "NO", True, "off", "maybe"]
    result = run("thumbs", root, [thumb(n % 4, f"answer {n}", cell) for n, cell in enumerate(cells)], up=up, down=down)
    assert Counter(r.candidates[0].label for r in result.records) == {True: 2, False: 2}
    assert reasons(result) == {"unknown_thumb": 1}


def test_unequal_classes_are_told(root: Path) -> None:
    rows = [thumb(0, f"answer {n}", "like" if n < 6 else "dislike") for n in range(8)]
    (note,) = run("thumbs", root, rows, **WORDS).quality["notes"]
    assert note == "6 answers are liked and 2 are not: weigh the undesirable ones 3 times as much in KTO"
    same = [thumb(0, f"answer {n}", "like") for n in range(2)]
    assert "one class" in run("thumbs", root, same, out="same", **WORDS).quality["notes"][0]


def test_a_value_cannot_mean_both(root: Path) -> None:
    with pytest.raises(ConfigError, match="'1' cannot mean both up and down"):
        run("thumbs", root, [thumb(0, "a", 1)], up=[1], down=["1"])
    with pytest.raises(ConfigError, match="up"):
        run("thumbs", root, [thumb(0, "a", 1)], down=[0])


# ---- corrections ----


def correction(image: int, original: str, corrected: str) -> dict[str, Any]:
    return {"image": f"{image}.png", "original": original, "corrected": corrected}


def test_corrections_become_marked_pairs(root: Path) -> None:
    rows = [
        correction(0, "A dog sits on a red chair.", "A dog sits on a blue chair."),
        correction(1, "A cat.", "A  cat."),  # white space alone
        correction(2, "Two men walk.", "A woman is swimming in the sea."),
        correction(0, "A dog sits on a red chair.", "A dog sits on a blue chair."),
        correction(3, "Fine.", ""),
    ]
    result = run("corrections", root, rows, max_changed=0.5)
    (record,) = result.records
    assert (record.chosen.text, record.rejected.text) == (rows[0]["corrected"], rows[0]["original"])
    marked = [[candidate.text[start:end] for start, end in candidate.spans] for candidate in record.candidates]
    assert marked == [["blue"], ["red"]]
    assert record.meta == {"builder": "corrections", "changed_words": round(1 - 12 / 14, 4), "rows": [1]}
    assert reasons(result) == {"not_corrected": 1, "rewritten": 1, "empty_caption": 1, "duplicate_row": 1}
    assert result.quality["corrections"] == {"n": 1, "changed_words": pytest.approx(1 / 7)}


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [("a b c d", "a b x d", 0.25), ("a", "b", 1.0), ("a b", "a b", 0.0), ("a b", "a", 1 / 3)],
)
def test_the_share_of_changed_words(first: str, second: str, share: float) -> None:
    assert changed_share(first, second) == pytest.approx(share)


# ---- rankings ----


def test_a_list_of_answers_is_a_ranking(root: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image": "0.png", "answers": ["best", ["middle", "same"], "worst"]},
        {"image": "1.png", "answers": "best"},
        {"image": "2.png", "answers": ["alone"]},
    ]
    result = run("rankings", root, rows, columns={"answers": "answers"})
    (record,) = result.records
    scores = {candidate.text: candidate.score for candidate in record.candidates}
    # places 1, 2.5, 2.5, 4 of four
    assert scores == pytest.approx({"best": 1.0, "middle": 0.5, "same": 0.5, "worst": 0.0})
    assert record.candidates[0].text == "best" and record.candidates[-1].text == "worst"
    assert record.higher_is_better is True
    assert reasons(result) == {"no_list": 1, "single_caption": 1}
    make_objective({"plackett_luce": {}})  # the loss that reads such lists


def test_ranks_say_their_direction_and_rankers_are_joined(root: Path) -> None:
    rows = [
        {"image": "0.png", "answer": answer, "rank": rank, "who": who}
        for who, ranks in {"ann": {"x": 1, "y": 2, "z": 3}, "bob": {"x": 2, "y": 1}}.items()
        for answer, rank in ranks.items()
    ]
    columns = {"answer": "answer", "rank": "rank", "ranker": "who"}
    # ann: x 1, y 1/2, z 0; bob: x 0, y 1. Means: x 1/2, y 3/4, z 0
    result = run("rankings", root, rows, columns=columns, best="lowest")
    (record,) = result.records
    assert [(c.text, c.score) for c in record.candidates] == [("y", 0.75), ("x", 0.5), ("z", 0.0)]
    assert record.meta["places"] == [[0.5, 1.0], [1.0, 0.0], [0.0]]
    turned = run("rankings", root, rows, out="turned", columns=columns, best="highest", pairing="best_worst")
    (pair,) = turned.records
    assert (pair.chosen.text, pair.rejected.text) == ("z", "y")
    with pytest.raises(ConfigError, match="says which rank is the good one"):
        run("rankings", root, rows, out="none", columns=columns)


def test_ranks_that_are_no_numbers_are_set_aside(root: Path) -> None:
    columns = {"answer": "answer", "rank": "rank"}
    rows = [
        {"image": "0.png", "answer": f"a{n}", "rank": rank} for n, rank in enumerate([1, "2", "N/A", "4/5", None, 2])
    ]
    rows.append({"image": "0.png", "answer": "a0", "rank": 3})
    result = run("rankings", root, rows, columns=columns, best="lowest")
    assert reasons(result) == {"not_a_number": 3, "conflicting_rating": 1}
    assert result.quality["rows"]["read"] == 7


# ---- all of them ----

CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "thumbs": (WORDS, lambda image, n: thumb(image, f"answer {n}", "like" if n % 2 else "dislike")),
    "corrections": ({}, lambda image, n: correction(image, f"a dog {n}", f"a cat {n}")),
    "rankings": (
        {"columns": {"answers": "answers"}},
        lambda image, n: {"image": f"{image}.png", "answers": [f"good {n}", f"bad {n}"]},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_text_stays_text_and_paths_stay_inside(name: str, root: Path) -> None:
    config, make = CASES[name]
    rows = [make(0, 1), make(1, 2)]
    for key in ("answer", "original"):
        if key in rows[0]:
            rows[0][key] += " <image> </s> <|im_end|>"
    bad = [{**make(0, 3), "image": image} for image in ("../secret.png", "/etc/passwd", "https://x.org/a.png", None)]
    (root.parent / "secret.png").write_bytes((root / "0.png").read_bytes())
    result = run(name, root, [*rows, *bad], **config)
    assert len(result.records) == 2
    found = dict(result.quality["set_aside"])
    assert (found.pop("outside_root", 0), found.pop("remote_url", 0), found.pop("no_image", 0)) == (2, 1, 1), found
    assert any("<image>" in c.text for record in result.records for c in record.candidates) or name == "rankings"


@pytest.mark.parametrize("name", ["thumbs", "rankings"])
def test_parts_of_what_memory_holds_give_the_same_records(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, make = CASES[name]
    rows = [make(n % 4, n) for n in range(40)]
    whole = run(name, root, rows, out="whole", **config)
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": 7})
    parts = run(name, root, rows, out="parts", **config)
    assert sorted(parts.records, key=lambda record: record.id) == sorted(whole.records, key=lambda record: record.id)
    assert not (root.parent / "parts" / ".building").exists()


@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_build_goes_on_with_every_row_once(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, make = CASES[name]
    rows = [make(n % 4, n) for n in range(40)]
    whole = run(name, root, rows, out="whole", **config)
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": 7})
    settings = {"data": root.parent / "rows.jsonl", "media_root": root, "validation": 0.0, **config}

    def interrupted(items: Iterable[Any]) -> Iterator[Any]:
        yield from islice(items, 30)
        raise KeyboardInterrupt

    out = root.parent / "stopped"
    with pytest.raises(KeyboardInterrupt):
        build(name, settings, out, progress=interrupted)
    assert {path.name for path in out.iterdir()} == {".building"}
    result = build(name, settings, out, resume=True)
    assert result.quality["rows"] == whole.quality["rows"]
    assert sorted(result.records, key=lambda r: r.id) == sorted(whole.records, key=lambda r: r.id)


def test_a_full_disk_leaves_no_records(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, make = CASES["thumbs"]

    def full(self: Any) -> None:
        raise OSError(ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": 7})
        patched.setattr(spool.Spool, "_spill", full)
        with pytest.raises(DataError, match="No space left") as caught:
            run("thumbs", root, [make(n % 4, n) for n in range(40)], **config)
    assert "--resume" in caught.value.fix
    assert {path.name for path in (root.parent / "out").iterdir()} == {".building"}
    settings = {"data": root.parent / "rows.jsonl", "media_root": root, "validation": 0.0, **config}
    assert len(build("thumbs", settings, root.parent / "out", resume=True).records) == 40


@pytest.mark.parametrize("limit", [250_000, 2])
def test_one_photo_under_two_names_is_one_photo(limit: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "copy.png").write_bytes((root / "0.png").read_bytes())
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": limit})
    names = ("0.png", "copy.png", "1.png", "2.png")
    thumbs = [{**thumb(0, "a dog", given), "image": name} for name in names for given in ("like", "like", "dislike")]
    result = run("thumbs", root, thumbs, **WORDS)
    assert sorted((r.meta["up"], r.meta["down"]) for r in result.records) == [(2, 1), (2, 1), (4, 2)]
    lists = [{"image": name, "answers": ["x", "y", "z"] if name != "copy.png" else ["y", "x"]} for name in names]
    result = run("rankings", root, lists, out="lists", columns={"answers": "answers"})
    # of 0.png: x 1 and 0, y 1/2 and 1, z 0
    assert len(result.records) == 3
    (joined,) = [r for r in result.records if r.candidates[0].text == "y"]
    assert [c.score for c in joined.candidates] == [0.75, 0.5, 0.0]


def test_numbers_are_numbers_and_true_is_a_word(root: Path) -> None:
    rows = [thumb(0, f"answer {n}", given) for n, given in enumerate([1.0, "1", True, "TRUE", "0.0", None, "", "nan"])]
    result = run("thumbs", root, rows, up=[1, True], down=[0])
    assert [r.candidates[0].label for r in result.records] == [True, True, True, True, False]
    assert reasons(result) == {"unknown_thumb": 1, "no_thumb": 2}


def test_thumbs_without_a_name_are_different_peoples_and_rankings_need_one(root: Path) -> None:
    rows = [thumb(0, "a", "like", "ann"), thumb(0, "a", "dislike", " "), thumb(0, "a", "dislike")]
    result = run("thumbs", root, rows, **WORDS, columns={"rater": "rater"})
    assert (result.records[0].meta["up"], result.records[0].meta["down"]) == (1, 2) and not reasons(result)
    assert any("2 of 3 thumbs name nobody" in note for note in result.quality["notes"])
    ranks = [{"image": "0.png", "answer": a, "rank": n, "who": w} for w in ("ann", None) for n, a in enumerate("xy")]
    columns = {"answer": "answer", "rank": "rank", "ranker": "who"}
    assert reasons(run("rankings", root, ranks, out="ranks", columns=columns, best="lowest")) == {"no_rater": 2}


def test_two_lists_of_one_person_are_two_rankings(root: Path) -> None:
    lists = [["a", "b"], ["c", "d"], ["b", "a"], ["e", "a"]]
    rows = [{"image": "0.png", "answers": answers, "who": "ann"} for answers in lists]
    rows += [{"image": "0.png", "answers": ["a", "c", "a"], "who": "row 1"}]
    result = run("rankings", root, rows, columns={"answers": "answers", "ranker": "who"})
    (record,) = result.records
    # ann: a 1, b 0; c 1, d 0; her third list says nothing new, of her fourth e is left alone. "row 1": a 1, c 0
    assert {c.text: c.score for c in record.candidates} == {"a": 1.0, "b": 0.0, "c": 0.5, "d": 0.0}
    found = sorted((entry.row, entry.reason) for entry in result.set_aside)
    assert found == [
        (3, "conflicting_rating"),
        (3, "conflicting_rating"),
        (4, "conflicting_rating"),
        (4, "single_caption"),
        (5, "conflicting_rating"),
    ]
    assert {entry["rater"]: entry["n"] for entry in result.quality["raters"]} == {"ann": 4, "row 1": 2}


def test_a_correction_of_case_alone_is_none(root: Path) -> None:
    rows = [correction(0, "A Cat.", "a cat."), correction(1, "A cat.", "A dog."), correction(1, "A cat.", "A cow.")]
    result = run("corrections", root, rows)
    assert reasons(result) == {"not_corrected": 1}
    assert sorted(r.chosen.text for r in result.records) == ["A cow.", "A dog."], "both people's corrections count"


@pytest.mark.parametrize(
    ("name", "config", "columns"),
    [
        ("thumbs", ThumbsConfig, ThumbColumns),
        ("corrections", CorrectionsConfig, CorrectionColumns),
        ("rankings", RankingsConfig, RankingColumns),
    ],
)
def test_every_setting_and_reason_is_documented(name: str, config: type[BaseModel], columns: type[BaseModel]) -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    section = page[page.index(f"## `mmdpo build {name}`") :].split("\n## ", 1)[0]
    settings = {*config.model_fields} - {"columns", *PairingConfig.model_fields, *TableConfig.model_fields}
    settings |= {f"columns.{field}" for field in columns.model_fields}
    assert settings - {"columns.image"} <= set(re.findall(r"`([a-z_.]+)`", section))
    source = (ROOT / f"data_builders/{name}.py").read_text(encoding="utf-8")
    found = set(re.findall(r'(?:set_aside\(|reason = |else |UnusableError\(\s*)"([a-z_]+)"', source))
    table = page[page.index("## What is set aside, and why") :].split("\n## ", 1)[0]
    assert found and found <= set(re.findall(r"`([a-z_]+)`", table)), found
