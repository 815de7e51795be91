"""Objects in descriptions of clips: the official means with their -1, labels found in texts, wrong files."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmdpo.errors import DataError
from mmdpo.evals.audio_hallucination import AudioHallucination, official_numbers
from mmdpo.evals.base import Result
from mmdpo.evals.runner import score


def script_means(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The script for descriptions, written anew from its description, with the -1 of silence."""
    columns: dict[str, list[float]] = {"chair": [], "cover": [], "hal": []}
    for prompts in results.values():
        for entry in prompts.values():
            label, said = set(entry["label"]), set(entry["prediction"])
            chair = 1 - len(said & label) / len(said) if said else -1
            columns["chair"].append(chair)
            columns["cover"].append(len(said & label) / len(label))
            columns["hal"].append(-1 if chair == -1 else int(chair != 0))
    return {name: round(sum(values) / len(values) * 100, 2) for name, values in columns.items()}


def described(seed: int) -> dict[str, dict[str, Any]]:
    generator, sounds = random.Random(seed), ["dog", "Dog", "speech", "rain", "wind", "a door"]
    return {
        f"Y{clip}": {
            prompt: {
                "label": generator.sample(sounds, generator.randint(1, 3)),
                "prediction": generator.choices(sounds, k=generator.randint(0, 4)),
            }
            for prompt in ("Describe the audio.", "What do you hear?")
        }
        for clip in range(60)
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_official_means_of_descriptions(write_json: Callable[..., Path], seed: int) -> None:
    results = described(seed)
    path = write_json("results.json", results)
    result = score("audio_hallucination", path, path)
    assert official_numbers(result) == script_means(results)
    entries = [entry for prompts in results.values() for entry in prompts.values()]
    talking = [(set(e["label"]), set(e["prediction"])) for e in entries if e["prediction"]]
    chair = sum(len(said - label) / len(said) for label, said in talking) / len(talking)
    assert result.metrics["chair"].value == pytest.approx(chair)
    assert result.metrics["hal"].value == pytest.approx(sum(bool(s - label) for label, s in talking) / len(talking))
    assert result.flags[-1].startswith(f"names_nothing: {120 - len(talking)} of 120")


def test_silence_lowers_the_official_means_only(write_json: Callable[..., Path]) -> None:
    entry = {"label": ["dog"], "prediction": ["cat"]}
    loud = write_json("loud.json", {"a": {"p": entry}, "b": {"p": entry}})
    quiet = write_json("quiet.json", {"a": {"p": entry}, "b": {"p": {**entry, "prediction": []}}})
    results: list[Result] = [score("audio_hallucination", path, path) for path in (loud, quiet)]
    assert [official_numbers(result) for result in results] == [
        {"chair": 100.0, "cover": 0.0, "hal": 100.0},
        {"chair": 0.0, "cover": 0.0, "hal": 0.0},
    ]
    assert [result.metrics["chair"].value for result in results] == [1.0, 1.0]


def test_labels_are_found_in_texts(write_json: Callable[..., Path], write_lines: Callable[..., Path]) -> None:
    data = write_json(
        "data.json",
        {"Y1": {"p": {"label": ["dog", "Church bell"]}}, "Y2": {"p": {"label": ["bell", "speech"]}}},
    )
    rows = [{"id": "Y1/p", "response": "Dogs, a church bell, a bell."}, {"id": "Y2/p", "text": "Speech"}]
    result = score("audio_hallucination", data, write_lines("a.jsonl", rows))
    assert [item.parsed for item in result.items] == [["Church bell", "bell", "dog"], ["speech"]]
    assert result.metrics["chair"].value == pytest.approx((1 / 3 + 0) / 2)
    assert result.metrics["cover"].value == pytest.approx((1 + 1 / 2) / 2)
    assert result.items[0].details["audio"] == "Y1.wav"
    given = AudioHallucination(noun_extractor=str.split)
    scored = given.score(given.samples(data), given.answers(rows))
    assert (scored.rule, scored.items[1].parsed) == ("2024; given noun extractor", ["Speech"])


def test_a_prediction_that_is_a_text_is_not_taken_apart(write_json: Callable[..., Path]) -> None:
    path = write_json("r.json", {"Y1": {"p": {"label": ["dog", "d"], "prediction": "a dog"}}})
    assert score("audio_hallucination", path, path).items[0].parsed == ["dog"]


@pytest.mark.parametrize(
    "entry", [{"label": "dog", "prediction": []}, {"label": ["dog"]}, {"prediction": [1], "label": []}]
)
def test_wrong_descriptions(write_json: Callable[..., Path], entry: dict[str, Any]) -> None:
    path = write_json("r.json", {"Y1": {"p": entry}})
    with pytest.raises(DataError, match="clip 'Y1'"):
        score("audio_hallucination", path, path)


def test_a_clip_without_labels_is_left_out_of_cover(write_json: Callable[..., Path]) -> None:
    path = write_json(
        "r.json", {"a": {"p": {"label": [], "prediction": ["x"]}}, "b": {"p": {"label": ["x"], "prediction": ["x"]}}}
    )
    result = score("audio_hallucination", path, path)
    assert (result.metrics["cover"].value, result.metrics["cover"].n, result.metrics["chair"].value) == (1.0, 1, 0.5)
    assert official_numbers(result) is None
