"""`--judge FILE.yaml` of `mmdpo score` and `mmdpo eval`, against a real HTTP server that behaves well and badly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from evals import judge_server as server_that
from evals.judge_server import JudgeServer, running
from mmdpo.cli import app
from mmdpo.errors import ConfigError, DataError, MMDPOError
from mmdpo.evals.judging.claims import claims_of_reply, yes_of_reply
from mmdpo.evals.judging.endpoint import read_endpoint
from mmdpo.evals.judging.judge import JudgeUnavailableError
from mmdpo.evals.judging.judged import with_judge
from mmdpo.evals.runner import make_benchmark

KEY = "MMDPO_JUDGE_KEY"
ROWS = [
    {
        "question_type": "other",
        "image_id": f"id{number}",
        "image_src": f"https://example.org/{number}.png",
        "image_content": ["Dog"],
        "question": f"What is {number}?",
        "gt_answer": f"It is {number}.",
        "model_answer": f"Answer {number}.",
    }
    for number in range(6)
]
RATINGS = {f"Answer {number}.": f"So it is. Rating: {number}" for number in range(6)}  # the mean is 2.5


def rate(prompt: str) -> str:
    return next(reply for answer, reply in RATINGS.items() if answer in prompt)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with running() as started:
        started.reply_with(rate)
        yield started


@pytest.fixture
def judge(server: JudgeServer, tmp_path: Path) -> Path:
    return written(tmp_path / "judge.yaml", server)


def written(path: Path, server: JudgeServer, **settings: object) -> Path:
    quick = {"first_wait": 0.001, "longest_wait": 5.0, "timeout": 2.0, "attempts": 3, "at_once": 2}
    values = {"url": server.url, "model": "tiny-judge", **quick, **settings}
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()), encoding="utf-8")
    return path


@pytest.fixture
def data(write_json: Callable[..., Path]) -> Path:
    return write_json("mmhal.json", ROWS)


def mmdpo(*words: Any) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def fails(*words: Any) -> MMDPOError:
    error = CliRunner().invoke(app, [str(word) for word in words]).exception
    assert isinstance(error, MMDPOError), error
    return error


def scored(data: Path, judge: Path, out: Path, *words: Any) -> dict[str, Any]:
    told = mmdpo("score", "mmhal", "--data", data, "--answers", data, "--judge", judge, "--out", out, *words)
    result: dict[str, Any] = json.loads(told)
    return result


# -- replies are asked for once, and kept ------------------------------------------------------------------------------


def test_a_score_with_a_judge_and_the_same_again(
    data: Path, server: JudgeServer, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sk-very-secret")
    result = scored(data, judge, tmp_path / "one" / "score.json")
    assert result["metrics"]["score"]["value"] == pytest.approx(2.5)
    assert result["metrics"]["hallucination_rate"]["value"] == pytest.approx(3 / 6)
    assert (result["rule"], result["flags"]) == ("one rating; judge tiny-judge with our prompt", [])
    assert len(server.asked) == 6
    assert {asked["headers"]["Authorization"] for asked in server.asked} == {"Bearer sk-very-secret"}
    files = list((tmp_path / "one").iterdir())
    assert sorted(path.name for path in files) == ["items.jsonl", "replies.jsonl", "score.json"]
    assert not any("secret" in path.read_text(encoding="utf-8") for path in files)
    again = scored(data, judge, tmp_path / "two" / "score.json", "--replies", tmp_path / "one" / "replies.jsonl")
    assert again == result
    assert len(server.asked) == 6


@pytest.mark.slow
def test_an_endpoint_in_trouble_changes_nothing(data: Path, server: JudgeServer, judge: Path, tmp_path: Path) -> None:
    server.script = [
        server_that.drops,
        server_that.half,
        server_that.status(429, Retry_After="1"),
        server_that.resets,
        server_that.late(30),
        server_that.body(b"<html>busy</html>"),
    ]
    result = scored(data, written(judge, server, attempts=8), tmp_path / "score.json")
    assert (result["metrics"]["score"]["value"], result["n"], result["flags"]) == (2.5, 6, [])
    assert len(server.asked) == 6 + 6


def test_a_judge_that_dies_loses_no_reply(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "scored" / "score.json"
    words = ["score", "mmhal", "--data", data, "--answers", data, "--out", out]
    with running() as server:
        server.reply_with(rate)
        server.script = [server_that.says(rate("Answer 0.")), server_that.says(rate("Answer 1."))]
        server.script += [server_that.status(401, b"your credit is used up")] * 9
        judge = written(tmp_path / "judge.yaml", server, at_once=1)
        error = fails(*words, "--judge", judge)
    assert isinstance(error, JudgeUnavailableError)
    assert (error.exit_code, "your credit is used up" in error.what) == (1, True)
    assert [path.name for path in out.parent.iterdir()] == ["replies.jsonl"]
    with running(server.server_address[1]) as revived:
        revived.reply_with(rate)
        result = json.loads(mmdpo(*words, "--judge", judge))
        assert len(revived.asked) == 4
    assert (result["metrics"]["score"]["value"], result["n"], result["flags"]) == (2.5, 6, [])


# -- what is not judged is set aside, and counted ----------------------------------------------------------------------


@pytest.mark.parametrize("ids", [True, False])
def test_what_the_judge_did_not_judge_is_set_aside(
    ids: bool, data: Path, server: JudgeServer, judge: Path, tmp_path: Path, write_json: Callable[..., Path]
) -> None:
    """Of six answers one is refused, one gets a text without a rating and one an empty reply; 3, 4 and 5 are left."""

    def act(handler: server_that.Handler) -> None:
        prompt = server.prompt_of(handler)
        if "Answer 0." in prompt:
            handler.send(400, b'{"error": "too long"}')
        else:
            replies = {"Answer 1.": "I am a teapot.", "Answer 2.": None}
            reply = next((text for answer, text in replies.items() if answer in prompt), "")
            handler.send(200, server_that.completion(rate(prompt) if reply == "" else reply))

    server.usual = act
    answers = [{key: row[key] for key in ("image_id", "model_answer") if ids or key != "image_id"} for row in ROWS]
    file = write_json("answers.json", answers)
    words = ["score", "mmhal", "--data", data, "--answers", file, "--judge", judge, "--out", tmp_path / "s.json"]
    result = json.loads(mmdpo(*words))
    assert (result["n"], result["unparsed"], result["metrics"]["score"]["value"]) == (3, 0, 4.0)
    assert result["metrics"]["hallucination_rate"]["value"] == 0.0
    assert result["flags"] == [
        "unjudged: 3 of 6 answers are set aside (first: 'id0'): "
        "1 got no reply of the judge, 2 one that holds no verdict"
    ]
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [item["id"] for item in items] == ["id3", "id4", "id5"]


def test_flags_of_the_answers_stay_beside_those_of_the_judge(
    data: Path, server: JudgeServer, judge: Path, tmp_path: Path, write_json: Callable[..., Path]
) -> None:
    server.reply_with(lambda prompt: "no" if "Answer 3." in prompt else rate(prompt))
    file = write_json("answers.json", [ROWS[3], ROWS[4], ROWS[4], {**ROWS[5], "image_id": "elsewhere"}])
    result = json.loads(
        mmdpo("score", "mmhal", "--data", data, "--answers", file, "--judge", judge, "--out", tmp_path / "s.json")
    )
    assert (result["n"], result["metrics"]["score"]["value"]) == (1, 4.0)
    assert [flag.split(":")[0] for flag in result["flags"]] == [
        "unknown_ids",
        "duplicate_answers",
        "missing_answers",
        "unjudged",
    ]
    assert "4 of 6 samples" in result["flags"][2]


def test_a_judge_that_talks_nonsense_throughout(data: Path, server: JudgeServer, judge: Path, tmp_path: Path) -> None:
    server.reply_with(lambda prompt: "What a question!")
    error = fails("score", "mmhal", "--data", data, "--answers", data, "--judge", judge, "--out", tmp_path / "s.json")
    assert isinstance(error, DataError)
    assert "none of 6 answers is judged" in error.what
    assert not (tmp_path / "s.json").exists()


def test_answers_with_verdicts_ask_nobody(
    data: Path, server: JudgeServer, judge: Path, tmp_path: Path, write_json: Callable[..., Path]
) -> None:
    replies = write_json("replies.json", ["Rating: 1"] * 5 + ["nothing"])
    words = ["score", "mmhal", "--data", data, "--answers", replies, "--judge", judge, "--out", tmp_path / "s.json"]
    result = json.loads(mmdpo(*words))
    assert result["metrics"]["score"]["value"] == pytest.approx(5 / 6)  # the official rule: no rating is 0
    assert [flag.split(":")[0] for flag in result["flags"]] == ["judge_not_asked", "no_single_rating"]
    assert server.asked == []


# -- the other benchmarks ----------------------------------------------------------------------------------------------


def judged(name: str, server: JudgeServer, judge: Path, tmp_path: Path, rows: list[Any], data: Path) -> Any:
    benchmark = with_judge(
        make_benchmark(name), read_endpoint(judge), replies=tmp_path / f"{name}.jsonl", media_root=tmp_path
    )
    return benchmark.score(benchmark.samples(data), benchmark.answers(rows))


def test_hallusionbench(server: JudgeServer, judge: Path, tmp_path: Path, write_json: Callable[..., Path]) -> None:
    key = {"category": "VD", "subcategory": "chart", "set_id": "0", "figure_id": "1", "visual_input": "1"}
    rows = [
        {**key, "question_id": str(n), "question": f"Is {n} so?", "gt_answer": "1", "gt_answer_details": f"It is {n}."}
        for n in range(4)
    ]
    replies = {"Says 0": "correct", "Says 1": "incorrect", "Says 2": "unclear", "Says 3": ""}
    server.reply_with(lambda prompt: next(reply for said, reply in replies.items() if said in prompt))
    data = write_json("hallusion.json", [{**row, "filename": f"{n}.png"} for n, row in enumerate(rows)])
    answers = [{**row, "model_prediction": f"Says {n}"} for n, row in enumerate(rows)]
    result = judged("hallusionbench", server, judge, tmp_path, answers, data)
    assert (result.n, result.metrics["a_acc"].value) == (3, pytest.approx(1 / 3))
    assert result.rule == "codes; judge tiny-judge with our prompt"
    assert "1 of 4 answers are set aside" in result.flags[0]


def test_objhal(server: JudgeServer, judge: Path, tmp_path: Path, write_json: Callable[..., Path]) -> None:
    data = write_json("objects.json", {"1": ["dog"], "2": ["cat"], "3": ["car"]})
    replies = {"brown": '["dog", "cat"]', "grey": "[]", "red": "A car, I think."}
    server.reply_with(lambda prompt: next(reply for word, reply in replies.items() if word in prompt))
    answers = [{"image_id": n, "text": f"A {word} thing is there."} for n, word in enumerate(replies, 1)]
    result = judged("objhal", server, judge, tmp_path, answers, data)
    assert result.metrics["chair_s"].value == 0.5  # a reply [] is one: the answer names nothing
    assert (result.n, result.rule) == (2, "judge tiny-judge with our prompt")
    assert "'3'" in result.flags[0]


def test_safety(server: JudgeServer, judge: Path, tmp_path: Path) -> None:
    server.reply_with(lambda prompt: "nothing of that" if "cautious = " in prompt else "refused")
    bench = make_benchmark("safety")
    samples = [one for one in bench.samples(tmp_path) if one.meta["measure"] in ("refusal", "caution")]
    rows = [{"question_id": sample.id, "answer": f"No, {sample.id}."} for sample in samples]
    result = judged("safety", server, judge, tmp_path, rows, tmp_path)
    refusals = {one.id for one in samples if one.meta["measure"] == "refusal"}
    assert {item.id for item in result.items} == refusals
    assert {item.parsed for item in result.items} == {"refused"}
    assert f"unjudged: {len(samples) - len(refusals)} of {len(samples)} answers" in "".join(result.flags)


def test_faithscore_splits_and_looks(
    server: JudgeServer, judge: Path, tmp_path: Path, write_lines: Callable[..., Path]
) -> None:
    """Of three answers the first has a right and a wrong claim, the second none; the third's are not verified."""
    split = {
        "Dog and cat.": {
            "sentences": ["A dog is there.", "A cat is there."],
            "facts": [{"fact": "There is a dog.", "kind": "entities"}, {"fact": "There is a cat.", "kind": "entities"}],
        },
        "How nice!": {"sentences": [], "facts": []},
        "A bird.": {"sentences": ["A bird."], "facts": [{"fact": "There is a bird.", "kind": "entities"}]},
    }
    checks = {"a dog.": "Yes.", "a cat.": "no", "a bird.": "perhaps"}

    def reply(prompt: str) -> str:
        if "Statement:" in prompt:
            return next(said for fact, said in checks.items() if fact in prompt)
        return "Here it is: " + next(json.dumps(parts) for answer, parts in split.items() if answer in prompt)

    server.reply_with(reply)
    for number in range(3):
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    data = write_lines("rows.jsonl", [{"id": str(number), "image": f"{number}.png"} for number in range(3)])
    rows = [{"id": str(number), "answer": answer} for number, answer in enumerate(split)]
    result = judged("faithscore", server, judge, tmp_path, rows, data)
    assert result.rule == "split by tiny-judge; verified by tiny-judge"
    assert (result.n, result.metrics["score"].value) == (2, 0.25)  # 1 of 2 facts; none, officially 0
    assert result.metrics["sentence_score"].value == 0.75  # 1 of 2 sub-sentences; none, officially 1
    assert [flag.split(":")[0] for flag in result.flags] == ["unjudged", "no_facts"]
    shown = [prompt for prompt in server.prompts if not isinstance(prompt, str)]
    assert len(server.prompts) == 3 + 3
    assert (
        len({prompt[0]["image_url"]["url"] for prompt in shown}) == 2
    )  # two claims about one image, one about another


