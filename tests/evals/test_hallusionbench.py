"""HallusionBench: the official groups and codes, the judge, and answers as they are found."""

import json
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Result
from mmdpo.evals.hallusionbench import CODE, KEY, HallusionBench, code_of_reply, write_results
from mmdpo.evals.runner import compare, score

QUESTIONS = "hallusionbench/HallusionBench.json"


def official_script(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The official script's tables, written anew from its description: dictionaries of right and asked."""
    for row in rows:
        unseen = row["category"] == "VS" and int(row["figure_id"]) == 0
        row["correct"] = int(int(row[CODE]) == 1 or (unseen and int(row[CODE]) == 2))
    tables: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        question = "_".join([row["category"], row["subcategory"], row["set_id"], row["question_id"]])
        figure = "_".join([row["category"], row["subcategory"], row["set_id"], row["figure_id"]])
        tables["q"][question].append(row["correct"])
        tables["easy" if row["visual_input"] != "2" else "hard"][question].append(row["correct"])
        if not (row["category"] == "VS" and row["figure_id"] == "0"):
            tables["f"][figure].append(row["correct"])
    numbers = {
        f"{name}_acc": sum(sum(v) == len(v) for v in table.values()) / len(table) for name, table in tables.items()
    }
    numbers["a_acc"] = sum(row["correct"] for row in rows) / len(rows)
    said = [int(row["correct"] == int(row["gt_answer"])) for row in rows]
    numbers["yes_diff"] = sum(said) / len(said) - sum(int(row["gt_answer"]) for row in rows) / len(rows)
    wrong = [int(row["gt_answer"]) for row in rows if row["correct"] == 0]
    numbers["fp_ratio"] = (len(wrong) - sum(wrong)) / len(wrong)
    return numbers


@pytest.mark.parametrize("seed", range(3))
def test_the_official_numbers(real_data: Callable[[str], Path], write_json: Callable[..., Path], seed: int) -> None:
    data, generator = real_data(QUESTIONS), random.Random(seed)
    rows = [
        {**row, "model_prediction": "Yes.", CODE: generator.choices(["1", "0", "2"], [8, 1, 1])[0]}
        for row in json.loads(data.read_text())
    ]
    generator.shuffle(rows)
    result = score("hallusionbench", data, write_json("result.json", rows))
    expected = official_script(rows)
    assert {name: entry.value for name, entry in result.metrics.items()} == pytest.approx(expected, abs=1e-12)
    assert {name: entry.n for name, entry in result.metrics.items() if name != "fp_ratio"} == {
        "a_acc": 1129,
        "q_acc": 455,
        "f_acc": 346,
        "easy_acc": 455,
        "hard_acc": 430,
        "yes_diff": 1129,
    }
    assert (result.n, result.unparsed, result.flags) == (1129, 0, [])
    assert all(entry.low < entry.value < entry.high for entry in result.metrics.values())


def test_the_real_files_are_read_completely(real_data: Callable[[str], Path]) -> None:
    samples = HallusionBench().samples(real_data(QUESTIONS))
    assert len(samples) == len({sample.id for sample in samples}) == 1129
    assert sum(not sample.media for sample in samples) == 178
    assert len({sample.media["images"][0] for sample in samples if sample.media}) == 346
    pairs = {sample.id: (sample.group, sample.target) for sample in samples}
    assert pairs["VS_chart_0_0_0"] == ("VS_chart_0", "no")


def test_the_sample_results_are_read_by_their_words(real_data: Callable[[str], Path]) -> None:
    answers = real_data("hallusionbench/HallusionBench_result_sample.json")
    result = score("hallusionbench", real_data(QUESTIONS), answers, parser="yes_no")
    assert (result.n, result.rule) == (254, "yes_no")
    assert 30 <= result.unparsed <= 60
    (missing,) = (flag for flag in result.flags if flag.startswith("missing_answers"))
    assert missing.startswith("missing_answers: 875 ")
    assert not any(flag.startswith("other_question_text") for flag in result.flags)
    with pytest.raises(
        DataError, match="254 of 254 answers have no verdict under 'gpt4v_output_gpt_check', and there is"
    ):
        score("hallusionbench", real_data(QUESTIONS), answers)


# -- worked counts ----------------------------------------------------------------------------------------------------


def question(category: str, set_id: int, figure: int, number: int, truth: int, visual: int) -> dict[str, Any]:
    return {
        "category": category,
        "subcategory": "map",
        "visual_input": str(visual),
        "set_id": str(set_id),
        "figure_id": str(figure),
        "question_id": str(number),
        "question": f"Is {number} so?",
        "gt_answer_details": f"It is {number}.",
        "gt_answer": str(truth),
        "filename": f"./{category}/map/{set_id}_{figure}.png" if visual else None,
    }


ROWS = [
    question("VD", 0, 0, 0, 1, 1),
    question("VD", 0, 0, 1, 0, 1),
    question("VD", 0, 1, 0, 0, 2),
    question("VD", 0, 1, 1, 1, 2),
    question("VS", 0, 0, 0, 1, 0),
    question("VS", 0, 1, 0, 1, 1),
    question("VS", 0, 2, 0, 0, 2),
    question("VD", 1, 0, 0, 1, 1),
]


@pytest.fixture
def data(write_json: Callable[..., Path]) -> Path:
    return write_json("HallusionBench.json", ROWS)


def judged(codes: str) -> list[dict[str, Any]]:
    return [{**row, "model_prediction": "Yes.", CODE: code} for row, code in zip(ROWS, codes, strict=True)]


def values(result: Result) -> dict[str, float]:
    return {name: round(entry.value, 4) for name, entry in result.metrics.items()}


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        # Every answer but one: a question of VD 0 and one of its pictures fall with it.
        ("11101111", [0.875, 0.75, 0.8, 1.0, 0.6667]),
        # Unclear is right for VS without its picture (5th) and wrong with it (6th).
        ("11112111", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("11111211", [0.875, 0.75, 0.8, 0.75, 1.0]),
        ("00000000", [0.0] * 5),
    ],
)
def test_worked_counts(data: Path, write_json: Callable[..., Path], codes: str, expected: list[float]) -> None:
    numbers = values(score("hallusionbench", data, write_json("r.json", judged(codes))))
    assert [numbers[name] for name in ("a_acc", "q_acc", "f_acc", "easy_acc", "hard_acc")] == expected


