"""Answers first: what is kept of them, how an interrupted evaluation goes on, and yes/no read from the logits."""

import functools
import hashlib
import io
import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tqdm
from PIL import Image
from typer.testing import CliRunner

from mmdpo.answering import answer_file
from mmdpo.answering.answer_file import AnswerFile, check_samples, model_fingerprint
from mmdpo.answering.answers import judged
from mmdpo.answering.benchmarking import evaluate_model
from mmdpo.answering.evaluation import answer_and_score
from mmdpo.answering.loading import load_any
from mmdpo.cli import app
from mmdpo.config import EvalSection
from mmdpo.errors import ConfigError, DataError, MMDPOError
from mmdpo.evals.base import Sample
from mmdpo.evals.runner import make_benchmark
from mmdpo.shard import Shard
from mmdpo.verbs.terminal import progress
from training.common import loaded_model

OBJECTS = ("star", "boat", "tree")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(3):
        Image.new("RGB", (64, 64), (60 * number, 90, 120)).save(folder / f"{number}.png")
        for thing in OBJECTS:
            row = {"image": f"{number}.png", "text": f"Is there a {thing} in the image?", "label": "yes"}
            rows.append({"question_id": len(rows), **row, "label": "no" if thing == "boat" else "yes"})
    rows = rows[::2] + rows[1::2]  # the questions of an image do not stand together
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def playground() -> tuple[Any, Any]:
    return load_any("playground")


