"""Losses that TRL has too: value and gradients are TRL's, or differ as docs/objectives_trl.md says and why it says.

The rows of that page are the cases: its first column is a ``loss:`` section, its second a trainer of TRL's with its
arguments, and its numbers are what must be found here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor

pytest.importorskip("trl", reason="TRL is a development dependency")

import datasets
import trl

from core.oracle import opened, setup
from mmdpo.collate import table_of
from mmdpo.objectives import make_objective
from mmdpo.scoring import scores
from objectives import trl_sides as sides
from objectives.trl_formulas import PAPER_AND_TRL, WHOLE, Formula, Numbers, numbers_of
from objectives.trl_sides import Found
from tiny import FAMILIES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "objectives_trl.md"
ROUNDED = ("fdpo_alpha",)
"""Losses that TRL computes in float32 whatever it is given."""
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Row(NamedTuple):
    """A row of the page: the heading it stands under, both configurations, and its numbers."""

    section: str
    ours: str
    trainer: str
    options: dict[str, Any]
    numbers: tuple[float, ...]
    text: str


def table_rows() -> Iterator[Row]:
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `"):
            continue
        ours, theirs = (re.findall(r"`(.*?)`", cell)[0] for cell in cells[:2])
        trainer, _, options = theirs.partition(" ")
        numbers = tuple(float(cell) for cell in cells[2:] if re.fullmatch(r"[-\d.e]+", cell))
        yield Row(section, ours, trainer, yaml.safe_load(options), numbers, line)


ROWS = list(table_rows())
EQUAL = [row for row in ROWS if row.section == "Equal"]
DIFFERENT = [row for row in ROWS if row.section == "Different"]
MICRO = [row for row in ROWS if row.section == "Over two micro-batches"]


class Compared(NamedTuple):
    """Both sides of a row, and a way to get losses and gradients of formulas on TRL's model."""

    ours: Found
    theirs: Found
    of_formulas: Callable[[Sequence[Formula]], list[Found]]


def compared(row: Row, folder: Path, micro_batches: int = 1, dtype: torch.dtype = torch.float64) -> Compared:
    built = sides.build(dtype, row.trainer in sides.SEES)
    ours = sides.our_loss(built, yaml.safe_load(row.ours))
    trainer = sides.make_trainer(row.trainer, row.options, built, folder)
    own_draw = "same mismatched answers" not in row.text
    size = len(built.records) // micro_batches
    starts = range(0, len(built.records), size)
    inputs = [sides.trl_inputs(row.trainer, built, range(start, start + size), own_draw) for start in starts]
    theirs = sides.trl_loss(trainer, inputs, dtype)

    def of_formulas(formulas: Sequence[Formula]) -> list[Found]:
        parameters = sides.parameters_of(trainer.model)
        with sides.exact(dtype):
            numbers = numbers_of(trainer.model, built)
            losses = [formula(numbers) for formula in formulas]
            return [
                Found(loss.detach(), list(torch.autograd.grad(loss, parameters, retain_graph=True))) for loss in losses
            ]

    return Compared(ours, theirs, of_formulas)


def difference(found: Found, expected: Found) -> float:
    """The largest relative difference of the loss and of each parameter's gradient."""
    floor = 1e-6 * torch.stack([gradient.norm() for gradient in expected.gradients]).norm()
    assert floor > 0
    of_gradients = [
        (a - b).norm() / torch.maximum(b.norm(), floor)
        for a, b in zip(found.gradients, expected.gradients, strict=True)
    ]
    return max(torch.stack(of_gradients).max().item(), abs(found.loss.item() / expected.loss.item() - 1))


def identified(rows: Sequence[Row]) -> Any:
    return pytest.mark.parametrize("row", rows, ids=[f"{row.ours} {row.trainer}" for row in rows])


def preset(row: Row) -> str:
    """The name of the loss in a row of the page."""
    return next(iter(yaml.safe_load(row.ours)))


def test_every_row_of_the_page_is_tested() -> None:
    assert len(EQUAL) + len(DIFFERENT) + len(MICRO) == len(ROWS) == len({row.text for row in ROWS}) > 40
    assert [preset(row) for row in DIFFERENT] == list(PAPER_AND_TRL)
    assert sorted(preset(row) for row in MICRO) == sorted(WHOLE)


@identified(EQUAL)
def test_equal(row: Row, tmp_path: Path) -> None:
    rounded = preset(row) in ROUNDED
    found = compared(row, tmp_path, dtype=torch.float32 if rounded else torch.float64)
    (bound,) = row.numbers
    assert difference(found.ours, found.theirs) < bound <= (1e-4 if rounded else 1e-9)


def test_what_trl_cannot_compute_in_float64(tmp_path: Path) -> None:
    (row,) = (row for row in EQUAL if preset(row) in ROUNDED)
    with pytest.raises(KeyError, match="float64"):
        compared(row, tmp_path)


@pytest.mark.parametrize("trainer", ["DPO", "KTO", "CPO", "TPO"])
def test_the_page_has_every_loss_of_trl(trainer: str) -> None:
    told = sides.TRAINERS[trainer][1].__dataclass_fields__["loss_type"].metadata
    named = told.get("choices") or re.findall(r"`'(\w+)'`", told["help"])
    types = [row.options["loss_type"] for row in ROWS if row.trainer == trainer]
    assert len(named) > 1
    assert set(named) == {name for given in types for name in ([given] if isinstance(given, str) else given)}


