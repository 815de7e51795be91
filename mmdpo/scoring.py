"""Log-probabilities and statistics of answer tokens: the only code that touches a model's head.

Scoring is a ``forward`` of the Hugging Face model with the keyword ``score_batch``: it stays inside whatever module
``accelerate`` wrapped around it (past DDP's wrapper the ranks' gradients would differ silently, past FSDP2's it
raises). Logits exist only where an answer token is predicted; :mod:`mmdpo.forward.head` makes them a tile at a time.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmdpo.collate import Batch
from mmdpo.errors import ModelError
from mmdpo.features.encode_once import FeatureStore
from mmdpo.forward.backbone import ScoringState, last_hidden
from mmdpo.forward.head import Head, check_statistics, token_statistics
from mmdpo.models.families import Facts, facts_of
from mmdpo.models.router import router_loss_of


@dataclass(frozen=True)
class ReferenceHidden:
    """What ``token_kl`` needs of the reference's scoring of a batch.

    Args:
        hidden: [n, D] hidden states that predict the batch's n answer tokens, without gradient.
        head: The reference's own head, where it differs from the policy's; None where they are one.
    """

    hidden: Tensor
    head: Any = None


class _Request(NamedTuple):
    """The value of the keyword ``score_batch``."""

    batch: Batch
    statistics: tuple[str, ...] = ()
    reference: ReferenceHidden | None = None
    keep_hidden: bool = False


class _Targets(NamedTuple):
    """The value of the head's keyword ``score_targets``."""

    ids: Tensor
    statistics: tuple[str, ...]
    reference: ReferenceHidden | None


def head_of(model: Any, facts: Facts) -> Head:
    """The head of a Hugging Face model, with what its own ``forward`` does to the logits.

    Raises:
        ModelError: The head is not a plain linear layer (a LoRA adapter on it, for example).
    """
    layer: Any = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise ModelError(
            f"the output head is a {type(layer).__name__}, not a linear layer",
            why="Log-probabilities are computed tile by tile from its weight.",
            fix="Leave the head out of lora.targets; train it with lora: null instead.",
        )
    text: Any = model.config.get_text_config()
    softcap = getattr(text, "final_logit_softcapping", None) if facts.family.final_softcap else None
    softcap = getattr(model.config, "logit_softcap", softcap)  # a composed model says what its language model does
    return Head(layer.weight, layer.bias, getattr(model.config, "logit_scale", 1.0), softcap)


def install_scoring(model: Any, features: FeatureStore, router_aux_loss_coef: float | None = None) -> ScoringState:
    """Gives a Hugging Face model's ``forward`` the keyword ``score_batch``.

    Args:
        model: The model itself (inside PEFT's wrapper, if any).
        features: Its feature store.
        router_aux_loss_coef: Factor of the load-balancing loss of a mixture of experts; None for the model's own.

    Returns:
        The state that the keyword uses. A model that is deep-copied afterwards scores with its own weights.
    """
    state = ScoringState(facts_of(model), features, router_loss_of(model, router_aux_loss_coef))
    model.mmdpo_scoring = state
    head = head_of(model, state.facts)
    _add_keyword(model, "score_batch", _score)
    # the head has one too, because FSDP2 shards it alone and gathers its weight around its forward only
    rows = functools.partial(_score_rows, scale=head.scale, softcap=head.softcap)
    _add_keyword(model.get_output_embeddings(), "score_targets", rows)
    return state


def _add_keyword(module: Any, name: str, computation: Callable[..., Any]) -> None:
    """Gives a module's ``forward`` a keyword that selects another computation: ``computation(module, ..., value)``."""
    plain = type(module).forward

    @functools.wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        value = kwargs.pop(name, None)
        return plain(self, *args, **kwargs) if value is None else computation(self, *args, value)

    signature = inspect.signature(plain)
    keyword = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = signature.replace(parameters=[*parameters, keyword, *rest])  # type: ignore[attr-defined]
    module.forward = types.MethodType(forward, module)


def score(model: nn.Module, batch: Batch) -> Tensor:
    """Per-token log-probabilities of every answer of a batch, through the wrapped model.

    Args:
        model: The model, or whatever wraps it.
        batch: A batch of :class:`mmdpo.collate.Collator`.

    Returns:
        [N, A] natural-log probabilities, 0 where the batch's ``mask`` is False.
    """
    return scores(model, batch)["logp"]


def scores(
    model: nn.Module, batch: Batch, statistics: Collection[str] = (), reference: ReferenceHidden | None = None
) -> dict[str, Tensor]:
    """Log-probabilities and statistics of every answer token of a batch, through the wrapped model.

    Args:
        model: The model, or whatever wraps it.
        batch: A batch of :class:`mmdpo.collate.Collator`.
        statistics: Names of :data:`mmdpo.forward.head.STATISTICS`; `token_statistics` there says what they are.
        reference: For ``token_kl``, what :meth:`mmdpo.reference.Reference.scores` kept of the same batch.

    Returns:
        ``logp`` and each statistic, [N, A] each, 0 where the batch's ``mask`` is False.

    Raises:
        ConfigError: There is no statistic of a name.
        ModelError: ``token_kl`` is wanted without the reference of this very batch.
    """
    check_statistics(statistics)
    return model(score_batch=_Request(batch, tuple(statistics), reference))


def scores_and_hidden(
    model: nn.Module, batch: Batch, statistics: Collection[str] = ()
) -> tuple[dict[str, Tensor], Tensor]:
    """As :func:`scores`, and the [n, D] hidden states that predict the answer tokens, in the order of the ``mask``."""
    check_statistics(statistics)
    found = model(score_batch=_Request(batch, tuple(statistics), keep_hidden=True))
    return found, found.pop("hidden")


def _score(model: Any, request: _Request) -> dict[str, Tensor]:
    state: ScoringState = model.mmdpo_scoring
    batch = request.batch
    hidden = last_hidden(model, batch, state)
    mask = batch["mask"]
    rows = hidden.flatten(0, 1)[batch["hidden_index"][mask]]
    targets = _Targets(batch["targets"][mask], request.statistics, request.reference)
    values = model.get_output_embeddings()(rows, score_targets=targets)
    found = {name: value.new_zeros(mask.shape).masked_scatter(mask, value) for name, value in values.items()}
    return found | ({"hidden": rows} if request.keep_hidden else {})


def _score_rows(
    layer: Any, hidden: Tensor, targets: _Targets, scale: float, softcap: float | None
) -> dict[str, Tensor]:
    head, ref_hidden, ref_head = Head(layer.weight, layer.bias, scale, softcap), None, None
    if targets.reference is not None:
        ref_hidden, other = targets.reference.hidden, targets.reference.head
        if other is not None:
            ref_head = Head(_whole(other.weight), None if other.bias is None else _whole(other.bias))
    return token_statistics(hidden, head, targets.ids, targets.statistics, ref_hidden=ref_hidden, ref_head=ref_head)


def _whole(weight: Tensor) -> Tensor:
    """A frozen weight of a module that is not running; where FSDP2 left it sharded, gathered from all processes."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight.detach()
