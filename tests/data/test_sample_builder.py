"""`mmdpo build sample`: candidates of a model and of a real server that misbehaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from data_builders.asking import sample_sources
from data_builders.running import journal
from data_builders.running.build import BuildResult, build
from evals import judge_server
from evals.judge_server import JudgeServer, completion, running
from mmdpo.errors import ConfigError, DataError, MMDPOError
from mmdpo.evals.judging.calls import JudgeUnavailableError, PatientClient
from mmdpo.generate import SeededDraws
from mmdpo.launch import launch
from mmdpo.records import load_records


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for index in range(5):
        Image.new("RGB", (64, 64), (50 * index, 90, 120)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with running() as server:
        yield server


def endpoint(server: JudgeServer, **settings: Any) -> dict[str, Any]:
    told = {
        "url": server.url,
        "model": "judge-1",
        "first_wait": 0.01,
        "longest_wait": 0.05,
        "at_once": 2,
        "timeout": 5.0,
    }
    return told | settings


def sample(photos: Path, *sources: dict[str, Any], out: str = "out", **config: Any) -> BuildResult:
    resume = config.pop("resume", False)
    values = {"data": photos, "sources": list(sources), **config}
    return build("sample", values, photos.parent / out, resume=resume)


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


def texts(result: BuildResult) -> dict[str, list[str]]:
    return {str(r.media["images"][0].path): [c.text for c in r.candidates] for r in result.records}


MODEL = {"model": "playground", "n": 3, "temperatures": [0.7, 1.3], "max_new_tokens": 6, "batch_size": 2}


# ---- the model itself ----


def test_candidates_say_who_wrote_them_how_and_with_which_tokens(photos: Path) -> None:
    result = sample(photos, MODEL)
    assert result.quality["rows"] == {"read": 5, "used": 5, "set_aside": 0}
    for record in result.records:
        assert record.form == "list" and record.higher_is_better is None
        assert {candidate.source for candidate in record.candidates} <= {"playground T=0.7", "playground T=1.3"}
        assert all(candidate.token_ids for candidate in record.candidates)
        assert all(candidate.score is None for candidate in record.candidates)
        assert len({candidate.text for candidate in record.candidates}) == len(record.candidates)
    numbers = result.quality["sampling"]
    kept = sum(len(record.candidates) for record in result.records)
    assert numbers["n"] == 5 * 6 == kept + numbers["equal"] + reasons(result).get("empty_caption", 0)
    assert set(numbers["by_source"]) == {"playground T=0.7", "playground T=1.3"}
    cold, hot = (numbers["by_source"][f"playground T={t}"]["self_similarity"] for t in (0.7, 1.3))
    assert hot < cold


@pytest.mark.slow
def test_what_is_drawn_does_not_depend_on_what_is_drawn_beside_it(photos: Path) -> None:
    together = sample(photos, MODEL | {"batch_size": 5}, out="together")
    alone = sample(photos, MODEL | {"batch_size": 1}, out="alone")
    assert texts(together) == texts(alone)
    assert texts(sample(photos, MODEL, out="other", seed=1)) != texts(alone)


def test_draws_follow_the_models_distribution() -> None:
    """4000 draws of three tokens: no frequency further from its probability than 4 standard errors."""
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    rows = probabilities.log().expand(4000, 3)
    drawn = SeededDraws(range(4000))(torch.zeros(4000, 1), rows).argmax(1)
    found = drawn.bincount(minlength=3) / 4000
    assert bool(((found - probabilities).abs() < 4 * (probabilities * (1 - probabilities) / 4000).sqrt()).all())


def test_greedy_candidates_are_one(photos: Path) -> None:
    result = sample(photos, MODEL | {"temperatures": [0.0, 1.0]})
    assert result.quality["sampling"]["by_source"]["playground T=0"]["n"] == 5


def test_an_interrupted_build_draws_only_what_it_lacks(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sample(photos, MODEL, out="whole")
    added: list[str] = []
    plain = journal.append_json_line

    def stop(path: Path, row: dict[str, Any]) -> None:
        added.append(row["key"])
        if len(added) == 14:
            with path.open("a", encoding="utf-8") as file:
                file.write('{"key": "0/0.7/')
            raise KeyboardInterrupt
        plain(path, row)

    monkeypatch.setattr(journal, "append_json_line", stop)
    with pytest.raises(KeyboardInterrupt):
        sample(photos, MODEL)
    monkeypatch.setattr(journal, "append_json_line", lambda path, row: (added.append(row["key"]), plain(path, row)))
    first, added[:] = added[:13], []
    with pytest.raises(ConfigError, match="interrupted build"):
        sample(photos, MODEL)
    again = sample(photos, MODEL | {"batch_size": 4}, resume=True)
    assert texts(again) == texts(whole)
    drawn = [key for key in first if "made with" not in key]
    whole_prompts = {key.rpartition("/")[0] for key in drawn if key.endswith("/2")}
    assert whole_prompts and not [key for key in added if key.rpartition("/")[0] in whole_prompts]


def test_another_model_does_not_go_on_with_the_first_ones_candidates(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_sources, "generate", _interrupts)
    with pytest.raises(KeyboardInterrupt):
        sample(photos, MODEL)
    monkeypatch.undo()
    monkeypatch.setattr(sample_sources, "model_fingerprint", lambda model: "another")
    with pytest.raises(ConfigError, match="not what the interrupted build was made with"):
        sample(photos, MODEL, resume=True)


def _interrupts(*arguments: Any, **settings: Any) -> None:
    raise KeyboardInterrupt


def test_a_full_disk_leaves_no_records_and_the_build_goes_on(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, row: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "append_json_line", full)
    with pytest.raises(DataError, match="No space left"):
        sample(photos, MODEL)
    assert not (photos.parent / "out" / "data").exists()
    monkeypatch.undo()
    assert sample(photos, MODEL, resume=True).quality["rows"]["used"] == 5


def test_prompts_of_a_table_and_of_records(photos: Path) -> None:
    rows = [
        {"image": "0.png", "prompt": "What is it?"},
        {"image": "0.png", "prompt": "What is it?"},
        {"image": "../0.png", "prompt": "What?"},
        {"image": "http://x/0.png", "prompt": "What?"},
        {"image": "", "prompt": "What?"},
        {"image": "1.png", "prompt": "Is <image> a token? </s> <|im_end|>"},
        {"image": "2.png", "prompt": "What is here?"},
        {"image": "7.png", "prompt": "What?"},
    ]
    table = photos / "prompts.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{half\n", encoding="utf-8")
    source = MODEL | {"temperatures": [1.0], "n": 4}
    result = sample(table, source, columns={"prompt": "prompt"})
    found = reasons(result)
    kept = sum(len(record.candidates) for record in result.records)
    assert kept + found.pop("equal_candidate", 0) == 2 * 4  # each answer to the two prompts that can be asked
    assert found == {
        "duplicate_row": 1, "outside_root": 1, "remote_url": 1, "no_image": 1, "missing_media": 1, "unreadable_row": 1,
        "too_few_candidates": 1, "no_answer": 4,
    }  # fmt: skip
    (told,) = [entry.message for entry in result.set_aside if entry.reason == "too_few_candidates"]
    assert "control token" in told
    assert result.quality["rows"]["used"] == 2
    again = build("sample", {"data": result.out, "sources": [source]}, photos.parent / "again")
    assert [r.id for r in again.records] == [r.id for r in result.records]
    assert [r.candidates for r in again.records] == [r.candidates for r in result.records]
    Image.new("RGB", (8, 8)).save(photos / "0.png")
    changed = build("sample", {"data": result.out, "sources": [source]}, photos.parent / "changed")
    assert reasons(changed)["changed_media"] == 1 and len(changed.records) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sources": []}, "at least 1 item"),
        ({"sources": [{"n": 2}]}, "either model, or endpoint"),
        ({"sources": [MODEL | {"temperatures": [1.0, 1.0]}]}, "stands there twice"),
        ({"sources": [MODEL | {"temperature": 1.0}]}, "temperature"),
        ({"sources": [{"endpoint": {"url": "ftp://x", "model": "m"}}]}, "no plain http"),
        ({"sources": [MODEL], "data": "nowhere.csv"}, "there is no table"),
        ({"sources": [MODEL | {"model": "nowhere"}]}, "nowhere"),
    ],
)
def test_wrong_settings_are_told_and_nothing_stays(photos: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(MMDPOError, match=message):
        build("sample", {"data": photos, **config}, photos.parent / "out")
    assert not (photos.parent / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("resumed", [False, True])
def test_two_processes_draw_what_one_draws(photos: Path, resumed: bool) -> None:
    one = sample(photos, MODEL, out="one")
    out = photos.parent / "two"
    config = photos.parent / "sample.yaml"
    config.write_text(json.dumps({"data": str(photos), "sources": [MODEL]}), encoding="utf-8")
    words = ["build", "sample", str(config), "--out", str(out)]
    if resumed:  # of one process that was killed after its fifth candidate
        killer = photos.parent / "killer.py"
        killer.write_text(KILLER, encoding="utf-8")
        command = [sys.executable, "-m", "mmdpo", *words, f"plugins=[{killer}]"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == -9
        words += [f"plugins=[{killer}]", "--resume"]
    assert launch(words, 2) == 0
    assert load_records(out).fingerprint() == one.records.fingerprint()
    quality = json.loads((out / "quality.json").read_text(encoding="utf-8"))
    assert (quality["rows"], quality["sampling"]) == (one.quality["rows"], one.quality["sampling"])
    assert not (out / ".building").exists()


KILLER = """
import os, signal
from pathlib import Path
from data_builders.running import journal

