"""Log-probability and length of every candidate of every record, under a model and the one that it started from."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from mmdpo.collate import Collator
from mmdpo.config import ModelSection
from mmdpo.evaluation import encoder_of, load_any
from mmdpo.origins import Origin
from mmdpo.parity import choose_layout, to_model
from mmdpo.policy import encode_once
from mmdpo.records import Record, Records
from mmdpo.scoring import score as score_batch
from mmdpo.views import CLEAN, View

T = TypeVar("T")
Progress = Callable[[Iterable[Any]], Iterable[Any]]


class Scored(NamedTuple):
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


@torch.no_grad()
def candidate_scores(
    model: Any,
    processor: Any,
    records: Records | Sequence[Record],
    *,
    media: str = CLEAN,
    batch_size: int = 8,
    progress: Progress = iter,
) -> list[list[Scored]]:
    """Log-probability and length of every candidate of every record.

    Args:
        model: A model of `mmdpo.load`.
        processor: Its processor.
        records: Records with any number of candidates.
        media: Media variant: ``"clean"``, or a corruption such as ``"blank"``.
        batch_size: Records at a time.
        progress: Wraps long loops for a progress bar.

    Returns:
        Of each record one entry for each candidate; none of a record without media where they are to be corrupted.
    """
    scored = [n for n, record in enumerate(records) if media == CLEAN or any(record.media.values())]
    totals: list[list[Scored]] = [[] for _ in records]
    if not scored:
        return totals
    encoder = encoder_of(model, processor, getattr(records, "media_root", None))
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    views = [View(k, media) for k in range(max(len(record.candidates) for record in records))]
    by_media = sorted(scored, key=lambda n: len(list(records[n].media_items())))
    probes = [records[n] for n in dict.fromkeys((by_media[-1], by_media[0]))]
    collate = Collator(encoder, views, layout=choose_layout(inner, encoder, probes, views).layout)
    for start in progress(range(0, len(scored), batch_size)):
        part = scored[start : start + batch_size]
        batch = to_model(collate([(n, records[n]) for n in part]), inner)
        sums, lengths = score_batch(model, batch).sum(-1), batch["mask"].sum(-1)
        inner.mmdpo_scoring.features.clear()
        for place, n in enumerate(part):
            own = batch["example"] == place
            totals[n] = [Scored(*pair) for pair in zip(sums[own].tolist(), lengths[own].tolist(), strict=True)]
    return totals


def of_stages(origin: Origin, measure: Callable[[Any, Any], T]) -> dict[str, T]:
    """Measures a model, and the one that it started from where that is known; never more than one is in memory.

    Args:
        origin: The model and what it started from.
        measure: From a model, ready to score, and its processor to anything.

    Returns:
        What was measured by stage: ``eval``, and ``base_eval``.
    """

    def measured(path: str, settings: ModelSection | None) -> T:
        model, processor = load_any(path, settings)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        encode_once(inner, encoder_of(model, processor, None).facts)
        return measure(model, processor)

    found = {"eval": measured(origin.path, None)}
    gc.collect()  # wrapped models hold reference cycles
    torch.cuda.empty_cache()
    if origin.reference is not None:
        found["base_eval"] = measured(origin.reference, origin.settings)
    return found
