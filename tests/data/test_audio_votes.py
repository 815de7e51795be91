"""`build audio_votes`: every judged pair ends in the records or in the ledger, and votes decide as they were meant."""

import csv
import hashlib
import io
import json
import re
import tarfile
import wave
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_builders.audio_votes_config import AudioVotesConfig, VoteColumns
from data_builders.base import BuilderConfig
from data_builders.running.build import BuildResult, build
from data_builders.voting.columns import VoteCounts, VoteValues
from data_builders.voting.measures import VoteMeasures
from data_builders.voting.tallies import Contest, Judgement, Vote
from mmdpo.config import read_yaml
from mmdpo.errors import ConfigError, DataError
from mmdpo.media import Media
from mmdpo.records import load_records

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
FENSE = DATA / "fense"
VALUES = {"a": "a", "b": "b", "tie": "="}
WIDE = ("audio", "caption_a", "caption_b", "ann", "bob", "cid")

real = pytest.mark.skipif(not FENSE.is_dir(), reason=f"real votes are not at {FENSE}")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for index in range(6):
        write_clip(folder / f"{index}.wav", index)
    return folder


def write_clip(path: Path, level: int, seconds: float = 0.1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(level.to_bytes(2, "little") * round(8000 * seconds))


def table(clips: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = WIDE) -> Path:
    path = clips.parent / "votes.csv"
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def run(
    clips: Path, rows: list[tuple[Any, ...]], *, header: tuple[str, ...] = WIDE, out: str = "out", **config: Any
) -> BuildResult:
    defaults: dict[str, Any] = {"audio": clips, "validation": 0.0, "values": VALUES}
    if header is WIDE:
        defaults["columns"] = {"votes": list(WIDE[3:])}
    settings = {"source": table(clips, rows, header), **defaults, **config}
    return build("audio_votes", settings, clips.parent / out)


def pairs(result: BuildResult) -> list[tuple[str, str]]:
    return sorted((record.chosen.text, record.rejected.text) for record in result.records)


def reasons(result: BuildResult) -> list[tuple[int, str]]:
    return sorted((entry.row, entry.reason) for entry in result.set_aside)


def test_the_caption_with_more_votes_is_chosen_and_ties_count_as_votes(clips: Path):
    rows = [("0.wav", "dog", "cat", "a", "b", "a"), ("1.wav", "rain", "tap", "b", "=", ""), ("2.wav", "x", "y", *"=ab")]
    result = run(clips, rows)
    assert pairs(result) == [("dog", "cat"), ("tap", "rain")] and reasons(result) == [(3, "tie")]
    dog, tap = result.records
    assert [candidate.score for candidate in dog.candidates] == pytest.approx([2 / 3, 1 / 3])
    assert [candidate.score for candidate in tap.candidates] == [0.5, 0.0] and tap.higher_is_better is True
    assert tap.prompt[0]["content"] == [{"type": "audio"}, {"type": "text", "text": "Describe the audio."}]
    assert (tap.meta["votes"], tap.meta["voters"], tap.meta["rows"]) == ([[1, 0]], [["ann", "bob"]], [2])
    data = (clips / "1.wav").read_bytes()
    assert tap.media["audios"] == (Media("1.wav", hashlib.sha256(data).hexdigest()),)
    assert result.quality["rows"] == {"read": 3, "used": 2, "set_aside": 1}
    assert result.quality["votes"] == {"n": 8, "a": 3, "b": 3, "tie": 2, "pairs": 3, "clips": 3}
    assert load_records(clips.parent / "out")[1] == tap


def test_the_values_say_the_direction(clips: Path):
    rows = [("0.wav", "dog", "cat", "Left", " left", "right")]
    assert pairs(run(clips, rows, values={"a": "left", "b": "right"})) == [("dog", "cat")]
    assert pairs(run(clips, rows, values={"a": "right", "b": "left"}, out="other")) == [("cat", "dog")]


def test_numbers_are_compared_as_numbers(clips: Path):
    rows = [("0.wav", "dog", "cat", "1", "1.0", "-1"), ("1.wav", "x", "y", "2", "-1", "0")]
    result = run(clips, rows, values={"a": 1, "b": -1, "tie": 0})
    assert pairs(result) == [("dog", "cat"), ("y", "x")] and reasons(result) == [(2, "unknown_vote")]
    assert result.set_aside[0].column == "ann" and result.quality["set_aside_values"] == {"unknown_vote": 1}


def test_counts(clips: Path):
    header = ("audio", "caption_a", "caption_b", "for_a", "for_b", "neither")
    rows = [("0.wav", "dog", "cat", 1, 2, 1), ("1.wav", "x", "y", "3.0", "", 0), ("2.wav", "x", "y", 1.5, 0, 0)]
    rows += [("3.wav", "x", "y", "", 0, ""), ("4.wav", "x", "y", "9" * 5000, 0, 0), ("5.wav", "x", "y", -1, 0, 0)]
    counts = {"a": "for_a", "b": "for_b", "tie": "neither"}
    result = run(clips, rows, header=header, columns={"counts": counts}, values=None)
    assert pairs(result) == [("cat", "dog"), ("x", "y")]
    assert [candidate.score for candidate in result.records[0].candidates] == [0.5, 0.25]
    assert reasons(result) == [(3, "not_a_count"), (4, "no_votes"), (5, "not_a_count"), (6, "not_a_count")]
    assert "voters" not in result.records[0].meta


def test_one_vote_a_row_in_either_order(clips: Path):
    header = ("audio", "caption_a", "caption_b", "votes", "who", "by_a", "by_b", "sort")
    rows: list[tuple[Any, ...]] = [
        ("0.wav", "dog", "cat", "a", "ann", "m1", "m2", "MM"),
        ("0.wav", "cat", "dog", "b", "bob", "m2", "m1", "MM"),  # 2: the same opinion
        ("0.wav", "cat", "dog", "a", "cid", "m2", "m1", "MM"),
        ("0.wav", "cat", "dog", "b", "ann", "m2", "m1", "MM"),  # 4: ann again, the same
        ("0.wav", "dog", "cat", "a", "cid", "m1", "m2", "MM"),  # 5: cid again, the opposite
        ("0.wav", "dog", "cat", "a", "", "m1", "m2", "MM"),
    ]
    columns = {"voter": "who", "source_a": "by_a", "source_b": "by_b", "kind": "sort"}
    result = run(clips, rows, header=header, columns=columns)
    (record,) = result.records
    assert (record.chosen.text, record.chosen.source) == ("dog", "m1")
    assert [candidate.score for candidate in record.candidates] == pytest.approx([3 / 4, 1 / 4])
    assert record.meta["votes"] == [[1], [1], [-1], [1]]
    assert record.meta["voters"] == [["ann"], ["bob"], ["cid"], [None]], "blank: somebody else"
    assert any("1 of 6 votes name nobody" in note for note in result.quality["notes"])
    assert record.meta["kind"] == "MM" and record.meta["sources"] == [["m1", "m2"]] * 4
    assert reasons(result) == [(4, "duplicate_vote"), (5, "conflicting_vote")]
    assert result.quality["rows"] == {"read": 6, "used": 4, "set_aside": 2}


def test_unnamed_votes_of_two_rows_are_different_peoples(clips: Path):
    path = clips.parent / "votes.jsonl"
    rows = [("dog", "cat", [1, 1, None]), ("cat", "dog", [1, 1, 1])]
    lines = [{"audio": "clip-0.mp3", "caption_a": a, "caption_b": b, "votes": votes} for a, b, votes in rows]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    config = {"source": path, "audio": clips, "media_path": "0.wav", "values": {"a": 1, "b": 2}}
    with pytest.raises(ConfigError, match=r"media_path.*needs one of"):
        build("audio_votes", config, clips.parent / "out")
    (clips / "clip-0.wav").write_bytes((clips / "0.wav").read_bytes())
    result = build("audio_votes", {**config, "media_path": "{stem}.wav"}, clips.parent / "out")
    assert pairs(result) == [("cat", "dog")] and result.records[0].meta["votes"] == [[-1, -1], [1, 1, 1]]
    assert result.records[0].meta["margin"] == pytest.approx(1 / 5)


def test_votes_in_several_files_and_archives(clips: Path):
    header = ("audio", "caption_a", "caption_b", "votes")
    files = {"part-0.csv": ("0.wav", "dog", "cat", "a"), "part-1.csv": ("1.wav", "", "y", "a")}
    for name, row in files.items():
        (clips / name).write_text("\n".join(",".join(cells) for cells in (header, row)), encoding="utf-8")
    config = {"source": clips / "part-{0..1}.csv", "values": {"a": "a", "b": "b"}, "validation": 0.0}
    result = build("audio_votes", config, clips.parent / "out")
    assert pairs(result) == [("dog", "cat")] and reasons(result) == [(2, "empty_caption")]
    row = {"caption_a": "x", "caption_b": "y", "votes": ["a", "a", "b"]}
    with tarfile.open(clips / "votes.tar", "w") as archive:
        for name, content in {"1.json": json.dumps(row).encode(), "1.wav": (clips / "0.wav").read_bytes()}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    packed = build("audio_votes", {**config, "source": clips / "votes.tar"}, clips.parent / "packed")
    assert pairs(packed) == [("x", "y")]
    assert packed.records[0].media["audios"][0].data == (clips / "0.wav").read_bytes()


def judged(*values: int, clip: str = "c", kind: str | None = None, voters: str = "") -> Contest:
    names: list[str | None] = [*voters, *[None] * (len(values) - len(voters))]
    votes = tuple(Vote(value, name) for value, name in zip(values, names, strict=True))
    return Contest((Judgement(1, Media(clip), "?", ("x", "y"), votes, kind=kind),))


def vote_agreement(contests: list[Contest]) -> dict[str, Any]:
    measures = VoteMeasures()
    for contest in contests:
        measures.add(contest)
    return measures.agreement()


@pytest.mark.parametrize(
    ("votes", "rules", "expected"),
    [
        ((1, 1, 1, -1), {"min_votes": 5}, "too_few_votes"),
        ((1, 1, 0, 0), {"min_votes": 4}, None),
        ((1, -1, 0, 0), {"min_margin": 0.0}, "tie"),
        ((0, 0), {}, "tie"),
        ((1, 1, 1, -1), {"min_margin": 0.5}, None),
        ((1, 1, 0, 0), {"min_margin": 0.5}, None),
        ((1, 1, 0, -1), {"min_margin": 0.5}, "below_margin"),
        ((-1, -1, -1, 1), {"min_agreement": 0.75}, None),
        ((-1, -1, 0, 0), {"min_agreement": 0.75}, "below_agreement"),
        ((1,) * 7 + (-1,) * 3, {"min_margin": 0.4, "min_agreement": 0.7}, None),  # 0.7 - 0.3 < 0.4 in binary
    ],
)
def test_thresholds(votes: tuple[int, ...], rules: dict[str, float], expected: str | None):
    config = AudioVotesConfig(source=Path("x"), values=VoteValues(a=1, b=-1), **rules)  # type: ignore[arg-type]
    assert judged(*votes).refused(config) == expected
    assert judged(*(-vote for vote in votes)).refused(config) == expected


def test_bad_rows_are_set_aside_with_their_reason(clips: Path):
    (clips / "copy.wav").write_bytes((clips / "0.wav").read_bytes())
    rows: list[tuple[Any, ...]] = [
        ("0.wav", "good", "bad", "a", "a", "a"),  # 1
        ("", "x", "y", "a", "a", "a"),
        ("0.wav", " ", "y", "a", "a", "a"),  # 3
        ("0.wav", "x", "y", "", " ", ""),
        ("0.wav", "x", "y", "?", "", ""),  # 5
        ("0.wav", "A dog", "a  DOG", "a", "a", "b"),
        ("absent.wav", "x", "y", "a", "a", "a"),  # 7
        ("../votes.csv", "x", "y", "a", "a", "a"),
        ("https://a/b.wav", "x", "y", "a", "a", "a"),  # 9
        ("0.wav", "x", "y", "a"),
        ("0.wav", "caf\udce9", "y", "a", "a", "a"),  # 11: a Latin-1 byte in a UTF-8 file
        ("copy.wav", "bad", "good", "b", "a", "="),  # 12: the clip and the captions of row 1
    ]
    result = run(clips, rows)
    assert pairs(result) == [("good", "bad")]
    assert reasons(result) == [
        (2, "no_audio"),
        (3, "empty_caption"),
        (4, "no_votes"),
        (5, "no_votes"),
        (5, "unknown_vote"),
        (6, "equal_captions"),
        (7, "missing_media"),
        (8, "outside_root"),
        (9, "remote_url"),
        (10, "unreadable_row"),
        (11, "bad_text"),
        (12, "conflicting_vote"),
        (12, "conflicting_vote"),
        (12, "duplicate_vote"),
    ]
    assert result.quality["set_aside"]["unknown_vote"] == 1, "a row counts under its first reason"
    assert sum(result.quality["set_aside"].values()) == 11 == result.quality["rows"]["set_aside"]
    assert (len(result.records), result.quality["possible_pairs"]["n"]) == (1, 1)


def test_clips_that_cannot_be_heard_are_set_aside(clips: Path):
    (clips / "text.wav").write_text("hello")
    (clips / "cut.wav").write_bytes((clips / "1.wav").read_bytes()[:-50])
    write_clip(clips / "empty.wav", 0, seconds=0)
    write_clip(clips / "long.wav", 0, seconds=2)
    names = ["0.wav", "text.wav", "cut.wav", "empty.wav", "long.wav"]
    result = run(clips, [(name, "x", "y", "a", "a", "a") for name in names], max_seconds=1, media="optional")
    assert reasons(result) == [(2, "not_audio"), (3, "truncated_audio"), (4, "empty_audio"), (5, "too_long_audio")]


def test_optional_media(clips: Path):
    rows = [("absent.wav", "dog", "cat", "a", "a", "a"), ("0.wav", "dog", "cat", "a", "a", "a")]
    assert len(run(clips, rows).records) == 1
    result = run(clips, rows, media="optional", out="optional")
    hashes = {record.media["audios"][0].path: record.media["audios"][0].sha256 for record in result.records}
    assert hashes["absent.wav"] is None and hashes["0.wav"] is not None
    assert result.quality["notes"] == [
        "1 of 2 clips are absent (media: optional): their pairs are text and path alone, and training sets them aside "
        "until the clips are there"
    ]


def test_splits_share_no_clip_also_under_two_names(clips: Path):
    (clips / "copy.wav").write_bytes((clips / "0.wav").read_bytes())
    names = [*(f"{index}.wav" for index in range(6)), "copy.wav"]
    rows = [(name, f"{name} good {k}", "bad", "a", "a", "b") for name in names for k in range(2)]
    result = run(clips, rows, validation=0.34)
    found = {name: {r.media["audios"][0].sha256 for r in part} for name, part in result.splits.items()}
    assert {name: len(hashes) for name, hashes in found.items()} == {"train": 4, "validation": 2}
    assert not found["train"] & found["validation"]


def test_strict_refuses_what_is_wrong_but_no_tie(clips: Path):
    good, tie = ("0.wav", "dog", "cat", "a", "a", "a"), ("1.wav", "x", "y", "a", "b", "=")
    config = {
        "audio": clips,
        "values": VALUES,
        "columns": {"votes": list(WIDE[3:])},
        "source": clips.parent / "votes.csv",
    }
    table(clips, [good, tie, ("2.wav", "x", "y", "c", "a", "a")])
    with pytest.raises(DataError, match=r"1 unknown_vote\nThe first is row 3"):
        build("audio_votes", config, clips.parent / "out", strict=True)
    table(clips, [good, tie])
    assert len(build("audio_votes", config, clips.parent / "out", strict=True).records) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": None}, r"values: .*which caption a vote means"),
        ({"values": {"a": 1, "b": 1.0}}, r"different values"),
        ({"values": {"a": 1, "b": 2, "tie": "1"}}, r"different values"),
        ({"columns": {"counts": {"a": "x", "b": "y"}}}, r"says which caption is meant already"),
        ({"columns": {"voter": "who", "votes": ["x", "y"]}}, r"one person's vote"),
        ({"form": "fense", "columns": {"audio": "clip"}}, r"a FENSE document has columns of its own"),
        ({"references": True}, r"references: .*only a FENSE document"),
        ({"file_names": "x.csv"}, r"file_names: .*only a FENSE document"),
        ({"min_margn": 0.5}, r"Did you mean 'min_margin'"),
        ({"min_margin": 1.5}, r"min_margin"),
    ],
)
def test_settings_that_cannot_be_meant(clips: Path, change: dict[str, Any], message: str):
    config = {"source": table(clips, []), "values": VALUES} | change
    with pytest.raises(ConfigError, match=message):
        build("audio_votes", config, clips.parent / "out")