def test_bias_towards_yes(data: Path, write_json: Callable[..., Path]) -> None:
    rows = [{**row, "model_prediction": "yes"} for row in ROWS]
    numbers = values(score("hallusionbench", data, write_json("r.json", rows), parser="yes_no"))
    assert (numbers["a_acc"], numbers["yes_diff"], numbers["fp_ratio"]) == (0.625, 0.375, 1.0)
    # Wrong are a yes, a no and a yes; 4 of 8 answers say yes, 5 of 8 labels.
    some = values(score("hallusionbench", data, write_json("s.json", judged("00110111"))))
    assert (some["fp_ratio"], some["yes_diff"]) == (0.3333, -0.125)
    perfect = score("hallusionbench", data, write_json("p.json", judged("1" * 8)))
    assert perfect.metrics["fp_ratio"].n == 0
    assert perfect.flags[0].startswith("fp_ratio_undefined")


def test_what_a_reader_is_told(data: Path, write_json: Callable[..., Path]) -> None:
    bench = HallusionBench()
    samples = bench.samples(data)
    assert all(bench.asks_yes_no(sample) for sample in samples)
    result = bench.score(samples, bench.read_answers(write_json("r.json", judged("1" * 8))))
    first, unseen = result.items[0].to_json(), result.items[4].to_json()
    assert (first["prompt"], first["image"], first["code"]) == ("Is 0 so?", "./VD/map/0_0.png", 1)
    assert "image" not in unseen
    columns = {column for item in result.items for column in item.counts}
    assert {metric.name: metric.better for metric in bench.metrics(columns)} == {
        **dict.fromkeys(("a_acc", "q_acc", "f_acc", "easy_acc", "hard_acc"), "higher"),
        **dict.fromkeys(("yes_diff", "fp_ratio"), "neither"),
    }


