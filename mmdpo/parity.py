"""The start-up check: the layout must give the model's own log-probabilities, or another layout is taken.

The judge is the model's own ``logits`` on one unpadded row at a time; the tolerance is the noise that the model shows
against itself when the same row is merely padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdpo.collate import Batch, Collator, Layout
from mmdpo.encoding.example import Encoder, extended
from mmdpo.errors import MMDPOError, ModelError, ParityError
from mmdpo.models.families import Facts
from mmdpo.records import Record
from mmdpo.scoring import score
from mmdpo.views import View

FLOOR = 2e-3
"""Nats a token below which a difference is rounding in any precision that models are trained in."""


@dataclass(frozen=True)
class LayoutDecision:
    """Which layout is used and why, for the terminal and the manifest.

    Args:
        layout: ``"shared"`` or ``"plain"``.
        reason: One sentence.
        difference: Largest difference of a token's log-probability to the model's own, in nats.
        tolerance: What was allowed.
    """

    layout: Layout
    reason: str
    difference: float
    tolerance: float


def choose_layout(
    model: Any, encoder: Encoder, records: Sequence[Record], views: Sequence[View], wanted: str = "auto"
) -> LayoutDecision:
    """Tries the shared layout on the records given, then the plain one.

    Args:
        model: The Hugging Face model with the scoring keyword.
        encoder: Its encoder.
        records: Records to try: the longest, the one with most media, one without media.
        views: Views of the objective.
        wanted: ``"auto"``, ``"shared"`` or ``"plain"``.

    Raises:
        ParityError: Neither layout (or not the one asked for) gives the model's own log-probabilities.
    """
    facts: Facts = encoder.facts
    tried: list[str] = []
    layouts: list[Layout] = ["shared", "plain"] if wanted == "auto" else [wanted]  # type: ignore[list-item]
    if wanted == "auto" and facts.plain_reason is not None:
        layouts, tried = ["plain"], [facts.plain_reason]
    for layout in layouts:
        try:
            difference, tolerance = compare(model, encoder, records, views, layout)
        except MMDPOError:
            raise  # the record's fault, not the layout's
        except Exception as error:  # whatever a model says to a mask that it does not know
            tried.append(f"the {layout} layout fails ({type(error).__name__}: {error})")
            continue
        if difference <= tolerance:
            reason = "; ".join([*tried, f"equal to the model's own logits within {difference:.2g} nats a token"])
            return LayoutDecision(layout, reason, difference, tolerance)
        tried.append(f"the {layout} layout differs by {difference:.3g} nats a token (allowed {tolerance:.2g})")
    raise ParityError(
        f"log-probabilities do not agree with {type(model).__name__}'s own logits: {'; '.join(tried)}",
        why="The model would be trained on numbers that are not its own.",
        fix="Try layout: plain; if that fails too, report the model family (mmdpo/models/families.py lacks a fact).",
    )


@torch.no_grad()
def compare(
    model: Any, encoder: Encoder, records: Sequence[Record], views: Sequence[View], layout: Layout
) -> tuple[float, float]:
    """Largest difference of a token's log-probability to the model's own logits, and what is allowed."""
    state = model.mmdpo_scoring
    training = model.training
    model.eval()
    worst, noise = 0.0, 0.0
    try:
        batch = to_model(Collator(encoder, views, layout=layout)(list(enumerate(records))), model)
        state.features.clear()
        ours = score(model, batch)
        for row in range(len(batch["example"])):
            record = records[int(batch["example"][row])]
            variant = Collator(encoder, views).media_names[int(batch["media_index"][row])]
            ids = batch["targets"][row][batch["mask"][row]]
            exact = own_logprobs(model, encoder, record, variant, ids)
            padded = own_logprobs(model, encoder, record, variant, ids, padding=8)
            if not bool(torch.isfinite(exact).all()) or not bool(torch.isfinite(ours).all()):
                raise ModelError(
                    f"{type(model).__name__} gives log-probabilities that are not finite to record {record.id!r}",
                    why="One NaN makes every weight NaN at the first step.",
                    fix="Check the model's weights, and its precision (float16 overflows).",
                )
            worst = max(worst, float((ours[row][batch["mask"][row]] - exact).abs().max()))
            noise = max(noise, float((padded - exact).abs().max()))
    finally:
        state.features.clear()
        model.train(training)
    return worst, max(FLOOR, 4 * noise)


def own_logprobs(
    model: Any, encoder: Encoder, record: Record, variant: str, answer: Tensor, padding: int = 0
) -> Tensor:
    """[L] log-probabilities of answer ids by the model's own forward on one plain row.

    Args:
        model: The Hugging Face model.
        encoder: Its encoder.
        record: The record whose prompt precedes the answer.
        variant: Media variant.
        answer: [L] token ids.
        padding: Tokens of right padding, to measure the model's own noise.
    """
    prompt = encoder.prompt(record, variant)
    length, extra = len(answer), len(answer) + padding
    ids = torch.cat([prompt.input_ids.to(answer.device), answer, answer.new_full((padding,), encoder.eos_ids[0])])
    mask = torch.ones_like(ids)
    if padding:
        mask[-padding:] = 0
    fields = {name: extended(name, v, extra, encoder.facts)[None] for name, v in prompt.fields.items()}
    inputs = to_model({"input_ids": ids[None], "attention_mask": mask[None], **fields, **prompt.extras}, model)
    logits = model(**inputs, use_cache=False).logits[0]
    start = len(prompt.input_ids) - 1
    logits = logits[start : start + length].to(torch.promote_types(logits.dtype, torch.float32))
    return logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]


def to_model(batch: Batch, model: Any) -> Batch:
    """Moves tensors to the model's device, and floating-point encoder inputs to its precision."""
    weight = model.get_input_embeddings().weight

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            encoded = value.is_floating_point() and value.ndim > 1  # times and scores keep their own precision
            return value.to(weight.device, weight.dtype if encoded else value.dtype)
        if isinstance(value, dict):
            return {key: moved(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [moved(entry) for entry in value]
        return value

    return {
        key: value.to(weight.device) if key == "position_ids" and isinstance(value, Tensor) else moved(value)
        for key, value in batch.items()
    }