def test_a_missing_column_is_named(clips: Path):
    with pytest.raises(ConfigError, match=r"no column 'dan' \(columns.votes\)"):
        run(clips, [("0.wav", "x", "y", "a", "a", "a")], columns={"votes": ["ann", "dan"]})


def fense(clips: Path, items: list[Any], out: str = "out", **config: Any) -> BuildResult:
    path = clips.parent / "eval.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    settings = {**read_yaml(ROOT / "configs/build_audio_votes.yaml"), "source": path, "audio": clips, "validation": 0.0}
    return build("audio_votes", {**settings, **config}, clips.parent / out)


def test_a_fense_document(clips: Path):
    items = [
        {
            "HC": ["A dog barks", "a bark", "human_1", "human_2", [1, 1, 0, 0]],
            "MM_1": ["dog", "cat", "m1", "m2", 0, [-1, -1, -1, 1]],  # a number before the votes
            "MM_2": None,
            "MM_3": ["dog", "bird", "m1", "m3", [1, 1, -1, 0]],
            "audio_id": "0.wav",
            "raw_name": "0_1_2.wav",
            "references": ["a dog barks", "A bark.", "barking", "barking"],
        },
        {"HM": ["x", "y", "m1"], "HI": ["x", "y", "a", "b", 1], "raw_name": "1.wav", "references": []},
        "words",
    ]
    result = fense(clips, items)
    assert pairs(result) == [("A dog barks", "a bark"), ("cat", "dog")]
    assert [(record.meta["kind"], record.rejected.source) for record in result.records] == [
        ("HC", "human_2"),
        ("MM", "m1"),
    ]
    assert reasons(result) == [(3, "below_margin"), *((row, "unreadable_row") for row in (4, 5, 6))]
    assert result.set_aside[0].message.startswith("item 2 (1.wav), HM: no list of two captions")
    assert set(result.quality["agreement"]["by_kind"]) == {"HC", "MM"}

    first, second = fense(clips, items, out="lists", references=True).records
    assert [candidate.text for candidate in first.candidates] == ["A dog barks", "a bark", "A bark.", "barking"]
    assert [candidate.score for candidate in first.candidates] == [0.5, 0.0, None, None]
    assert [candidate.text for candidate in second.candidates[2:]] == ["a dog barks", "A bark.", "barking"]
    assert load_records(clips.parent / "lists").form == "list"