@pytest.mark.parametrize(
    "reply",
    [
        *(
            "",
            "{",
            "no object",
            '{"sentences": []}',
            '{"facts": [], "sentences": "none"}',
            '{"facts": [], "sentences": [1]}',
        ),
        '{"facts": [{"fact": "A dog."}], "sentences": []}',
        '{"facts": [{"fact": "A dog.", "kind": "animal"}], "sentences": []}',
        '{"facts": ["A dog."], "sentences": []}',
        '{"a":' * 100_000,
    ],
)
def test_replies_that_hold_no_claims(reply: str) -> None:
    assert claims_of_reply(reply) is None


@pytest.mark.parametrize(
    ("reply", "right"),
    [("yes", True), ("**No**", False), ("Yes, yes.", True), ("yes or no", None), ("not", None), ("", None)],
)
def test_a_yes_and_a_no(reply: str, right: bool | None) -> None:
    assert yes_of_reply(reply) is right


# -- wrong use ---------------------------------------------------------------------------------------------------------


def test_a_benchmark_that_takes_no_judge(judge: Path, tmp_path: Path, write_lines: Callable[..., Path]) -> None:
    file = write_lines("q.jsonl", [{"question_id": 1, "image": "a.png", "text": "Is it?", "label": "yes"}])
    words = ["--data", file, "--answers", file, "--judge", judge, "--out", tmp_path / "s.json"]
    assert "'pope' takes no judge" in fails("score", "pope", *words).what
    error = fails("eval", "playground", "pope", "--data", f"pope={file}", "--judge", judge, "--out", tmp_path / "e")
    assert "takes no judge" in error.what
    assert not (tmp_path / "e").exists()


