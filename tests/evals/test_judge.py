"""A judge behind a real HTTP server that delays, drops, limits, sends half of its JSON, talks nonsense and dies."""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from PIL import Image

from evals import judge_server as server_that
from evals.judge_server import Act, JudgeServer, running
from mmdpo.errors import ConfigError
from mmdpo.evals.judging.endpoint import MAX_REPLY_BYTES, Endpoint
from mmdpo.evals.judging.judge import ChatJudge, JudgeError, JudgeUnavailableError, Question
from mmdpo.evals.runner import score
from mmdpo.media import MediaError

KEY = "MMDPO_JUDGE_KEY"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with running() as started:
        yield started


def endpoint(server: JudgeServer, **settings: object) -> Endpoint:
    quick = {"first_wait": 0.001, "longest_wait": 5.0, "timeout": 5.0, "attempts": 3, "at_once": 1}
    return Endpoint(server.url, "tiny", **(quick | settings))  # type: ignore[arg-type]


def questions(count: int) -> list[Question]:
    return [Question(f"question {number}") for number in range(count)]


def test_what_is_asked(server: JudgeServer) -> None:
    assert ChatJudge(endpoint(server, max_tokens=7))("Is it so?") == "fine"
    (asked,) = server.asked
    assert asked["path"] == "/v1/chat/completions"
    assert asked["body"] == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Is it so?"}],
        "max_tokens": 7,
        "temperature": 0.0,
    }
    assert "Authorization" not in asked["headers"]


def test_settings_that_a_model_does_not_take_are_left_out(server: JudgeServer) -> None:
    ChatJudge(endpoint(server, max_tokens=None, temperature=None))("Is it so?")
    assert set(server.asked[0]["body"]) == {"model", "messages"}


def test_the_key_is_sent_and_never_shown(server: JudgeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEY, "sk-very-secret")
    server.script = [server_that.says("fine"), server_that.status(401, b"bad key sk-very-secret" + b"." * 300)]
    judge = ChatJudge(endpoint(server), replies=tmp_path / "replies.jsonl")
    judge("first")
    assert server.asked[0]["headers"]["Authorization"] == "Bearer sk-very-secret"
    with pytest.raises(JudgeUnavailableError) as caught:
        judge("second")
    assert "bad key KEY" in str(caught.value)
    assert "secret" not in str(caught.value) + repr(judge.endpoint) + (tmp_path / "replies.jsonl").read_text()


# -- what passes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        server_that.drops,
        server_that.resets,
        server_that.half,
        *(server_that.status(code) for code in (408, 409, 425, 429, 500, 502, 503, 529)),
        server_that.body(b""),
        server_that.body(b"<html>busy</html>"),
        server_that.body(b'"a string"'),
        server_that.body(b"null"),
        server_that.body(b"[1]"),
        server_that.body(b'{"choices": []}'),
        server_that.body(b'{"choices": [{"message": {"content": 5}}]}'),
        server_that.body(b'{"error": "overloaded"}'),
        server_that.body(b"\xff\xfe{"),
        server_that.body(b"[" * 100_000),
        server_that.body(b" " * (MAX_REPLY_BYTES + 1)),
        server_that.late(30),
        server_that.drips,
    ],
)
def test_what_passes_is_tried_again(server: JudgeServer, act: Act) -> None:
    server.script = [act]
    start = time.monotonic()
    assert ChatJudge(endpoint(server, timeout=1.0))("Is it so?") == "fine"
    assert len(server.asked) == 2
    assert time.monotonic() - start < 10  # neither a late answer nor one that drips is waited for


def test_a_question_is_given_up_after_its_attempts(server: JudgeServer) -> None:
    server.usual = server_that.status(503, b"come back later")
    judge = ChatJudge(endpoint(server))
    with pytest.raises(JudgeError, match="gave no reply: status 503: come back later"):
        judge("Is it so?")
    assert judge.calls == len(server.asked) == 3


@pytest.mark.parametrize("act", [server_that.late(30), server_that.drips])
def test_one_deadline_for_a_whole_call(server: JudgeServer, act: Act) -> None:
    server.script = [act]
    with pytest.raises(JudgeError, match=r"no complete answer in 0\.2 s"):
        ChatJudge(endpoint(server, attempts=1, timeout=0.2))("Is it so?")


def test_nobody_there() -> None:
    with running() as ended:
        address = endpoint(ended, attempts=2)
    with pytest.raises(JudgeError, match="ConnectionRefusedError"):
        ChatJudge(address)("Is it so?")


def test_waits_double(server: JudgeServer) -> None:
    server.script = [server_that.drops] * 3
    ChatJudge(endpoint(server, first_wait=0.1, attempts=4))("Is it so?")
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    for gap, least in zip(gaps, (0.05, 0.1, 0.2), strict=True):  # a random half of the wait is left out
        assert gap >= least