def test_half_a_surrogate_pair_anywhere_is_set_aside(clips: Path):
    pair = ["x", "y", "m1", "m2", [1, 1, 1, 1]]
    items = [
        {"MM_1": pair, "audio_id": "0.wav", "references": []},
        {"MM_1": [*pair[:3], "m\ud800", pair[4]], "audio_id": "0.wav", "references": []},
        {"MM\ud800": pair, "audio_id": "0.wav", "references": []},
        {"MM_1": pair, "audio_id": "1.wav", "references": ["\ud800"]},
    ]
    result = fense(clips, items, references=True)
    assert pairs(result) == [("x", "y")] and reasons(result) == [(row, "bad_text") for row in (2, 3, 4)]


def test_clips_are_found_by_their_captions(clips: Path):
    pair = ["x", "y", "m1", "m2", [1, 1, 1, 1]]
    items = [
        {"MM_1": pair, "raw_name": "f00.wav", "references": ["a dog barks", "barking its loud"]},
        {"MM_1": pair, "raw_name": "f01.wav", "references": ["nobody wrote this"]},
        {"MM_1": pair, "raw_name": "f02.wav", "references": ["the same"]},
    ]
    captions = clips.parent / "captions.csv"
    lines = ["file_name,caption_1,caption_2", '0.wav,"Barking, it\'s loud.",A dog barks.']
    captions.write_text("\n".join([*lines, "1.wav,The same.,The same.", "2.wav,The same!,the same"]), encoding="utf-8")
    result = fense(clips, items, file_names=captions)
    assert [record.media["audios"][0].path for record in result.records] == ["0.wav"]
    assert reasons(result) == [(2, "no_audio"), (3, "no_audio")], "unknown captions, and captions of two files"
    captions.write_text("name,caption\nx,y\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"has no file_name and caption_1"):
        fense(clips, items, file_names=captions, out="other")


def test_alpha_does_not_depend_on_which_caption_stands_first():
    krippendorff = pytest.importorskip("krippendorff", reason="comes with the data extra")
    votes = np.random.default_rng(0).choice([1, 1, 1, 0, -1], (60, 4))
    contests = [judged(*row, clip=str(index)) for index, row in enumerate(votes.tolist())]
    turned = [
        contest if index % 2 else Contest((contest.judgements[0].turned,)) for index, contest in enumerate(contests)
    ]
    found, other = vote_agreement(contests), vote_agreement(turned)
    both = np.concatenate([votes, -votes]).T.astype(float)
    assert found["alpha_interval"]["value"] == pytest.approx(krippendorff.alpha(both, level_of_measurement="interval"))
    assert found["alpha_ordinal"]["value"] == pytest.approx(krippendorff.alpha(both, level_of_measurement="ordinal"))
    assert found["alpha_interval"]["n"] == 240 and found["captions_with_several_ratings"] == 60
    assert other == found


def test_unanimity_and_named_voters():
    kinds = [(1, 1, "HI"), (1, 1, "HI"), (1, -1, "MM"), (0, 0, "MM"), (-1, -1, "MM")]
    contests = [judged(a, b, clip=str(i), kind=kind, voters="xy") for i, (a, b, kind) in enumerate(kinds)]
    found = vote_agreement([*contests, judged(1, clip="alone")])
    assert (found["unanimous"]["value"], found["unanimous"]["n"]) == (0.8, 5), "a single vote agrees with nobody"
    assert {kind: row["unanimous"]["value"] for kind, row in found["by_kind"].items()} == {
        "HI": 1,
        "MM": pytest.approx(2 / 3),
    }
    (row,) = found["rater_pairs"]
    assert (row["raters"], row["n"]) == (["x", "y"], 5)


cells = st.sampled_from(["a", "b", "=", "", "?"])
texts = st.sampled_from(["dog", "cat", "Dog", "", "bird"])
clip_names = st.sampled_from(["0.wav", "1.wav", "copy.wav", "absent.wav", ""])


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.tuples(clip_names, texts, texts, cells, cells, cells), min_size=1, max_size=20),
    margin=st.sampled_from([0.0, 0.5, 1.0]),
    media=st.sampled_from(["required", "optional"]),
)
def test_every_row_is_accounted_for(clips: Path, tmp_path_factory: Any, rows: Any, margin: float, media: str):
    folder = tmp_path_factory.mktemp("property") / "clips"
    (clips / "copy.wav").write_bytes((clips / "0.wav").read_bytes())
    folder.symlink_to(clips)
    try:
        result = run(folder, rows, min_margin=margin, media=media, validation=0.3)
    except DataError as error:
        assert "no record came out" in str(error)
        quality = json.loads((folder.parent / "out/quality.json").read_text())
    else:
        quality = result.quality
        used = {row for record in result.records for row in record.meta["rows"]}
        aside = {entry.row for entry in result.set_aside}
        assert used | aside == set(range(1, len(rows) + 1))
        assert all(record.meta["margin"] >= margin and record.meta["margin"] > 0 for record in result.records)
        sides = [{r.media["audios"][0].identity for r in part} for part in result.splits.values()]
        assert not set.intersection(*sides) or len(sides) == 1
    assert quality["rows"]["read"] == len(rows) == quality["rows"]["used"] + quality["rows"]["set_aside"]
    assert quality["rows"]["set_aside"] == sum(quality["set_aside"].values())


