"""The same tiny LLaVA, adapter, records and token ids on both sides: this package, and one of TRL's trainers."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import datasets
import torch
import trl
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.utils import FusedCausalLMOutput

from core.oracle import picture, plain_row, record
from mmdpo.collate import Collator, table_of
from mmdpo.encoding.companions import Companions
from mmdpo.encoding.example import Encoder
from mmdpo.models.load import POLICY, Lora
from mmdpo.objectives import make_objective
from mmdpo.policy import LoadedModel, prepare
from mmdpo.records import Record
from mmdpo.reference import make_reference
from mmdpo.scoring import scores
from mmdpo.views import MISMATCHED
from tiny import FAMILIES, Tiny, exact_float64

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that its interface may change
    from trl.experimental import cpo, orpo, tpo

TRAINERS = {
    "DPO": (trl.DPOTrainer, trl.DPOConfig),
    "KTO": (trl.KTOTrainer, trl.KTOConfig),
    "CPO": (cpo.CPOTrainer, cpo.CPOConfig),
    "ORPO": (orpo.ORPOTrainer, orpo.ORPOConfig),
    "TPO": (tpo.TPOTrainer, tpo.TPOConfig),
}
SEES = ("DPO", "KTO")
"""Trainers that take images; the others get the same questions without them."""
HEAD, SPREAD, SEED = 0.25, 0.4, 17
"""Scale of the head; standard deviation of the adapter's weights, so that log-ratios are a few nats; their seed."""

TEXTS = [
    ("What is here?", ["A cat", "Two dogs", "A cat sits on a mat."]),
    ("How many birds are there?", ["There is one.", "No, no bird", "One bird."]),
    ("Is there a dog?", ["No, there is not.", "Yes, there is.", "There is none"]),
    ("Where is the ball?", ["It is under the table.", "There is no ball in the park", "It is under it."]),
]
PAIRS = [record(q[:4] + q[-3:], q, answers[:2], picture(n + 1)) for n, (q, answers) in enumerate(TEXTS)]
TRIPLES = [record(q[:4] + q[-3:], q, answers) for q, answers in TEXTS]

Ids = dict[tuple[int, int], Tensor]
"""Token ids of each answer, by record and candidate."""


class Built(NamedTuple):
    """This package's side: a tiny model with an adapter, its records, and what makes their ids."""

    tiny: Tiny
    loaded: LoadedModel
    records: list[Record]
    companions: Companions
    encoder: Encoder
    ids: Ids


class Found(NamedTuple):
    """A loss and its gradients."""

    loss: Tensor
    gradients: list[Tensor]


@contextlib.contextmanager
def exact(dtype: torch.dtype) -> Iterator[None]:
    """Whatever would be rounded to float32 on the way stays in float64, new tensors too, where the model is."""
    if dtype != torch.float64:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        with exact_float64():
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """The adapter's weights, in the order of the model."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def tiny_llava(dtype: torch.dtype) -> Tiny:
    """The model of both sides, whose answers are not so unlikely that every weight of WPO is far below 1."""
    tiny = FAMILIES["llava"](dtype=dtype)
    with torch.no_grad():
        tiny.model.get_output_embeddings().weight.mul_(HEAD)
    return tiny


@functools.cache
def build(dtype: torch.dtype, with_images: bool) -> Built:
    """Our side, with an adapter that does something already."""
    tiny = tiny_llava(dtype)
    loaded = prepare(tiny.model, tiny.processor, lora=Lora(r=4, alpha=8))
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in parameters_of(loaded.model):
            parameter.copy_(SPREAD * torch.randn(parameter.shape, generator=generator))
    records = PAIRS if with_images else TRIPLES
    encoder, companions = Encoder(tiny.processor, loaded.facts, tiny.stop_ids), Companions(records)
    answers = {(n, k): answer for n, of in enumerate(records) for k, answer in enumerate(of.candidates)}
    answers |= {(n, MISMATCHED): companions.mismatched(of) for n, of in enumerate(records)}
    ids = {(n, k): encoder.answer(records[n], answer).ids for (n, k), answer in answers.items()}
    return Built(tiny, loaded, records, companions, encoder, ids)


def our_loss(built: Built, config: Mapping[str, Any]) -> Found:
    """The loss of one optimizer step over all records."""
    objective = make_objective(config)
    collator = Collator(built.encoder, objective.views, companions=built.companions)
    batch = collator(list(enumerate(built.records)))
    model, reference = built.loaded.model, make_reference(built.loaded)
    with exact(built.tiny.model.dtype):
        of = table_of(
            batch,
            collator.media_names,
            scores(model, batch, objective.statistics),
            reference.scores(model, batch, objective.statistics).values,
        )
        loss, _ = objective(of, objective.counts(of))
        return Found(loss.detach(), list(torch.autograd.grad(loss, parameters_of(model))))


def padded(tiny: Tiny, answers: Sequence[tuple[Record, Tensor]]) -> dict[str, Tensor]:
    """What TRL's collators would make of these ids: one row an answer, padded right."""
    rows = [plain_row(tiny, of, ids) for of, ids in answers]
    batch: dict[str, Tensor] = {}
    for name in rows[0]:
        per_token = rows[0][name].shape == rows[0]["input_ids"].shape
        values = [row[name][0] if per_token else row[name] for row in rows]
        batch[name] = pad_sequence(values, batch_first=True) if per_token else torch.cat(values)
    ends = batch["attention_mask"].sum(1, keepdim=True)
    starts = ends - torch.tensor([[len(ids)] for _, ids in answers])
    place = torch.arange(batch["input_ids"].shape[1])
    return batch | {"completion_mask": ((place >= starts) & (place < ends)).long()}