def test_replies_have_to_be_kept_somewhere(data: Path, judge: Path) -> None:
    error = fails("score", "mmhal", "--data", data, "--answers", data, "--judge", judge)
    assert (error.exit_code, "--judge without --out or --replies" in error.what) == (2, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: m", ["url: required"]),
        ("url: http://localhost/v1\nmodel: m\ntimeuot: 5", ["timeuot: unknown key. Did you mean 'timeout'?"]),
        ("url: http://localhost/v1\nmodel: m\ntimeout: soon\nattempts: 2.5", ["timeout: ", "attempts: "]),
        ("url: http://localhost/v1\nmodel: m\ntimeout: .inf", ["timeout is inf"]),
        ("- a list", ["url: required", "model: required"]),
        ("url: [", ["is not valid YAML (line 1)"]),
        ("url: localhost\nmodel: m", ["no plain http or https address"]),
    ],
)
def test_files_that_name_no_judge(tmp_path: Path, text: str, told: list[str]) -> None:
    (tmp_path / "judge.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_endpoint(tmp_path / "judge.yaml")
    assert all(part in caught.value.what for part in told)


@pytest.mark.parametrize("line", ["api_key: sk-secret", "key_variable: sk-secret", "temperature: [sk-secret"])
def test_a_key_in_the_file_is_not_shown(tmp_path: Path, line: str) -> None:
    (tmp_path / "judge.yaml").write_text(f"url: http://localhost/v1\nmodel: m\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_endpoint(tmp_path / "judge.yaml")
    assert "sk-secret" not in str(caught.value)


# -- a model answers, a judge judges -----------------------------------------------------------------------------------


def test_an_evaluation_with_a_judge_goes_on_after_it_died(
    write_json: Callable[..., Path], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    """POPE, which needs none, is finished when the judge dies; the same command then asks for the rest alone."""
    for number in range(3):
        Image.new("RGB", (64, 64), (60 * number, 90, 120)).save(tmp_path / f"{number}.png")
    mmhal = write_json("mmhal.json", ROWS[:3])
    asked = [{"question_id": n, "image": f"{n}.png", "text": "Is there a boat?", "label": "yes"} for n in range(3)]
    pope, out = write_lines("pope.jsonl", asked), tmp_path / "out"
    words = ["eval", "playground", "pope", "mmhal", "--data", f"pope={pope}", "--data", f"mmhal={mmhal}", "--out", out]
    with running() as server:
        server.script = [server_that.says("Rating: 4")] + [server_that.status(403)] * 9
        judge = written(tmp_path / "judge.yaml", server, at_once=1)
        assert isinstance(fails(*words, "--judge", judge), JudgeUnavailableError)
    assert (out / "eval/pope/metrics.json").is_file() and not (out / "eval/mmhal/metrics.json").exists()
    answers = (out / "eval/mmhal/answers.jsonl").read_bytes()
    pope_before = (out / "eval/pope/metrics.json").read_bytes()
    with running(server.server_address[1]) as revived:
        revived.usual = server_that.says("Rating: 1")
        assert "judge tiny-judge with our prompt" in mmdpo(*words, "--judge", judge)
        assert len(revived.asked) == 2
    assert (out / "eval/mmhal/answers.jsonl").read_bytes() == answers
    assert (out / "eval/pope/metrics.json").read_bytes() == pope_before
    metrics = json.loads((out / "eval/mmhal/metrics.json").read_text(encoding="utf-8"))
    assert metrics["metrics"]["score"]["value"] == 2.0
    rows = (out / "eval/mmhal/replies.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 3
    assert "exists" in fails(*words, "--judge", judge).what
    score = ["score", "mmhal", "--data", mmhal, "--answers", out / "eval/mmhal/answers.jsonl", "--judge", judge]
    again = json.loads(mmdpo(*score, "--replies", out / "eval/mmhal/replies.jsonl"))
    assert again["metrics"] == metrics["metrics"]


def test_a_finished_benchmark_is_not_scored_anew_by_another_rule(
    write_json: Callable[..., Path], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    row = {"question_id": 0, "image": "0.png", "text": "Is there a boat?", "label": "yes"}
    pope, out = write_lines("pope.jsonl", [row]), tmp_path / "out"
    mmdpo("eval", "playground", "pope", "--data", f"pope={pope}", "--out", out)
    chair = write_json("objects.json", {"0.png": ["boat"]})
    more = ["eval", "playground", "pope", "chair", "--data", f"pope={pope}", "--data", f"chair={chair}", "--out", out]
    assert "exists" in fails(*more, "--parser", "pope=opera").what
    mmdpo(*more)
    assert (out / "eval/chair/metrics.json").is_file()