def test_every_reason_and_setting_is_documented():
    named = set(re.findall(r"`([a-z_.]+)`", (ROOT / "docs/data.md").read_text(encoding="utf-8")))
    files = ("voting/rows", "audio_votes", "voting/tallies")
    source = "".join((ROOT / f"data_builders/{name}.py").read_text(encoding="utf-8") for name in files)
    found = set(re.findall(r'(?:set_aside\(|reason = |else |UnusableError\(|return )"([a-z_]+)"', source))
    assert {"tie", "no_audio", "duplicate_vote", "conflicting_vote"} <= found <= named, sorted(found - named)
    settings = {*AudioVotesConfig.model_fields} - {"columns", "values"} - {*BuilderConfig.model_fields}
    settings |= {f"columns.{name}" for name in VoteColumns.model_fields}
    settings |= {f"values.{name}" for name in VoteValues.model_fields}
    assert settings <= named, sorted(settings - named)
    assert set(VoteCounts.model_fields) == {"a", "b", "tie"}


Pair = tuple[str, str, str, list[int]]


def judged_pairs(name: str) -> Iterator[Pair]:
    """(clip, first caption, second caption, votes) of every judged pair, read from the document and nothing else."""
    for item in json.loads((FENSE / name).read_text(encoding="utf-8")):
        for key, entry in item.items():
            if key != "references" and isinstance(entry, list):
                yield item.get("audio_id", item.get("raw_name")), entry[0].strip(), entry[1].strip(), entry[-1]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BuildResult]:
    """Both documents, built from text and names alone, any majority counting."""
    values = {"a": 1, "b": -1, "tie": 0}
    return {
        name: build(
            "audio_votes",
            {"form": "fense", "values": values, "source": FENSE / name, "media": "optional"},
            tmp_path_factory.mktemp("fense") / "out",
        )
        for name in ("audiocaps_eval.json", "clotho_eval.json")
    }


