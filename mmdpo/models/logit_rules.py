"""What language models do between their last hidden state times the output weights and their logits.

Facts from the ``modeling_*.py`` files of ``transformers`` 5.23. A model type that is not here is taken to do nothing,
and :func:`check_logits` finds out when that is wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmdpo.errors import ModelError

MULTIPLIED_BY = {
    "cohere": "logit_scale",
    "cohere2": "logit_scale",
    "cohere2_moe": "logit_scale",
    "falcon_h1": "lm_head_multiplier",
    "hyperclovax": "logits_scaling",
}
"""Language models that multiply their logits, and by which field of their configuration."""
DIVIDED_BY = {
    "granite": "logits_scaling",
    "granite_swa": "logits_scaling",
    "granitemoe": "logits_scaling",
    "granitemoe_swa": "logits_scaling",
    "granitemoehybrid": "logits_scaling",
    "granitemoeshared": "logits_scaling",
    "minicpm3": "logits_scaling",
}
"""Language models that divide their logits (MiniCPM3 its last hidden states), and by which field."""
SOFTCAPPED_AT = {
    "gemma2": "final_logit_softcapping",
    "gemma3_text": "final_logit_softcapping",
    "gemma4_text": "final_logit_softcapping",
    "nanochat": "final_logit_softcapping",
    "recurrent_gemma": "logits_soft_cap",
    "vaultgemma": "final_logit_softcapping",
}
"""Language models that bound their logits, and at which field. Other configurations name one and ignore it."""


def logit_rule(config: Any) -> tuple[float, float | None]:
    """Scale and softcap of a language model: ``softcap * tanh(scale * logits / softcap)``, without the latter if None.

    Args:
        config: Its configuration.
    """
    kind = config.model_type
    scale = float(getattr(config, MULTIPLIED_BY[kind])) if kind in MULTIPLIED_BY else 1.0
    if kind in DIVIDED_BY:
        scale = 1 / float(getattr(config, DIVIDED_BY[kind]))
    return scale, getattr(config, SOFTCAPPED_AT[kind]) if kind in SOFTCAPPED_AT else None


@torch.no_grad()
def check_logits(model: Any, probe: Tensor, wanted: Tensor) -> None:
    """Compares a composed model's logits on text with the language model's own.

    Args:
        model: The composed model.
        probe: [1, T] ids of the language model's vocabulary.
        wanted: [1, T, V] its own logits.

    Raises:
        ModelError: They differ by more than the precision allows.
    """
    found = model(input_ids=probe).logits[..., : wanted.shape[-1]]
    try:
        torch.testing.assert_close(found, wanted)
    except AssertionError as error:
        ratio = float((found * wanted).sum() / (wanted * wanted).sum())
        raise ModelError(
            f"on text the composed model's logits differ from those of {model.config.text_config.model_type} by up to "
            f"{float((found - wanted).abs().max()):.3g} (they are about {ratio:.4g} times as large)",
            why="It does something between its last hidden state and its logits, or with token ids besides embedding "
            "them, that is not known.",
            fix="Report the model type; a rule for logits belongs in mmdpo/models/logit_rules.py.",
        ) from error
