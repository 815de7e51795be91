"""A loss that cannot be trained on some data is refused at `mmdpo check`, before a model is loaded, in three parts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.oracle import picture, record, sound
from mmdpo import cli
from mmdpo.config import parse_config
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.objectives import make_objective
from mmdpo.records import Candidate, Record, Records, save_records
from mmdpo.runs.data import read_sources
from mmdpo.runs.settings import check_config
from mmdpo.training.objective_checks import objective_problems
from mmdpo.training.screening import screen
from training.common import encoder_of, loaded_model

Loss = str | dict[str, Any]


def pair(n: int = 0, *, photo: bool = True, partner: str | None = None) -> Record:
    photos = [picture(n)] if photo else []
    of = record(f"r{n}", "What is here?", [f"A cat with {n} hats.", f"{n} dogs"], *photos)
    return of if partner is None else replace(of, meta={"partner": partner})


def rated(n: int = 0, *, answers: int | None = None, higher: bool | None = True, **values: Sequence[Any]) -> Record:
    """A record with scores or ranks; `answers` beyond those have none."""
    count = answers or len(next(iter(values.values())))
    rest = {name: [*given, *[None] * (count - len(given))] for name, given in values.items()}
    made = tuple(
        Candidate(f"{k} {'cats' if k % 2 else 'dogs'} in hat {n}", **{name: given[k] for name, given in rest.items()})
        for k in range(count)
    )
    return replace(pair(n), candidates=made, higher_is_better=higher)


def single(n: int = 0, label: bool | None = None) -> Record:
    return replace(pair(n), candidates=(Candidate(f"One cat, {n} hats", label=label),))


PAIRS = [pair(n) for n in range(3)]
TEXT = [pair(n, photo=False) for n in range(3)]
SOUNDS = [
    record(f"s{n}", "What do you hear?", ["A dog barks.", f"{n} birds"], sound(n), kind="audio") for n in range(2)
]
LISTS = [rated(n, score=[3.0, 2.0, 1.0]) for n in range(2)]
TIED = [rated(n, score=[2.0, 2.0, 2.0]) for n in range(2)]
RANKS = [rated(n, rank=[1, 2, 3], higher=False) for n in range(2)]
PARTLY = [rated(n, score=[2.0], answers=3) for n in range(2)]
YES_NO = [record(f"q{n}", "Is there a cat?", ["Yes", "No"][:: 1 - 2 * (n % 2)], picture(n)) for n in range(4)]

REFUSED: dict[str, tuple[Loss, list[Record], str]] = {
    "no scores, a pair": ("mm_dpo", PAIRS, r"loss\.mm_dpo can use none of the 3 records: .*no candidate has a score"),
    "no scores, a list": ("infonca", [rated(score=[], answers=3)], r"loss\.infonca .*no candidate has a score"),
    "no severities": ("hsa_dpo", LISTS, r"loss\.hsa_dpo .*severity of 0 or more.*higher_is_better: false"),
    "ranks alone, a list": ("infonca", RANKS, r"loss\.infonca .*ranks alone, which have no distances"),
    "ranks alone, a pair": ("odpo", [rated(rank=[1, 2], higher=False)], r"loss\.odpo .*ranks alone"),
    "all lists scored in part": (
        "plackett_luce",
        PARTLY,
        r"loss\.plackett_luce .*no record has one for each candidate",
    ),
    "one candidate, a pair": ("dpo", [single(n) for n in range(2)], r"chosen, rejected, .*more than 1 candidate$"),
    "one candidate, a list": ("pl", [single(n) for n in range(2)], r"loss\.pl .*every record has one candidate alone"),
    "two candidates, a third wanted": ("povid", PAIRS, r"loss\.povid .*no record has more than 2 candidates"),
    "no label": ("kto", [single(n) for n in range(2)], r"loss\.kto .*needs a label \(desirable or not\), or a chosen"),
    "all tied": ("plackett_luce", TIED, r"loss\.plackett_luce .*the candidates of every record are rated the same"),
    "no marks": ("ddpo", PAIRS, r"loss\.ddpo weights marked tokens, and no candidate of the 3 records has a mark"),
    "no media": ("cond_pref", TEXT, r"loss\.cond_pref .*compares media \(chosen, chosen/crop\), and no record has any"),
    "no other record": ("symmpo", PAIRS[:1], r"loss\.symmpo\.first .*reads other records .*and there is one alone"),
    "no other media": ("realign", [replace(pair(n), media=pair(0).media) for n in range(2)], r"and other ones$"),
    "an unknown partner": ("realign", [pair(0, partner="x"), pair(1, partner="x")], r"'r0': meta\.partner names 'x'"),
    "no mismatched answer": ("kto", YES_NO, r"loss\.kto cannot be computed .*reads mismatched, and no record has that"),
    "too strong a variant": ({"mdpo": {"media": "diffusion:1200"}}, PAIRS, r"'diffusion:1200' has the strength '1200'"),
    "an unknown variant": ({"mdpo": {"media": "crops"}}, PAIRS, r"'crops' is unknown for images\nDid you mean 'crop'"),
    "a variant of another modality": ({"mdpo": {"media": "patch_mask"}}, SOUNDS, r"'patch_mask' is unknown for audios"),
    "a negative beta": (
        {"dpo": {"beta": -0.1}},
        PAIRS,
        r"loss\.dpo\.beta is -0\.1\n.*the rejected answer is preferred",
    ),
    "a beta of zero": ({"mdpo": {"beta": 0}}, PAIRS, r"loss\.mdpo\.beta is 0"),
    "an unknown candidate": ({"pair": {"worse": "wrong"}}, PAIRS, r"loss\.pair: 'wrong' names no candidate"),
}


def check(folder: Path, loss: Loss, records: Sequence[Record], **sections: Any) -> None:
    """What `mmdpo check` does before it loads a model."""
    save_records(Records(records), folder / "data", embed=True)
    config = parse_config(settings_of(folder, loss, **sections))
    objective, _ = check_config(config, folder, folder / "run")
    read_sources(config, objective)


def settings_of(folder: Path, loss: Loss, **sections: Any) -> dict[str, Any]:
    data = {"path": str(folder / "data"), "validation": 0}
    return {
        "model": {"path": str(folder / "no model is here")},
        "loss": loss,
        "train": {"use_cpu": True, "max_steps": 1},
        **sections,
        "data": data | sections.get("data", {}),
    }


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_what_why_and_what_to_do(tmp_path: Path, case: str) -> None:
    loss, records, said = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, loss, records)
    error = caught.value
    listed = error.what.splitlines()
    assert re.search(said, f"{error.what}\n{error.why}", re.MULTILINE | re.DOTALL), error
    assert error.why and error.fix
    assert len(listed) == 1 or listed[0].endswith(f"{len(listed) - 1} problems:")


@pytest.mark.parametrize(
    ("loss", "kind"), [("simpo", "copy"), ({"orpo": {}, "nll": {}}, "adapter_off")], ids=["one term", "several terms"]
)
def test_settings_of_a_reference_that_nothing_reads(tmp_path: Path, loss: Loss, kind: str) -> None:
    with pytest.raises(
        ConfigError, match=r"reference: is set, and no term of the loss reads a reference \((simpo|orpo)"
    ):
        check(tmp_path, loss, PAIRS, reference={"kind": kind})
    save = tmp_path / "other"
    check(save, {"dpo": {}, "nll": {}}, PAIRS, reference={"kind": kind})


@pytest.mark.parametrize("case", ["no scores, a list", "too strong a variant", "a negative beta", "no other record"])
def test_the_command_ends_with_2_before_it_looks_for_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    loss, records, said = REFUSED[case]
    save_records(Records(records), tmp_path / "data", embed=True)
    (tmp_path / "run.yaml").write_text(json.dumps(settings_of(tmp_path, loss)), encoding="utf-8")
    for verb in (["check"], ["train", "--out", str(tmp_path / "run")]):
        monkeypatch.setattr(sys, "argv", ["mmdpo", verb[0], str(tmp_path / "run.yaml"), *verb[1:]])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        printed = " ".join(capsys.readouterr().err.split())
        assert re.search(said.replace(r"\n", " "), printed)
        assert "no model is here" not in printed


def test_scores_without_a_direction_are_no_scores() -> None:
    """Such records cannot be saved, but they can be made."""
    unsaid = [rated(n, score=[2.0, 1.0], higher=None) for n in range(2)]
    (problem,) = objective_problems(make_objective({"mm_dpo": {}}), unsaid)
    assert problem.what.endswith("higher for the better one, and higher_is_better is not said")


def test_every_term_is_told_at_once(tmp_path: Path) -> None:
    loss: Loss = {"infonca": {}, "ddpo": {}, "povid": {}, "dpo": {}}
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, loss, PAIRS)
    assert caught.value.what.splitlines()[0] == "the loss and the data has 3 problems:"
    for line, name in zip(caught.value.what.splitlines()[1:], ("infonca", "ddpo", "povid"), strict=True):
        assert f"loss.{name}" in line


@pytest.mark.parametrize(
    ("loss", "records", "sections"),
    [
        ("ddpo", PAIRS, {"data": {"marks": "difference"}}),
        ("plackett_luce", RANKS, {}),
        ("plackett_luce", [rated(score=[2.0, 2.0, 1.0])], {}),
        ("kto", [single(0, True), single(1, False)], {}),
        ("apo_zero_unpaired", YES_NO, {}),
        ("symmpo", [pair(0, partner="r1"), pair(1, partner="r0")], {}),
        ("cond_pref", [*TEXT[:1], pair(1)], {}),
        ({"mdpo": {"media": "diffusion:999"}}, PAIRS, {}),
    ],
)
def test_what_is_right_passes(tmp_path: Path, loss: Loss, records: list[Record], sections: dict[str, Any]) -> None:
    check(tmp_path, loss, records, **sections)


EMPTY = record("bad", "What is here?", ["", "No."], picture(9))
MIXED: dict[str, tuple[Loss, list[Record], dict[str, str]]] = {
    "lists scored in part": ("plackett_luce", [LISTS[0], PARTLY[1]], {"r1": "no_term"}),
    "ties": ("plackett_luce", [LISTS[0], TIED[1]], {"r1": "no_term"}),
    "a list without scores": ("infonca", [LISTS[0], rated(1, score=[], answers=3)], {"r1": "no_term"}),
    "a record without media": ("cond_pref", [pair(0), pair(1, photo=False)], {"r1": "no_term"}),
    "no direction": ("pl", [LISTS[0], rated(1, score=[2.0, 1.0], higher=None)], {"r1": "missing_direction"}),
    "an answer that others would borrow": ("kto", [*map(pair, range(8)), EMPTY], {"bad": "empty_answer"}),
    "an unknown partner": ("realign", [*PAIRS, pair(3, partner="absent")], {"r3": "wrong_partner"}),
    "a partner of another shape": (
        "symmpo",
        [*PAIRS, pair(3, partner="two"), record("two", "Compare.", ["Both", "None"], picture(8), picture(9))],
        {"r3": "wrong_partner"},
    ),
    "a partner that is set aside itself": (
        "symmpo",
        [*PAIRS, pair(3, partner="bad"), pair(4, partner="r3"), replace(record("bad", "?", ["", "b"], picture(5)))],
        {"r3": "wrong_partner", "r4": "wrong_partner", "bad": "empty_answer"},
    ),
}


@pytest.mark.parametrize("case", MIXED)
def test_records_that_a_loss_cannot_use_are_set_aside_and_counted(case: str) -> None:
    loss, records, expected = MIXED[case]
    objective = make_objective({loss: {}} if isinstance(loss, str) else loss)
    found = screen(records, encoder_of(loaded_model(num_hidden_layers=1)), objective)
    assert {entry.id: entry.reason for entry in found.set_aside} == expected
    assert all(entry.message for entry in found.set_aside)
    assert [records[n].id for n in found.kept] == [one.id for one in records if one.id not in expected]
    assert set(found.terms) <= set(objective.terms)
    assert all(0 < count <= len(found.kept) for count in found.terms.values())


def test_text_in_place_of_a_number_is_refused(tmp_path: Path) -> None:
    for loss in (
        {"povid": {"b2": "much"}},
        {"dpo": {"beta": "much"}},
        {"mdpo": {"dpo": 3}},
        {"kto": {"shift": "mean"}},
    ):
        with pytest.raises(MMDPOError) as caught:
            check(tmp_path / str(loss), loss, PAIRS)
        assert caught.value.why and caught.value.fix
