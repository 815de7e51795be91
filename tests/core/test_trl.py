"""The loss of a model: log 2 at the reference, and equal to TRL's on the same weights and ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from core.oracle import picture, plain_row, record, setup
from mmdpo.collate import table_of
from mmdpo.objectives import make_objective
from mmdpo.records import Record
from mmdpo.scoring import score
from tiny import FAMILIES, Tiny

PAIRS = [
    record("a", "What is here?", ["A cat on a mat.", "Two dogs in the park"], picture(1)),
    record("b", "How many birds are there?", ["There is one.", "No"], picture(2, 40, 20)),
    record("c", "Is there a dog?", ["No, there is not.", "Yes."], picture(3)),
]


def test_policy_and_reference_begin_equal() -> None:
    """Step 0: the same weights give margins of exactly zero."""
    policy, reference = (setup(FAMILIES["llava"](), candidates=2) for _ in range(2))
    batch = policy.collator(list(enumerate(PAIRS)))
    with torch.no_grad():
        logp, ref_logp = (score(built.tiny.model, batch) for built in (policy, reference))
    objective = make_objective({"dpo": {"beta": 0.1}})
    of = table_of(batch, policy.collator.media_names, logp, ref_logp)
    assert torch.equal(logp, ref_logp)
    loss, _ = objective(of, objective.counts(of))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)


def trl_inputs(tiny: Tiny, answers: Sequence[tuple[Record, Tensor]]) -> dict[str, Tensor]:
    """What TRL's collator would make of these ids: chosen rows, then rejected ones, padded right."""
    rows = [plain_row(tiny, of, ids) for of, ids in answers]
    width = max(row["input_ids"].shape[1] for row in rows)
    batch: dict[str, Tensor] = {}
    for name in rows[0]:
        per_token = rows[0][name].shape == rows[0]["input_ids"].shape
        values = [row[name][0] if per_token else row[name] for row in rows]
        batch[name] = pad_sequence(values, batch_first=True) if per_token else torch.cat(values)
    completion = torch.zeros(len(rows), width, dtype=torch.long)
    for n, (row, (_, ids)) in enumerate(zip(rows, answers, strict=True)):
        end = row["input_ids"].shape[1]
        completion[n, end - len(ids) : end] = 1
    return batch | {"completion_mask": completion}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's use of transformers
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_loss_and_gradients_equal_those_of_trl(name: str, tmp_path: Path) -> None:
    """`trl.DPOTrainer.compute_loss` on the same weights and ids: a plain row an answer, its own head, its own maths."""
    trl = pytest.importorskip("trl", reason="TRL is a development dependency")
    datasets = pytest.importorskip("datasets")
    policy, reference = (setup(FAMILIES[name](seed=seed), candidates=2) for seed in (0, 1))
    batch = policy.collator(list(enumerate(PAIRS)))
    with torch.no_grad():
        ref_logp = score(reference.tiny.model, batch)
    of = table_of(batch, policy.collator.media_names, score(policy.tiny.model, batch), ref_logp)
    objective = make_objective({"dpo": {"beta": 0.2}})
    loss, _ = objective(of, objective.counts(of))
    loss.backward()

    rows = [
        {"prompt": [{"role": "user", "content": "?"}], "images": []}
        | {key: [{"role": "assistant", "content": "x"}] for key in ("chosen", "rejected")}
    ]
    theirs, their_reference = (FAMILIES[name](seed=seed) for seed in (0, 1))
    trainer = trl.DPOTrainer(
        model=theirs.model,
        ref_model=their_reference.model,
        args=trl.DPOConfig(output_dir=str(tmp_path), beta=0.2, max_length=None, use_cpu=True, bf16=False, report_to=[]),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=theirs.processor,
    )
    ids = {
        (int(example), int(candidate)): targets[mask]
        for example, candidate, targets, mask in zip(
            batch["example"], batch["candidate"], batch["targets"], batch["mask"], strict=True
        )
    }
    inputs = trl_inputs(theirs, [(PAIRS[n], ids[n, k]) for k in (0, 1) for n in range(len(PAIRS))])
    expected = trainer.compute_loss(trainer.model, inputs)
    expected.backward()
    assert abs(expected.item() - math.log(2)) > 0.1
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for (key, ours), other in zip(policy.tiny.model.named_parameters(), theirs.model.parameters(), strict=True):
        assert (ours.grad is None) == (other.grad is None), key
        if ours.grad is not None and other.grad is not None:
            assert (ours.grad - other.grad).norm() <= 1e-4 * other.grad.norm() + 1e-6, key