MARK = Path(__file__).with_name("mark")
plain, added = journal.append_json_line, []


def add(path, row):
    plain(path, row)
    added.append(row)
    if len(added) == 6 and not MARK.exists():
        MARK.touch()
        os.kill(os.getpid(), signal.SIGKILL)


journal.append_json_line = add
"""


# ---- a server ----


def echo(handler: judge_server.Handler) -> None:
    """A reply that tells what was asked, so that it is the same for the same question."""
    body = handler.asked
    said = f"a reply to seed {body['seed']} at {body['temperature']} of {len(str(body['messages']))} characters"
    handler.send(200, completion(said))


def test_a_server_gets_the_picture_the_prompt_and_a_seed_of_each_candidate(photos: Path, server: JudgeServer) -> None:
    server.usual = echo
    result = sample(photos, {"endpoint": endpoint(server), "n": 3, "top_p": 0.9, "max_new_tokens": 77, "name": "vllm"})
    assert len(server.asked) == 15
    bodies = [asked["body"] for asked in server.asked]
    assert {(b["temperature"], b["top_p"], b["max_tokens"], b["model"]) for b in bodies} == {(1.0, 0.9, 77, "judge-1")}
    assert len({body["seed"] for body in bodies}) == 15
    picture, prompt = bodies[0]["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert prompt == {"type": "text", "text": "Describe the image."}
    assert {len(record.candidates) for record in result.records} == {3}
    assert {c.source for record in result.records for c in record.candidates} == {"vllm T=1"}
    assert all(c.token_ids is None for record in result.records for c in record.candidates)


def test_a_server_that_delays_drops_limits_and_sends_half_loses_nothing(photos: Path, server: JudgeServer) -> None:
    server.usual = echo
    source = {"endpoint": endpoint(server), "n": 3}
    calm = texts(sample(photos, source, out="calm"))
    server.script = [
        judge_server.drops,
        judge_server.status(429, Retry_After="0"),
        judge_server.half,
        judge_server.resets,
        judge_server.late(0.3, "never read"),
        judge_server.status(503),
        judge_server.body(b'{"choices": []}'),
    ]
    hurried = {"endpoint": endpoint(server, timeout=0.2, attempts=8), "n": 3}
    assert texts(sample(photos, hurried, out="rough")) == calm


def test_a_server_that_dies_costs_only_what_it_had_not_answered(photos: Path) -> None:
    with running() as server:
        server.usual = echo
        source = {"endpoint": endpoint(server, at_once=1, attempts=2), "n": 3}
        whole = texts(sample(photos, source, out="whole"))
        server.asked.clear()
        alive = 7

        def dies(handler: judge_server.Handler) -> None:
            (echo if len(server.asked) <= alive else judge_server.resets)(handler)

        server.usual = dies
        with pytest.raises(JudgeUnavailableError, match="5 questions in a row failed"):
            sample(photos, source)
    assert not (photos.parent / "out" / "data").exists()
    with running() as server:  # at another address, and with more at once
        server.usual = echo
        source = {"endpoint": endpoint(server, at_once=3), "n": 3}
        assert texts(sample(photos, source, resume=True)) == whole
        assert len(server.asked) == 15 - alive


def test_a_question_that_the_server_refuses_costs_that_candidate_alone(photos: Path, server: JudgeServer) -> None:
    server.usual = echo
    server.script = [judge_server.status(400)]
    result = sample(photos, {"endpoint": endpoint(server), "n": 3})
    (entry,) = result.set_aside
    assert entry.reason == "no_answer" and "status 400" in entry.message
    assert sorted(len(record.candidates) for record in result.records) == [2, 3, 3, 3, 3]
    assert result.quality["rows"]["used"] == 5


def test_equal_empty_and_cut_candidates(photos: Path, server: JudgeServer) -> None:
    shutil.copy(photos / "0.png", photos / "copy.png")
    cut = json.loads(completion("cut off"))
    cut["choices"][0]["finish_reason"] = "length"
    replies = [completion("same  words"), completion("same words "), completion(None), json.dumps(cut).encode()]
    server.script = [judge_server.body(reply) for reply in replies] + [judge_server.says("one")] * 16
    result = sample(photos, {"endpoint": endpoint(server, at_once=1), "n": 4})
    (record,) = result.records
    assert [(c.text, c.finished) for c in record.candidates] == [("same  words", True), ("cut off", False)]
    account = result.quality["set_aside"]
    assert account == {"duplicate_row": 1, "too_few_candidates": 4}
    assert result.quality["sampling"]["equal"] == 1 + 4 * 3


def test_several_sources_stand_side_by_side(photos: Path, server: JudgeServer) -> None:
    server.usual = echo
    result = sample(photos, MODEL | {"temperatures": [1.0], "n": 2}, {"endpoint": endpoint(server), "n": 2})
    assert set(result.quality["sampling"]["by_source"]) == {"playground T=1", "judge-1 T=1"}
    for record in result.records:
        assert [c.source for c in record.candidates][-2:] == ["judge-1 T=1"] * 2


def test_several_temperatures_of_a_server_are_told_apart(photos: Path, server: JudgeServer) -> None:
    def cold_is_dull(handler: judge_server.Handler) -> None:
        body = handler.asked
        words = "a dog on the grass" if body["temperature"] < 1 else f"words {body['seed']} of heat {body['seed'] % 7}"
        handler.send(200, completion(words))

    server.usual = cold_is_dull
    result = sample(photos, {"endpoint": endpoint(server), "n": 3, "temperatures": [0.0, 0.2, 1.5]})
    asked = Counter(asked["body"]["temperature"] for asked in server.asked)
    assert asked == {0.0: 5, 0.2: 15, 1.5: 15}  # one at temperature 0: it would be the same again
    numbers = result.quality["sampling"]["by_source"]
    assert {name: told["n"] for name, told in numbers.items()} == {
        "judge-1 T=0": 5,
        "judge-1 T=0.2": 15,
        "judge-1 T=1.5": 15,
    }
    assert numbers["judge-1 T=0.2"]["self_similarity"] == pytest.approx(1.0)
    assert numbers["judge-1 T=1.5"]["self_similarity"] < 1.0
    assert numbers["judge-1 T=0.2"]["distinct_1"] < numbers["judge-1 T=1.5"]["distinct_1"]
    assert result.quality["sampling"]["equal"] == 5 * 3  # the dull one stays once


def test_of_two_servers_the_one_that_lives_is_not_asked_again(photos: Path, server: JudgeServer) -> None:
    """The second server closes its door in the middle: connections are refused, as of a process that was killed."""
    server.usual = echo
    with running() as second:
        second.usual = echo
        sources = [{"endpoint": endpoint(one), "n": 2, "name": name} for one, name in ((server, "a"), (second, "b"))]
        whole = texts(sample(photos, *sources, out="whole"))
    server.asked.clear()
    with running() as second:
        second.usual = echo
        second.script = [echo] * 4 + [closes]
        told = {"endpoint": endpoint(second, at_once=1, attempts=2), "n": 2, "name": "b"}
        with pytest.raises(JudgeUnavailableError, match="cannot be asked"):
            sample(photos, sources[0], told)
        answered = len(second.asked) - 1
    assert (len(server.asked), answered) == (10, 4)
    with running() as again:
        again.usual = echo
        last = {"endpoint": endpoint(again), "n": 2, "name": "b"}
        assert texts(sample(photos, sources[0], last, resume=True)) == whole
        assert (len(server.asked), len(again.asked)) == (10, 10 - answered)


def closes(handler: judge_server.Handler) -> None:
    """Answers nothing, and nobody listens from now on."""
    handler.server.socket.close()
    judge_server.resets(handler)


def test_a_server_that_asks_to_wait_is_heard(photos: Path, server: JudgeServer) -> None:
    server.usual = echo
    server.script = [judge_server.status(429, Retry_After="1")]
    sample(photos, {"endpoint": endpoint(server, at_once=1, longest_wait=2.0), "n": 1}, min_candidates=1)
    assert len(server.asked) == 6 and server.times[1] - server.times[0] >= 1.0  # waits of its own are 10 ms


def test_a_server_that_asks_to_come_back_tomorrow_ends_the_build_and_loses_nothing(
    photos: Path, server: JudgeServer
) -> None:
    server.usual = echo
    server.script = [echo] * 6 + [judge_server.status(429, Retry_After="86400")]
    source = {"endpoint": endpoint(server, at_once=1), "n": 3}
    with pytest.raises(JudgeUnavailableError, match="asks to wait 86400 s"):
        sample(photos, source)
    assert sample(photos, source, resume=True).quality["sampling"]["n"] == 15
    assert len(server.asked) == 15 + 1


def test_calls_are_spaced_as_the_limit_says(photos: Path, server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call but the first waits for a start of its own, the limit's spacing after the one before."""
    rests: list[float] = []
    monkeypatch.setattr("mmdpo.evals.judging.calls.time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(PatientClient, "_rest", lambda self, seconds: rests.append(seconds))
    server.usual = echo
    sample(photos, {"endpoint": endpoint(server, at_once=4, per_minute=3000), "n": 1}, min_candidates=1)
    assert sorted(rests) == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08])