def test_retry_after_holds_every_question_back(server: JudgeServer) -> None:
    server.script = [server_that.status(429, Retry_After="1")]
    replies = ChatJudge(endpoint(server, at_once=3)).ask_all(questions(3))
    assert set(replies.values()) == {"fine"}
    after_the_refusal = [moment for moment in server.times if moment - server.times[0] > 0.5]
    assert min(after_the_refusal) - server.times[0] >= 0.99
    assert len(server.times) == 4


@pytest.mark.parametrize("wait", ["3600", formatdate(time.time() + 7200, usegmt=True)], ids=["seconds", "date"])
def test_an_endpoint_that_asks_for_an_hour_is_given_up(server: JudgeServer, wait: str) -> None:
    server.script = [server_that.status(429, Retry_After=wait)]
    with pytest.raises(JudgeUnavailableError, match="asks to wait"):
        ChatJudge(endpoint(server))("Is it so?")
    assert len(server.asked) == 1


@pytest.mark.parametrize("wait", ["", "soon", "-5", "٣", "Wed, 99 Foo 2020", formatdate(0, usegmt=True)])
def test_a_retry_after_that_says_nothing_is_no_wait(server: JudgeServer, wait: str) -> None:
    header = wait.encode("utf-8").decode("latin-1")
    server.script = [server_that.status(429, Retry_After=header)]
    assert ChatJudge(endpoint(server))("Is it so?") == "fine"


# -- what does not pass -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 307, 401, 403, 404, 405])
def test_what_will_not_pass_ends_everything_at_once(server: JudgeServer, code: int) -> None:
    with running() as elsewhere:
        server.usual = server_that.status(code, Location=f"{elsewhere.url}/chat/completions")
        with pytest.raises(JudgeUnavailableError, match=f"status {code}"):
            ChatJudge(endpoint(server)).ask_all(questions(20))
        assert (len(server.asked), elsewhere.asked) == (1, [])


def test_a_question_that_is_refused_costs_no_other(server: JudgeServer) -> None:
    server.script = [server_that.says("yes"), server_that.status(400, b"too long"), server_that.says("no")]
    first, second, third = ChatJudge(endpoint(server)).ask_all(questions(3)).values()
    assert (first, third) == ("yes", "no")
    assert isinstance(second, JudgeError)
    assert "too long" in second.what
    assert len(server.asked) == 3


def test_five_failures_in_a_row_end_everything(server: JudgeServer) -> None:
    server.script = [server_that.status(500)] * 4 + [server_that.says("fine")]
    server.usual = server_that.status(500, b"on fire")
    with pytest.raises(JudgeUnavailableError, match=r"5 questions in a row failed, .*on fire"):
        ChatJudge(endpoint(server, attempts=1)).ask_all(questions(50))
    assert len(server.asked) == 4 + 1 + 5


def test_the_first_cause_is_told_and_waits_are_cut_short(server: JudgeServer) -> None:
    server.script = [server_that.drops, server_that.status(401, b"no such key")]
    start = time.monotonic()
    with pytest.raises(JudgeUnavailableError, match="no such key"):
        ChatJudge(endpoint(server, at_once=2, first_wait=60.0, longest_wait=60.0)).ask_all(questions(2))
    assert time.monotonic() - start < 5


# -- replies are kept -------------------------------------------------------------------------------------------------


