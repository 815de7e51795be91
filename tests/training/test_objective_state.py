"""What changes over a run beside the weights: running values of the objective, and media variants drawn anew."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmdpo import scoring
from mmdpo.config import parse_config
from mmdpo.errors import DataError
from mmdpo.interrupts import Interrupted
from mmdpo.runs.training import train
from mmdpo.trainer import PreferenceTrainer
from training.common import pairs, run_settings, saved_inputs
from training.every_loss import rated, take
from training.test_resume import adapter_of, signal, stop_at

RUNNING: dict[str, dict[str, Any]] = {
    "bco": {"bco": {"beta": 0.3}},
    "beta_dpo": {"beta_dpo": {"alpha": 2.0, "momentum": 0.5}},
    "mpo": {"mpo": {}},
}
EVERY_STEP = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 6}
LEARNING = {"learning_rate": 0.1, "optim": "sgd"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_inputs(tmp_path_factory.mktemp("inputs"), pairs(8))


def state_of(run: Path, step: int) -> dict[str, dict[str, float]]:
    return json.loads((run / "checkpoints" / f"checkpoint-{step}" / "objective.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNING)
def test_running_values_do_not_depend_on_micro_batches(tmp_path: Path, name: str) -> None:
    whole, cut, single = (
        take(tmp_path / f"{batch}", RUNNING[name], batch, 8 // batch, records=rated(24), steps=3) for batch in (8, 2, 1)
    )
    assert len(whole.states) == 3
    assert whole.states[0] != whole.states[1] != whole.states[2], "they do not run"
    for other in (cut, single):
        for seen, expected in zip(other.states, whole.states, strict=True):
            assert seen == {term: pytest.approx(values, rel=1e-6, abs=1e-9) for term, values in expected.items()}


@pytest.mark.slow
def test_the_running_mean_of_bco_is_that_of_all_rewards(tmp_path: Path) -> None:
    """Over three epochs of the same eight pairs, at a learning rate of 0, each step adds the same rewards."""
    states = take(tmp_path, RUNNING["bco"], 2, 4, records=pairs(8), steps=3, learning_rate=0.0).states
    first, *others = (step["bco"] for step in states)
    assert first["count"] == 16
    assert first["sum"] != 0
    for epochs, other in enumerate(others, start=2):
        assert other == pytest.approx({"sum": epochs * first["sum"], "count": epochs * 16}, rel=1e-9)


@pytest.mark.slow
def test_the_running_mean_of_beta_dpo_moves_with_its_momentum(tmp_path: Path) -> None:
    """At a learning rate of 0 the mean gap g is that of every step: m becomes g (1 - momentum^n) from 0."""
    states = take(tmp_path, RUNNING["beta_dpo"], 2, 4, records=pairs(8), steps=3, learning_rate=0.0).states
    means = [step["beta_dpo"]["m0"] for step in states]
    gap = means[0] / (1 - 0.5)
    assert gap != 0
    assert means == pytest.approx([gap * (1 - 0.5**n) for n in (1, 2, 3)], rel=1e-9)
    assert [step["beta_dpo"]["steps"] for step in states] == [1, 2, 3]


@pytest.mark.parametrize("name", [pytest.param("bco", marks=pytest.mark.slow), "beta_dpo"])
def test_a_resumed_run_goes_on_with_them(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = run_settings(inputs, loss=RUNNING[name], train=EVERY_STEP | LEARNING)
    whole = train(parse_config(settings), tmp_path / "whole")
    states = [state_of(whole, step) for step in range(1, 7)]
    assert all(before != after for before, after in itertools.pairwise(states))
    with monkeypatch.context() as patched:
        stop_at(patched, 3, signal.SIGINT)
        with pytest.raises(Interrupted):
            train(parse_config(settings), tmp_path / "stopped")
    resumed = train(parse_config(settings), tmp_path / "stopped", resume=True)
    assert [state_of(resumed, step) for step in range(1, 7)] == states
    for key, weight in adapter_of(whole).items():
        assert weight.equal(adapter_of(resumed)[key]), key


@pytest.mark.slow
def test_a_checkpoint_without_them_is_refused(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = run_settings(inputs, loss=RUNNING["bco"], train=EVERY_STEP)
    with monkeypatch.context() as patched:
        stop_at(patched, 2, signal.SIGINT)
        with pytest.raises(Interrupted):
            train(parse_config(settings), tmp_path / "run")
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        (checkpoint / "objective.json").unlink()
    with pytest.raises(DataError, match=r"checkpoint-\d.*objective\.json") as caught:
        train(parse_config(settings), tmp_path / "run", resume=True)
    assert caught.value.why and caught.value.fix


@pytest.mark.slow
def test_a_loss_without_running_values_writes_none(inputs: Path, tmp_path: Path) -> None:
    settings = run_settings(inputs, loss={"dpo": {}}, train={"max_steps": 1, "save_strategy": "steps", "save_steps": 1})
    run = train(parse_config(settings), tmp_path / "run")
    assert not (run / "checkpoints" / "checkpoint-1" / "objective.json").exists()


# ---- media variants ----

Seen = list[tuple[int, str]]
"""The record and what its encoder would get, for each forward pass over a batch of one record."""
CROPS = {"loss": {"cond_pref": {"media": "crop:0.3"}}}


def watch(seen: Seen) -> Callable[..., Any]:
    """A stand-in for the forward pass that notes which encoder inputs it is given."""
    plain = scoring.last_hidden

    def spying(model: Any, batch: Any, state: Any) -> Any:
        digest = hashlib.sha256()
        for unit in batch["media"]["image"]["units"]:
            for name in sorted(unit):
                digest.update(unit[name].contiguous().numpy().tobytes())
        seen.append((int(batch["index"][0]), digest.hexdigest()))
        return plain(model, batch, state)

    return spying


def seen_in(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], run: Path, *, resume: bool = False) -> Seen:
    """What was seen in training: the checks before it are left out."""
    seen: Seen = []
    begin = PreferenceTrainer.train

    def beginning(self: PreferenceTrainer, *args: Any, **kwargs: Any) -> Any:
        seen.clear()
        return begin(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(scoring, "last_hidden", watch(seen))
        patched.setattr(PreferenceTrainer, "train", beginning)
        with contextlib.suppress(Interrupted):
            train(parse_config(settings), run, resume=resume)
    return seen


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs with a photo each."""
    return saved_inputs(tmp_path_factory.mktemp("photos"), [pairs(8, images=8)[n] for n in (0, 1, 2, 4)])


