"""Captions of sounds: what counts as naming, worked counts, reference captions, listeners' votes."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.official_rules import score_command
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.audio_captions import AudioCaptions
from mmdpo.evals.runner import score
from mmdpo.evals.shared.phrases import Phrases, endings


@pytest.mark.parametrize(
    ("caption", "events"),
    [
        ("A dog barks while men talk.", ["dog", "dog", "speech"]),
        ("Dogs barking, a woman spoke", ["dog", "dog", "speech"]),
        ("A fire truck siren wails", ["siren", "siren", "crying"]),
        ("a fire crackling in the wind", ["fire", "fire", "wind"]),
        ("Babies cried and someone laughed, giggling", ["baby", "crying", "laughter", "laughter"]),
        ("A car idles; its engine is revving", ["vehicle", "vehicle", "vehicle", "vehicle"]),
        ("A TRAIN HORN blows", ["train"]),
        ("train-horn/dog", ["train", "dog"]),
        ("a door is slammed, doors slamming", ["door", "impact", "door", "impact"]),
        ("a smoke detector's beep", ["alarm", "beeping"]),
        ("catalogue, doggerel, carpet", []),
        ("狗 ☂ un chien", []),
        ("", []),
    ],
)
def test_named_events(caption: str, events: list[str]) -> None:
    assert AudioCaptions().names.categories(caption) == events


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("bark", "barking"),
        ("hop", "hopped"),
        ("idle", "idling"),
        ("cry", "cries"),
        ("splash", "splashes"),
        ("drip", "dripping"),
        ("wave", "waved"),
    ],
)
def test_endings(word: str, form: str) -> None:
    assert form in endings(word)


def test_endings_that_are_none() -> None:
    assert not {"playying", "trickleing", "waves", "boyies"} & (endings("play") | endings("boy"))
    assert "rowwing" not in endings("row")


def test_longer_names_take_the_words_of_shorter_ones() -> None:
    names = Phrases(
        {"a": ["fire"], "b": ["fire truck", "fire truck horn"], "c": ["horn", "truck"]}, {"lorries": "truck"}
    )
    assert names.categories("fire trucks horn, fire lorries, fire, truck horn") == ["b", "b", "a", "c", "c"]
    assert Phrases({}).categories("dog") == []


def test_every_name_of_our_table_is_found_and_stands_for_its_event() -> None:
    names = AudioCaptions().names
    for name, event in names.category_of.items():
        assert names.categories(f"A {name}.") == [event], name


@pytest.fixture
def clips(write_json: Callable[..., Path]) -> Path:
    return write_json(
        "clips.json",
        {
            "a.wav": ["Bark", "Male speech, man speaking"],
            "b.wav": {"tags": [], "captions": ["Rain falls.", "Thunder and a heavy rainfall"]},
            "c": ["Theremin"],
        },
    )


def test_worked_counts(clips: Path, write_lines: Callable[..., Path]) -> None:
    rows = [
        {"audio": "a.wav", "caption": "Dogs bark and a cat meows"},  # dog, bark right; cat, meow wrong
        {"file_name": "b", "text": "Rain on a roof"},
        {"id": "c.flac", "answer": "Music"},
        {"id": "zz", "caption": "Music"},
    ]
    result = score("audio_captions", clips, write_lines("c.jsonl", rows))
    values = {name: (round(metric.value, 6), metric.n) for name, metric in result.metrics.items()}
    assert values == {
        "chair_s": (0.666667, 3),
        "chair_i": (0.5, 6),
        "recall": (0.4, 5),  # dog and rain of dog, speech, rain, thunder, Theremin
        "objects_per_caption": (2.0, 3),
    }
    assert [item.details["audio"] for item in result.items] == ["a.wav", "b.wav", "c"]
    assert [flag.split(":")[0] for flag in result.flags] == ["unknown_ids", "unknown_objects"]
    assert result.rule == "own events"


def test_models_that_say_nothing_or_everything(clips: Path, write_lines: Callable[..., Path]) -> None:
    silent = score("audio_captions", clips, write_lines("s.jsonl", [{"id": n, "caption": ""} for n in "abc"]))
    assert (silent.metrics["chair_i"].n, silent.unparsed) == (0, 3)
    assert silent.flags[-1].startswith("chair_i_undefined") or "chair_i_undefined" in "".join(silent.flags)
    everything = ", ".join(AudioCaptions().names.category_of)
    loud = score("audio_captions", clips, write_lines("l.jsonl", [{"id": n, "caption": everything} for n in "abc"]))
    assert loud.metrics["chair_s"].value == 1.0
    assert loud.metrics["recall"].value == 0.8  # a theremin has no name here


def test_a_table_of_ones_own_and_the_command(
    clips: Path, write_json: Callable[..., Path], write_lines: Callable[..., Path]
) -> None:
    table = write_json("events.json", {"theremin": ["theremin", "eerie tone"], "names": ["name"]})
    answers = write_lines("c.jsonl", [{"id": "c", "caption": "Eerie tones"}])
    words = ("--data", clips, "--answers", answers, "--events", table, "--at-recall", "0.5")
    printed = score_command("audio_captions", *words)
    assert printed["rule"] == "events events.json; at recall 0.5"
    assert printed["metrics"]["recall"]["value"] == 1.0
    # Half the recall of one object is half a mention.
    assert printed["metrics"]["objects_per_caption_at_recall"]["value"] == 0.5


@pytest.mark.parametrize(
    "table", [{}, {"names": {}}, {"dog": "bark"}, {"dog": [1]}, {"names": {"dog": ["dog"]}, "irregular": []}]
)
def test_wrong_tables(write_json: Callable[..., Path], table: Any) -> None:
    with pytest.raises(DataError, match="no table of events"):
        _ = AudioCaptions(events=write_json("t.json", table)).names


@pytest.mark.parametrize("data", [[], {}, {"a": "dog"}, {"a": {}}, {"a": {"tags": "dog"}}, {"a": [1]}, {"a": None}])
def test_wrong_data(write_json: Callable[..., Path], data: Any) -> None:
    with pytest.raises(DataError):
        AudioCaptions().samples(write_json("d.json", data))


def test_wrong_csv_and_options(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("clip,start\na,0\n")
    with pytest.raises(DataError, match=r"row 1 of .* has no clip or no caption: {'clip': 'a', 'start': '0'}"):
        AudioCaptions().samples(tmp_path / "d.csv")
    for pattern in ("clip.wav", "{name}.wav"):
        with pytest.raises(ConfigError, match="audio_name"):
            AudioCaptions(audio_name=pattern)
    with pytest.raises(ConfigError, match="at_recall 'all' is no coverage"):
        AudioCaptions(at_recall="all")


# -- real captions ----------------------------------------------------------------------------------------------------


def test_clotho_and_audiocaps_are_read(real_data: Callable[[str], Path]) -> None:
    clotho = AudioCaptions().samples(real_data("fense/clotho_eval.csv"))
    assert (len(clotho), clotho[0].id, clotho[0].media) == (1045, "Santa Motor", {"audios": ["Santa Motor.wav"]})
    audiocaps = AudioCaptions(audio_name="Y{id}.wav").samples(real_data("fense/audiocaps_test.csv"))
    assert (len(audiocaps), audiocaps[0].media) == (975, {"audios": ["Y7fmOlUlwoNg.wav"]})


def test_people_describe_their_clip_and_no_other(
    real_data: Callable[[str], Path], write_json: Callable[..., Path]
) -> None:
    references: dict[str, list[str]] = {}
    with real_data("fense/audiocaps_test.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            references.setdefault(row["youtube_id"], []).append(row["caption"])
    data = write_json("d.json", {clip: {"captions": captions[1:]} for clip, captions in references.items()})
    clips = list(references)
    others = random.Random(0).sample(clips, len(clips))
    own, foreign = (
        score("audio_captions", data, write_json(f"{name}.json", [
            {"id": clip, "caption": references[source][0]} for clip, source in zip(clips, sources, strict=True)
        ]))
        for name, sources in (("own", clips), ("foreign", others))
    )  # fmt: skip
    assert own.metrics["chair_i"].value == pytest.approx(0.106, abs=5e-4)
    assert own.metrics["recall"].value == pytest.approx(0.543, abs=5e-4)
    assert foreign.metrics["chair_i"].value > 0.8
    assert foreign.metrics["recall"].value < 0.13


def test_listeners_prefer_the_caption_with_fewer_wrong_events(real_data: Callable[[str], Path]) -> None:
    names = AudioCaptions().names
    agreed = decided = 0
    for clip in json.loads(real_data("fense/audiocaps_eval.json").read_text()):
        for pair in (entry for key, entry in clip.items() if isinstance(entry, list) and key != "references" and entry):
            votes = sum(pair[-1])
            known = [text for text in clip["references"] if text not in pair[:2]]
            present = {event for text in known for event in names.categories(text)}
            shares = []
            for caption in pair[:2]:
                named = names.categories(caption)
                shares.append(sum(event not in present for event in named) / len(named) if named else None)
            if votes and None not in shares and shares[0] != shares[1]:
                decided += 1
                agreed += (shares[0] < shares[1]) == (votes > 0)
    assert (agreed, decided) == (806, 956)
