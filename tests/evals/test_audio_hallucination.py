"""Audio hallucination: both official scripts restated, their -1 and their divisions by zero, files."""

import csv
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.official_rules import score_command
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.audio_hallucination import AudioHallucination, official_numbers, says_yes
from mmdpo.evals.runner import compare, score

HEADER = ("entry_id", "audio_index", "label", "response")
SPOKEN = {
    "Yes": True,
    "yes, it is": True,
    "YES": None,
    "I see eyes": True,
    "No": False,
    "No.": False,
    "no.": None,
    "NO": None,
    "Noise": False,
    "Now then": False,
    "Nope, yes": True,
    "yes, no": True,
    "Not really": False,  # "Not" begins with "No"
    "cannot": False,
    "It is not": False,
    "unable to tell": False,
    "It can't be": False,
    "there is no sound of it": False,
    "There is no dog": None,
    "it does not contain a dog": False,
    "it doesn't contain a dog": False,
    "it contains a dog": True,
    "it does n't contain": True,
    "nothing": False,
    "Nothing": False,
    "a dog": None,
    "да ☂": None,
    "": None,
}


def script_answer(text: str, otherwise: str) -> str:
    """The parsing of both scripts, written anew from its description, one case after the other."""
    if "Yes" in text or "yes" in text:
        return "yes"
    if "No" in text or "there is no" in text:
        return "no"
    if "does not contain" in text or "doesn't contain" in text:
        return "no"
    if "contain" in text:
        return "yes"
    return "no" if "not" in text or "unable" in text or "can't" in text else otherwise


def script_2024(rows: Sequence[Sequence[Any]]) -> dict[str, float]:
    said = [script_answer(row[3], "") for row in rows]
    truth = [row[2].lower() for row in rows]
    yes = said.count("yes")
    both = sum(a == t == "no" for a, t in zip(said, truth, strict=True))
    precision = round(both / (len(said) - yes) * 100, 2)
    recall = round(both / sum(t != "yes" for t in truth) * 100, 2)
    return {
        "accuracy": round(sum(a == t for a, t in zip(said, truth, strict=True)) / len(rows) * 100, 2),
        "precision": precision,
        "recall": recall,
        "f1": round(2 * precision * recall / (precision + recall), 2),
        "yes_ratio": round(yes / len(rows) * 100, 2),
    }


def script_2025(rows: Sequence[Sequence[Any]]) -> dict[str, float]:
    names = {("yes", "yes"): "TP", ("no", "no"): "TN", ("yes", "no"): "FP", ("no", "yes"): "FN"}
    said = [script_answer(row[3], "unknown") for row in rows]
    kinds = [names.get((a, row[2].lower()), "unknown") for a, row in zip(said, rows, strict=True)]
    tp, tn, fp, fn = (kinds.count(kind) for kind in ("TP", "TN", "FP", "FN"))
    precision, recall = tn / (tn + fn), tn / (tn + fp)
    pairs = [a + b for a, b in zip(kinds[::2], kinds[1::2], strict=False)]
    kept = [pair for pair in pairs if pair in ("TPTN", "FNFP", "TPFP", "FNTN")]
    shares = {
        "correct_correct": "TPTN",
        "incorrect_incorrect": "FNFP",
        "correct_incorrect": "TPFP",
        "incorrect_correct": "FNTN",
    }
    total = len(rows)
    return {
        "accuracy": round((tp + tn) / total * 100, 2),
        "precision": round(precision * 100, 2),
        "recall": round(recall * 100, 2),
        "f1": round(2 * (precision * recall) / (precision + recall) * 100, 2),
        "yes_ratio": round(100 * (said.count("yes") / total), 2),
        "instruction_following_rate": round(100 * ((total - said.count("unknown")) / total), 2),
        **{name: round(100 * (kept.count(pair) / len(kept)), 2) for name, pair in shares.items()},
    }


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, rows: Sequence[Sequence[Any]], header: Sequence[str] = HEADER) -> Path:
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        return tmp_path / name

    return write


def drawn(seed: int, count: int = 401) -> list[tuple[Any, ...]]:
    generator = random.Random(seed)
    labels = [
        generator.choice(["Yes", "no"]) if generator.random() < 0.2 else ("Yes", "No")[n % 2] for n in range(count)
    ]
    return [(n, f"Y{n // 4}", labels[n], generator.choice(list(SPOKEN))) for n in range(count)]


@pytest.mark.parametrize(("text", "yes"), SPOKEN.items())
def test_what_an_answer_says(text: str, yes: bool | None) -> None:
    assert says_yes(text) is yes
    assert {"yes": True, "no": False, "": None}[script_answer(text, "")] is yes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("version", "script"), [("2024", script_2024), ("2025", script_2025)])