def trl_inputs(trainer: str, built: Built, records: Sequence[int], own_draw: bool) -> dict[str, Tensor]:
    """The inputs of a trainer's ``compute_loss``.

    Args:
        trainer: A key of TRAINERS.
        built: Our side.
        records: Which records the micro-batch holds.
        own_draw: KTO: whether mismatched answers are those that TRL takes (the answers of the micro-batch, moved on by
            one) or those that we draw.
    """
    candidates = range(3 if trainer == "TPO" else 2)
    answers = [[(built.records[n], built.ids[n, candidate]) for n in records] for candidate in candidates]
    together = [answer for side in answers for answer in side]
    if trainer in ("CPO", "ORPO"):
        inputs = {}
        for name, side in zip(("chosen", "rejected"), answers, strict=True):
            batch = padded(built.tiny, side)
            labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
            inputs |= {f"{name}_input_ids": batch["input_ids"], f"{name}_labels": labels}
            inputs[f"{name}_attention_mask"] = batch["attention_mask"]
        return inputs
    inputs = padded(built.tiny, together)
    if trainer == "KTO":
        inputs["label"] = torch.tensor([True] * len(records) + [False] * len(records))
        given = [answer for _, answer in together]
        drawn = given[-1:] + given[:-1] if own_draw else [built.ids[n, MISMATCHED] for n in records] * 2
        mismatched = padded(built.tiny, [(of, answer) for (of, _), answer in zip(together, drawn, strict=True)])
        names = ("input_ids", "attention_mask", "completion_mask")
        inputs |= {f"KL_{name}": mismatched[name] for name in names}
    return inputs


def exact_head(model: Any, **_: Any) -> None:
    """In place of TRL's tiled head, which computes in float32: what it gives, from the logits that the model gives."""

    def forward(*args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **kwargs: Any) -> Any:
        output = type(model).forward(model, *args, **kwargs)
        if not fused_lm_head:
            return output
        assert labels is not None
        logp = output.logits[:, :-1].log_softmax(-1)
        scored = labels[:, 1:] != -100
        values = {
            "log_probs": logp.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0],
            "log_sum_sq_probs": (2 * logp).logsumexp(-1),
            "entropy": -(logp.exp() * logp).sum(-1),
            "mean_logits": output.logits[:, :-1].mean(-1),
            "is_top1": logp.argmax(-1) == labels[:, 1:],
        }
        return FusedCausalLMOutput(**{name: value.masked_fill(~scored, 0) for name, value in values.items()})

    model.forward = forward


def make_trainer(name: str, options: Mapping[str, Any], built: Built, folder: Path) -> Any:
    """A trainer of TRL's around a fresh model with a copy of our adapter; the reference is its adapter switched off."""
    trainer_type, config_type = TRAINERS[name]
    tiny = tiny_llava(built.tiny.model.dtype)
    row: dict[str, Any] = {"prompt": "a", "chosen": "b", "rejected": "c", "reference": "d"}
    if name in SEES:
        row = {"prompt": [{"role": "user", "content": "?"}], "images": [], "label": True}
        row |= {key: [{"role": "assistant", "content": "x"}] for key in ("chosen", "rejected", "completion")}
    keys = {"KTO": ("prompt", "completion", "label", "images"), "TPO": tuple(row)}
    wanted = keys.get(name, ("prompt", "chosen", "rejected", "images"))
    arguments = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": [], "max_length": 1000}
    arguments |= {"gradient_checkpointing": False, "disable_tqdm": True}
    if name == "KTO":
        arguments |= {"per_device_train_batch_size": 2, "train_sampling_strategy": "sequential"}
    head = exact_head if built.tiny.model.dtype == torch.float64 else trl.trainer.utils.add_fused_lm_head
    with (
        mock.patch("trl.trainer.dpo_trainer.add_fused_lm_head", head),
        mock.patch("trl.trainer.kto_trainer.add_fused_lm_head", head),
    ):
        trainer = trainer_type(
            model=tiny.model,
            args=config_type(**arguments, **options),
            train_dataset=datasets.Dataset.from_list([{key: row[key] for key in wanted if key in row}] * 2),
            processing_class=tiny.processor if name in SEES else tiny.tokenizer,
            peft_config=copy.deepcopy(built.loaded.model.peft_config[POLICY]),
        )
    ours, theirs = parameters_of(built.loaded.model), parameters_of(trainer.model)
    with torch.no_grad():
        for value, parameter in zip(ours, theirs, strict=True):
            parameter.copy_(value)
    return trainer


def trl_loss(trainer: Any, micro_batches: Sequence[dict[str, Tensor]], dtype: torch.dtype) -> Found:
    """The loss and gradients of one optimizer step of TRL's, by its own ``training_step``."""
    trainer.current_gradient_accumulation_steps = len(micro_batches)
    with exact(dtype):
        loss = torch.stack([trainer.training_step(trainer.model, inputs) for inputs in micro_batches]).sum()
    gradients = [parameter.grad for parameter in parameters_of(trainer.model)]
    assert all(gradient is not None for gradient in gradients)
    return Found(loss, gradients)
