"""`mmdpo.evaluate` and `mmdpo.compare`, as they are called in a notebook."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import mmdpo
from evals import judge_server as server_that
from evals.judge_server import running
from mmdpo.cli import app
from mmdpo.errors import ConfigError
from mmdpo.results import Results

Pair = tuple[Any, Any]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return mmdpo.load("playground")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    rows = []
    for number in range(3):
        Image.new("RGB", (64, 64), (60 * number, 90, 120)).save(folder / f"{number}.png")
        for thing in ("star", "boat"):
            row = {"image": f"{number}.png", "text": f"Is there a {thing} in the image?"}
            rows.append({"question_id": len(rows), **row, "label": "no" if thing == "boat" else "yes"})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "questions.jsonl"


def answers(folder: Path, name: str = "pope") -> list[dict[str, Any]]:
    path = folder / "eval" / name / "answers.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("answer_by", ["generation", "logits"])
def test_a_loaded_model_a_path_and_the_command_say_the_same(
    answer_by: Any, pair: Pair, questions: Path, tmp_path: Path
) -> None:
    """The model of `mmdpo.load` keeps what its image encoder gives; evaluating must not change its answers."""
    by_pair = mmdpo.evaluate(pair, ["pope"], tmp_path / "a", data={"pope": questions}, answer_by=answer_by)
    again = mmdpo.evaluate(pair, "pope", tmp_path / "b", data={"pope": str(questions)}, answer_by=answer_by)
    words = ["eval", "playground", "pope", "--data", f"pope={questions}", "--answer-by", answer_by]
    told = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "c")])
    assert told.exit_code == 0, told.exception
    assert answers(by_pair.folder) == answers(again.folder) == answers(tmp_path / "c")
    assert by_pair == again == {"pope": json.loads((tmp_path / "c/eval/pope/metrics.json").read_text("utf-8"))}


def test_without_a_folder_everything_is_kept_in_a_fresh_one(
    pair: Pair, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = (mmdpo.evaluate(pair, "pope", data={"pope": questions}, limit=n) for n in (3, 2))
    assert first.folder.parent == second.folder.parent == tmp_path
    assert first.folder != second.folder
    assert (first["pope"]["n"], second["pope"]["n"]) == (6, 4)
    compared = mmdpo.compare(first.folder, second.folder, correction="none")
    assert compared["correction"]["method"] == "none"
    assert compared["metrics"]["pope_accuracy"]["difference"]["value"] == 0.0
    with pytest.raises(ConfigError, match="bonferoni"):
        mmdpo.compare(first.folder, second.folder, "bonferoni")


def test_settings_of_one_benchmark_go_before_those_of_all(pair: Pair, questions: Path, tmp_path: Path) -> None:
    own = {"pope": {"data": str(questions), "limit": 2, "options": {"parser": "opera"}, "max_new_tokens": 1}}
    result = mmdpo.evaluate(pair, own, tmp_path / "a", limit=1, batch_size=2)
    assert (result["pope"]["n"], result["pope"]["rule"]) == (4, "opera")
    told = json.loads((tmp_path / "a/eval/pope/generation.json").read_text(encoding="utf-8"))
    assert (told["max_new_tokens"], told["batch_size"]) == (1, 2)
    moved = mmdpo.evaluate(pair, {"pope": {"limit": 1}}, tmp_path / "b", data={"pope": questions})
    assert moved["pope"]["n"] == 2


def test_benchmarks_that_ship_their_questions_need_no_data(pair: Pair, tmp_path: Path) -> None:
    own = {name: {"limit": 2, "max_new_tokens": 2} for name in ("safety", "text_checks")}
    result = mmdpo.evaluate(pair, own, tmp_path / "a")
    assert not [path for path in tmp_path.iterdir() if path.name != "a"]  # pictures lie beside the answers
    assert any((tmp_path / "a/eval/safety/pictures").iterdir())
    for name in own:
        assert result[name]["n"] == len(answers(result.folder, name)) > 0
        words = ["score", name, "--answers", str(tmp_path / "a/eval" / name / "answers.jsonl")]
        told = CliRunner().invoke(app, words)
        assert told.exit_code == 0, told.exception
        assert json.loads(told.stdout)["metrics"] == result[name]["metrics"]


def test_a_judge_of_a_file(pair: Pair, questions: Path, tmp_path: Path, write_json: Callable[..., Path]) -> None:
    row = {"question_type": "other", "image_content": ["Boat"], "question": "What is it?", "gt_answer": "A lake."}
    data = write_json("mmhal.json", [{**row, "image_id": str(n), "image_src": f"x/{n}.png"} for n in range(2)])
    with running() as server:
        server.usual = server_that.says("Rating: 5")
        (tmp_path / "judge.yaml").write_text(f"url: {server.url}\nmodel: tiny\n", encoding="utf-8")
        result = mmdpo.evaluate(
            pair,
            "mmhal",
            tmp_path / "out",
            data={"mmhal": data},
            images={"mmhal": questions.parent},
            judge=tmp_path / "judge.yaml",
        )
    assert result["mmhal"]["metrics"]["score"]["value"] == 5.0
    assert (tmp_path / "out/eval/mmhal/replies.jsonl").is_file()


@pytest.mark.parametrize(
    ("benchmarks", "given", "told"),
    [
        (
            ["pope", "chair"],
            {},
            ["no data for pope, chair", "pope reads: a file of questions", "chair reads: ", "data="],
        ),
        (["pope"], {"data": {"pope": "gone.jsonl"}}, ["'gone.jsonl'", "pope reads: a file of questions"]),
        (["pope"], {"data": {"pop": "x"}}, ["'pop', which is not evaluated", "Did you mean 'pope'"]),
        (["safety"], {"images": {"pope": "x"}}, ["images of 'pope', which is not evaluated"]),
        ("popee", {}, ["'popee'", "Did you mean 'pope'"]),
        ({"safety": {"limitt": 3}}, {}, ["safety.limitt: unknown key. Did you mean 'limit'?"]),
        (["safety"], {"limit": 0}, ["safety.limit"]),
        (["safety"], {"answer_by": "logit"}, ["safety.answer_by"]),
        (["safety"], {"answer_by": "logits"}, ["asks no yes/no questions"]),
    ],
)
def test_what_cannot_be_evaluated(benchmarks: Any, given: dict[str, Any], told: list[str], tmp_path: Path) -> None:
    """Before anything is loaded: the model is a path that does not exist."""
    with pytest.raises(ConfigError) as caught:
        mmdpo.evaluate("/no/model", benchmarks, tmp_path / "out", **given)
    assert all(part in str(caught.value) for part in told)
    assert not (tmp_path / "out").exists()


def test_a_model_without_its_processor(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a LlavaForConditionalGeneration is no model to evaluate"):
        mmdpo.evaluate(pair[0], ["safety"], tmp_path)


def test_results_show_themselves_as_a_table() -> None:
    metrics = {
        "accuracy": {"value": 0.5, "low": 0.125, "high": 0.875, "n": 8},
        "score": {"value": 2.5, "low": None, "high": 6.0, "n": 8, "percent": False},
    }
    shown = Results({"mine": {"metrics": metrics, "flags": ["few: <8>"]}}, Path("out"))
    assert str(shown).splitlines() == [
        "benchmark  metric    value  95% interval    n",
        "mine       accuracy  50.0%  12.5% to 87.5%  8",
        "mine       score     2.50   – to 6.00       8",
        "mine: few: <8>",
        "answers, items and metrics: out",
    ]
    assert repr(shown) == str(shown)
    page = shown._repr_html_()
    assert "<tr><td>mine</td><td>accuracy</td><td>50.0%</td><td>12.5% to 87.5%</td><td>8</td></tr>" in page
    assert "few: &lt;8&gt;" in page
    assert shown["mine"]["metrics"]["score"]["value"] == 2.5
