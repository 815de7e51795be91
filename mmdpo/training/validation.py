"""What the held-out pairs say during training: accuracy and margin, with and without their media, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmdpo.diagnostics import Reward, media_statistics, pair_statistics, reward_of, right
from mmdpo.encoding.example import Encoder
from mmdpo.errors import MMDPOError
from mmdpo.evals.stats import Table, interval, ratio
from mmdpo.objectives import Objective
from mmdpo.objectives.terms import reduce_tokens
from mmdpo.records import Record
from mmdpo.training.meter import pearson
from mmdpo.views import CHOSEN, CLEAN, EVERY, NONE, REJECTED, ScoreTable, View

BLIND = "blank"
"""Media variant that hides the media from a model that takes no prompt without any."""

SURPRISING = 2.0
"""Nats a token above which a chosen answer is one that the reference would hardly give."""

ACCURACY = ratio("accuracy", "right", "pairs")

COLUMNS = (
    *("index", "chosen", "rejected", "right", "blind_margin", "blind_right", "blind_gap"),
    *("media_margin", "media_accuracy", "media_gain", "length_gap"),
    *("displacement", "chosen_drop", "chosen_change", "kl_k1", "kl_k2", "kl_k3"),
    *("off_policy_gap", "surprising_chosen"),
)
"""Per-record values of the held-out pairs, in the order in which processes exchange them."""

MEANS = {
    "rewards/chosen": "chosen",
    "rewards/rejected": "rejected",
    "rewards/blind_margins": "blind_margin",
    **{f"diagnostics/{name}": name for name in COLUMNS[COLUMNS.index("blind_gap") :] if name != "media_accuracy"},
}
"""Columns that are logged as their mean."""

ACCURACIES = {
    "rewards/accuracies": "right",
    "rewards/blind_accuracies": "blind_right",
    "diagnostics/media_accuracy": "media_accuracy",
}
"""Columns that are logged as their mean with its interval."""


class Blind(NamedTuple):
    """The media variant that hides the media of held-out pairs.

    Args:
        variant: ``"none"`` or ``"blank"``.
        reason: Why this one.
    """

    variant: str
    reason: str


def blind_variant(encoder: Encoder, records: Sequence[Record]) -> Blind:
    """Chooses how the media are hidden: every item dropped where the model can be asked without, else blanked.

    Args:
        encoder: The model's encoder.
        records: The held-out records; each is rendered once without its media, which are not opened.
    """
    for record in getattr(records, "records", records):  # without reading the bytes of their media
        if not any(record.media.values()):
            continue
        try:
            encoder.prompt(record, NONE)
        except MMDPOError as error:
            return Blind(BLIND, f"prompts without their media are refused: {error.what}")
    return Blind(NONE, "every item is left out; the model takes prompts without media")


def held_out_views(objective: Objective, blind: str) -> list[View]:
    """The views of held-out records: the pair with its media and without, and what the objective reads.

    Where rewards are of a term that compares every candidate, the pair may be any two of them.
    """
    every = any(view.candidate == EVERY for view in reward_of(objective).term.views())
    compared = (EVERY,) if every else (CHOSEN, REJECTED)
    pairs = {View(candidate, media) for media in (CLEAN, blind) for candidate in compared}
    return sorted(pairs | set(objective.views))


@torch.no_grad()
def validation_columns(
    table: ScoreTable, index: Tensor, reward: Reward, blind: str = BLIND, variants: Sequence[str] = ()
) -> Tensor:
    """Per-record values of one batch.

    Args:
        table: Score table with the clean and the blind pair views.
        index: [E] place of each record in its data set.
        reward: How log-ratios become rewards.
        blind: Media variant that hides the media.
        variants: Media variants that the chosen answer is compared with; the blind one where there are none.

    Returns:
        [E, columns] the values of :data:`COLUMNS`; NaN where a record has no such value.
    """
    seen, unseen = pair_statistics(table, reward), pair_statistics(table, reward, blind)
    media = media_statistics(table, reward, tuple(variants) or (blind,))

    def placed(example: Tensor, values: Tensor) -> Tensor:
        """[E] the mean of each record's values."""
        sums = torch.zeros(len(index), 2, device=index.device)
        sums.index_add_(0, example, torch.stack([values.float(), torch.ones_like(values).float()], -1))
        return sums[:, 0] / sums[:, 1]  # 0 / 0 is NaN

    columns = {
        "index": index.float(),
        "chosen": placed(seen.example, seen.chosen),
        "rejected": placed(seen.example, seen.rejected),
        "right": placed(seen.example, right(seen.margin)),
        "length_gap": placed(seen.example, seen.length_gap),
        "blind_margin": placed(unseen.example, unseen.margin),
        "blind_right": placed(unseen.example, right(unseen.margin)),
        "media_margin": placed(media.example, media.margin),
        "media_accuracy": placed(media.example, right(media.margin)),
        "media_gain": placed(media.example, media.gain),
    }
    columns["blind_gap"] = columns["right"] - columns["blind_right"]
    if seen.drift is not None:
        drift = seen.drift
        values = {f"kl_{name}": value for name, value in drift.kl.items()} | {
            "displacement": (drift.chosen < 0) & (drift.rejected < 0),
            "chosen_drop": drift.chosen < 0,
            "chosen_change": drift.per_token,
        }
        columns |= {name: placed(seen.example, value) for name, value in values.items()}
    columns |= {name: placed(*value) for name, value in _off_policy(table, reward).items()}
    unknown = torch.full((len(index),), torch.nan, device=index.device)
    return torch.stack([columns.get(name, unknown) for name in COLUMNS], -1)