def test_a_server_that_dies_loses_no_reply(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "replies.jsonl"
    with running() as server:
        server.reply_with(str.upper)
        server.script = [server_that.says(f"reply {number}") for number in range(6)] + [server_that.drops] * 99
        address = endpoint(server, attempts=1)
        with pytest.raises(JudgeUnavailableError):
            ChatJudge(address, replies=file).ask_all(questions(20))
    with file.open("a") as lines:
        lines.write('{"key": "half a li')  # what a killed process leaves
    with running(server.server_address[1]) as again:
        again.reply_with(str.upper)
        replies = ChatJudge(address, replies=file).ask_all(questions(20))
        assert list(replies.values()) == [f"reply {n}" for n in range(6)] + [f"QUESTION {n}" for n in range(6, 20)]
        assert sorted(again.prompts) == sorted(f"question {n}" for n in range(6, 20))
    assert list(ChatJudge(address, replies=file).ask_all(questions(20)).values()) == list(replies.values())


def test_a_reply_belongs_to_its_question_its_model_and_its_settings(server: JudgeServer, tmp_path: Path) -> None:
    file, address = tmp_path / "replies.jsonl", endpoint(server)
    for other in (address, address, replace(address, model="other"), replace(address, temperature=1.0)):
        ChatJudge(other, replies=file)("Is it so?")
    assert [(asked["body"]["model"], asked["body"]["temperature"]) for asked in server.asked] == [
        ("tiny", 0.0),
        ("other", 0.0),
        ("tiny", 1.0),
    ]
    row = json.loads(file.read_text().splitlines()[0])
    assert (row["model"], row["prompt"], row["reply"]) == ("tiny", "Is it so?", "fine")


def test_equal_questions_are_asked_once(server: JudgeServer) -> None:
    replies = ChatJudge(endpoint(server)).ask_all([*questions(2), *questions(2)])
    assert (len(replies), len(server.asked)) == (2, 2)


def test_half_surrogates_and_a_judge_that_declines(server: JudgeServer, tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    server.script = [server_that.body(server_that.completion("odd \ud800")), server_that.says(None)]
    judge = ChatJudge(endpoint(server), replies=file)
    assert [judge("answer \udfff"), judge("rude")] == ["odd ?", ""]
    again = ChatJudge(endpoint(server), replies=file)
    assert [again("answer \udfff"), again("rude")] == ["odd ?", ""]
    assert len(server.asked) == 2


def test_replies_that_cannot_be_kept(server: JudgeServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        ChatJudge(endpoint(server), replies=tmp_path)
    assert server.asked == []


# -- pace -------------------------------------------------------------------------------------------------------------


def test_calls_at_the_same_time(server: JudgeServer) -> None:
    server.usual = server_that.late(0.3)
    start = time.monotonic()
    assert len(ChatJudge(endpoint(server, at_once=8)).ask_all(questions(8))) == 8
    assert 0.3 <= time.monotonic() - start < 8 * 0.3


def test_calls_in_a_minute(server: JudgeServer) -> None:
    ChatJudge(endpoint(server, at_once=4, per_minute=600)).ask_all(questions(5))
    assert max(server.times) - min(server.times) >= 4 * 0.1 - 0.05


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_judge_is_shown_pictures(server: JudgeServer, tmp_path: Path) -> None:
    Image.new("RGB", (4000, 10), "red").save(tmp_path / "long.png")
    judge = ChatJudge(endpoint(server), media_root=tmp_path)
    judge.ask(Question("What is it?", ("long.png",)))
    picture, text = server.prompts[0]
    assert text == {"type": "text", "text": "What is it?"}
    kind, _, encoded = picture["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (2048, 5)
    Image.new("RGB", (4000, 10), "blue").save(tmp_path / "long.png")
    judge.ask(Question("What is it?", ("long.png",)))
    assert len(server.asked) == 2  # another picture under the same name is another question


@pytest.mark.parametrize("name", ["../secret.png", "notes.txt", "gone.png", "http://127.0.0.1/a.png"])
def test_nothing_but_pictures_of_the_folder_is_sent(server: JudgeServer, tmp_path: Path, name: str) -> None:
    (tmp_path / "media").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "media" / "notes.txt").write_text("private")
    with pytest.raises(MediaError):
        ChatJudge(endpoint(server), media_root=tmp_path / "media").ask_all([Question("What is it?", (name,))])
    assert server.asked == []


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000", "ftp://localhost/v1", "file:///etc/passwd", "http://", "http://[::1"),
        *("http://a:port/v1", "http://me:pass@localhost/v1", "https://host/v1?key=1"),
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="no plain http or https address") as caught:
        Endpoint(url, "tiny")
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("http://localhost", "/chat/completions"),
        ("http://localhost:8000/v1/", "/v1/chat/completions"),
        ("http://[::1]:8000/openai/chat/completions", "/openai/chat/completions"),
    ],
)
def test_where_questions_go(base: str, path: str) -> None:
    assert Endpoint(base, "tiny").path == path


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"timeout is 0.*attempts is -1.*per_minute is nan") as caught:
        Endpoint("http://localhost/v1", "tiny", timeout=0, attempts=-1, per_minute=float("nan"))
    assert "at_once" not in caught.value.what


def test_a_key_is_not_sent_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    for url in ("http://localhost/v1", "http://127.0.0.9/v1", "http://[::1]/v1", "https://judge.example/v1"):
        assert Endpoint(url, "tiny").key == "secret"
    for url in ("http://judge.example/v1", "http://10.0.0.1/v1", "http://localhost.example/v1"):
        with pytest.raises(ConfigError, match="another machine without TLS") as caught:
            Endpoint(url, "tiny")
        assert "secret" not in str(caught.value)
    monkeypatch.setenv(KEY, "two\r\nHost: elsewhere")
    with pytest.raises(ConfigError, match="line break"):
        Endpoint("http://localhost/v1", "tiny")


# -- benchmarks -------------------------------------------------------------------------------------------------------


def test_a_benchmark_takes_it(server: JudgeServer, write_json: Callable[..., Path], tmp_path: Path) -> None:
    rows = [
        {
            "question_type": "other",
            "image_id": f"id{number}",
            "image_content": ["Dog"],
            "question": f"What is {number}?",
            "gt_answer": "A dog.",
            "model_answer": "A dog." if number else "A cat.",
        }
        for number in range(3)
    ]
    server.reply_with(lambda prompt: "Rating: 1" if "A cat." in prompt else "Rating: 5")
    server.script = [server_that.half, server_that.status(503)]
    file = write_json("answers.json", rows)
    judge = ChatJudge(endpoint(server), replies=tmp_path / "replies.jsonl")
    result = score("mmhal", file, file, judge=judge)
    assert result.metrics["score"].value == pytest.approx(11 / 3)
    assert len(server.asked) == 5
    assert score("mmhal", file, file, judge=ChatJudge(endpoint(server), replies=tmp_path / "replies.jsonl")) == result
    assert len(server.asked) == 5
