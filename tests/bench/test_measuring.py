"""Instruments, the search for the largest batch, the sides of a comparison, and what is refused."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from mmdpo.bench import growth, train
from mmdpo.bench.arms import Arm, SameBatch, build_side
from mmdpo.bench.batches import largest, largest_batches
from mmdpo.bench.growth import exponent, sides_of
from mmdpo.bench.meters import EncoderRows, StepMemory, matrix_rate
from mmdpo.bench.models import build_model, build_processor
from mmdpo.bench.plans import Plan, arms_of, check, references
from mmdpo.bench.shapes import get_shape
from mmdpo.bench.tables import growth_table, settings_lines, train_tables
from mmdpo.errors import ConfigError, ParityError

MIB = 2**20
TINY = Plan(shapes=("tiny",), answers=(12,), candidates=(2,), repeats=2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_memory_on_a_cpu_is_the_most_that_is_held_at_a_time() -> None:
    """Held before: not counted. Two blocks of 4 MiB and one of 8 that comes after the first has gone: 12."""
    before = torch.zeros(MIB)
    memory = StepMemory("cpu")
    memory.begin()
    first, second = torch.zeros(MIB), torch.zeros(MIB)
    del first
    third = torch.zeros(2 * MIB)
    del second, third
    found = memory.read()["peak_bytes"]
    assert 12 * MIB <= found < 12.1 * MIB
    assert before.numel() == MIB


def test_rows_through_the_encoder_are_counted() -> None:
    shape = get_shape("tiny")
    model = build_model(shape, build_processor(shape).tokenizer)
    rows = EncoderRows(model)
    with torch.no_grad():
        model.model.vision_tower(torch.zeros(3, 3, 56, 56))
    assert rows.read() == 3 * shape.tower_tokens
    assert rows.read() == 0


@pytest.mark.slow
def test_the_rate_of_matrix_products_is_a_rate() -> None:
    assert 1e8 < matrix_rate("cpu", torch.float32, seconds=0.01) < 1e14


@pytest.mark.parametrize("most", [0, 1, 2, 3, 7, 8, 9, 63, 64, 100])
def test_the_largest_batch_is_found(most: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= most

    assert largest(fits, 64) == min(most, 64)
    assert len(tried) == len(set(tried)) <= 13


def test_the_largest_batch_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="on device cpu"):
        largest_batches(replace(TINY, trl=False))


def test_the_sides_of_pairs_and_lists() -> None:
    names = [arm.name for arm in arms_of(TINY, "tiny", 2, 12)]
    assert names == ["mmdpo", "mmdpo, cached", "trl"]
    assert [arm.name for arm in arms_of(TINY, "tiny", 8, 12)] == ["mmdpo", "mmdpo, cached", "mmdpo, plain rows"]
    assert [arm.name for arm in arms_of(replace(TINY, trl=False), "tiny", 2, 12)] == ["mmdpo, cached", "mmdpo"]
    assert not arms_of(TINY, "small-2k", 2, 12)[0].checkpointing
    assert arms_of(TINY, "llava-1.5-7b", 2, 12)[0].checkpointing
    assert not arms_of(replace(TINY, checkpointing=False), "llava-1.5-7b", 2, 12)[0].checkpointing


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (replace(TINY, shapes=("huge",)), "no shape 'huge'"),
        (replace(TINY, candidates=(2, 1)), "--k 1 is too small"),
        (replace(TINY, answers=(1,)), "--answers 1 is too small"),
        (replace(TINY, repeats=0), "--repeats 0 is too small"),
        (replace(TINY, batch=-1), "--batch -1 is too small"),
        (replace(TINY, answers=(90, 2017)), "--answers 2017 is too long for tiny"),
        (replace(TINY, seed=-1), "--seed -1 is no seed"),
        (replace(TINY, attention="foo"), "--attention 'foo' does not go with tiny"),
        (replace(TINY, shapes=("tiny", "llava-1.5-7b")), "llava-1.5-7b is for a GPU"),
        (replace(TINY, device="cuda"), "no GPU is visible"),
    ],
)
def test_what_cannot_be_measured_is_refused(plan: Plan, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        check(plan)


def test_the_longest_answer_ends_at_the_last_position() -> None:
    check(replace(TINY, answers=(2016,), trl=False))


def test_growth_is_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second thing that grows is the images, which only some shapes have in several sizes."""
    monkeypatch.setattr(growth, "by_turns", lambda *given: pytest.fail("a side was built"))
    for plan, message in (
        (replace(TINY, shapes=("qwen2.5-vl-7b",)), "do not go with this shape"),
        (replace(TINY, answers=(1020,), trl=False), "--answers 1020 is too long for tiny"),  # beside 1024 image tokens
        (replace(TINY, repeats=0), "--repeats 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            growth.run(plan)


def test_trl_must_be_there_only_where_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ConfigError, match="TRL is not installed") as caught:
        check(TINY)
    assert "--no-trl" in caught.value.fix
    check(replace(TINY, trl=False))
    check(replace(TINY, candidates=(8,)))


def test_references_by_name() -> None:
    assert references(["cached", "fresh", "cached"]) == ("cached", "fresh")
    with pytest.raises(ConfigError, match="no way to get a reference"):
        references(["cached", "stale"])


def test_a_batch_is_given_anew_each_time() -> None:
    """Trainers write into theirs."""
    same = SameBatch({"mask": 1})
    given = same([])
    given["first_pass"] = 2
    assert same([]) == {"mask": 1}


class Said:
    """A worker whose answers are given: seconds by turn, 0.1 GFLOP a second."""

    def __init__(self, arm: Arm, seconds: Sequence[float], peak: int, norm: float) -> None:
        self.arm, self.ready = arm, {"answer_tokens": 24, "collate_seconds": 0.1, "settings": {"x": 1}, "threads": 1}
        self.seconds, self.peak, self.norm = iter([9.0, *seconds]), peak, norm
        self.when: list[int] = []

    def step(self) -> dict[str, Any]:
        self.when.append(next(CLOCK))
        return {"seconds": next(self.seconds), "gradient_norm": self.norm}

    def memory_step(self) -> dict[str, Any]:
        rows = get_shape("tiny").tower_tokens * (4 if self.arm.kind == "trl" else 1)
        return {"peak_bytes": self.peak, "encoder_rows": rows}


CLOCK = itertools.count()


def two_sides(monkeypatch: pytest.MonkeyPatch, norm: float = 1.0) -> tuple[list[Arm], list[Said]]:
    """Two sides whose three turns are given; the first one's gradient norm too."""
    arms = [Arm("shared", "tiny", answer=12), Arm("trl", "tiny", answer=12)]
    said = [Said(arms[0], (2.0, 1.0, 4.0), 30 * MIB, norm), Said(arms[1], (5.0, 3.0, 8.0), 60 * MIB, 1.0)]

    class Running:
        def __enter__(self) -> list[Said]:
            return said

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(train, "workers", lambda given: Running())
    monkeypatch.setattr(train, "matrix_rate", lambda device, dtype: 1e8)
    return arms, said


def compared(monkeypatch: pytest.MonkeyPatch, norm: float = 1.0) -> dict[str, Any]:
    return train.compare(two_sides(monkeypatch, norm)[0], repeats=3)


def test_a_comparison_is_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios of the turns are 2.5, 3 and 2: the median is 2.5, whatever the medians' own ratio is. Warm-up is left."""
    found = compared(monkeypatch)
    ours, theirs = found["sides"]["mmdpo"], found["sides"]["trl"]
    assert ours["ratio"] == {"median": 2.5, "least": 2.0, "most": 3.0}
    assert ours["seconds"]["median"] == 2.0 and theirs["seconds"]["median"] == 5.0
    assert ours["pairs_per_second"] == 0.5 and ours["answer_tokens_per_second"] == 12.0
    assert ours["memory_share"] == 0.5 and theirs["memory_share"] == 1.0
    assert (ours["encoder_passes"], theirs["encoder_passes"]) == (1.0, 4.0)
    assert ours["reached"] == pytest.approx(2.5 / ours["ceiling"])
    assert ours["flops_share"] == pytest.approx(ours["flops"] / 2.0 / 1e8)
    assert "ratio" not in theirs
    tables = train_tables({"comparisons": [found]})
    assert [column.header for column in tables[0].columns] == ["", "mmdpo", "trl"]
    assert settings_lines({"comparisons": [found]}) == ["TRL's settings: x 1"]


@pytest.mark.parametrize("norm", [1.01, float("nan")])
def test_sides_that_compute_something_else_are_not_compared(norm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by ``train`` nor by ``growth``; found out after the first step, before any is timed."""
    with pytest.raises(ParityError, match=rf"gradient norms {norm:g} and 1 "):
        compared(monkeypatch, norm)
    _, said = two_sides(monkeypatch, norm)
    with pytest.raises(ParityError, match="compute different things"):
        growth.run(replace(TINY, references=("fresh",)))
    assert [len(side.when) for side in said] == [1, 1]


def test_another_side_begins_in_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    arms, said = two_sides(monkeypatch)
    taken = train.by_turns(arms, 3)
    ours, theirs = (side.when for side in said)
    assert [one < two for one, two in zip(ours, theirs, strict=True)] == [True, True, False, True]  # warm-up first
    assert [turn["trl"] for turn in taken.turns] == [5.0, 3.0, 8.0]


def test_growth_is_measured_against_what_there_is() -> None:
    assert [arm.name for arm in sides_of(TINY, "batch", 4)] == ["mmdpo", "mmdpo, cached", "trl"]
    assert [arm.batch for arm in sides_of(TINY, "batch", 4)] == [4, 4, 4]
    assert [(arm.name, arm.candidates) for arm in sides_of(TINY, "candidates", 4)][-1] == ("mmdpo, plain rows", 4)
    assert sides_of(TINY, "pixels", 112)[0].model.image_tokens == 64
    points = [
        {"axis": "pairs", "value": value, "side": "mmdpo", "seconds": value**1.5, "peak_bytes": 7 * value}
        for value in (1, 2, 4)
    ]
    assert exponent(points, "pairs", "mmdpo", "seconds") == pytest.approx(1.5)
    assert exponent(points, "pairs", "mmdpo", "peak_bytes") == pytest.approx(1.0)
    assert exponent(points, "pairs", "trl", "seconds") is None
    assert growth_table({"points": points}).row_count == 3


class Stop(TrainerCallback):
    """Ends after two steps and keeps the first one's gradients."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        named = given["model"].named_parameters()
        self.gradients = self.gradients or {n: p.grad.clone() for n, p in named if p.grad is not None}

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        control.should_training_stop = state.global_step == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_all_sides_have_the_same_gradients(checkpointing: bool, tmp_path: Path) -> None:
    """Ours, ours with looked-up reference, our plain rows, and TRL's trainer: every adapter weight, one by one."""
    pytest.importorskip("trl", reason="TRL comes with the dev extra")
    common = {"batch": 2, "answer": 12, "checkpointing": checkpointing}
    arms = [
        Arm("trl", "tiny", **common),
        *(Arm("shared", "tiny", reference=reference, **common) for reference in ("fresh", "cached", "features")),
        Arm("plain", "tiny", **common),
    ]
    found = []
    for arm in arms:
        stop = Stop()
        side = build_side(arm, tmp_path / str(len(found)), stop)
        assert side.answer_tokens == 2 * 2 * 12
        side.trainer.train()
        found.append(stop.gradients)
    theirs, *ours = found
    for own in ours:
        assert own.keys() == theirs.keys()
        assert max(float(gradient.abs().max()) for gradient in own.values()) > 1e-3
        for name, gradient in own.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-6, msg=name)


def test_trl_takes_pairs_alone(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL comes with the dev extra")
    with pytest.raises(ConfigError, match="takes pairs, not 4 answers"):
        build_side(Arm("trl", "tiny", candidates=4, answer=5), tmp_path, Stop())