@pytest.mark.slow
@real
@pytest.mark.parametrize(
    ("name", "read", "aside", "records"),
    [
        ("audiocaps_eval.json", 1671, {"tie": 167, "equal_captions": 21}, 1476),
        ("clotho_eval.json", 1750, {"tie": 194}, 1539),
    ],
)
def test_all_3421_judged_pairs_are_accounted_for(
    documents: dict[str, BuildResult], name: str, read: int, aside: dict[str, int], records: int
):
    result = documents[name]
    unused = sum(aside.values())
    assert result.quality["rows"] == {"read": read, "used": read - unused, "set_aside": unused}
    assert result.quality["set_aside"] == aside and len(result.records) == records

    given = list(judged_pairs(name))
    equal = [pair for pair in given if pair[1].casefold().split() == pair[2].casefold().split()]
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(list)  # by clip and the captions in the alphabet's order
    for clip, a, b, votes in given:
        if (clip, a, b, votes) not in equal:
            sums[clip, min(a, b), max(a, b)].append(sum(votes) if a < b else -sum(votes))
    assert (len(given), len(equal)) == (read, aside.get("equal_captions", 0))
    assert sum(len(parts) for parts in sums.values() if sum(parts) == 0) == aside["tie"]
    better_first = {(clip, a, b) for (clip, a, b), parts in sums.items() if sum(parts) > 0}
    expected = better_first | {(clip, b, a) for (clip, a, b), parts in sums.items() if sum(parts) < 0}
    assert {(r.media["audios"][0].path, r.chosen.text, r.rejected.text) for r in result.records} == expected
    cast = Counter(vote for *_, votes in given for vote in votes)
    counted = result.quality["votes"]
    assert (counted["n"], counted["a"], counted["b"], counted["tie"]) == (4 * read, cast[1], cast[-1], cast[0])
    sides = [{record.media["audios"][0].identity for record in part} for part in result.splits.values()]
    assert len(sides) == 2 and not sides[0] & sides[1]