def test_prompts_of_other_toolkits(photos: Path) -> None:
    cells = [{"bytes": (photos / f"{index}.png").read_bytes(), "path": None} for index in range(3)]
    rows = [
        {"problem": "<image>What is it?", "images": cells[:1], "answer": "a wall"},
        {"problem": "<image>What is it?", "images": cells[1:], "answer": "one place for two pictures"},
        {"problem": None, "images": cells[2:], "answer": "no question"},
        {"problem": "What is 1 + 1?", "images": [], "answer": "2"},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), photos / "prompts.parquet")
    result = sample(photos / "prompts.parquet", MODEL | {"temperatures": [1.0], "n": 6}, toolkit="auto")
    assert result.quality["notes"][0] == "easyr1: rows have problem and answer"
    assert result.quality["rows"] == {"read": 4, "used": 2, "set_aside": 2}
    found = reasons(result)
    assert (found["placeholder_mismatch"], found["not_text"]) == (1, 1)
    one, other = result.records
    assert [part["type"] for part in one.prompt[0]["content"]] == ["image", "text"]
    assert one.media["images"][0].data == cells[0]["bytes"] and not other.media
    assert [record.meta["columns"] for record in (one, other)] == [{"answer": "a wall"}, {"answer": "2"}]
    with pytest.raises(ConfigError, match="takes no where"):
        sample(photos / "prompts.parquet", MODEL, out="x", toolkit="easyr1", where={"answer": "2"})