def test_the_official_numbers_to_the_last_digit(
    write_csv: Callable[..., Path], version: str, script: Callable[..., dict[str, float]], seed: int
) -> None:
    rows = drawn(seed)
    path = write_csv("result.csv", rows)
    result = score("audio_hallucination", path, path, version=version)
    assert official_numbers(result) == script(rows)
    for name, printed in script(rows).items():
        assert 100 * result.metrics[name].value == pytest.approx(printed, abs=0.011)


def test_the_two_versions_differ_in_what_no_parser_reads(write_csv: Callable[..., Path]) -> None:
    rows = [(0, "a", "yes", "yes"), (1, "a", "no", "no."), (2, "b", "yes", "Dog"), (3, "b", "no", "No")]
    path = write_csv("result.csv", rows)
    old = {name: m.value for name, m in score("audio_hallucination", path, path).metrics.items()}
    new = {name: m.value for name, m in score("audio_hallucination", path, path, version="2025").metrics.items()}
    # 2024: three answers "say no", one of them rightly; 2025: one does.
    assert (old["precision"], old["recall"], old["f1"]) == (pytest.approx(1 / 3), 0.5, pytest.approx(0.4))
    assert (new["precision"], new["recall"], new["f1"]) == (1.0, 1.0, 1.0)
    assert (old["accuracy"], new["accuracy"], new["instruction_following_rate"]) == (0.5, 0.5, 0.5)
    assert "correct_correct" not in new  # each pair lacks an answer that is read


def test_pairs_go_by_the_order_of_the_data_not_of_the_answers(write_csv: Callable[..., Path]) -> None:
    rows = drawn(9, 40)
    data = write_csv("data.csv", [row[:3] for row in rows], HEADER[:3])
    shuffled = random.Random(2).sample(rows, len(rows))
    plain, mixed = (
        score("audio_hallucination", data, write_csv(f"{name}.csv", given), version="2025")
        for name, given in (("a", rows), ("b", shuffled))
    )
    assert {name: metric.value for name, metric in mixed.metrics.items()} == {
        name: metric.value for name, metric in plain.metrics.items()
    }
    assert official_numbers(mixed) == official_numbers(plain) == script_2025(rows)


@pytest.mark.parametrize("version", ["2024", "2025"])
@pytest.mark.parametrize(
    ("always", "f1"), [("Yes", "f1_degenerate"), ("No", ""), ("la la la " * 3000, "f1_degenerate")]
)
def test_models_that_always_say_the_same(write_csv: Callable[..., Path], version: str, always: str, f1: str) -> None:
    path = write_csv("result.csv", [(n, f"Y{n}", ("Yes", "No")[n % 2], always) for n in range(20)])
    result = score("audio_hallucination", path, path, version=version)
    degenerate = any(flag.startswith("f1_degenerate") for flag in result.flags)
    undefined = any(flag.startswith("f1_undefined") for flag in result.flags)
    assert (degenerate or undefined) is bool(f1)
    assert (official_numbers(result) is None) is bool(f1)
    assert result.metrics["accuracy"].value == (0.0 if "la" in always else 0.5)


def test_hub_rows_answers_of_a_run_and_the_command(
    write_lines: Callable[..., Path], write_csv: Callable[..., Path]
) -> None:
    hub = [
        {"entry_id": 0, "audio": "CompA/1.wav", "query": "Is it so?", "ground_truth": "Yes", "attribute": "positive"},
        {"entry_id": 1, "audio": "CompA/1.wav", "query": "Is it not?", "ground_truth": "No", "attribute": "negative"},
    ]
    data = write_lines("hub.jsonl", hub)
    (first, _) = AudioHallucination().samples(data)
    assert (first.prompt, first.media, first.group) == ("Is it so?", {"audios": ["CompA/1.wav"]}, "CompA/1.wav")
    old = write_csv("old.csv", [(0, "Y7", "Yes", "p")], ["entry_id", "audio_index", "label", "prompt_text"])
    assert AudioHallucination().samples(old)[0].media == {"audios": ["Y7.wav"]}
    answers = write_lines("a.jsonl", [{"entry_id": n, "prompt": "Is it", "response": "Yes"} for n in range(2)])
    words = ("--data", data, "--answers", answers, "--version", "2025")
    printed = score_command("audio_hallucination", *words)
    assert printed["rule"] == "2025"
    assert printed["metrics"]["correct_incorrect"] == {"value": 1.0, "low": 0.0, "high": 1.0, "n": 1}


