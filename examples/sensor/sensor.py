"""The modality "sensor": series of a worn accelerometer, [t, 3] in units of g at 50 samples a second, .npy or .csv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmdpo import registry
from mmdpo.corruptions import Corruption
from mmdpo.modalities.arrays import Array, open_array
from mmdpo.modalities.base import Modality
from mmdpo.modalities.encoders import MediaEncoder
from mmdpo.records import Media

AXES = 3
RATE = 50
"""Samples a second."""


def blank(item: Array, generator: np.random.Generator) -> Array:
    """A device at rest, lying flat, for as long: zeros would be free fall, which says a lot."""
    del generator  # nothing random
    return np.tile(np.array([0, 0, 1], dtype=np.float32), (len(item), 1))


def time_shuffle(item: Array, generator: np.random.Generator) -> Array:
    """The same seconds in another order."""
    seconds = np.split(item, range(RATE, len(item), RATE))
    return np.concatenate([seconds[n] for n in generator.permutation(len(seconds))])


@dataclass(frozen=True, kw_only=True)
class SensorWindows(MediaEncoder):
    """What a number of learnt filters give in each half second, one token each: their mean, and how much they vary.

    Args:
        samples: Samples for one token.
        filters: Filters over nine samples; a token is a vector twice as long.
    """

    inputs: ClassVar[tuple[str, ...]] = ("values", "lengths")

    samples: int = 25
    filters: int = 32

    @property
    def width(self) -> int:
        """Mean and deviation of each filter."""
        return 2 * self.filters

    def tokens(self, item: Array) -> int:
        """One for each window that is begun."""
        return -(-len(item) // self.samples)

    def prepare(self, item: Array) -> dict[str, Tensor]:
        """``values`` [1, t, 3] and ``lengths`` [1]."""
        values = torch.from_numpy(np.asarray(item, dtype=np.float32))
        return {"values": values[None], "lengths": torch.tensor([len(values)])}

    def build(self) -> nn.Module:
        """A fresh network."""
        return SensorNetwork(self.samples, self.filters)


class SensorNetwork(nn.Module):
    """A convolution over time, and its mean and deviation in each window, in which a wave shows whatever its phase."""

    def __init__(self, samples: int, filters: int) -> None:
        super().__init__()
        self.samples = samples
        self.filters = nn.Conv1d(AXES, filters, 9, padding=4)

    def forward(self, values: Tensor, lengths: Tensor) -> list[Tensor]:
        """[n, t, 3] with zeros after each item's length, and [n] lengths, to a list of n [tokens, 2 * filters]."""
        missing = -values.shape[1] % self.samples
        whole = nn.functional.pad(values, (0, 0, 0, missing))
        windows = self.filters(whole.transpose(1, 2)).transpose(1, 2).unflatten(1, (-1, self.samples))
        # beyond its end an item has zeros in a batch and nothing alone: they must not count
        inside = torch.arange(whole.shape[1], device=lengths.device) < lengths[:, None]
        inside = inside.unflatten(1, (-1, self.samples))[..., None]
        count = inside.sum(2).clamp(min=1)
        mean = (windows * inside).sum(2) / count
        deviation = ((windows - mean[:, :, None]).square() * inside).sum(2) / count
        features = torch.cat([mean, (deviation + 1e-4).sqrt()], -1)
        return [item[: -(-length // self.samples)] for item, length in zip(features, lengths.tolist(), strict=True)]


@registry.modalities.register("sensor")
class SensorModality(Modality):
    """Movements of a worn device."""

    name: ClassVar[str] = "sensor"
    corruptions: ClassVar[Mapping[str, Corruption]] = {"blank": blank, "time_shuffle": time_shuffle}
    encoders: ClassVar[Mapping[str, type[MediaEncoder]]] = {"windows": SensorWindows}

    def load(self, media: Media, root: Path | None) -> Any:
        """[t, 3] float32."""
        return open_array(media, root, channels=AXES)