def evaluated(playground: tuple[Any, Any], data: Path, folder: Path, **options: Any) -> Any:
    section = EvalSection(data=str(data / "questions.jsonl"), max_new_tokens=options.pop("max_new_tokens", 3))
    return answer_and_score(*playground, make_benchmark("pope"), section, folder, **{"batch_size": 4, **options})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(*words: str) -> Any:
    result = CliRunner().invoke(app, [*words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_answers_say_what_was_asked_of_what_and_how(playground: tuple[Any, Any], data: Path, tmp_path: Path) -> None:
    evaluated(playground, data, tmp_path)
    rows, asked = lines(tmp_path / "answers.jsonl"), lines(data / "questions.jsonl")
    assert [(row["question_id"], row["prompt"]) for row in rows] == [(str(a["question_id"]), a["text"]) for a in asked]
    for row in rows:
        (name,) = row["media"]["images"]
        assert row["sha256"]["images"] == [hashlib.sha256((data / name).read_bytes()).hexdigest()]
        assert set(row) == {"question_id", "prompt", "media", "sha256", "answer"}
    told = json.loads((tmp_path / "generation.json").read_text(encoding="utf-8"))
    assert (told["max_new_tokens"], told["temperature"], told["answer_by"]) == (3, 0.0, "generation")
    again = run("score", "pope", "--data", str(data / "questions.jsonl"), "--answers", str(tmp_path / "answers.jsonl"))
    kept = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert set(kept.pop("habits")) == {"words_per_answer", "refusal_rate", "empty_rate"}
    assert json.loads(again.stdout) == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers.jsonl",
        "generation.json",
        "items.jsonl",
        "metrics.json",
    ]


@pytest.mark.parametrize("answer_by", ["generation", "logits", "both"])
def test_a_killed_evaluation_goes_on(
    answer_by: str, playground: tuple[Any, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluated(playground, data, tmp_path / "whole", answer_by=answer_by)
    part = tmp_path / "part"
    kept: list[str] = []
    plain = AnswerFile.add

    def add(self: AnswerFile, row: dict[str, Any]) -> None:
        if len(kept) == 5:
            with self.own.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row)[:20])  # what a process leaves that is killed while it writes
            raise KeyboardInterrupt
        kept.append(row["question_id"])
        plain(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerFile, "add", add)
        with pytest.raises(KeyboardInterrupt):
            evaluated(playground, data, part, answer_by=answer_by)
    assert not (part / "metrics.json").exists()
    later: list[str] = []
    monkeypatch.setattr(AnswerFile, "add", lambda self, row: (later.append(row["question_id"]), plain(self, row)))
    again = evaluated(playground, data, part, answer_by=answer_by, batch_size=2)
    assert len(kept) == 5 and sorted([*kept, *later], key=int) == [str(number) for number in range(9)]
    assert [item.raw for item in again.items] == [item.raw for item in whole.items]
    assert again.metrics == whole.metrics
    if answer_by != "generation":
        first, second = ([item.details["p_yes"] for item in one.items] for one in (whole, again))
        assert second == pytest.approx(first, abs=1e-5)


def test_answers_made_otherwise_are_refused(playground: tuple[Any, Any], data: Path, tmp_path: Path) -> None:
    evaluated(playground, data, tmp_path)
    with pytest.raises(ConfigError, match="max_new_tokens was 3 and is 4"):
        evaluated(playground, data, tmp_path, max_new_tokens=4)
    with pytest.raises(ConfigError, match="answer_by was 'generation' and is 'logits'"):
        evaluated(playground, data, tmp_path, answer_by="logits")
    with pytest.raises(ConfigError, match="data_fingerprint"):
        section = EvalSection(data=str(data / "questions.jsonl"), max_new_tokens=3, limit=2)
        answer_and_score(*playground, make_benchmark("pope"), section, tmp_path)
    model, processor = load_any("playground")
    with torch.no_grad():
        model.lm_head.weight.mul_(1.01)
    with pytest.raises(ConfigError, match="model_fingerprint"):
        evaluated((model, processor), data, tmp_path)
    evaluated(playground, data, tmp_path, batch_size=9)


def test_answers_of_unknown_origin_are_made_again(playground: tuple[Any, Any], data: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"question_id": "0", "answer": "of whom?"}\n', encoding="utf-8")
    (tmp_path / "generation.json").write_text('{"max_new_tokens": 3}', encoding="utf-8")
    assert "of whom?" not in {item.raw for item in evaluated(playground, data, tmp_path).items}


def test_the_logits_agree_with_a_model_that_writes_one_word(
    playground: tuple[Any, Any], data: Path, tmp_path: Path
) -> None:
    """The playground model answers in one word, so the greedy answer is the likelier of the two."""
    written = evaluated(playground, data, tmp_path / "written")
    forced = evaluated(playground, data, tmp_path / "forced", answer_by="logits")
    both = evaluated(playground, data, tmp_path / "both", answer_by="both")
    assert {item.parsed for item in written.items} <= {"yes", "no"}
    assert [item.parsed for item in forced.items] == [item.parsed for item in written.items]
    assert [item.parsed == "yes" for item in forced.items] == [item.details["p_yes"] > 0.5 for item in forced.items]
    assert (written.rule, forced.rule, both.rule) == ("official", "official; answered by logits", "official")
    assert both.metrics == written.metrics
    assert any(flag.startswith("logits_differ: 0 of 9 answers (0.0%)") for flag in both.flags)
    assert {"yes", "no"} == set(
        json.loads((tmp_path / "both/generation.json").read_text(encoding="utf-8"))["spellings"]
    )
    words = ["--data", str(data / "questions.jsonl"), "--answers", str(tmp_path / "forced" / "answers.jsonl")]
    calibrated = json.loads(run("score", "yes_no", *words).stdout)
    assert calibrated["metrics"]["accuracy"]["value"] == forced.metrics["accuracy"].value


def test_what_both_ways_say_is_counted() -> None:
    pope = make_benchmark("pope")
    samples = [Sample(str(n), "Is it?", {"images": ["a"]}, "yes", "a", {"kind": ""}) for n in range(4)]
    row = {"yes": -0.1, "no": -3.0, "p_yes": 0.9}
    rows = [{"question_id": str(n), "answer": text, **row} for n, text in enumerate(("Yes", "No", "yes.", "no"))]
    result = judged(pope, samples, rows, "both")
    assert any(flag.startswith("logits_differ: 2 of 4 answers (50.0%)") for flag in result.flags)
    assert result.metrics["accuracy"].value == 0.5
    seldom = [{**one, "yes": -9.0, "no": -8.0, "answer": "No"} for one in rows]
    assert any(
        flag.startswith("little_mass: yes and no have 0.000") for flag in judged(pope, samples, seldom, "logits").flags
    )


def test_only_questions_of_yes_or_no_are_read(tmp_path: Path) -> None:
    asked = {
        name: make_benchmark(name).yes_no
        for name in ("pope", "nope", "ciem", "mme", "rbench", "hallusionbench", "amber")
    }
    assert all(asked.values())
    assert not any(make_benchmark(name).yes_no for name in ("chair", "vqa", "gqa", "mmhal"))
    amber = make_benchmark("amber")
    kinds = {kind: Sample("1", "?", {}, "yes", "1", {"kind": kind}) for kind in ("generative", "existence")}
    assert {kind: amber.asks_yes_no(sample) for kind, sample in kinds.items()} == {
        "generative": False,
        "existence": True,
    }
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="chair asks no yes/no questions"):
        section = EvalSection(data=str(tmp_path / "x.json"), answer_by="logits")
        evaluate_model("playground", {"chair": section}, tmp_path)


