"""MME: the official scores of real answers, both parsers on nasty ones, files in and out."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evals.official_rules import score_command
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.mme import COGNITION, PERCEPTION, TASKS, Mme, lmms_eval, official, write_official_answers
from mmdpo.evals.runner import compare, score

# -- the official numbers ---------------------------------------------------------------------------------------------


def official_scores(folder: Path) -> dict[str, float]:
    """The official script, written anew from its description: two consecutive lines are one image."""
    scores = {}
    for task in TASKS:
        lines = (folder / f"{task}.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        right = []
        for line in lines:
            _, _, truth, said = line.split("\t")
            said = said.lower()
            read = "other"
            if said in ("yes", "no"):
                read = said
            elif "yes" in said[:4]:
                read = "yes"
            elif "no" in said[:4]:
                read = "no"
            right.append(read == truth.lower())
        both = [first and second for first, second in zip(right[::2], right[1::2], strict=True)]
        scores[task] = 0 + sum(right) / len(right) * 100 + sum(both) / len(both) * 100
    perception = cognition = 0.0
    for task in PERCEPTION:
        perception += scores[task]
    for task in COGNITION:
        cognition += scores[task]
    return scores | {"perception": perception, "cognition": cognition}


def test_real_answers_give_the_official_scores_to_the_last_digit(real_data: Callable[[str], Path]) -> None:
    questions, answers = real_data("mme/questions"), real_data("mme/LaVIN")
    result = score("mme", questions, answers)
    expected = official_scores(answers)
    assert {name: result.metrics[name].value for name in expected} == expected
    assert result.metrics["hallucination"].value == pytest.approx(185 + 265 / 3 + 190 / 3 + 75)
    assert (result.n, result.unparsed, result.flags) == (2374, 12, [])
    assert result.metrics["perception"].n == 2114
    assert len(Mme().samples(questions)) == 2374
    assert len({item.group for item in result.items}) == 1187 - 10  # ten COCO images are in two tasks each


def test_answers_written_out_score_the_same(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    questions = real_data("mme/questions")
    samples = Mme().samples(questions)
    result = score("mme", questions, real_data("mme/LaVIN"))
    write_official_answers(result.items, samples, tmp_path / "out")
    assert official_scores(tmp_path / "out") == official_scores(real_data("mme/LaVIN"))
    assert score("mme", questions, tmp_path / "out").metrics == result.metrics


# -- parsers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "by_official", "by_lmms_eval"),
    [
        ("Yes", "yes", "yes"),
        ("No.", "no", "no"),
        ("not really", "no", "no"),
        ("now", "no", "no"),
        ("know", "no", "no"),
        ("I know", "other", "other"),
        ("cannot", "other", "other"),
        ("unsure", "other", "other"),
        ("Nope!", "no", "no"),
        ("yes, no", "yes", "yes"),
        (" Yes", "yes", "yes"),
        ("   yes", "other", "yes"),
        (". no", "no", "no"),
        ("... no", "other", "no"),
        ("y", "other", "yes"),
        ("N.", "other", "no"),
        ("x", "other", "other"),
        ("", "other", "other"),
        ("ＹＥＳ", "other", "other"),
        ("eyes", "yes", "yes"),
        ("yes " * 500, "yes", "yes"),
    ],
)
def test_nasty_answers(said: str, by_official: str, by_lmms_eval: str) -> None:
    assert (official(said), lmms_eval(said)) == (by_official, by_lmms_eval)


# -- worked counts, files ---------------------------------------------------------------------------------------------

EXISTENCE = [("a.png", "Is there a dog?", "Yes"), ("a.png", "Is there a cat?", "No")]
EXISTENCE += [("b.png", "Is there a dog?", "Yes"), ("b.png", "Is there a cat?", "No")]


def write(path: Path, rows: list[tuple[str, ...]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [(image, f"{text} Please answer yes or no.", truth) for image, text, truth in EXISTENCE]
    return write(tmp_path / "q" / "existence.txt", rows).parent


def responses(folder: Path, said: list[str], order: list[int] | None = None) -> Path:
    places = order or range(len(said))
    return write(folder / "existence.txt", [(*EXISTENCE[place], said[place]) for place in places]).parent


@pytest.mark.parametrize(
    ("said", "parser", "value", "unparsed"),
    [
        (["yes", "no", "yes", "no"], "official", 200.0, 0),
        (["yes", "yes", "yes", "yes"], "official", 50.0, 0),
        (["yes", "no", "no", "yes"], "official", 100.0, 0),
        (["yes", "no", "yes", "I know"], "official", 125.0, 1),
        (["y", "n", "Y", "N."], "official", 0.0, 4),
        (["y", "n", "Y", "N."], "lmms_eval", 200.0, 0),
        (["", "", "", ""], "official", 0.0, 4),
        (["no", "yes", "no", "yes"], "official", 0.0, 0),
    ],
)
def test_worked_counts(
    questions: Path, tmp_path: Path, said: list[str], parser: str, value: float, unparsed: int
) -> None:
    answers = responses(tmp_path / "a", said, [2, 1, 0, 3])
    printed = score_command("mme", "--data", questions, "--answers", answers, "--parser", parser)
    assert list(printed["metrics"]) == ["existence"]
    assert (printed["metrics"]["existence"]["value"], printed["metrics"]["existence"]["n"]) == (value, 4)
    assert (printed["rule"], printed["unparsed"]) == (parser, unparsed)


def test_responses_may_hold_tabs_and_questions_the_request(questions: Path, tmp_path: Path) -> None:
    answers = responses(tmp_path / "a", ["yes\tindeed", "no\u2028way", "yes", "no"])
    result = score("mme", questions, answers)
    assert result.metrics["existence"].value == 200.0
    assert result.items[0].raw == "yes\tindeed"
    write_official_answers(result.items, Mme().samples(questions), tmp_path / "out")
    assert (tmp_path / "out" / "existence.txt").read_text().split("\n")[0].endswith("\tYes\tyes indeed")


def test_half_a_surrogate_pair_does_not_stop_the_writing(
    questions: Path, write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    samples = Mme().samples(questions)
    rows = [{"question_id": sample.id, "answer": "yes \ud83d"} for sample in samples]
    write_official_answers(score("mme", questions, write_lines("a.jsonl", rows)).items, samples, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["existence.txt"]
    assert score("mme", questions, tmp_path / "out").items[0].raw == "yes ?"


def test_answers_of_a_model_as_json_lines(questions: Path, write_lines: Callable[..., Path]) -> None:
    samples = Mme().samples(questions)
    assert samples[0].prompt == "Is there a dog? Please answer yes or no."
    assert samples[0].media == {"images": ["existence/a.png"]}
    rows = [{"question_id": sample.id, "answer": sample.target} for sample in samples]
    assert score("mme", questions, write_lines("a.jsonl", rows)).metrics["existence"].value == 200.0


def test_images_of_five_tasks_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    below = {"posters", "celebrity", "scene", "landmark", "artwork"}
    for task in TASKS:
        write(tmp_path / "q" / f"{task}.txt", [("a.png", "Is it so?", "Yes")])
    places = {sample.media["images"][0] for sample in Mme().samples(tmp_path / "q")}
    assert places == {f"{task}/images/a.png" if task in below else f"{task}/a.png" for task in TASKS}


def test_missing_duplicate_and_unknown_answers(questions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    rows = [(*EXISTENCE[0], "yes"), (*EXISTENCE[0], "no"), (*EXISTENCE[1], "no"), (*EXISTENCE[2], "yes")]
    write(folder / "existence.txt", [*rows, ("z.png", "Is there a dog?", "Yes", "yes")])
    result = score("mme", questions, folder)
    # Three right answers, and the one complete image has both.
    assert result.metrics["existence"].value == 200.0
    assert [flag.split(" ")[:2] for flag in result.flags] == [
        ["unknown_ids:", "1"],
        ["duplicate_answers:", "1"],
        ["missing_answers:", "1"],
        ["incomplete_sets:", "1"],
    ]


def test_four_questions_about_an_image_are_two_pairs(tmp_path: Path) -> None:
    # As the official script takes them: two lines after each other.
    rows = [("a.png", f"Is there a {thing}?", truth) for thing, truth in zip("wxyz", ["Yes", "No"] * 2, strict=True)]
    data = write(tmp_path / "q" / "existence.txt", rows)
    said = [(*row, answer) for row, answer in zip(rows, ["yes", "no", "yes", "yes"], strict=True)]
    result = score("mme", data, write(tmp_path / "a" / "existence.txt", said))
    assert (result.metrics["existence"].value, result.flags) == (75.0 + 50.0, [])


def test_totals_need_all_their_tasks(questions: Path, tmp_path: Path) -> None:
    answers = responses(tmp_path / "a", ["yes", "no", "yes", "no"])
    for task in ("count", "position"):
        shutil.copy(questions / "existence.txt", questions / f"{task}.txt")
        shutil.copy(answers / "existence.txt", answers / f"{task}.txt")
    assert list(score("mme", questions, answers).metrics) == ["existence", "count", "position"]
    shutil.copy(questions / "existence.txt", questions / "color.txt")
    shutil.copy(answers / "existence.txt", answers / "color.txt")
    result = score("mme", questions, answers)
    assert result.metrics["hallucination"].value == 800.0
    assert "perception" not in result.metrics


def test_two_models_are_compared_on_the_scale_of_the_task(questions: Path, tmp_path: Path) -> None:
    first = score("mme", questions, responses(tmp_path / "a", ["yes", "no", "no", "no"]))
    second = score("mme", questions, responses(tmp_path / "b", ["yes", "no", "yes", "no"]))
    entry = compare(first, second)["existence"]
    assert (entry["before"]["value"], entry["difference"]["value"], entry["percent"]) == (125.0, 75.0, False)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("other.txt", "a.png\tIs it?\tYes\n", "holds no file named after a task"),
        ("count.txt", "a.png\tIs it?\n", "line 1 of .* does not have 3 columns"),
        ("count.txt", "a.png\tIs it?\tMaybe\n", "line 1 of .* does not have 3 columns"),
        ("count.txt", "\n", "is empty"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    for data in (path, tmp_path):
        with pytest.raises(DataError, match=message):
            Mme().samples(data)


def test_an_absent_file_is_called_absent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*nowhere'"):
        Mme().samples(tmp_path / "nowhere")


def test_answers_without_a_response_are_refused(questions: Path) -> None:
    with pytest.raises(DataError, match="does not have 4 columns"):
        Mme().read_answers(questions)


def test_answers_serve_as_data(questions: Path, tmp_path: Path) -> None:
    answers = responses(tmp_path / "a", ["yes", "no", "yes", "no"])
    assert [s.id for s in Mme().samples(answers)] == [s.id for s in Mme().samples(questions)]
    assert [s.target for s in Mme().samples(answers / "existence.txt")] == ["yes", "no", "yes", "no"]


def test_unknown_parser() -> None:
    with pytest.raises(ConfigError, match="unknown parser 'pope' for mme"):
        Mme(parser="pope")