def _off_policy(table: ScoreTable, reward: Reward) -> dict[str, tuple[Tensor, Tensor]]:
    """How surprising the chosen answers are to the reference: records and their values, by column.

    The gap is ``mean_t (-log r(y_t) - H_t)`` with ``H_t`` the reference's entropy at the same place: nats a token by
    which the answer surprises the reference more than a token of its own would there, 0 on average for what it samples.
    """
    if table.ref_logp is None or "entropy" not in table.ref_statistics:
        return {}
    rows = reward.chosen(table)
    mask = table.mask[rows].to(table.ref_logp.dtype)
    nll = -reduce_tokens(table.ref_logp[rows], mask, "mean")
    entropy = reduce_tokens(table.ref_statistics["entropy"][rows], mask, "mean")
    example = table.example[rows]
    return {"off_policy_gap": (example, nll - entropy), "surprising_chosen": (example, nll > SURPRISING)}


def first_time(indices: Sequence[int], seen: set[int]) -> list[bool]:
    """Which places of the data set come up for the first time; adds them to ``seen``.

    The sampler repeats records so that all processes get batches of the same size.
    """
    fresh = []
    for index in indices:
        fresh.append(index not in seen)
        seen.add(index)
    return fresh


def validation_metrics(values: np.ndarray, groups: Sequence[str], prefix: str = "eval") -> dict[str, float]:
    """Metrics of all held-out records.

    Args:
        values: [E, columns] of :func:`validation_columns`.
        groups: Media group of each place in the data set; intervals resample groups.
        prefix: Prefix of the names.

    Returns:
        Means; for the accuracies also ``_low`` and ``_high`` of the 95% interval; nothing of a column without values.
    """
    columns = dict(zip(COLUMNS, values.T, strict=True))
    metrics: dict[str, float] = {}
    for name, column in ACCURACIES.items():
        known = ~np.isnan(columns[column])
        if known.any():
            names = [groups[int(i)] if groups else str(int(i)) for i in columns["index"][known]]
            found = interval(_table(columns[column][known], names), ACCURACY)
            limits = {"": found.value, "_low": found.low, "_high": found.high}
            metrics |= {f"{prefix}_{name}{end}": value for end, value in limits.items() if value is not None}
    margin, gap = columns["chosen"] - columns["rejected"], columns["length_gap"]
    means = {"rewards/margins": margin, **{name: columns[column] for name, column in MEANS.items()}}
    metrics |= {f"{prefix}_{name}": float(np.nanmean(c)) for name, c in means.items() if not np.isnan(c).all()}
    paired = ~np.isnan(margin)
    x, y = gap[paired], margin[paired]
    correlation = pearson(len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum())
    if correlation is not None:
        metrics[f"{prefix}_diagnostics/length_correlation"] = correlation
    metrics[f"{prefix}_pairs"] = float(paired.sum())
    return metrics


def _table(wins: np.ndarray, groups: Sequence[str]) -> Table:
    """Wins and pairs of each media group."""
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    values = np.zeros((len(names), 2))
    np.add.at(values, place, np.stack([wins, np.ones(len(wins))], axis=1))
    return Table(names.tolist(), ["right", "pairs"], values)