NASTY = {
    # answer: (what is read, code where the answer is yes, code where it is no)
    "Yes": ("yes", 1, 0),
    "No.": ("no", 0, 1),
    "no, it is not": ("no", 0, 1),
    "YES!": ("yes", 1, 0),
    "Not really": (None, 2, 2),
    "yes, no": (None, 2, 2),
    "I cannot know": (None, 2, 2),
    "Sí": (None, 2, 2),
    "": (None, 2, 2),
}


@pytest.mark.parametrize(("text", "expected"), NASTY.items())
def test_nasty_answers(data: Path, text: str, expected: tuple[str | None, int, int]) -> None:
    bench = HallusionBench(parser="yes_no")
    yes, no = bench.samples(data)[:2]
    items = [bench.item(sample.id, sample, bench.answers([{"id": "1", "answer": text}])[0]) for sample in (yes, no)]
    assert (items[0].parsed, *(item.details["code"] for item in items)) == expected


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("correct", 1),
        ("Correct.", 1),
        ("INCORRECT", 0),
        ("This is incorrect, not correct", 0),
        ("not correct", 1),
        ("unclear", 2),
        ("", 2),
        ("wrong", 2),
    ],
)
def test_replies(reply: str, code: int) -> None:
    assert code_of_reply(reply) == code


def test_a_judge_is_asked_once_for_each_answer_without_a_code(
    data: Path, write_json: Callable[..., Path], tmp_path: Path
) -> None:
    asked: list[str] = []

    def judge(prompt: str) -> str:
        asked.append(prompt)
        return "incorrect" if "{set}" in prompt else "correct"

    rows = [{**row, "model_prediction": f"{row['category']} {n} {{set}}"} for n, row in enumerate(ROWS)]
    result = score("hallusionbench", data, write_json("r.json", [*judged("1" * 7 + "0")[:4], *rows[4:]]), judge=judge)
    assert values(result)["a_acc"] == 0.5
    assert (len(asked), result.rule) == (4, "codes; judge with our prompt")
    assert all(part in asked[0] for part in ("Is 0 so?", "It is 0.", "VS 4 {set}"))
    own = tmp_path / "prompt.txt"
    own.write_text("{reference} | {answer} | {question}")
    score("hallusionbench", data, write_json("s.json", rows), judge=judge, judge_prompt=str(own))
    assert asked[-1] == "It is 0. | VD 7 {set} | Is 0 so?"
    own.write_text("{answer}")
    with pytest.raises(ConfigError, match="has no place for question, reference"):
        score("hallusionbench", data, write_json("t.json", rows), judge=judge, judge_prompt=str(own))


def test_replies_that_are_nonsense_or_contradict_themselves(data: Path, write_json: Callable[..., Path]) -> None:
    replies = iter(["correct, or is it incorrect?", "I refuse.", "", "unclear", *["Correct."] * 4])
    answers = write_json("r.json", [{**row, "model_prediction": f"No. {n}"} for n, row in enumerate(ROWS)])
    result = score("hallusionbench", data, answers, judge=lambda prompt: next(replies))
    assert [item.details["code"] for item in result.items] == [0, 2, 2, 2, 1, 1, 1, 1]
    assert (result.unparsed, values(result)["a_acc"]) == (0, 0.5)
    assert result.flags == [
        "no_verdict: 2 replies hold none of correct, incorrect and unclear; they count as unclear",
        "two_verdicts: 1 replies hold both correct and incorrect; they count as incorrect",
    ]
    with pytest.raises(ConfigError, match="the judge of hallusionbench returned None, no text"):
        score("hallusionbench", data, answers, judge=lambda prompt: None)


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_questions_own_keys_are_its_id(data: Path, write_json: Callable[..., Path]) -> None:
    rows = [{**row, "id": n} for n, row in enumerate(judged("1" * 8))]
    assert score("hallusionbench", data, write_json("r.json", rows)).n == 8
    # Ids may be numbers on one side and strings on the other.
    rows = [{**row, **{key: int(row[key]) for key in KEY[2:]}} for row in judged("1" * 8)]
    assert score("hallusionbench", data, write_json("s.json", rows)).n == 8


