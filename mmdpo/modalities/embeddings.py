"""Precomputed embeddings: items that are already the vectors an encoder gave; nothing is left to encode.

Their modality loads an item as a float array [t, d], from ``.npy`` (``allow_pickle=False``) or ``.safetensors``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmdpo.errors import DataError
from mmdpo.modalities.encoders import MediaEncoder


@dataclass(frozen=True, kw_only=True)
class Embeddings(MediaEncoder):
    """One token for each vector of an item.

    Args:
        dim: Length of one vector.
    """

    inputs: ClassVar[tuple[str, ...]] = ("values", "lengths")

    dim: int

    @property
    def width(self) -> int:
        """As given."""
        return self.dim

    def tokens(self, item: Any) -> int:
        """The number of vectors."""
        return len(self._checked(item))

    def prepare(self, item: Any) -> dict[str, Tensor]:
        """``values`` [1, t, d] float32 and ``lengths`` [1].

        Raises:
            DataError: The item is no [t, d] array of the right width, empty, or not finite.
        """
        values = torch.from_numpy(np.array(self._checked(item), dtype=np.float32))
        if not bool(values.isfinite().all()):
            raise DataError(
                f"an embedding of shape {tuple(values.shape)} has values that are not finite",
                why="One NaN makes every log-probability after it NaN.",
                fix="Compute it again, or leave the record out.",
            )
        return {"values": values[None], "lengths": torch.tensor([len(values)])}

    def build(self) -> nn.Module:
        """A module without weights that cuts the padding off."""
        return _Unpadded()

    def _checked(self, item: Any) -> Any:
        shape = tuple(getattr(item, "shape", ()))
        if len(shape) != 2 or shape[0] == 0 or shape[1] != self.dim:
            raise DataError(
                f"an embedding has shape {shape}",
                why=f"The model takes one token for each vector of length {self.dim}.",
                fix=f"Give a float array [t, {self.dim}] with t of at least 1.",
            )
        return item


class _Unpadded(nn.Module):
    """[n, t, d] padded values and [n] lengths to a list of n [t_i, d]."""

    def forward(self, values: Tensor, lengths: Tensor) -> list[Tensor]:
        return [row[:length] for row, length in zip(values, lengths.tolist(), strict=True)]
