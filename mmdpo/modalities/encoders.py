"""Media encoders: how one item becomes the vectors that a language model reads in place of its placeholder tokens.

A media encoder is a frozen dataclass: its fields are its configuration and go into ``config.json``; the weights are
made by :meth:`MediaEncoder.build`. A modality lists its encoders by name (:attr:`Modality.encoders`); a composed model
(:mod:`mmdpo.models.composed`) puts one of them, with a projector, in front of any causal language model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class MediaEncoder(ABC):
    """One way to encode the items of a modality.

    The contract, which ``mmdpo.conformance`` checks:

    * every tensor of :meth:`prepare` has a leading dimension of 1, the item; a batch concatenates items along it and
      zero-pads the other dimensions to the largest, so what is padding must be known from the tensors themselves
      (a length, a mask);
    * the module of :meth:`build` is called with those tensors as keywords, [n, ...], and returns a list of n features
      [tokens_i, width], whatever else is in the batch;
    * ``tokens_i`` is what :meth:`tokens` said before anything was encoded;
    * floating-point tensors arrive in the precision of the weights, bfloat16 as a rule, and the module stays in it.

    Values that are not finite need not be looked for: inputs and features are checked, and refused by record.

    Fields hold what JSON holds (numbers, strings, lists, dictionaries). A field called ``path`` says where :meth:`load`
    finds pretrained weights and nothing else: a saved model has its own weights and forgets it, so what :meth:`build`
    needs to know of that folder must be in other fields by then. The names ``kind``, ``token`` and ``token_id`` are
    taken.
    """

    inputs: ClassVar[tuple[str, ...]]
    """Names of the tensors of :meth:`prepare`, the main one first."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of one feature vector."""

    @abstractmethod
    def prepare(self, item: Any) -> dict[str, Tensor]:
        """Encoder inputs of one decoded item, each with a leading dimension of 1.

        Raises:
            DataError: The item cannot be encoded (too long, too short, not finite); nothing is cut silently.
        """

    @abstractmethod
    def tokens(self, item: Any) -> int:
        """How many features, and so placeholder tokens, the item becomes: known before anything is encoded."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The encoder with fresh weights."""

    def load(self) -> nn.Module:
        """The encoder with pretrained weights, where its configuration names some; by default fresh ones."""
        return self.build()


def concatenate(values: Sequence[Tensor]) -> Tensor:
    """Concatenates along dimension 0, zero-padding the other dimensions to the largest (windows, tiles, pixels)."""
    if len({value.shape[1:] for value in values}) == 1:
        return torch.cat(list(values))
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        room = value.new_zeros((len(value), *shape))
        room[(slice(None), *(slice(size) for size in value.shape[1:]))] = value
        padded.append(room)
    return torch.cat(padded)
