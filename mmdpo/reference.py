"""The reference policy: the live weights before training, never a reload from a path.

adapter_off   the base model, with a fresh adapter switched off
adapter_copy  a frozen copy of an existing adapter, loaded beside the trainable one
copy          a frozen copy of the trained parts; frozen parameters are shared with the policy
live          the policy itself before its first step: only to fill a cache
cached        numbers that one of the others gave before (`mmdpo.training.reference_cache`)
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mmdpo.collate import Batch
from mmdpo.errors import ConfigError
from mmdpo.models.load import POLICY, REFERENCE
from mmdpo.policy import LoadedModel
from mmdpo.scoring import ReferenceHidden, scores, scores_and_hidden

Kind = Literal["adapter_off", "adapter_copy", "copy", "live", "cached"]


class ReferenceScores(NamedTuple):
    """What the reference gives of a batch.

    Args:
        values: ``logp`` and each statistic that was asked for, [N, A] each, 0 where the batch's ``mask`` is False.
        hidden: What :func:`mmdpo.scoring.scores` takes for ``token_kl``, where it was to be kept.
    """

    values: dict[str, Tensor]
    hidden: ReferenceHidden | None = None


class Start(NamedTuple):
    """Policy and reference on the first record, before any training.

    Args:
        difference: Largest difference of a token's log-probability, in nats.
        reference: Summed log-probability of the record's answers under the reference, in nats.
    """

    difference: float
    reference: float


class Reference:
    """Scores answers under the reference.

    Args:
        kind: How the reference is kept.
        policy: The model that trains, not wrapped by ``accelerate``.
        frozen: The frozen copy for ``"copy"``.
    """

    def __init__(self, kind: Kind, policy: Any, frozen: Any = None) -> None:
        self.kind = kind
        self.policy = policy
        self.frozen = frozen

    def score(self, wrapped: nn.Module, batch: Batch) -> Tensor:
        """[N, A] log-probabilities under the reference.

        Args:
            wrapped: The policy as ``accelerate`` wrapped it; adapters are switched inside it.
            batch: A batch of the collator.
        """
        return self.scores(wrapped, batch).values["logp"]

    @torch.no_grad()
    def scores(
        self, wrapped: nn.Module, batch: Batch, statistics: Collection[str] = (), keep_hidden: bool = False
    ) -> ReferenceScores:
        """Log-probabilities and statistics of a batch's answer tokens under the reference.

        Args:
            wrapped: The policy as ``accelerate`` wrapped it; adapters are switched inside it.
            batch: A batch of the collator.
            statistics: Names of :data:`mmdpo.forward.head.STATISTICS`, but not ``token_kl``.
            keep_hidden: Keep what the policy's ``token_kl`` needs: n x D numbers for n answer tokens.
        """
        if not keep_hidden:
            with self._model(wrapped) as model:
                return ReferenceScores(scores(model, batch, statistics))
        with self._model(wrapped) as model:
            values, hidden = scores_and_hidden(model, batch, statistics)
        return ReferenceScores(values, ReferenceHidden(hidden, self._own_head()))

    def _own_head(self) -> Any:
        """The frozen copy's head, where the policy's is trained; None where both are one, with adapters always."""
        trained = any(parameter.requires_grad for parameter in self.policy.get_output_embeddings().parameters())
        return self.frozen.get_output_embeddings() if self.frozen is not None and trained else None

    @contextlib.contextmanager
    def _model(self, wrapped: nn.Module) -> Iterator[nn.Module]:
        if self.frozen is not None:
            yield self.frozen
            return
        if self.kind == "live":
            yield wrapped
            return
        with self._switched():
            yield wrapped

    @contextlib.contextmanager
    def _switched(self) -> Iterator[None]:
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        if self.kind == "adapter_off":
            # as peft's disable_adapter(), without its status report of the whole model in every step
            self.policy.base_model.disable_adapter_layers()
        else:
            self.policy.base_model.set_adapter(REFERENCE, inference_mode=True)
        try:
            yield
        finally:
            if self.kind == "adapter_off":
                self.policy.base_model.enable_adapter_layers()
            else:
                self.policy.base_model.set_adapter(POLICY)
            for parameter in trained:  # peft froze them; where FSDP2 has since put gathered ones there, it thaws those
                parameter.requires_grad_(True)


def make_reference(loaded: LoadedModel, kind: Literal["auto", "adapter_off", "copy"] = "auto") -> Reference:
    """Chooses and builds the reference of a model that is about to train.

    Raises:
        ConfigError: The kind asked for would not be the model before training.
    """
    has_adapter = hasattr(loaded.model, "disable_adapter")
    if kind == "copy" or not has_adapter or (kind == "auto" and loaded.base_changed):
        if kind == "adapter_off":
            raise ConfigError(
                "reference.kind adapter_off needs an adapter, and model.lora is null",
                why="Without one there is nothing to switch off: policy and reference would be the same weights.",
                fix="Use reference: {kind: copy}, or train with LoRA.",
            )
        return Reference("copy", loaded.model, frozen_copy(loaded.model))
    if loaded.frozen_adapter:
        if kind == "adapter_off":
            raise ConfigError(
                "reference.kind adapter_off with model.adapter would compare with the base model",
                why="The model before training is base + adapter; switching the adapter off takes both away.",
                fix="Use reference: {kind: auto}.",
            )
        return Reference("adapter_copy", loaded.model)
    if loaded.base_changed:
        raise ConfigError(
            "reference.kind adapter_off with a LoRA initialisation that changes the base weights",
            why="With the adapter off the model is not the one before training.",
            fix="Use reference: {kind: copy}.",
        )
    return Reference("adapter_off", loaded.model)


def frozen_copy(model: nn.Module) -> Any:
    """A copy that will not change: trained parameters are copied, frozen ones shared with the original."""
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    twin = copy.deepcopy(model, memo=dict(shared))
    return twin.requires_grad_(False).eval()