def test_what_cannot_be_asked_is_told_before_anything_is_answered() -> None:
    good = Sample("1", "Is it?", {}, "yes", "1")
    with pytest.raises(DataError, match=r"1 of 2 samples have no question \(first: '2'\)"):
        check_samples([good, replace(good, id="2", prompt=" ")])
    with pytest.raises(DataError, match="'1' more than once"):
        check_samples([good, good])


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["pope"], 2, "pope reads: a file of questions"),
        (["pope", "chair", "--data", "pope=q"], 2, "chair reads: "),
        (["pope", "--data", "pope=gone.jsonl"], 2, "pope reads: a file of questions"),
        (["pope", "--data", "q.jsonl"], 2, "has no benchmark name"),
        (["pope", "--data", "pope=q", "--data", "pope=r"], 2, "--data names 'pope' twice"),
        (["pope", "--data", "pop=q"], 2, "data of 'pop', which is not evaluated"),
        (["safety", "--images", "safty=x"], 2, "Did you mean 'safety'?"),
        (["popee"], 2, "Did you mean 'pope' or 'nope'?"),
        (["safety", "--parsr", "x"], 2, "unknown option 'parsr' of the benchmark 'safety'"),
        (["safety", "--judge", "gone.yaml"], 1, "there is no file 'gone.yaml'"),
    ],
)
def test_wrong_use_is_told_before_a_model_is_loaded(words: list[str], code: int, told: str, tmp_path: Path) -> None:
    """The model is a path that does not exist: none of these errors is about it."""
    error = CliRunner().invoke(app, ["eval", "/no/model", *words, "--out", str(tmp_path / "out")]).exception
    assert isinstance(error, MMDPOError), error
    assert (error.exit_code, told in str(error)) == (code, True), error
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_each_benchmark_needs() -> None:
    rows = {row["name"]: row for row in json.loads(run("ls", "benchmarks", "--json").stdout)}
    assert {name for name, row in rows.items() if row["judge"]} == {
        "faithscore",
        "hallusionbench",
        "mmhal",
        "objhal",
        "safety",
    }
    asked = {"amber", "ciem", "hallusionbench", "mme", "nope", "pope", "rbench"}
    assert {name for name, row in rows.items() if row["logits"]} >= asked
    assert (rows["safety"]["data"], rows["pope"]["data"]) == ("ships", "to give")
    (pope,) = json.loads(run("ls", "benchmarks", "pope", "--json").stdout)
    assert pope["reads"].startswith("a file of questions ({question_id, image, text, label})")
    assert "default official" in pope["options"]["parser"]
    shown = run("ls", "benchmarks", "mmhal").stdout
    assert "--judge-prompt" in shown and "answer template" in shown


def test_a_bar_shows_questions_a_second_and_the_time_left(
    playground: tuple[Any, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen, bar = Screen(), functools.partial(tqdm.tqdm, mininterval=0)  # drawn anew for every question
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("tqdm.tqdm", bar)
    evaluated(playground, data, tmp_path, progress=progress, batch_size=3)
    drawn = screen.getvalue().split("\r")
    form = r"(\d)/9 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+(?:it/s|s/it)\]"  # gone < left, questions a second
    assert [found[1] for found in (re.search(form, line) for line in drawn) if found] == list("123456789")


def test_several_processes_share_the_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads stand for two processes; the second call finds what three left."""
    samples = [Sample(str(n), "?", {}, "yes", str(n // 2)) for n in range(8)]
    (tmp_path / "answers.part-2.jsonl").write_text('{"id": "5", "answer": "before"}\n{"id": "6', encoding="utf-8")
    barrier = threading.Barrier(2)
    monkeypatch.setattr(answer_file.Shard, "wait", lambda self: barrier.wait(timeout=20))
    found: dict[int, Any] = {}

    def work(index: int) -> None:
        file = AnswerFile(tmp_path, "id", {"seed": 0}, Shard(index, 2))
        for sample in samples:
            if int(sample.group) % 2 == index and sample.id not in file.done:
                file.add({"id": sample.id, "answer": f"by {index}"})
        found[index] = file.finish(samples)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert [row["id"] for row in found[0]] == [sample.id for sample in samples]
    assert [row["answer"][-1] for row in found[0]] == ["0", "0", "1", "1", "0", "e", "1", "1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "generation.json"]


def test_a_question_without_an_answer_is_no_result(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path, "id", {})
    file.add({"id": "1"})
    with pytest.raises(DataError, match=r"1 questions have no answer .*first: '2'"):
        file.finish([Sample(one, "?", {}, "yes", one) for one in ("1", "2")])


def test_an_adapter_that_is_switched_off_does_not_count() -> None:
    plain, wrapped = loaded_model(lora=None), loaded_model(spread=0.1)
    with wrapped.model.disable_adapter():
        assert model_fingerprint(wrapped.model) == model_fingerprint(plain.model)
    assert model_fingerprint(wrapped.model) != model_fingerprint(plain.model)