def crops(photos: Path, variants: str, **fields: Any) -> dict[str, Any]:
    """Two epochs of steps of one record."""
    data = {"path": str(photos / "data"), "validation": 0, "variants": variants}
    steps = {"per_device_train_batch_size": 1, "max_steps": 8, **LEARNING}
    return run_settings(photos, **CROPS, data=data, train=steps | fields)


def by_epoch(seen: Seen) -> list[dict[int, str]]:
    """What was seen of each record in each epoch; policy and reference see the same, one after the other."""
    assert seen[0::2] == seen[1::2], "policy and reference are given different media"
    policy = seen[0::2]
    assert len(policy) == 8
    epochs = [dict(policy[:4]), dict(policy[4:])]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    return epochs


@pytest.mark.slow
def test_fixed_variants_are_the_same_in_every_epoch(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = by_epoch(seen_in(monkeypatch, crops(photos, "fixed"), tmp_path / "run"))
    assert first == second
    assert len(set(first.values())) == 4


@pytest.mark.slow
def test_fresh_variants_are_others_in_every_epoch_and_the_same_in_every_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = by_epoch(seen_in(monkeypatch, crops(photos, "fresh"), tmp_path / "run"))
    assert all(epochs[0][record] != epochs[1][record] for record in range(4))
    assert by_epoch(seen_in(monkeypatch, crops(photos, "fresh"), tmp_path / "again")) == epochs
    other_seed = crops(photos, "fresh") | {"seed": 1}
    assert not set(by_epoch(seen_in(monkeypatch, other_seed, tmp_path / "other"))[0].values()) & set(epochs[0].values())


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 5])
def test_a_run_that_is_resumed_within_an_epoch_goes_on_with_its_variants(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    settings = crops(photos, "fresh", save_strategy="steps", save_steps=100)
    whole = seen_in(monkeypatch, settings, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_at(patched, stop, signal.SIGINT)
        stopped = seen_in(monkeypatch, settings, tmp_path / "run")
    resumed = seen_in(monkeypatch, settings, tmp_path / "run", resume=True)
    assert 0 < len(stopped) < len(whole)
    assert stopped + resumed == whole


PLUGIN = """
import atexit, json, os
from pathlib import Path
from mmdpo import scoring
from training.test_objective_state import watch

seen = []
scoring.last_hidden = watch(seen)
atexit.register(lambda: Path("seen{}.json".format(os.environ["RANK"])).write_text(json.dumps(seen)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("variants", ["fixed", "fresh"])
def test_two_processes_draw_the_same_variants(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variants: str
) -> None:
    alone = by_epoch(seen_in(monkeypatch, crops(photos, variants), tmp_path / "alone"))
    (tmp_path / "watching.py").write_text(PLUGIN, encoding="utf-8")
    settings = crops(photos, variants, max_steps=4) | {"plugins": ["watching.py"]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mmdpo", "train", "run.yaml", "--processes", "2", "--out", "run"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    epochs: list[dict[int, str]] = [{}, {}]
    for rank in range(2):
        seen = json.loads((tmp_path / f"seen{rank}.json").read_text(encoding="utf-8"))[-8:]  # the checks come before
        assert seen[0::2] == seen[1::2]
        for step, (record, digest) in enumerate(seen[0::2]):
            epochs[step // 2][record] = digest
    assert epochs == alone