@pytest.mark.slow
@real
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("audiocaps_eval.json", {"HC": 250, "HI": 249, "HM": 250, "MM": 894}),
        ("clotho_eval.json", {"HC": 250, "HI": 250, "HM": 250, "MM": 982}),
    ],
)
def test_agreement_by_kind_is_that_of_the_published_package(
    documents: dict[str, BuildResult], name: str, kinds: dict[str, int]
):
    krippendorff = pytest.importorskip("krippendorff", reason="comes with the data extra")
    found = documents[name].quality["agreement"]["by_kind"]
    assert {kind: row["pairs"] for kind, row in found.items()} == kinds
    items = json.loads((FENSE / name).read_text(encoding="utf-8"))
    for kind in ("HC", "HI", "HM"):
        entries = [item[kind] for item in items if kind in item]
        votes = np.array([entry[-1] for entry in entries if entry[0] != entry[1]], dtype=float)
        alpha = krippendorff.alpha(np.concatenate([votes, -votes]).T, level_of_measurement="interval")
        assert found[kind]["alpha"]["value"] == pytest.approx(alpha)
        assert found[kind]["unanimous"]["value"] == pytest.approx(np.mean(np.ptp(votes, axis=1) == 0))
    assert found["HI"]["alpha"]["value"] > 0.8 > 0.4 > found["HC"]["alpha"]["value"], "right against wrong is easy"


