"""How probable a model finds answers that are given: one pass over records, for benchmarks, preferences and checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdpo.answering.loading import encoder_of
from mmdpo.collate import Collator
from mmdpo.encoding.example import Encoder
from mmdpo.encoding.shared_prompts import batches_by_media
from mmdpo.parity import choose_layout, to_model
from mmdpo.policy import encode_once, inner_of
from mmdpo.progress import Progress
from mmdpo.records import Record, Records
from mmdpo.scoring import scores
from mmdpo.views import CLEAN, View


class Likelihood(NamedTuple):
    """The log-probability of an answer.

    Args:
        total: Summed over its tokens, natural logarithm, end of turn included.
        tokens: How many these are.
    """

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Per token."""
        return self.total / max(1, self.tokens)


@dataclass(frozen=True)
class CandidateScores:
    """The candidates of some records.

    Args:
        scores: Of each record one entry for each candidate; none of a record that was not scored.
        unfit: Why a record could not be scored, by its place.
    """

    scores: list[list[Likelihood]]
    unfit: dict[int, str]


@dataclass(frozen=True)
class ScoredBatch:
    """Some records after one forward pass.

    Args:
        places: [R] which records these are.
        unfit: Why others of the same batch could not be scored, by their place.
        record: [N] of each answer the place of its record.
        values: Statistics by name, [N, A] each; ``logp`` is always there.
        tokens: [N] how many tokens each answer has.
    """

    places: list[int]
    unfit: dict[int, str]
    record: list[int]
    values: dict[str, Tensor]
    tokens: list[int]


@torch.no_grad()
def scored_batches(
    model: Any,
    encoder: Encoder,
    records: Sequence[Record],
    views: Sequence[View],
    batch_size: int,
    statistics: Sequence[str] = (),
) -> Iterator[ScoredBatch]:
    """Scores the views of records, those about the same media side by side, so that each item is encoded once a batch.

    The layout is checked against the model's own logits before anything is scored.

    Args:
        model: A Hugging Face model, or PEFT's wrapper around it; it gets the scoring keyword if it lacks it.
        encoder: Its encoder.
        records: The records; one that is longer than the model's positions allow, or cannot be read, is unfit.
        views: What is scored of each, all under one media variant.
        batch_size: Records at a time.
        statistics: What is wanted beside ``logp``.

    Raises:
        ParityError: No layout gives the model's own log-probabilities.
    """
    inner = inner_of(model)
    if not hasattr(inner, "mmdpo_scoring"):
        encode_once(inner, encoder.facts)
    collate: Collator | None = None
    training = model.training
    model.eval()
    try:
        for places in batches_by_media(records, batch_size):
            reasons = {place: encoder.unfit(records[place], views[0].media) for place in places}
            unfit = {place: reason for place, reason in reasons.items() if reason}
            fit = [place for place in places if place not in unfit]
            if not fit:
                yield ScoredBatch([], unfit, [], {}, [])
                continue
            if collate is None:
                collate = _tried(inner, encoder, [records[place] for place in fit], views)
            batch = to_model(collate([(place, records[place]) for place in fit]), inner)
            values, tokens = scores(model, batch, tuple(statistics)), batch["mask"].sum(-1).tolist()
            inner.mmdpo_scoring.features.clear()
            yield ScoredBatch(fit, unfit, [fit[n] for n in batch["example"].tolist()], values, tokens)
    finally:
        model.train(training)


def _tried(inner: Any, encoder: Encoder, records: Sequence[Record], views: Sequence[View]) -> Collator:
    """A collator with the layout that the records with most and with fewest media were tried in."""
    by_media = sorted(records, key=lambda record: len(list(record.media_items())))
    probes = list({record.id: record for record in (by_media[-1], by_media[0])}.values())
    return Collator(encoder, views, layout=choose_layout(inner, encoder, probes, views).layout)


def text_scores(
    model: Any, encoder: Encoder, records: Sequence[Record], batch_size: int = 16
) -> Iterator[tuple[int, Likelihood | str]]:
    """The log-probability of the first candidate of every record.

    Yields:
        The place of a record, and its score or why it has none.

    Raises:
        ParityError: No layout gives the model's own log-probabilities.
    """
    for batch in scored_batches(model, encoder, records, (View(0),), batch_size):
        yield from batch.unfit.items()
        if batch.places:
            totals = batch.values["logp"].sum(-1).tolist()
            yield from zip(batch.record, map(Likelihood, totals, batch.tokens), strict=True)


def candidate_scores(
    model: Any,
    processor: Any,
    records: Records | Sequence[Record],
    *,
    media: str = CLEAN,
    batch_size: int = 8,
    progress: Progress = iter,
) -> CandidateScores:
    """Log-probability and length of every candidate of every record.

    Args:
        model: A model of `mmdpo.load`.
        processor: Its processor.
        records: Records with any number of candidates; one that cannot be scored is set aside as a whole.
        media: Media variant: ``"clean"``, or a corruption such as ``"blank"``; where they are to be corrupted, a
            record without media is not scored.
        batch_size: Records at a time.
        progress: Wraps long loops for a progress bar.

    Raises:
        ModelError: The model's template or processor does not go with such records.
    """
    asked = [n for n, record in enumerate(records) if media == CLEAN or any(record.media.values())]
    found = CandidateScores([[] for _ in records], {})
    if not asked:
        return found
    encoder = encoder_of(model, processor, getattr(records, "media_root", None))
    views = [View(k, media) for k in range(max(len(records[n].candidates) for n in asked))]
    batches = scored_batches(model, encoder, [records[n] for n in asked], views, batch_size)
    for batch in progress(batches):
        found.unfit.update({asked[place]: reason for place, reason in batch.unfit.items()})
        totals = batch.values["logp"].sum(-1).tolist() if batch.places else []
        for place, *one in zip(batch.record, totals, batch.tokens, strict=True):
            found.scores[asked[place]].append(Likelihood(*one))
    return found
