"""What `mmdpo check` says of a loss: its terms and weights, whom they are taken of, media variants, marks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.oracle import picture, record
from mmdpo.checking import _styles, check_run
from mmdpo.config import parse_config
from mmdpo.records import Candidate, Record, Records, save_records

ANSWERS = ["A red star on a lake.", "A red boat on a lake."]


def pairs(*, without_media: int = 0) -> list[Record]:
    """Six pairs, the last of them without an image."""
    photos = [[picture(n)] if n < 6 - without_media else [] for n in range(6)]
    return [record(f"pair-{n}", "What is here?", ANSWERS, *photos[n]) for n in range(6)]


def checked(tmp_path: Path, records: Sequence[Record], loss: Any, **data: Any) -> str:
    """Everything that is printed, in lines of 200 columns with single spaces."""
    save_records(Records(records), tmp_path / "pairs")
    settings = {
        "model": {"path": "playground", "lora": {"r": 4, "alpha": 8}},
        "data": {"path": str(tmp_path / "pairs"), "validation": 0, **data},
        "loss": loss,
        "train": {"max_steps": 1, "use_cpu": True, "disable_tqdm": True},
    }
    console = Console(file=io.StringIO(), width=200)
    for block in check_run(parse_config(settings), tmp_path):
        console.print(block)
    return "\n".join(" ".join(line.split()) for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def test_terms_with_their_weights_and_what_they_are_taken_of(tmp_path: Path) -> None:
    loss = {
        "mdpo": {"visual": {"weight": {"name": "warmup", "share": 0.1}}, "anchor": None},
        "nll": {"weight": {"name": "linear", "start": 1, "end": 0.25, "share": 0.5}},
    }
    said = checked(tmp_path, pairs(without_media=2), loss)
    assert "mdpo.dpo 1 sigmoid_loss(beta (R(chosen) - R(rejected))) 6 of 6 0 of 0" in said
    assert "mdpo.visual 0 to 1 over 10% of the run sigmoid_loss(beta (R(chosen) - R(chosen/crop))) 4 of 6" in said
    assert "nll 1 to 0.25 over 50% of the run -mean_t log p(token), tokens of chosen 6 of 6" in said
    assert "mdpo.visual leaves out 2 of the records: it needs chosen, chosen with crop media" in said
    assert "nll leaves out" not in said
    assert "media variants crop; drawn once for the whole run" in said


def test_fresh_variants_and_other_records(tmp_path: Path) -> None:
    said = checked(tmp_path, pairs(), "symmpo", variants="fresh")
    assert "media variants swap; drawn anew in every epoch" in said
    assert "scored answers the partner's answer, the partner's answer with swap media, chosen," in said
    assert "symmpo.second 0.5 sigmoid_loss(beta (R(partner/swap) - R(chosen/swap))) 6 of 6" in said


def test_what_a_rated_term_leaves_out(tmp_path: Path) -> None:
    chosen, rejected = pairs()[0].candidates
    scored = (replace(chosen, score=2.0), replace(rejected, score=1.0))
    rated = [replace(each, candidates=scored, higher_is_better=True) for each in pairs()[:2]]
    said = checked(tmp_path, [*rated, *pairs()[2:]], {"mm_dpo": {}, "dpo": {}})
    assert "2 of 6" in said
    assert "mm_dpo leaves out 4 of the records: it needs a score for each candidate, higher for the better one" in said


@pytest.mark.slow
def test_the_share_of_marked_words(tmp_path: Path) -> None:
    """One of the six words of each answer differs."""
    said = checked(tmp_path, pairs(), "ddpo", marks="difference")
    assert "marks in 100% of the records; 17% of the words of chosen and 17% of those of rejected answers" in said
    assert "marks" not in checked(tmp_path / "plain", pairs(), "dpo")


def test_answers_are_named_by_their_ratings_where_the_loss_reads_those(tmp_path: Path) -> None:
    texts = ("A red star.", ANSWERS[0], ANSWERS[1])
    rated = [
        replace(of, candidates=tuple(Candidate(t, score=s) for t, s in zip(texts, (1.0, 3.0, 2.0), strict=True)))
        for of in pairs()[:2]
    ]
    rated = [replace(of, higher_is_better=True) for of in rated]
    said = checked(tmp_path / "scores", rated, "plackett_luce")
    assert "chosen" not in said and "rejected" not in said
    for number, (text, score) in enumerate(zip(texts, "132", strict=True)):
        assert f"candidate {number}, score {score}:{text}" in said
    labels = tuple(Candidate(t, label=good) for t, good in zip(texts, (False, False, True), strict=True))
    labelled = [replace(of, candidates=labels) for of in pairs()]
    said = checked(tmp_path / "labels", labelled, "apo_zero_unpaired")
    assert f"candidate 0, undesirable:{texts[0]}" in said
    assert f"candidate 2, desirable:{texts[2]}" in said
    said = checked(tmp_path / "places", pairs(), "dpo")
    assert f"chosen:{ANSWERS[0]}" in said and f"rejected:{ANSWERS[1]}" in said


def test_the_best_answer_is_green_and_the_worst_red() -> None:
    of = replace(pairs()[0], candidates=tuple(Candidate(str(n), score=float(s)) for n, s in enumerate((2, 9, 1))))
    assert _styles(replace(of, higher_is_better=True), True) == ["magenta", "green", "red"]
    assert _styles(replace(of, higher_is_better=False), True) == ["magenta", "red", "green"]
    assert _styles(replace(of, higher_is_better=True), False) == ["green", "red", "magenta"]
    assert _styles(pairs()[0], True) == ["green", "red"]
