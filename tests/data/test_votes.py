"""`build votes`: strengths by an independent fit, cycles, parts, voters, sides, and an account of every row."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from PIL import Image
from scipy.special import expit, log_expit

from data_builders.base import BuilderConfig
from data_builders.fense import read_fense
from data_builders.rating.pairing import PairingConfig
from data_builders.running.build import BuildResult, build
from data_builders.tables import spool
from data_builders.tables.config import TableConfig
from data_builders.votes import PairwiseColumns, Votes, VotesConfig
from data_builders.voting.columns import VoteValues
from mmdpo.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
VALUES = {"a": "left", "b": "right", "tie": "same"}
OPPOSITE = {"left": "right", "right": "left"}

Vote = tuple[str, str, str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for index in range(8):
        Image.new("RGB", (8, 8), (30 * index, 0, 0)).save(folder / f"{index}.png")
    return folder


def row(image: int, vote: Vote, **further: Any) -> dict[str, Any]:
    return {"image": f"{image}.png", "a": vote[0], "b": vote[1], "vote": vote[2], **further}


def run(root: Path, rows: list[dict[str, Any]], out: str = "out", **config: Any) -> BuildResult:
    data = root.parent / "votes.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    settings = {"data": data, "media_root": root, "validation": 0.0, "values": VALUES, **config}
    return build("votes", settings, root.parent / out)


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


def pairs(result: BuildResult) -> set[tuple[str, str]]:
    return {(record.chosen.text, record.rejected.text) for record in result.records}


def fitted(votes: list[Vote]) -> dict[str, float]:
    """Strengths with mean 0 by a general optimiser: the likelihood of every single vote and of the imaginary game."""
    texts = sorted({text for a, b, _ in votes for text in (a, b)})

    def loss(strengths: np.ndarray) -> float:
        total = -0.5 * float(log_expit(strengths).sum() + log_expit(-strengths).sum())
        for a, b, vote in votes:
            gap = strengths[texts.index(a)] - strengths[texts.index(b)]
            share = {"left": 1.0, "right": 0.0, "same": 0.5}[vote]
            total -= share * log_expit(gap) + (1 - share) * log_expit(-gap)
        return total

    found = scipy.optimize.minimize(loss, np.zeros(len(texts)), method="BFGS", options={"gtol": 1e-9}).x
    return dict(zip(texts, found - found.mean(), strict=True))


def test_two_answers(root: Path) -> None:
    votes: list[Vote] = [
        ("dog", "cat", "left"),
        ("cat", "dog", "right"),
        ("dog", "cat", "right"),
        ("dog", "cat", "same"),
    ]
    (record,) = run(root, [row(0, vote) for vote in votes], prompt="What?").records
    assert (record.chosen.text, record.rejected.text) == ("dog", "cat")
    # 2.5 of 4 points and half an imaginary game: 4 sigmoid(2 s) + sigmoid(s) = 3
    score = scipy.optimize.brentq(lambda s: 4 * expit(2 * s) + expit(s) - 3, 0, 5)
    assert [c.score for c in record.candidates] == pytest.approx([score, -score], abs=1e-8)
    assert record.meta["margin"] == pytest.approx(2 * score)
    assert (record.meta["points"], record.meta["votes"]) == ([2.5, 1.5], [4, 4])
    assert record.meta["rows"] == [[1, 2, 3, 4]] * 2 and record.higher_is_better is True
    assert record.prompt[0]["content"][1]["text"] == "What?"


SEVERAL: list[Vote] = [
    *[("best", "good", "left")] * 3,
    ("good", "best", "left"),
    *[("good", "poor", "left")] * 2,
    ("poor", "best", "right"),
    ("poor", "good", "same"),
    ("odd", "poor", "right"),
]


def test_the_strengths_of_several_answers_are_those_of_a_general_optimiser(root: Path) -> None:
    (record,) = run(root, [row(0, vote) for vote in SEVERAL], pairing="list").records
    expected = fitted(SEVERAL)
    assert [c.text for c in record.candidates] == ["best", "good", "poor", "odd"]
    assert {c.text: c.score for c in record.candidates} == pytest.approx(expected, abs=1e-6)
    turned = [row(0, (b, a, OPPOSITE.get(vote, vote))) for a, b, vote in SEVERAL]
    again = run(root, turned, out="turned", pairing="list")
    assert [(c.text, c.score) for c in again.records[0].candidates] == [(c.text, c.score) for c in record.candidates]
    assert again.records[0].id == record.id


def test_pairs_of_the_strengths(root: Path) -> None:
    rows = [row(0, vote) for vote in SEVERAL]
    result = run(root, rows)
    assert pairs(result) == {("best", "odd")}
    # rows 5 and 6 (good, poor) and 8 (poor, good) have neither of the two; each names both of its answers
    assert result.quality["rows"] == {"read": 9, "used": 6, "set_aside": 3}
    assert {(e.row, e.column) for e in result.set_aside if e.row in (5, 6, 8)} == {
        (number, column) for number in (5, 6, 8) for column in "ab"
    }
    assert pairs(run(root, rows, out="all", pairing="all")) == {
        ("best", "good"), ("best", "poor"), ("best", "odd"), ("good", "poor"), ("good", "odd"), ("poor", "odd"),
    }  # fmt: skip
    gaps = fitted(SEVERAL)
    clear = {(a, b) for a in gaps for b in gaps if gaps[a] - gaps[b] >= 1.5}
    assert 0 < len(clear) < 6
    assert pairs(run(root, rows, out="clear", pairing="all", min_margin=1.5)) == clear
    assert pairs(run(root, rows, out="near", pairing="adjacent")) == {
        ("best", "good"),
        ("good", "poor"),
        ("poor", "odd"),
    }


def test_cycles_are_counted_and_an_even_one_has_no_winner(root: Path) -> None:
    circle: list[Vote] = [("x", "y", "left"), ("y", "z", "left"), ("z", "x", "left")]
    line: list[Vote] = [("x", "y", "left"), ("y", "z", "left"), ("x", "z", "left")]
    open_end: list[Vote] = [("x", "y", "left"), ("y", "z", "left"), ("x", "z", "same")]  # x and z: nobody is better
    rows = [row(image, vote) for image, votes in enumerate((circle, line, open_end)) for vote in votes]
    result = run(root, rows)
    compared = result.quality["compared"]
    assert (compared["questions"], compared["answers"]) == (3, 9)
    assert (compared["triples"], compared["circular_triples"]) == (2, 1)
    assert reasons(result)["no_margin"] == 6, "both answers of the three rows of the circle"
    assert [(r.chosen.text, r.rejected.text) for r in result.records] == [("x", "z")] * 2
    four = [("w", "x"), ("x", "y"), ("y", "z"), ("z", "w"), ("w", "y"), ("x", "z")]
    # beats: w>x>y>z>w, w>y, x>z. Of wxy, wxz, wyz, xyz the circles are wxz (w>x>z>w) and wyz (w>y>z>w)
    result = run(root, [row(0, (a, b, "left")) for a, b in four], out="four")
    assert (result.quality["compared"]["triples"], result.quality["compared"]["circular_triples"]) == (4, 2)


def test_answers_that_nothing_connects_are_never_compared(root: Path) -> None:
    votes: list[Vote] = [("x", "y", "left"), ("v", "w", "left"), ("v", "w", "left")]
    result = run(root, [row(0, vote) for vote in votes], pairing="all")
    assert pairs(result) == {("x", "y"), ("v", "w")}
    assert result.quality["compared"]["unconnected"] == 1
    assert result.quality["possible_pairs"]["n"] == 2
    (capped,) = run(root, [row(0, vote) for vote in votes], out="cap", max_pairs_per_image=1).records
    assert capped.chosen.text == "v", "two votes say more than one"


def test_min_votes_counts_all_comparisons_of_an_answer(root: Path) -> None:
    votes: list[Vote] = [
        ("x", "y", "left"),
        ("y", "z", "left"),
        ("z", "x", "right"),
        ("z", "u", "left"),
        ("u", "v", "left"),
    ]
    rows = [row(0, vote) for vote in votes]
    result = run(root, rows, min_votes=2)
    # v has one vote; without it u has one, too; x, y and z have two or more of the three that are left
    assert {e.row for e in result.set_aside if e.reason == "too_few_votes"} == {4, 5}
    assert pairs(result) == {("x", "z")}
    with pytest.raises(Exception, match=r"no record came out of 5 rows"):
        run(root, rows, out="none", min_votes=3)


def test_prompts_are_questions_of_their_own(root: Path) -> None:
    rows = [
        row(0, ("x", "y", "left"), ask="Which?"),
        row(0, ("x", "y", "right"), ask="What?"),
        row(0, ("x", "y", "left")),
    ]
    result = run(root, rows, columns={"prompt": "ask"})
    found = {(r.prompt[0]["content"][1]["text"], r.chosen.text) for r in result.records}
    assert found == {("Which?", "x"), ("What?", "y"), ("Describe the image.", "x")}


def crowd() -> list[dict[str, Any]]:
    """Eight photos, four voters; the first answer is the better one on every other photo, and dan says the opposite."""
    return [
        row(
            image,
            ("good", "bad", "left") if (image + place) % 2 else ("bad", "good", "right"),
            who=who,
            sort=f"k{image % 2}",
        )
        | ({"vote": "right" if (image + place) % 2 else "left"} if who == "dan" else {})
        for image in range(8)
        for place, who in enumerate(("ann", "bob", "cid", "dan"))
    ]


def test_a_voter_against_everybody_is_told(root: Path) -> None:
    result = run(root, crowd(), columns={"voter": "who", "kind": "sort"})
    shares = {entry["rater"]: entry["with_the_others"] for entry in result.quality["raters"]}
    assert {name: (share["value"], share["n"]) for name, share in shares.items()} == {
        "ann": (1.0, 8), "bob": (1.0, 8), "cid": (1.0, 8), "dan": (0.0, 8),
    }  # fmt: skip
    (note,) = result.quality["notes"]
    assert note.startswith("1 of 4 voters vote against the others more often than with them (dan)")
    assert result.quality["first_wins"]["value"] == 0.5 and result.quality["first_wins"]["n"] == 32
    assert pairs(result) == {("good", "bad")}
    assert result.quality["votes"] == {"n": 32, "a": 16, "b": 16, "tie": 0, "pairs": 8, "clips": 8}
    by_kind = result.quality["agreement"]["by_kind"]
    assert {kind: (found["pairs"], found["unanimous"]["value"]) for kind, found in by_kind.items()} == {
        "k0": (4, 0.0),
        "k1": (4, 0.0),
    }


def test_how_often_the_first_answer_wins(root: Path) -> None:
    rows = [row(image, (f"x{n}", f"y{n}", "left" if n else "same")) for image in range(8) for n in range(4)]
    rows[1]["vote"] = rows[6]["vote"] = "right"
    result = run(root, rows)
    first = result.quality["first_wins"]
    assert (first["value"], first["n"]) == (pytest.approx(22 / 24), 24), "ties are for neither side"
    assert first["low"] > 0.5 and result.quality["votes"]["a"] == 22


def test_a_person_votes_once_in_either_order(root: Path) -> None:
    votes = [("x", "y", "left"), ("y", "x", "right"), ("x", "y", "right"), ("x", "y", "left")]
    rows = [row(0, vote, who="ann" if n < 3 else "") for n, vote in enumerate(votes)]
    result = run(root, rows, columns={"voter": "who"})
    assert reasons(result) == {"duplicate_vote": 1, "conflicting_vote": 1}
    assert result.records[0].meta["votes"] == [2, 2], "ann's first, and that of somebody without a name"


def test_wide_votes_and_counts(root: Path) -> None:
    rows = [{"image": "0.png", "a": "x", "b": "y", "ann": "left", "bob": "", "n_a": 1, "n_b": 3.0, "n_tie": None}]
    (record,) = run(root, rows, columns={"votes": ["ann", "bob"]}).records
    assert (record.chosen.text, record.meta["votes"]) == ("x", [1, 1])
    counts = {"a": "n_a", "b": "n_b", "tie": "n_tie"}
    (record,) = run(root, rows, out="counts", columns={"counts": counts}, values=None).records
    assert (record.chosen.text, record.meta["points"]) == ("y", [3.0, 1.0])


def test_every_bad_row_has_its_reason(root: Path) -> None:
    (root.parent / "secret.png").write_bytes((root / "0.png").read_bytes())
    (root / "copy of 0.png").write_bytes((root / "0.png").read_bytes())
    (root / "text.png").write_text("hello")
    good: Vote = ("A <image> of </s> a dog", "cat", "left")
    rows: list[dict[str, Any]] = [
        row(0, good),
        row(0, good) | {"image": "copy of 0.png"},  # the same photo
        *(row(0, good) | {"image": image} for image in ("../secret.png", "/etc/passwd", "https://x.org/a.png", None)),
        *(row(0, good) | {"image": image} for image in ("absent.png", "text.png")),
        *(row(0, (good[0], good[1], vote)) for vote in ("N/A", "4/5", "")),
        row(0, ("A Dog", "a  dog", "left")),
        row(0, ("", "cat", "left")),
        row(0, good) | {"a": 5},
        row(0, ("\ud800", "cat", "left")),
        row(0, good) | {"vote": float("nan")},
        row(0, good) | {"vote": ["left", None, "same"]},
    ]
    result = run(root, rows)
    (record,) = result.records
    assert record.chosen.text == good[0] and record.meta["votes"] == [4, 4]
    assert reasons(result) == {
        "outside_root": 2, "remote_url": 1, "no_image": 1, "missing_media": 1, "not_an_image": 1, "unknown_vote": 2,
        "no_votes": 4, "equal_captions": 1, "empty_caption": 1, "not_text": 1, "bad_text": 1,
    }  # fmt: skip
    assert result.quality["rows"] == {"read": 17, "used": 3, "set_aside": 14}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": None}, r"which caption a vote means"),
        ({"values": {"a": 1, "b": "1.0"}}, r"different values"),
        ({"columns": {"voter": "who", "votes": ["x", "y"]}}, r"one person's vote"),
        ({"columns": {"counts": {"a": "n", "b": "m"}}}, r"leave values out"),
        ({"higher_is_better": False}, r"higher_is_better"),
        ({"columns": {"a": "first"}}, r"no column 'first' \(columns.a\)"),
    ],
)
def test_settings_that_cannot_be_meant(root: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(root, [row(0, ("x", "y", "left"))], **change)
    assert not (root.parent / "out").exists()


def test_parts_of_what_memory_holds_give_the_same_records(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "copy.png").write_bytes((root / "0.png").read_bytes())
    rows = crowd()
    rows += [one | {"image": "copy.png", "who": f"{one['who']} 2"} for one in rows if one["image"] == "0.png"]
    columns = {"voter": "who", "source_a": None}
    whole = run(root, rows, out="whole", columns=columns)
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"limit": 5})
    parts = run(root, rows, out="parts", columns=columns)
    assert sorted(parts.records, key=lambda r: r.id) == sorted(whole.records, key=lambda r: r.id)
    assert parts.quality["votes"] == whole.quality["votes"] and whole.quality["votes"]["clips"] == 8
    assert parts.quality["rows"] == whole.quality["rows"]


def test_every_setting_and_reason_is_documented() -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    section = page[page.index("## `mmdpo build votes`") :].split("\n## ", 1)[0]
    named = set(re.findall(r"`([a-z_.]+)`", section))
    common = {*BuilderConfig.model_fields, *PairingConfig.model_fields, *TableConfig.model_fields}
    settings = {*VotesConfig.model_fields} - common - {"columns", "values"}
    settings |= {f"columns.{name}" for name in PairwiseColumns.model_fields}
    settings |= {f"values.{name}" for name in VoteValues.model_fields}
    assert settings <= named, sorted(settings - named)
    assert set(Votes.sound_reasons) <= set(re.findall(r"`([a-z_]+)` \*", page))


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "fense").is_dir(), reason=f"real votes are not at {DATA}")
def test_real_votes_on_several_captions_of_a_clip(tmp_path: Path) -> None:
    """420 pairs of Clotho-Eval as a plain table: a contest of two captions alone is won by the one with more votes."""
    table = read_fense(DATA / "fense" / "clotho_eval.json")[:420]
    path = tmp_path / "clotho.jsonl"
    path.write_text("".join(json.dumps(dict(one.cells)) + "\n" for one in table), encoding="utf-8")
    columns = {"image": "audio", "a": "caption_a", "b": "caption_b", "votes": "votes", "kind": "kind"}
    config = {"data": path, "modality": "audio", "media": "optional", "columns": columns, "pairing": "all"}
    result = build("votes", {**config, "values": {"a": 1, "b": -1, "tie": 0}, "validation": 0.0}, tmp_path / "out")
    assert result.quality["rows"]["read"] == 420 and result.quality["votes"]["n"] == 4 * 420
    assert result.quality["compared"]["questions"] == len({one.cells["audio"] for one in table}) > 50
    points: Counter[tuple[str, str]] = Counter()
    for one in table:
        clip, a, b = one.cells["audio"], one.cells["caption_a"].strip(), one.cells["caption_b"].strip()
        points[clip, a] += sum(one.cells["votes"])
        points[clip, b] -= sum(one.cells["votes"])
    compared = Counter(
        (one.cells["audio"], one.cells[key].strip()) for one in table for key in ("caption_a", "caption_b")
    )
    agreeing = [
        points[clip, r.chosen.text] - points[clip, r.rejected.text]
        for r in result.records
        for clip in [str(r.media["audios"][0].path)]
        if compared[clip, r.chosen.text] == compared[clip, r.rejected.text] == 1
        and set(r.meta["rows"][0]) == set(r.meta["rows"][1])
    ]
    assert len(agreeing) > 20 and min(agreeing) > 0
