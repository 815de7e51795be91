"""Log-probability and length of every candidate of every record, under a model and the one that it started from."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch

from mmdpo.answering.evaluation import encoder_of, load_any
from mmdpo.collate import Collator
from mmdpo.config import ModelSection
from mmdpo.encoding.example import Encoder
from mmdpo.parity import choose_layout, to_model
from mmdpo.policy import encode_once
from mmdpo.preferences.origins import Origin
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


@dataclass(frozen=True)
class CandidateScores:
    """The candidates of some records.

    Args:
        scores: Of each record one entry for each candidate; none of a record that was not scored.
        unfit: Why a record could not be scored, by its place.
    """

    scores: list[list[Scored]]
    unfit: dict[int, str]


@torch.no_grad()
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

    A record that is longer than the model's positions allow, or cannot be read, is set aside as a whole.

    Args:
        model: A model of `mmdpo.load`.
        processor: Its processor.
        records: Records with any number of candidates.
        media: Media variant: ``"clean"``, or a corruption such as ``"blank"``; where they are to be corrupted, a
            record without media is not scored.
        batch_size: Records at a time.
        progress: Wraps long loops for a progress bar.

    Raises:
        ModelError: The model's template or processor does not go with such records.
    """
    encoder = encoder_of(model, processor, getattr(records, "media_root", None))
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    asked = [n for n, record in enumerate(records) if media == CLEAN or any(record.media.values())]
    found = CandidateScores([[] for _ in records], {})
    collate: Collator | None = None
    for start in progress(range(0, len(asked), batch_size)):
        reasons = {n: encoder.unfit(records[n], media) for n in asked[start : start + batch_size]}
        found.unfit.update({n: reason for n, reason in reasons.items() if reason})
        part = [n for n, reason in reasons.items() if not reason]
        if not part:
            continue
        if collate is None:
            collate = _collator(inner, encoder, [records[n] for n in asked], media)
        batch = to_model(collate([(n, records[n]) for n in part]), inner)
        sums, lengths = score_batch(model, batch).sum(-1), batch["mask"].sum(-1)
        inner.mmdpo_scoring.features.clear()
        for place, n in enumerate(part):
            own = batch["example"] == place
            found.scores[n].extend(map(Scored, sums[own].tolist(), lengths[own].tolist()))
    return found


def _collator(inner: Any, encoder: Encoder, records: Sequence[Record], media: str) -> Collator:
    """A collator of all candidates, with the layout that the records with most and with fewest media were tried in."""
    views = [View(k, media) for k in range(max(len(record.candidates) for record in records))]
    by_media = sorted(records, key=lambda record: len(list(record.media_items())))
    ends = [next(one for one in order if not encoder.unfit(one, media)) for order in (by_media[::-1], by_media)]
    probes = list({record.id: record for record in ends}.values())
    return Collator(encoder, views, layout=choose_layout(inner, encoder, probes, views).layout)


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
