"""How foreign the preferred answers of a data set are to a model: nats a token beyond what its own would cost it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_builders.intervals import Sums, estimate
from data_builders.quality import draw_folder, finding, preferred
from data_builders.splits import media_groups
from mmdpo.answering.loading import encoder_of, load_any
from mmdpo.answering.text_scores import scored_batches
from mmdpo.evals.stats import ratio
from mmdpo.progress import Progress
from mmdpo.records import Record, Records
from mmdpo.views import View

MOST = 500
"""Records that a model is asked about."""
_GAP = ratio("gap", "gap", "answers", bounds=(-math.inf, math.inf))


class Surprise(NamedTuple):
    """What a model makes of the first answer of a record.

    Args:
        nll: Negative log-likelihood, nats a token.
        entropy: Mean entropy of the model's own choice at the same places, nats.
    """

    nll: float
    entropy: float

    @property
    def gap(self) -> float:
        """0 on average for what the model samples itself, above for what it would hardly say."""
        return self.nll - self.entropy


def surprises(
    model: Any, processor: Any, records: Records | Sequence[Record], *, batch_size: int = 8, progress: Progress = iter
) -> list[Surprise | None]:
    """The surprise of the first answer (of a pair the chosen one) of every record; None of one that does not fit.

    The gap ``mean_t (-log r(y_t) - H_t)`` is that of training's ``off_policy_gap`` (`mmdpo.training.validation`).

    Args:
        model: A loaded model.
        processor: Its processor.
        records: The records; one that is too long or whose media cannot be read is left out.
        batch_size: Records at a time.
        progress: Wraps long loops for a progress bar.
    """
    encoder = encoder_of(model, processor, getattr(records, "media_root", None))
    found: list[Surprise | None] = [None] * len(records)
    for batch in progress(scored_batches(model, encoder, records, (View(0),), batch_size, ("entropy",))):
        if batch.places:
            nll, entropy = (-batch.values["logp"].sum(-1)).tolist(), batch.values["entropy"].sum(-1).tolist()
            for place, tokens, *sums in zip(batch.record, batch.tokens, nll, entropy, strict=True):
                found[place] = Surprise(*(value / tokens for value in sums))
    return found


def off_policy_finding(path: str, folder: Path, split: str | None, *, progress: Progress = iter) -> dict[str, Any]:
    """The mean gap of a data set's preferred answers under a model, for `data_builders.quality.with_checks`.

    Args:
        path: Folder, hub name or run of a model.
        folder: The data set.
        split: One split alone; None reads all.
        progress: Wraps long loops for a progress bar.

    Raises:
        MMDPOError: The model cannot be loaded, or there is no such data set.
    """
    model, processor = load_any(path)
    sample = draw_folder(folder, split, MOST)
    records = Records([one for one in sample.records if preferred(one) == one.candidates[0].text], sample.media_root)
    measured = surprises(model, processor, records, progress=progress)
    groups = media_groups(records)
    items = [
        Sums(group, {"answers": 1, "gap": one.gap})
        for group, one in zip(groups, measured, strict=True)
        if one is not None
    ]
    found = estimate(items, _GAP)
    left_out = len(records) - len(items)
    if found["value"] is None:
        return finding("off_policy", None, f"None of {left_out:,} drawn records fits the model or has its media.")
    between = "" if found["low"] is None else f", 95% interval {found['low']:.2f} to {found['high']:.2f}"
    message = (
        f"A token of a preferred answer surprises {path} by {found['value']:.2f} nats more than one of its own "
        f"would{between} ({len(items):,} answers; {left_out:,} left out: too long, or media not there)."
    )
    return finding("off_policy", found, message.replace(" -", " −"))
