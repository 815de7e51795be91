"""What the held-out pairs say during training: accuracy and margin, with and without their media, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmdpo.diagnostics import Reward, pair_statistics
from mmdpo.evals.stats import Table, interval, ratio
from mmdpo.views import ScoreTable

BLIND = "blank"
"""Media variant under which the pairs are scored once more: how much of the accuracy needs no media."""

ACCURACY = ratio("accuracy", "right", "pairs")


def validation_columns(table: ScoreTable, index: Tensor, reward: Reward) -> Tensor:
    """Per-record values of one batch.

    Args:
        table: Score table with the clean and the blind pair views.
        index: [E] place of each record in its data set.
        reward: How log-ratios become rewards.

    Returns:
        [E, 6] index, chosen reward, rejected reward, blind margin, media gain (nats by which the media make the chosen
        answer more likely), KL estimate; NaN where a record has no such value.
    """
    result = torch.full((len(index), 6), torch.nan, device=index.device)
    seen, blind = pair_statistics(table, reward), pair_statistics(table, reward, BLIND)
    clean_logp = torch.full((len(index),), torch.nan, device=index.device)
    clean_logp[seen.example] = seen.chosen_logp.float()
    result[:, 0] = index
    result[seen.example, 1] = seen.chosen.float()
    result[seen.example, 2] = seen.rejected.float()
    result[seen.example, 5] = seen.kl.float()
    result[blind.example, 3] = blind.margin.float()
    result[blind.example, 4] = clean_logp[blind.example] - blind.chosen_logp.float()
    return result


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
        values: [E, 6] of :func:`validation_columns`.
        groups: Media group of each place in the data set; intervals resample groups.
        prefix: Prefix of the names.

    Returns:
        Means; for the accuracies also ``_low`` and ``_high`` of the 95% interval.
    """
    index, chosen, rejected, blind, gain, kl = values.T
    margin = chosen - rejected
    metrics: dict[str, float] = {}
    for name, margins in (("accuracies", margin), ("blind_accuracies", blind)):
        known = ~np.isnan(margins)
        if known.any():
            names = [groups[int(i)] if groups else str(int(i)) for i in index[known]]
            right = interval(_table(np.where(margins[known] == 0, 0.5, margins[known] > 0), names), ACCURACY)
            limits = {"": right.value, "_low": right.low, "_high": right.high}
            metrics |= {f"{prefix}_rewards/{name}{end}": value for end, value in limits.items() if value is not None}
    columns = {
        "rewards/margins": margin,
        "rewards/blind_margins": blind,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "diagnostics/media_gain": gain,
        "diagnostics/kl": kl,
    }
    metrics |= {f"{prefix}_{name}": float(np.nanmean(c)) for name, c in columns.items() if not np.isnan(c).all()}
    metrics[f"{prefix}_pairs"] = float((~np.isnan(margin)).sum())
    return metrics


def _table(wins: np.ndarray, groups: Sequence[str]) -> Table:
    """Wins and pairs of each media group."""
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    values = np.zeros((len(names), 2))
    np.add.at(values, place, np.stack([wins, np.ones(len(wins))], axis=1))
    return Table(names.tolist(), ["right", "pairs"], values)
