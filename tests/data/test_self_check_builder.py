"""`mmdpo build self_check`: answers in claims, claims as questions, and scores from what a model says to them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_builders import self_check
from data_builders.asking.claims import claims, question
from data_builders.running import journal
from data_builders.running.build import BuildResult, build
from evals import judge_server
from evals.judge_server import JudgeServer, running
from mmdpo.answering.loading import encoder_of, load_any
from mmdpo.answering.yes_no import Choice, YesNoReader
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.launch import launch
from mmdpo.media import Media
from mmdpo.records import Record, load_records, user_message

# ---- claims ----


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("A red circle and a boat on a lake.", ["A red circle and a boat on a lake."]),
        ("A dog runs. It is brown!", ["A dog runs.", "It is brown."]),
        ("A man sits on a bench, and a dog is beside him.", ["A man sits on a bench.", "a dog is beside him."]),
        ("There are apples, pears, and bananas.", ["There are apples, pears, and bananas."]),
        ("A cat naps, while two birds sit; it is gray.", ["A cat naps.", "two birds sit.", "it is gray."]),
        ("A kitchen, with a window.", ["A kitchen.", "a window."]),
        ("Mr. Smith holds 3.5 apples.", ["Mr. Smith holds 3.5 apples."]),
        ("1. A bus.\n2. A car.\n- A bus.", ["A bus.", "A car."]),
        ("Yes.", []),
        ("Sorry, I cannot say. What is it?", []),
        ("...", []),
        ("", []),
    ],
)  # fmt: skip
def test_answers_in_claims(answer: str, found: list[str]) -> None:
    assert claims(answer) == found


@pytest.mark.parametrize(
    ("claim", "asked"),
    [
        ("There is a dog.", "Does the image show a dog?"),
        ("There are also two dogs on the grass.", "Does the image show two dogs on the grass?"),
        ("The image shows a red circle.", "Does the image show a red circle?"),
        ("In this picture, we can see a star.", "Does the image show a star?"),
        ("A red circle and a boat on a lake.", "Does the image show a red circle and a boat on a lake?"),
        ("The dog is brown.", "Is it true that the dog is brown?"),
        ("London is far away!", "Is it true that London is far away?"),
    ],
)
def test_claims_as_questions(claim: str, asked: str) -> None:
    assert question(claim) == asked


def test_sounds_are_contained_not_shown() -> None:
    assert question("A dog barking.", "audio") == "Does the audio contain a dog barking?"


# ---- the builder ----


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for index in range(4):
        Image.new("RGB", (64, 64), (50 * index, 90, 120)).save(folder / f"{index}.png")
        answers = (
            "A red circle. A boat on a lake. A star.",
            "A yellow tree. The house is blue.",
            f"There is a star, and the sky is dark. A boat {index}.",
        )
        rows += [{"image": f"{index}.png", "answer": answer} for answer in answers]
    write(folder, rows)
    return folder


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def check(photos: Path, out: str = "out", **config: Any) -> BuildResult:
    resume = config.pop("resume", False)
    values = {"data": photos / "answers.jsonl", "model": "playground", "validation": 0.0}
    return build("self_check", values | config, photos.parent / out, resume=resume)


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


class Oracle:
    """A reader of which the answers are known: it says yes to what has a red thing or a boat in it."""

    def __init__(self, *arguments: Any) -> None:
        self.asked: list[str] = []

    def batches(self, records: list[Record], size: int) -> list[list[int]]:
        return [list(range(at, min(at + size, len(records)))) for at in range(0, len(records), size)]

    def read(self, records: list[Record]) -> list[Choice]:
        texts = [record.prompt[-1]["content"][-1]["text"] for record in records]
        self.asked += texts
        return [Choice(-0.1, -3.1) if "red" in text or "boat" in text else Choice(-2.0, -0.5) for text in texts]


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    known = Oracle()
    monkeypatch.setattr(self_check._Checker, "_reader", lambda checker: known)
    return known


@pytest.mark.parametrize(
    ("score", "scores"),
    [
        # of the three answers: 1, 2 and 2 claims rejected of 3, 2 and 3
        ("rejected", {"A red": -1.0, "A yel": -2.0, "There": -2.0}),
        ("mean", {"A red": (2 * 0.9526 + 0.1824) / 3, "A yel": 0.1824, "There": (0.9526 + 2 * 0.1824) / 3}),
        ("min", {"A red": 0.1824, "A yel": 0.1824, "There": 0.1824}),
    ],
)
def test_scores_come_from_the_claims(
    photos: Path, oracle: Oracle, score: str, scores: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, float] = {}
    plain = self_check._Checker.scores

    def scored(checker: Any, group: Any) -> Iterator[Any]:
        for one in plain(checker, group):
            seen[one.asked.answer.text[:5]] = one.score
            yield one

    monkeypatch.setattr(self_check._Checker, "scores", scored)
    if score == "min":
        with pytest.raises(MMDPOError, match="no record came out"):
            check(photos, score=score)
    else:
        result = check(photos, score=score)
        assert {record.chosen.text[:5] for record in result.records} == {"A red"}
        assert result.records[0].meta["told"][0]["claims"][0] == ["A red circle.", 0.9526]
        assert result.quality["self_check"]["rejected"] == 4 * 5
        assert result.quality["self_check"]["claims"] == 4 * 8
    assert seen == pytest.approx(scores, abs=1e-4)


def test_each_claim_about_a_picture_is_asked_once(photos: Path, oracle: Oracle) -> None:
    rows = [
        {"image": "0.png", "answer": answer}
        for answer in ("A star. A red boat.", "A star. A cow.", "A cow. A star. A pig.")
    ]
    write(photos, rows)
    check(photos)
    assert sorted(oracle.asked) == [f"Does the image show a {x}? Please answer yes or no." for x in ("cow", "pig", "red boat", "star")]  # fmt: skip # noqa: E501


def test_probabilities_are_those_of_the_model(photos: Path) -> None:
    result = check(photos, score="mean", pairing="list")
    model, processor = load_any("playground")
    reader = YesNoReader(model, encoder_of(model, processor, photos))
    record = result.records[0]
    for candidate, told in zip(record.candidates, record.meta["told"], strict=True):
        asked = [f"{question(claim)} Please answer yes or no." for claim, _ in told["claims"]]
        media = {"images": (Media(record.media["images"][0].path),)}
        records = [Record(text, (user_message(text, images=1),), (), media) for text in asked]
        found = [choice.p_yes for choice in reader.read(records)]
        assert [value for _, value in told["claims"]] == pytest.approx(found, abs=2e-4)
        assert candidate.score == pytest.approx(sum(found) / len(found), abs=2e-4)


def test_an_interrupted_build_asks_only_what_it_lacks(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = check(photos, "whole", score="mean")
    kept: list[str] = []
    plain = journal.append_json_line

    def stop(path: Path, row: dict[str, Any]) -> None:
        if len(kept) == 9:
            raise KeyboardInterrupt
        kept.append(row["key"])
        plain(path, row)

    monkeypatch.setattr(journal, "append_json_line", stop)
    with pytest.raises(KeyboardInterrupt):
        check(photos, score="mean")
    again: list[str] = []
    monkeypatch.setattr(journal, "append_json_line", lambda path, row: (again.append(row["key"]), plain(path, row)))
    result = check(photos, score="mean", resume=True, batch_size=3)
    assert result.records.fingerprint() == whole.records.fingerprint()
    assert not set(kept) & set(again) and len(again) == len(set(again))


def test_answers_without_claims_and_questions_that_cannot_be_asked(photos: Path) -> None:
    rows = [
        {"image": "0.png", "answer": answer}
        for answer in ("Yes.", "A star.", "A boat. A tree.", "A <image> of a cow. </s>")
    ]
    write(photos, [*rows, {"image": "1.png", "answer": "A star."}])
    result = check(photos, score="mean")
    assert reasons(result) == {"no_claims": 1, "unchecked_claim": 1, "single_caption": 1}
    (told,) = [entry.message for entry in result.set_aside if entry.reason == "unchecked_claim"]
    assert "control token" in told


def test_a_model_behind_an_endpoint_may_take_answers_apart(photos: Path, oracle: Oracle) -> None:
    split = {"A": {"A red thing.": "entities", "A boat.": "entities"}, "B": {"A pig.": "entities"}}

    def reply(prompt: str) -> str:
        answer = prompt.split("Answer: ")[1].split("\n")[0]
        if answer not in split:
            return "I see."
        facts = [{"fact": fact, "kind": kind} for fact, kind in split[answer].items()]
        return json.dumps({"sentences": ["A"], "facts": facts})

    write(photos, [{"image": "0.png", "answer": answer} for answer in ("A", "B", "C")])
    with running() as server:
        server.reply_with(reply)
        server.script = [judge_server.drops, judge_server.half]
        result = check(photos, endpoint=_endpoint(server))
    (record,) = result.records
    assert (record.chosen.text, record.rejected.text, record.chosen.score) == ("A", "B", 0.0)
    assert reasons(result) == {"not_split": 1}


def _endpoint(server: JudgeServer) -> dict[str, Any]:
    return {"url": server.url, "model": "splitter", "first_wait": 0.01, "longest_wait": 0.05}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "nowhere"}, "nowhere"),
        ({"reject_below": 0.0}, "reject_below"),
        ({"question": "Is it?"}, "question"),
        ({"score": "sum"}, "score"),
    ],
)
def test_wrong_settings_are_told(photos: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(MMDPOError, match=message):
        check(photos, **config)
    assert not (photos.parent / "out").exists()


def test_another_model_does_not_go_on(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check.YesNoReader, "read", _interrupts)
    with pytest.raises(KeyboardInterrupt):
        check(photos)
    monkeypatch.undo()
    monkeypatch.setattr(self_check, "model_fingerprint", lambda model: "another")
    with pytest.raises(ConfigError, match="not what the interrupted build was made with"):
        check(photos, resume=True)


def _interrupts(*arguments: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_two_processes_score_what_one_scores(photos: Path) -> None:
    one = check(photos, "one", score="mean")
    out = photos.parent / "two"
    words = [f"data={photos / 'answers.jsonl'}", "model=playground", "validation=0", "score=mean", "--out", str(out)]
    assert launch(["build", "self_check", *words], 2) == 0
    assert load_records(out).fingerprint() == one.records.fingerprint()
    quality = json.loads((out / "quality.json").read_text(encoding="utf-8"))
    assert quality["self_check"] == one.quality["self_check"]