@real
def test_the_real_clips_get_the_votes_that_were_linked_to_them_by_hand(tmp_path: Path):
    config = {**read_yaml(ROOT / "configs/build_audio_votes.yaml"), "min_margin": 0.0}
    paths = {"source": FENSE / "clotho_eval.json", "audio": FENSE / "audio", "file_names": FENSE / "clotho_eval.csv"}
    result = build("audio_votes", {**config, **paths}, tmp_path / "out")
    assert result.quality["rows"] == {"read": 1750, "used": 12, "set_aside": 1738}
    assert result.quality["set_aside"] == {"missing_media": 1736, "tie": 2}
    linked = json.loads((DATA / "real_rated_with_media.json").read_text(encoding="utf-8"))["audio"]
    assert len(linked) == 14
    expected = set()
    for row in linked:
        order = [row["caption_0"], row["caption_1"]][:: 1 if sum(row["votes"]) > 0 else -1]
        if sum(row["votes"]):
            expected.add((Path(row["media"]).name, *order))
    assert {(r.media["audios"][0].path, r.chosen.text, r.rejected.text) for r in result.records} == expected
    for record in result.records:
        (clip,) = record.media["audios"]
        assert clip.sha256 == hashlib.sha256((FENSE / "audio" / str(clip.path)).read_bytes()).hexdigest()


@real
def test_the_same_votes_as_a_plain_table(tmp_path: Path):
    """The list of two clips that the shared data hold, through `form: table`."""
    columns = {"audio": "media", "caption_a": "caption_0", "caption_b": "caption_1", "kind": "facet"}
    config = {"source": DATA / "real_rated_with_media.json", "rows": "audio.*", "columns": columns}
    result = build("audio_votes", {**config, "values": {"a": 1, "b": -1, "tie": 0}}, tmp_path / "out")
    assert result.quality["rows"] == {"read": 14, "used": 12, "set_aside": 2}
    assert {len(part) for part in result.splits.values()} == {6}
