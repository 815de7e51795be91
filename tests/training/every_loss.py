"""Records that serve every registered loss, and optimizer steps over them from the middle of a run.

As a program, it is one of several processes that take steps of each loss together: `every_loss.py FOLDER LOSS...`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainerCallback

from core.oracle import picture, record
from mmdpo import registry
from mmdpo.encoding.companions import Companions
from mmdpo.objectives import Objective, make_objective
from mmdpo.objectives.presets import Preset
from mmdpo.policy import LoadedModel
from mmdpo.records import Candidate, Record
from mmdpo.training.objective_checks import objective_problems, usage
from tiny import exact_float64
from training.common import SUBJECTS, Gradients, loaded_model, make_trainer

Loss = dict[str, Any]
SCORES = (4.0, 2.5, 1.0, 0.5)
TIMING = ("runtime", "per_second", "flos", "epoch", "step")
NO_IMAGE, TWO_IMAGES, TIED, UNRATED, UNMARKED = (3, 7), 5, 4, 2, 6
"""Which of every eight records are unlike the others."""


def rated(count: int = 8) -> list[Record]:
    """Records of 4, 3 or 2 candidates, best first, with all that a loss may read, but not every record has all of it.

    Scores with ties, or none; labels of some answers that are no pairs; spans with weights; partners that are named;
    one image, two or none.
    """
    return [_rated(n) for n in range(count)]


def severe(count: int = 8) -> list[Record]:
    """The same records with severities: numbers from 0 on, the better answer with the lower one."""
    worst = max(SCORES)
    return [
        replace(
            one,
            higher_is_better=False,
            candidates=tuple(c if c.score is None else replace(c, score=worst - c.score) for c in one.candidates),
        )
        for one in rated(count)
    ]


def _rated(n: int) -> Record:
    kind, size = n % 8, (4, 3, 2, 4, 4, 2, 3, 2)[n % 8]
    photos = (
        [] if kind in NO_IMAGE else [picture(10 * n + k, 24 + 6 * (n % 3), 24) for k in range(1 + (kind == TWO_IMAGES))]
    )
    answers = [
        f"{'Two ' * k}{SUBJECTS[(n + 3 * k) % len(SUBJECTS)]} here" + " on a table" * ((n + k) % 3) for k in range(size)
    ]
    of = record(f"record-{n}", "What is here?" if n % 2 else "Say what you see.", answers, *photos)
    candidates = tuple(_candidate(kind, k, answer) for k, answer in enumerate(answers))
    partner = {"partner": f"record-{n + 4}"} if kind == 0 else {}
    return replace(of, candidates=candidates, higher_is_better=True, meta=partner)


def _candidate(kind: int, k: int, text: str) -> Candidate:
    score = None if kind == UNRATED else SCORES[max(0, k - 1)] if kind == TIED and k > 1 else SCORES[k]
    marks: Loss = {} if kind == UNMARKED else {"spans": ((0, 3), (4, len(text))), "weights": (0.5, 2.0)}
    return Candidate(text, score=score, label=k == 0 if kind % 3 == 0 and k < 3 else None, **marks)


def losses() -> list[str]:
    """Every registered loss once, by its own name where it has aliases."""
    names: dict[int, str] = {}
    for name in registry.terms:
        what = registry.terms.get(name)
        names.setdefault(id(what), what.name if isinstance(what, Preset) else name)
    return sorted(names.values())


def records_for(objective: Objective, count: int = 8) -> list[Record]:
    """Records of which each term of an objective uses two or more."""
    for records in (rated(count), severe(count)):
        if not list(objective_problems(objective, records)):
            used = usage(objective, records, Companions(records)).counts
            if min(used.values()) > 1:
                return records
    raise AssertionError(f"no records here serve {', '.join(objective.terms)}: give them what the loss needs")


@dataclass(frozen=True)
class Step:
    """What one or more optimizer steps left behind.

    Args:
        gradients: Of the last step.
        logged: Of the last step, without what depends on time.
        states: Running values of the objective after each step.
        moved: Names of the parameters that are not what they were.
        drift: Largest change of the reference's log-probabilities of all answers; 0 without a reference.
    """

    gradients: dict[str, Tensor]
    logged: dict[str, float]
    states: list[dict[str, dict[str, float]]]
    moved: set[str]
    drift: float


class States(TrainerCallback):
    """Keeps the running values of an objective after every optimizer step."""

    def __init__(self) -> None:
        self.objective: Objective | None = None
        self.seen: list[dict[str, dict[str, float]]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.objective is not None
        self.seen.append({name: dict(values) for name, values in self.objective.state.items()})


def model(seed: int = 0) -> LoadedModel:
    """A tiny LLaVA in the middle of a run."""
    return loaded_model(spread=0.2, dtype=torch.float64, num_hidden_layers=1, seed=seed)


def take(
    folder: Path,
    loss: str | Loss,
    batch: int,
    accumulation: int,
    *,
    records: Sequence[Record] | None = None,
    steps: int = 1,
    seed: int = 0,
    **options: Any,
) -> Step:
    """Optimizer steps over the same records, in float64, from weights in the middle of a run."""
    config: Mapping[str, Any] = {loss: {}} if isinstance(loss, str) else loss
    if records is None:
        records = records_for(make_objective(config))
    gradients, states = Gradients(), States()
    loaded = model(seed)
    trainer = make_trainer(
        loaded,
        records,
        folder,
        loss=config,
        callbacks=[gradients, states],
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        **options,
    )
    states.objective = trainer.objective
    before = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}
    everything = trainer.collator(list(enumerate(records)))

    def reference() -> Tensor:
        loaded.inner.mmdpo_scoring.features.clear()
        return torch.zeros(1) if trainer.reference is None else trainer.reference.score(loaded.model, everything)

    with exact_float64():
        at_first = reference()
        trainer.train()
        drift = float((reference() - at_first).abs().max())
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    logged = {name: value for name, value in entries[-1].items() if not name.endswith(TIMING)}
    moved = {name for name, parameter in loaded.model.named_parameters() if not parameter.equal(before[name])}
    return Step(gradients.steps[-1], logged, states.seen, moved, drift)


def main(folder: Path, names: Sequence[str]) -> None:
    """A step of each loss, three where it has running values, in this process's share; written by rank."""
    for name in names:
        steps = 3 if make_objective({name: {}}).state else 1
        step = take(folder / "runs", name, 2, 2, steps=steps)
        out = folder / f"{name}-{PartialState().process_index}"
        save_file({key: value.contiguous() for key, value in step.gradients.items()}, f"{out}.safetensors")
        Path(f"{out}.json").write_text(json.dumps({"logged": step.logged, "states": step.states}), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
