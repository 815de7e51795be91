"""What two processes leave on disk, and find there again: caches, checkpoints, and models for one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

import mmdpo
from mmdpo.checked_tensors import from_bytes
from mmdpo.features.files import SUFFIX
from mmdpo.jsonfiles import read_json, read_json_lines, write_json
from mmdpo.records import Records, save_records
from training import kept
from training.common import pairs, saved_inputs
from training.test_lopsided import run_in_two
from training.test_processes import HALVES, KINDS, WHOLE, settings_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAIRS = pairs(12, images=5)
ANSWERS = [2 * 6 + 2 * (3 + 3), 2 * 6 + 2 * (2 + 1)]
"""Of each process: six pairs to train on; of the five that are held out, three or two, and again those with an image
without it."""
TOWER_LAYERS = 3
SAVING = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "eval_steps": 2, "optim": "adamw_torch"}
SAVING |= {"learning_rate": 1e-3, "lr_scheduler_type": "cosine"}


class Made(NamedTuple):
    """What runs of two processes left.

    Args:
        folder: Their folders, by name.
        counted: What each process computed, by the run's name (`kept.counting`).
    """

    folder: Path
    counted: dict[str, list[dict[str, Any]]]


def cached(folder: Path, place: str) -> dict[str, Any]:
    """Sections of a run with both caches on disk."""
    return {
        "reference": {"kind": "cached", "cache": str(folder / f"{place}.reference")},
        "features": {"cache": "disk", "folder": str(folder / f"{place}.features")},
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = saved_inputs(tmp_path_factory.mktemp("inputs"), PAIRS)
    # five pairs do not divide by two processes
    save_records(Records(pairs(17, images=5)[12:]), folder / "held_out", embed=True)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """All runs of two processes, which are started once."""
    folder = tmp_path_factory.mktemp(request.param)
    kind = KINDS[request.param]
    two_caches = settings_of(inputs, HALVES | kind, **cached(folder, "two"))
    model = {"path": str(inputs / "model"), "lora": None}  # its reference is a copy of the weights before training
    whole = settings_of(inputs, HALVES | kind | SAVING, model=model)
    jobs: list[dict[str, Any]] = [
        {"name": "first", "settings": two_caches},
        {"name": "again", "settings": two_caches},
        {"name": "whole", "settings": whole},
        {"name": "stopped", "settings": whole, "stopped": True},
        {"name": "stopped", "settings": whole, "resumed": True},
    ]
    write_json(folder / "jobs.json", {"jobs": jobs})
    run_in_two(kept.__file__, str(folder), str(folder / "jobs.json"))
    counted = {
        job["name"]: [read_json(folder / f"counted-{number}-{rank}.json") for rank in range(2)]
        for number, job in enumerate(jobs)
    }
    return Made(folder, counted)


@pytest.fixture(scope="module")
def alone(inputs: Path) -> Path:
    """The folder of the run of one process with both caches."""
    kept.make(inputs, {"name": "alone", "settings": settings_of(inputs, WHOLE, **cached(inputs, "one"))})
    return inputs


def losses(run: Path) -> list[float]:
    """Of the steps and of the evaluations, as they were logged."""
    rows = read_json_lines(run / "log.jsonl").rows
    return [row[name] for row in rows for name in ("loss", "eval_loss") if name in row]


def rows_in(folder: Path, files: str) -> torch.Tensor:
    """Whose numbers the files of a reference cache hold, [rows, 4]."""
    return torch.cat([load_file(path)["identity"] for path in folder.glob(f"{files}.safetensors")])


def test_every_answer_of_the_reference_is_computed_once_over_both(made: Made, alone: Path) -> None:
    first, second = (rows_in(made.folder / "two.reference", f"part-00{rank}-*") for rank in range(2))
    every = torch.cat([first, second])
    assert len(set(map(tuple, every.tolist()))) == len(every)
    assert [len(first), len(second)] == [counted["answers"] for counted in made.counted["first"]] == ANSWERS
    assert sorted(every.tolist()) == sorted(rows_in(alone / "one.reference", "part-*").tolist())


def test_a_second_start_computes_no_answer(made: Made) -> None:
    assert [counted["answers"] for counted in made.counted["again"]] == [0, 0]
    assert losses(made.folder / "again") == losses(made.folder / "first")


def test_losses_on_caches_of_two_are_those_of_one_process(made: Made, alone: Path) -> None:
    expected = losses(alone / "alone")
    assert len(expected) == 4
    assert losses(made.folder / "first") == pytest.approx(expected, rel=0, abs=1e-6)


def test_files_of_features_are_whole_and_no_process_encodes_twice(made: Made, alone: Path) -> None:
    """Two processes may meet an item at the same time; then both encode it, and either file is right."""
    ours, theirs = (
        {path.stem: from_bytes(path.read_bytes())[0] for path in folder.glob(f"*/*/*{SUFFIX}")}
        for folder in (made.folder / "two.features", alone / "one.features")
    )
    assert len(ours) == 5
    assert ours.keys() == theirs.keys()
    for key, tensors in ours.items():
        for name, values in tensors.items():
            torch.testing.assert_close(values, theirs[key][name], rtol=0, atol=1e-6)
    assert not list((made.folder / "two.features").rglob("*.tmp"))
    encoded = [counted["encoded"] for counted in made.counted["first"]]
    assert set(encoded[0]) | set(encoded[1]) == ours.keys()
    assert all(len(keys) == len(set(keys)) for keys in encoded)


def test_a_second_start_encodes_no_item(made: Made) -> None:
    """The tower runs as often as before but for the items of the cache: the checks at the start use it too."""
    for first, again in zip(made.counted["first"], made.counted["again"], strict=True):
        assert again["encoded"] == []
        assert first["layers"] - again["layers"] == TOWER_LAYERS * len(first["encoded"])


@pytest.mark.parametrize("name", ["first", "whole", "stopped"])
def test_what_was_trained_scores_alike_in_one_process(made: Made, name: str) -> None:
    """`whole` and `stopped` are full fine-tunings, `first` is an adapter."""
    assert (made.folder / name / ("adapter" if name == "first" else "model")).is_dir()
    first, second = (counted["scores"] for counted in made.counted[name])
    assert first == second
    model, processor = mmdpo.load(str(made.folder / name))
    found = mmdpo.score(model, processor, PAIRS)
    assert first.keys() == {record.id for record in PAIRS}
    for record, ours in zip(PAIRS, found, strict=True):
        assert ours == pytest.approx(first[record.id], rel=0, abs=1e-4), record.id


def test_a_resumed_run_ends_with_the_losses_of_one_that_was_not_stopped(made: Made) -> None:
    expected = losses(made.folder / "whole")
    assert len(expected) == 9
    assert len(set(expected)) > 6, "it trains"
    assert losses(made.folder / "stopped") == pytest.approx(expected, rel=0, abs=1e-6)
    assert made.counted["stopped"][0]["scores"].keys() == made.counted["whole"][0]["scores"].keys()
    for record, values in made.counted["whole"][0]["scores"].items():
        assert made.counted["stopped"][0]["scores"][record] == pytest.approx(values, rel=0, abs=1e-5)
