"""Text alone: a composed model is its language model, to the last bit of its logits."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from composed.languages import KINDS, SMALL, language_model
from mmdpo.errors import ModelError
from mmdpo.modalities.embeddings import Embeddings
from mmdpo.models import logit_rules
from mmdpo.models.composed import compose

TEXT = torch.tensor([[1, 40, 41, 42, 260, 300, 7, 9, 11, 350, 351, 20, 21, 22, 23, 24]])


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_loss_on_text_are_the_language_models_own(kind: str) -> None:
    llm, tokenizer = language_model(kind)
    with torch.no_grad():
        own = llm(input_ids=TEXT, labels=TEXT)

    model, _ = compose(llm, {"event": Embeddings(dim=4)}, tokenizer=tokenizer)

    with torch.no_grad():
        found = model(input_ids=TEXT)
        vocabulary = own.logits.shape[-1]
        torch.testing.assert_close(found.logits[..., :vocabulary], own.logits)
        # the placeholder is one more token, so the loss is the language model's only over its own vocabulary
        loss = torch.nn.functional.cross_entropy(found.logits[0, :-1, :vocabulary], TEXT[0, 1:])
    torch.testing.assert_close(loss, own.loss)
    torch.testing.assert_close(
        model(input_ids=TEXT, labels=TEXT).loss,
        torch.nn.functional.cross_entropy(found.logits[0, :-1], TEXT[0, 1:]),
    )


@pytest.mark.parametrize(("kind", "table"), [("cohere", "MULTIPLIED_BY"), ("gemma2", "SOFTCAPPED_AT")])
def test_an_unknown_rule_for_logits_is_found_out(kind: str, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(getattr(logit_rules, table), kind)
    llm, tokenizer = language_model(kind)

    with pytest.raises(ModelError, match=f"differ from those of {kind}") as caught:
        compose(llm, {"event": Embeddings(dim=4)}, tokenizer=tokenizer)

    if kind == "cohere":
        assert "about 4 times as large" in str(caught.value)  # logit_scale is 0.25


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*logit_rules.MULTIPLIED_BY, *logit_rules.DIVIDED_BY, *logit_rules.SOFTCAPPED_AT])
def test_every_rule_of_the_table_is_the_models_own(kind: str) -> None:
    """`compose` compares the logits itself; the value is far from 1 so that a rule that does nothing is seen."""
    tables = (logit_rules.MULTIPLIED_BY, logit_rules.DIVIDED_BY, logit_rules.SOFTCAPPED_AT)
    name = next(table[kind] for table in tables if kind in table)
    fields = {key: value for key, value in SMALL.items() if hasattr(AutoConfig.for_model(kind), key)}
    extra = {
        "minicpm3": {
            "dim_model_base": 8,  # logits are divided by hidden_size / dim_model_base
            "num_key_value_heads": 4,
            **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 8),
        },
        "falcon_h1": {name: 2.5, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
        "gemma4_text": {name: 2.5, "hidden_size_per_layer_input": 0},
        "granitemoehybrid": {
            name: 2.5,
            "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
        },
        "recurrent_gemma": {name: 2.5, "num_hidden_layers": 3},
    }.get(kind, {name: 2.5})
    llm, tokenizer = language_model(kind, **fields | extra)

    model, _ = compose(llm, {"event": Embeddings(dim=4)}, tokenizer=tokenizer)

    assert (model.config.logit_scale, model.config.logit_softcap) != (1.0, None)


def test_padding_rows_of_the_vocabulary_are_kept_and_new_rows_are_the_mean() -> None:
    llm, tokenizer = language_model(padding_rows=8)
    before = llm.get_input_embeddings().weight.clone(), llm.lm_head.weight.clone()
    model, processor = compose(llm, {"event": Embeddings(dim=4)}, tokenizer=tokenizer)
    assert processor.media["event"]["token_id"] == len(tokenizer)
    assert torch.equal(model.get_input_embeddings().weight, before[0])
    assert torch.equal(model.lm_head.weight, before[1])

    llm, tokenizer = language_model()
    old = llm.get_input_embeddings().weight.clone(), llm.lm_head.weight.clone()
    model, processor = compose(llm, {"a": Embeddings(dim=4), "b": Embeddings(dim=4)}, tokenizer=tokenizer)
    for found, of in zip((model.get_input_embeddings().weight, model.lm_head.weight), old, strict=True):
        assert torch.equal(found[: len(of)], of)
        torch.testing.assert_close(found[len(of) :], of.mean(0, keepdim=True).expand(2, -1))
    assert len(tokenizer) == len(old[0])  # the caller's tokenizer is left as it was


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    def projector(seed: int) -> torch.Tensor:
        llm, tokenizer = language_model()
        torch.rand(seed + 1)  # whatever was drawn before
        model, _ = compose(llm, {"event": Embeddings(dim=4)}, tokenizer=tokenizer, seed=seed)
        weight: torch.Tensor = model.model.projectors["event"].linear_1.weight
        return weight

    assert torch.equal(projector(3), projector(3))
    assert not torch.equal(projector(3), projector(4))