def test_two_models_are_compared_with_their_pairs(write_csv: Callable[..., Path]) -> None:
    results = []
    for seed in (1, 2):
        rows = [(*row[:2], ("Yes", "No")[row[0] % 2], row[3]) for row in drawn(seed, 200)]
        path = write_csv(f"{seed}.csv", rows)
        results.append(score("audio_hallucination", path, path, version="2025"))
    one, two = results
    gaps = compare(one, two)
    for name in ("f1", "correct_correct", "instruction_following_rate"):
        difference = two.metrics[name].value - one.metrics[name].value
        assert gaps[name]["difference"]["value"] == pytest.approx(difference)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("entry_id,audio_index,label\n", "is empty"),
        ("entry_id,audio_index,label\n0,a\n", "line 2 .* has 2 fields"),
        ('entry_id,audio_index,label\n0,a,"yes', "is not CSV"),
        ("entry_id,audio_index,label\n0,a,maybe\n", "label of yes or no"),
        ("id,clip,label\n0,a,yes\n", "lacks entry_id"),
    ],
)
def test_wrong_questions(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        AudioHallucination().samples(tmp_path / "d.csv")


def test_questions_that_nobody_answered_are_passed_over_and_rows_without_an_answer_are_not(
    write_lines: Callable[..., Path],
) -> None:
    rows = [{"entry_id": n, "audio": f"{n}.wav", "ground_truth": " Yes "} for n in range(3)]
    data = write_lines("d.jsonl", rows)
    given = [{**rows[0], "response": "no."}, rows[1], {"id": 2, "text": "Yes"}]
    for version, counted in (("2024", "count as no"), ("2025", "are in neither precision nor recall")):
        result = score("audio_hallucination", data, write_lines("a.jsonl", given), version=version)
        assert [(item.id, item.parsed, item.label) for item in result.items] == [
            ("0", None, "yes"),
            ("2", "yes", "yes"),
        ]
        assert result.flags[0].startswith("missing_answers: 1 of 3")
        assert any(flag.startswith("neither_yes_nor_no: 1 of 2") and counted in flag for flag in result.flags)
        assert result.items[0].details["audio"] == "0.wav"
    with pytest.raises(DataError, match="there are no answers"):
        score("audio_hallucination", data, data)
    with pytest.raises(DataError, match="has no text"):
        score("audio_hallucination", data, write_lines("b.jsonl", [{"entry_id": 0}]))
    with pytest.raises(DataError, match="lacks entry_id"):
        AudioHallucination().samples(write_lines("e.jsonl", [{**rows[0], "entry_id": None}]))


def test_an_endless_answer_in_csv(write_csv: Callable[..., Path]) -> None:
    limit = csv.field_size_limit()
    path = write_csv("result.csv", [(0, "a", "Yes", "Yes " * 50_000), (1, "a", "No", "No")])
    assert score("audio_hallucination", path, path).metrics["accuracy"].value == 1.0
    assert csv.field_size_limit() == limit


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text('entry_id,audio_index,label\n\n0,a,"Yes\n"\n1,b\n')
    with pytest.raises(DataError, match=r"line 5 of .* has 2 fields, the header 3"):
        AudioHallucination().samples(tmp_path / "d.csv")


def test_two_columns_of_one_name(write_csv: Callable[..., Path]) -> None:
    path = write_csv("a.csv", [(0, "Yes", "No")], ["entry_id", "response", "response"])
    with pytest.raises(DataError, match="several columns called response"):
        AudioHallucination().read_answers(path)


def test_the_name_may_be_in_capitals(write_csv: Callable[..., Path]) -> None:
    assert len(AudioHallucination().samples(write_csv("D.CSV", drawn(1, 4)))) == 4


def test_f1_counts_each_question_once(write_csv: Callable[..., Path]) -> None:
    # Looked at are all but the rightly affirmed; an answer that says neither to a question of no is one question.
    path = write_csv(
        "a.csv", [(0, "a", "Yes", "Yes"), (1, "a", "No", "hm"), (2, "b", "Yes", "hm"), (3, "b", "No", "No")]
    )
    assert score("audio_hallucination", path, path).metrics["f1"].n == 3
    assert score("audio_hallucination", path, path, version="2025").metrics["f1"].n == 1


def test_wrong_version() -> None:
    assert AudioHallucination(version=2025).version == "2025"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown version '2023'"):
        AudioHallucination(version="2023")
    with pytest.raises(ConfigError, match="noun_extractor 'nltk' of audio_hallucination is no function"):
        AudioHallucination(noun_extractor="nltk")  # type: ignore[arg-type]


def test_json_that_is_neither(write_json: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        AudioHallucination().samples(write_json("d.json", {"Y1": {}}))
    (tmp_path / "d.json").write_text('{"Y1": ')
    with pytest.raises(DataError, match="is not JSON"):
        AudioHallucination().samples(tmp_path / "d.json")