def test_other_order_missing_duplicate_and_unknown(data: Path, write_json: Callable[..., Path]) -> None:
    rows = judged("11101111")
    other = {**rows[0], "set_id": "9"}
    result = score("hallusionbench", data, write_json("r.json", [*rows[:2:-1], rows[7] | {CODE: "0"}, other]))
    assert result.n == 5
    assert values(result)["a_acc"] == 0.8
    assert [flag.split(" ")[:2] for flag in result.flags] == [
        ["unknown_ids:", "1"],
        ["duplicate_answers:", "1"],
        ["missing_answers:", "3"],
    ]


def test_the_official_form_is_written_and_read(data: Path, tmp_path: Path) -> None:
    bench = HallusionBench(parser="yes_no")
    samples = bench.samples(data)
    generated = [{"id": sample.id, "prompt": sample.prompt, "model_prediction": "No"} for sample in samples]
    first = bench.score(samples, bench.answers(generated))
    write_results(samples, bench.answers(generated), tmp_path / "result.json")
    assert set(json.loads((tmp_path / "result.json").read_text())[0]) == {*ROWS[0], "model_prediction"}
    assert score("hallusionbench", data, tmp_path / "result.json", parser="yes_no") == first
    coded = HallusionBench().answers(judged("11101111"))
    write_results(samples, coded, tmp_path / "codes.json")
    assert [row[CODE] for row in json.loads((tmp_path / "codes.json").read_text())] == list("11101111")


def test_codes_may_be_numbers_and_answers_may_be_left_out(data: Path, write_json: Callable[..., Path]) -> None:
    rows = [{key: row[key] for key in KEY} | {CODE: 1} for row in ROWS]
    assert values(score("hallusionbench", data, write_json("r.json", rows)))["q_acc"] == 1.0


@pytest.mark.parametrize("code", ["3", "yes", -1, 0.5, ""])
def test_codes_that_are_none(data: Path, write_json: Callable[..., Path], code: Any) -> None:
    with pytest.raises(DataError, match=r"entry 1 of .* is no code or reply of a judge"):
        score("hallusionbench", data, write_json("r.json", [{**ROWS[0], "model_prediction": "", CODE: code}]))


@pytest.mark.parametrize(
    "change",
    [
        {"gt_answer": "2"},
        {"gt_answer": ""},
        {"set_id": ...},
        {"visual_input": ...},
        {"visual_input": "3"},
        {"question": None},
        {"question": " "},
        {"gt_answer_details": 1},
        {"filename": 5},
    ],
)
def test_questions_that_are_none(write_json: Callable[..., Path], change: dict[str, Any]) -> None:
    row = {key: value for key, value in (ROWS[0] | change).items() if value is not ...}
    with pytest.raises(DataError, match="question 1 of"):
        HallusionBench().samples(write_json("q.json", [row]))


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'yes_no'"):
        HallusionBench(parser="yesno")
    with pytest.raises(ConfigError, match="judge 'gpt-4' of hallusionbench is no function"):
        HallusionBench(judge="gpt-4")  # type: ignore[arg-type]


def test_two_models_are_compared_set_by_set(data: Path, write_json: Callable[..., Path]) -> None:
    before = score("hallusionbench", data, write_json("a.json", judged("00001111")))
    after = score("hallusionbench", data, write_json("b.json", judged("11111111")))
    gaps = compare(before, after)
    assert gaps["q_acc"]["difference"]["value"] == 0.5
    assert gaps["q_acc"]["difference"]["n"] == 3


def test_the_command(data: Path, write_json: Callable[..., Path], tmp_path: Path) -> None:
    answers = write_json("r.json", judged("11101111"))
    out = tmp_path / "out" / "metrics.json"
    words = ["score", "hallusionbench", "--data", str(data), "--answers", str(answers), "--out", str(out)]
    printed = CliRunner().invoke(app, words)
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout)["metrics"]["q_acc"]["value"] == 0.75
    assert Result.load(out.parent).items[3].details["code"] == 0