def test_mismatched_answers_of_trl() -> None:
    """Its collator gives each prompt the answer before its own in the micro-batch, as the inputs of these tests do."""
    from trl.trainer.kto_trainer import DataCollatorForVisionUnpairedPreference

    built = sides.build(torch.float64, True)
    examples = [
        {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": answers[side]}],
            "images": [opened(of.media["images"][0])],
            "label": good,
        }
        for side, good in ((0, True), (1, False))
        for (question, answers), of in zip(sides.TEXTS, built.records, strict=True)
    ]
    batch = DataCollatorForVisionUnpairedPreference(built.tiny.processor)(examples)
    ids, masks = ([batch[f"{kind}{name}"] for kind in ("", "KL_")] for name in ("input_ids", "completion_mask"))
    matched, mismatched = (
        [row[mask == 1].tolist() for row, mask in zip(*both, strict=True)] for both in zip(ids, masks, strict=True)
    )
    assert mismatched == matched[-1:] + matched[:-1] != matched


@identified(DIFFERENT)
def test_different(row: Row, tmp_path: Path) -> None:
    """Ours is the preset's formula, TRL's is the one that the page tells of, and both are as far apart as it says."""
    found = compared(row, tmp_path)
    paper, documented = found.of_formulas(PAPER_AND_TRL[preset(row)])
    assert difference(found.ours, paper) < 1e-9
    assert difference(found.theirs, documented) < 1e-9
    assert (found.ours.loss.item(), found.theirs.loss.item()) == pytest.approx(row.numbers, abs=6e-5)
    assert abs(row.numbers[0] - row.numbers[1]) > 1e-3


@identified(MICRO)
def test_over_two_micro_batches(row: Row, tmp_path: Path) -> None:
    """Ours is the formula over the whole step, TRL's the mean of the formula over each half of it."""
    found = compared(row, tmp_path, micro_batches=2)
    formula = WHOLE[preset(row)]

    def mean_of_halves(of: Numbers) -> Tensor:
        return (formula(of.part(slice(0, 2))) + formula(of.part(slice(2, 4)))) / 2

    whole, halves = found.of_formulas([formula, mean_of_halves])
    assert difference(found.ours, whole) < 1e-9
    assert difference(found.theirs, halves) < 1e-9
    assert (found.ours.loss.item(), found.theirs.loss.item()) == pytest.approx(row.numbers, abs=6e-5)
    assert (abs(row.numbers[0] - row.numbers[1]) > 1e-3) == (preset(row) != "dpo_sigmoid")


def test_policy_and_reference_begin_equal() -> None:
    """Step 0: the same weights give margins of exactly zero."""
    policy, reference = (setup(FAMILIES["llava"](), candidates=2) for _ in range(2))
    batch = policy.collator(list(enumerate(sides.PAIRS)))
    with torch.no_grad():
        found, expected = (scores(built.tiny.model, batch) for built in (policy, reference))
    objective = make_objective({"dpo": {"beta": 0.1}})
    of = table_of(batch, policy.collator.media_names, found, expected)
    assert torch.equal(found["logp"], expected["logp"])
    loss, _ = objective(of, objective.counts(of))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_whole_models_with_the_head_of_trl(name: str, tmp_path: Path) -> None:
    """`DPOTrainer.compute_loss` as it is, in float32: its own head, a reference model, gradients of all weights."""
    policy, reference = (setup(FAMILIES[name](seed=seed), candidates=2) for seed in (0, 1))
    batch = policy.collator(list(enumerate(sides.PAIRS)))
    with torch.no_grad():
        expected = scores(reference.tiny.model, batch)
    of = table_of(batch, policy.collator.media_names, scores(policy.tiny.model, batch), expected)
    objective = make_objective({"dpo": {"beta": 1.0}})
    loss, _ = objective(of, objective.counts(of))
    loss.backward()

    theirs, their_reference = (FAMILIES[name](seed=seed) for seed in (0, 1))
    row = {"prompt": [{"role": "user", "content": "?"}], "images": []}
    row |= {key: [{"role": "assistant", "content": "x"}] for key in ("chosen", "rejected")}
    trainer = trl.DPOTrainer(
        model=theirs.model,
        ref_model=their_reference.model,
        args=trl.DPOConfig(output_dir=str(tmp_path), beta=1.0, max_length=None, use_cpu=True, bf16=False, report_to=[]),
        train_dataset=datasets.Dataset.from_list([row]),
        processing_class=theirs.processor,
    )
    ids = {
        (int(example), int(candidate)): targets[mask]
        for example, candidate, targets, mask in zip(
            batch["example"], batch["candidate"], batch["targets"], batch["mask"], strict=True
        )
    }
    answers = [(of, ids[n, side]) for side in (0, 1) for n, of in enumerate(sides.PAIRS)]
    their_loss = trainer.compute_loss(trainer.model, sides.padded(theirs, answers))
    their_loss.backward()
    assert abs(their_loss.item() - math.log(2)) > 0.1
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-5)
    for (key, ours), other in zip(policy.tiny.model.named_parameters(), theirs.model.parameters(), strict=True):
        assert (ours.grad is None) == (other.grad is None), key
        if ours.grad is not None and other.grad is not None:
            assert (ours.grad - other.grad).norm() <= 1e-4 * other.grad.norm() + 1e-6, key
