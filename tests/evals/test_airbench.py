"""AIR-Bench, foundation part: the official rule against a plain restatement, failures, files."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.official_rules import score_command
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.airbench import AirBench, official, write_answers
from mmdpo.evals.runner import score

NASTY = [
    "A",
    "B.",
    "The answer is C.",
    "The answer is D",
    "(A)",
    "(A).",
    "**B**",
    "a",
    "None",
    "No.",
    "A dog",
    "Both",
    "NASA!",
    " \n D",
    "C\n",
    "",
    "\n",
    "x",
    "Yes",
    "É",
    "ＡB?",
    "I think it is\nA.",
    "I think it is A\n.",
]


def row(number: int, task: str = "Sound_AQA", right: str = "choice_a") -> dict[str, Any]:
    choices = {"choice_a": "dog", "choice_b": "cat", "choice_c": "bird", "choice_d": "cow"}
    return {
        "path": f"{number}.wav",
        "question": "What is it?",
        **choices,
        "answer_gt": choices[right],
        "task_name": task,
        "dataset_name": "clotho",
        "uniq_id": number,
    }


def official_script(lines: list[dict[str, Any]]) -> tuple[dict[str, tuple[int, int]], int]:
    """Right and read answers by task, and failures, as the script counts them; written anew from its description."""
    right: Counter[str] = Counter()
    read: Counter[str] = Counter()
    failed = 0
    for line in lines:
        task = line["task_name"] + "_" + line["dataset_name"]
        text = line["response"].strip().replace("\n", "")
        letter = ""
        if text not in ("None", ""):
            if text[0] in ("A", "B", "C", "D"):
                letter = text[0]
            elif len(text) > 1 and text[-2] in ("A", "B", "C", "D"):
                letter = text[-2]
        if not letter:
            failed += 1
            continue
        truth = next(key[-1].upper() for key in sorted(line) if "choice_" in key and line[key] == line["answer_gt"])
        read[task] += 1
        right[task] += letter == truth
    return {task: (right[task], read[task]) for task in read}, failed


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("The answer is C.", "C"),
        ("(A)", "A"),
        ("(A).", None),
        ("Both", "B"),
        ("a", None),
        ("None", None),
        ("It is A\n.", "A"),
    ],
)
def test_the_official_letter(text: str, letter: str | None) -> None:
    assert official(text) == letter


def test_against_the_restated_script_through_the_official_file(write_json: Callable[..., Path], tmp_path: Path) -> None:
    generator = random.Random(5)
    rows = [
        row(number, generator.choice(["Sound_AQA", "Audio_Grounding"]), f"choice_{generator.choice('abcd')}")
        for number in range(300)
    ]
    benchmark, data = AirBench(), write_json("meta.json", rows)
    said = benchmark.answers([{"uniq_id": number, "response": generator.choice(NASTY)} for number in range(300)])
    write_answers(benchmark.samples(data), said, tmp_path / "result.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "result.jsonl").read_text().splitlines()]
    tasks, failed = official_script(lines)
    printed = score_command("airbench", "--data", data, "--answers", tmp_path / "result.jsonl")
    assert {name for name in printed["metrics"] if "/" in name} == {f"accuracy/{task}" for task in tasks}
    for task, (right, read) in tasks.items():
        metric = printed["metrics"][f"accuracy/{task}"]
        assert (metric["value"], metric["n"]) == (right / read, read)
    assert printed["metrics"]["failed"]["value"] == failed / 300 == printed["unparsed"] / 300
    assert f"no letter is read in {failed} of 300" in printed["flags"][-1]
    # The file holds what the script reads and nothing is lost on the way.
    assert [{**line, "response": ""} for line in lines] == [{**entry, "response": ""} for entry in rows]


def test_whoever_answers_only_what_is_sure_gains_and_is_found_out(write_json: Callable[..., Path]) -> None:
    data = write_json("meta.json", [row(number) for number in range(4)])
    answers = write_json("a.json", [{"uniq_id": n, "response": "A" if n == 0 else "I pass"} for n in range(4)])
    values = {name: metric.value for name, metric in score("airbench", data, answers).metrics.items()}
    assert (values["accuracy"], values["accuracy_of_all"], values["failed"]) == (1.0, 0.25, 0.75)


def test_other_keys_and_what_is_kept_for_audit(write_json: Callable[..., Path]) -> None:
    data = write_json("meta.json", [row(n) for n in range(3)])
    rows = [{"id": 0, "answer": "B"}, {"uniq_id": 1, "text": "A"}, {"uniq_id": 2, "response": "A", "answer": "B"}]
    result = score("airbench", data, write_json("a.json", rows))
    assert [(item.parsed, item.correct) for item in result.items] == [("B", False), ("A", True), ("A", True)]
    assert result.items[0].details["audio"] == "Sound_AQA_clotho/0.wav"
    assert (result.items[0].details["task"], result.items[0].label) == ("Sound_AQA_clotho", "A")


def test_a_task_of_failures_is_undefined(write_json: Callable[..., Path]) -> None:
    data = write_json("meta.json", [row(1), row(2, "Other")])
    answers = write_json("a.json", [{"uniq_id": 1, "response": "A"}, {"uniq_id": 2, "response": "never"}])
    result = score("airbench", data, answers)
    assert (result.metrics["accuracy/Other_clotho"].n, result.metrics["accuracy/Sound_AQA_clotho"].value) == (0, 1.0)
    assert result.flags[0].startswith("accuracy/Other_clotho_undefined")


def test_lmms_eval_reads_letters_anywhere_and_counts_failures(write_json: Callable[..., Path]) -> None:
    data = write_json("meta.json", [row(number) for number in range(3)])
    texts = ["I take (A) here", "dog", "B"]
    answers = write_json("a.json", [{"uniq_id": n, "response": text} for n, text in enumerate(texts)])
    result = score("airbench", data, answers, parser="lmms_eval")
    assert [item.parsed for item in result.items] == ["A", None, "B"]
    assert result.metrics["accuracy"].value == pytest.approx(1 / 3)
    assert result.flags[0].startswith("no_letter: 1 ")


def test_what_the_model_gets(write_json: Callable[..., Path]) -> None:
    two = {**row(1, "Audio_Grounding"), "choice_c": None, "choice_d": None}
    untasked = {**row(2), "task_name": None}
    (sample,) = AirBench(instruction="Choose.").samples(write_json("meta.json", [two, untasked]))
    assert sample.prompt == "Choose.\nWhat is it?\nA. dog\nB. cat"
    assert sample.media == {"audios": ["Audio_Grounding_clotho/1.flac"]}
    assert AirBench().samples(write_json("other.json", [row(3)]))[0].media == {"audios": ["Sound_AQA_clotho/3.wav"]}


def test_equal_choices_the_first_is_right(write_json: Callable[..., Path]) -> None:
    data = write_json("meta.json", [{**row(1), "choice_a": "cat", "answer_gt": "cat"}])
    assert AirBench().samples(data)[0].target == "A"


def test_questions_that_nobody_answered_are_passed_over(write_json: Callable[..., Path]) -> None:
    data = write_json("meta.json", [row(1), row(2)])
    result = score("airbench", data, write_json("a.json", [{**row(1), "response": "A"}, row(2)]))
    assert (result.n, result.flags) == (1, ["missing_answers: 1 of 2 samples have no answer; set aside"])


@pytest.mark.parametrize(
    "change",
    [{"answer_gt": "fox"}, {"path": 1}, {"dataset_name": None}, {"choice_a": 3}, {"choice_d": 3}, {"uniq_id": None}],
)
def test_wrong_data(write_json: Callable[..., Path], change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="question 1 of"):
        AirBench().samples(write_json("meta.json", [{**row(1), **change}]))


def test_wrong_parser() -> None:
    with pytest.raises(ConfigError, match="unknown parser 'gpt'"):
        AirBench(parser="gpt")
