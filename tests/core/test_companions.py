"""Partners and mismatched answers: the same draws whatever order the records stand in, and none that is not meant."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from core.oracle import picture, record, sound
from mmdpo.encoding.companions import Companions
from mmdpo.records import Candidate, Media, Record, Records
from mmdpo.runs.data import WithMedia


def photo_records(count: int = 12) -> list[Record]:
    """Records with a photo each; records 0 and 1 have the same one."""
    return [record(f"r{n}", "What is here?", [f"Answer {n}", "No."], picture(max(1, n))) for n in range(count)]


def named(of: Record, partner: object) -> Record:
    return replace(of, meta={"partner": partner})


def partners(records: list[Record], seed: int = 0) -> dict[str, str | None]:
    companions = Companions(records, seed)
    found = {one.id: companions.partner(one) for one in records}
    return {name: partner.id if partner else None for name, partner in found.items()}


def mismatched(records: list[Record], seed: int = 0) -> dict[str, str | None]:
    companions = Companions(records, seed)
    found = {one.id: companions.mismatched(one) for one in records}
    return {name: answer.text if answer else None for name, answer in found.items()}


def test_a_partner_is_another_record_with_other_media() -> None:
    records = photo_records()
    for of, partner in zip(records, partners(records).values(), strict=True):
        assert partner is not None and partner != of.id
        assert records[int(partner[1:])].media != of.media


def test_draws_do_not_depend_on_the_order_of_the_records() -> None:
    records = photo_records()
    turned = [records[n] for n in (7, 2, 0, 11, 5, 9, 1, 3, 10, 4, 8, 6)]
    assert partners(turned) == partners(records)
    assert mismatched(turned) == mismatched(records)


def test_without_a_record_only_the_draws_that_met_it_change() -> None:
    records = photo_records()
    before, answers = partners(records), mismatched(records)
    for gone in records:
        left = [one for one in records if one is not gone]
        for name, partner in partners(left).items():
            assert partner == before[name] if before[name] != gone.id else partner not in (None, gone.id)
        for name, answer in mismatched(left).items():
            assert answer == answers[name] or answers[name] == gone.candidates[0].text


def test_another_seed_is_another_draw() -> None:
    records = photo_records()
    assert partners(records, 0) == partners(records, 0)
    assert partners(records, 0) != partners(records, 1)
    assert mismatched(records, 0) != mismatched(records, 1)


def test_no_record_is_everybodys_partner() -> None:
    """With 200 records the most frequent partner of a fair draw is that of a handful, not of a tenth."""
    records = photo_records(200)
    assert Counter(partners(records).values()).most_common(1)[0][1] < 20
    assert Counter(mismatched(records).values()).most_common(1)[0][1] < 20


def test_a_partner_has_as_many_items_of_each_modality() -> None:
    one, two = picture(1), picture(2)
    records = [
        record("one", "?", ["a", "b"], one),
        record("two", "?", ["a", "b"], one, two),
        record("heard", "?", ["a", "b"], sound(1), kind="audio"),
        record("text", "?", ["a", "b"]),
    ]
    assert partners(records) == {"one": None, "two": None, "heard": None, "text": None}
    records += [record("other two", "?", ["a", "b"], two, one), record("other text", "?", ["a", "b"])]
    found = partners(records)
    assert (found["two"], found["other two"]) == ("other two", "two")
    assert (found["text"], found["other text"]) == (None, None), "a record without media has nothing to swap"


def test_the_partner_that_is_named_is_taken() -> None:
    records = photo_records()
    drawn = partners(records)["r3"]
    other = next(one.id for one in records if one.id not in ("r3", drawn))
    records[3] = named(records[3], other)
    assert partners(records)["r3"] == other
    records[3] = named(records[3], None)
    assert partners(records)["r3"] == drawn


@pytest.mark.parametrize(
    ("partner", "told"),
    [
        ("absent", "meta.partner names 'absent', which is not among the records that are used with it"),
        (17, "meta.partner names '17', which is not among the records that are used with it"),
        ("two", "meta.partner names 'two', which has 2 images, and the record has 1 image"),
        ("text", "meta.partner names 'text', which has no media, and the record has 1 image"),
        ("r1", "meta.partner names 'r1', which has the same media"),
        ("r0", "meta.partner names 'r0', which has the same media"),
    ],
)
def test_a_partner_that_cannot_be_is_told_and_not_replaced(partner: object, told: str) -> None:
    records = photo_records()
    records += [record("two", "?", ["a"], picture(1), picture(2)), record("text", "?", ["a"])]
    records[0] = named(records[0], partner)
    companions = Companions(records)
    assert companions.partner(records[0]) is None
    assert companions.partner_problem(records[0]) == told
    assert companions.partner_problem(records[1]) is None


def test_an_answer_to_another_prompt_is_none_of_the_own_ones() -> None:
    records = [record(name, f"{name}?", answers) for name, answers in {"a": ["Yes", "No"], "b": ["No", "Yes"]}.items()]
    assert mismatched(records) == {"a": None, "b": None}
    records.append(record("c", "c?", ["Perhaps", "Yes"]))
    assert mismatched(records) == {"a": "Perhaps", "b": "Perhaps", "c": mismatched(records)["c"]}
    assert mismatched(records)["c"] == "No", "of b: the first answer of a is one of its own"
    assert mismatched(records[:1]) == {"a": None}


def test_another_rating_of_the_same_thing_is_no_mismatch() -> None:
    """One record per rated answer, as unpaired feedback has them: two of each of three photos."""
    records = [record(f"r{n}", "What is here?", [f"Answer {n}"], picture(n // 2)) for n in range(6)]
    for n, answer in enumerate(mismatched(records).values()):
        assert answer is not None and int(answer.split()[1]) // 2 != n // 2
    assert mismatched(records[:2]) == {"r0": None, "r1": None}
    same_photo = [replace(records[0], id="other", prompt=record("x", "How many?", ["Two"]).prompt), records[0]]
    same_photo[0] = replace(same_photo[0], candidates=(Candidate("Two"),))
    assert mismatched(same_photo) == {"other": "Answer 0", "r0": "Two"}, "another question about the same photo"


def test_a_partner_whose_answer_is_read_was_asked_the_same() -> None:
    questions = ["What colour is the bus?", "Is it raining?"]
    records = [record(f"r{n}", questions[n % 2], [f"Answer {n}", "No."], picture(n)) for n in range(6)]
    companions = Companions(records)
    for n, one in enumerate(records):
        partner = companions.partner(one, same_question=True)
        assert partner is not None and int(partner.id[1:]) % 2 == n % 2
    assert companions.partner(replace(records[0], id="new", prompt=records[1].prompt), same_question=True) is not None
    alone = Companions([records[0], records[1]])
    assert alone.partner(records[0], same_question=True) is None
    assert alone.partner(records[0]) is records[1], "media alone may be those of another question"
    chosen = named(records[0], "r1")
    of_two = Companions([chosen, records[1]])
    assert of_two.partner(chosen, same_question=True) is records[1], "the user has said so"


def test_files_are_opened_for_a_partner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out records of another media root: the bytes are read when a partner is handed out, and never before."""
    photos = {name: picture(n).data or b"" for n, name in enumerate(("x.png", "y.png", "z.png"))}
    for name, data in photos.items():
        (tmp_path / name).write_bytes(data)
    paths = {"a": "x.png", "b": "x.png", "c": "y.png"}
    records = Records([record(one, "?", [one], Media(path=path)) for one, path in paths.items()], tmp_path)
    read: list[str] = []

    def reading(item: Media, root: Path | None) -> bytes:
        read.append(item.path or "")
        return photos[item.path or ""]

    monkeypatch.setattr("mmdpo.runs.data.read_bytes", reading)
    shown = WithMedia(records)
    companions = Companions(shown)
    assert companions.mismatched(records[0]) is not None
    assert read == []
    partner = companions.partner(shown[0])
    assert partner is not None and partner.id == "c", "record b shows the same file"
    assert partner.media["images"][0].data == photos["y.png"]
    assert read == ["x.png", "y.png"]
