"""How probable a model finds answers that are given: log-probabilities of texts, in batches, one record at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from mmdpo.collate import Collator
from mmdpo.encoding.example import Encoder
from mmdpo.encoding.shared_prompts import batches_by_media
from mmdpo.parity import choose_layout, to_model
from mmdpo.policy import encode_once
from mmdpo.records import Record
from mmdpo.scoring import score
from mmdpo.views import View

VIEWS = (View(0),)


class Scored(NamedTuple):
    """The log-probability of a text.

    Args:
        total: Summed over its tokens, natural logarithm, end of turn included.
        tokens: How many these are.
    """

    total: float
    tokens: int


@torch.no_grad()
def text_scores(
    model: Any, encoder: Encoder, records: Sequence[Record], batch_size: int = 16
) -> Iterator[tuple[int, Scored | str]]:
    """The log-probability of the first candidate of every record.

    Records about the same media are scored side by side, so that a frozen encoder sees each item once in a batch. The
    layout is checked against the model's own logits before anything is scored.

    Args:
        model: A Hugging Face model, or PEFT's wrapper around it; it gets the scoring keyword if it lacks it.
        encoder: Its encoder.
        records: Records with one or more candidates.
        batch_size: Records at a time.

    Yields:
        The place of a record, and its score or why it has none: it is longer than the model's positions allow, or
        cannot be encoded.

    Raises:
        ParityError: No layout gives the model's own log-probabilities.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not hasattr(inner, "mmdpo_scoring"):
        encode_once(inner, encoder.facts)
    collate: Collator | None = None
    training = model.training
    model.eval()
    try:
        for batch in batches_by_media(records, batch_size):
            reasons = {place: encoder.unfit(records[place]) for place in batch}
            yield from ((place, reason) for place, reason in reasons.items() if reason)
            fit = [place for place in batch if not reasons[place]]
            if not fit:
                continue
            if collate is None:
                probes = [records[place] for place in dict.fromkeys((fit[0], fit[-1]))]
                collate = Collator(encoder, VIEWS, layout=choose_layout(inner, encoder, probes, VIEWS).layout)
            made = to_model(collate([(place, records[place]) for place in fit]), inner)
            sums, lengths = score(model, made).sum(-1).tolist(), made["mask"].sum(-1).tolist()
            inner.mmdpo_scoring.features.clear()
            yield from ((place, Scored(*one)) for place, *one in zip(fit, sums, lengths, strict=True))
    finally:
        model.train(training)
