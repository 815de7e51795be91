"""The load-balancing loss of a mixture of experts: the model's own, over the tokens that its experts really saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.oracle import picture, plain_row, record, setup
from mmdpo.errors import ConfigError
from mmdpo.models.router import router_loss_of
from mmdpo.scoring import score
from tiny import FAMILIES
from training.common import loaded_model, make_trainer, pairs

COEFFICIENT = 0.5
RECORD = record("one", "What is here?", ["A cat on a mat.", "No dogs"], picture(1))


def own_router_logits(answer: Tensor) -> tuple[list[Tensor], int]:
    """Router logits of each layer on the plain row [tokens, experts], and the length of its prompt."""
    tiny = FAMILIES["qwen3_vl_moe"]()
    row = plain_row(tiny, RECORD, answer)
    output = tiny.model(**row, output_router_logits=True)
    return list(output.router_logits), row["input_ids"].shape[1] - len(answer)


def switch_loss(logits: list[Tensor], top_k: int) -> Tensor:
    """Fedus et al. 2021, equations 4 to 6, over the tokens of all layers together."""
    rows = torch.cat(logits)
    probabilities = rows.softmax(-1)
    chosen = torch.zeros_like(rows).scatter(1, probabilities.topk(top_k).indices, 1.0)
    return rows.shape[1] * (chosen.mean(0) * probabilities.mean(0)).sum()


def test_it_is_the_switch_loss_over_distinct_tokens() -> None:
    tiny = FAMILIES["qwen3_vl_moe"]()
    built = setup(tiny, candidates=2)
    state = tiny.model.mmdpo_scoring
    state.router = router_loss_of(tiny.model, COEFFICIENT)
    batch = built.collator([(0, RECORD)])
    score(tiny.model, batch)
    ours = state.router.take()
    first, second = (batch["targets"][n][batch["mask"][n]] for n in range(2))
    (whole, prompt), (other, _) = own_router_logits(first), own_router_logits(second)
    # the prompt once, then the tokens of each answer
    distinct = [torch.cat([a, b[prompt:]]) for a, b in zip(whole, other, strict=True)]
    top_k = tiny.model.config.get_text_config().num_experts_per_tok
    assert torch.allclose(ours, COEFFICIENT * switch_loss(distinct, top_k), atol=1e-6)
    doubled = [torch.cat([a, b]) for a, b in zip(whole, other, strict=True)]
    assert not torch.allclose(ours, COEFFICIENT * switch_loss(doubled, top_k), atol=1e-4)


def test_it_is_off_without_gradient_and_where_the_configuration_says_nothing() -> None:
    tiny = FAMILIES["qwen3_vl_moe"]()
    built = setup(tiny, candidates=2)
    assert tiny.model.mmdpo_scoring.router is None
    router = tiny.model.mmdpo_scoring.router = router_loss_of(tiny.model, COEFFICIENT)
    with torch.no_grad():
        score(tiny.model, built.collator([(0, RECORD)]))
    assert router is not None and router.take() == 0.0
    tiny.model.config.get_text_config().output_router_logits = True
    own = router_loss_of(tiny.model)
    assert own is not None and own.coefficient == tiny.model.config.get_text_config().router_aux_loss_coef
    assert router_loss_of(tiny.model, 0.0) is None


def test_a_dense_model_refuses_it() -> None:
    with pytest.raises(ConfigError, match="no load-balancing loss"):
        router_loss_of(FAMILIES["llava"]().model, COEFFICIENT)


@pytest.mark.parametrize("two_pass", [False, True])
def test_a_step_adds_the_mean_over_its_micro_batches(tmp_path: Path, two_pass: bool) -> None:
    """The gradient of the step is that of the objective plus that of the mean of the micro-batches' router losses."""

    def gradients(coefficient: float | None) -> tuple[dict[str, Tensor], Tensor]:
        loaded = loaded_model("qwen3_vl_moe", lora=None)
        router = loaded.inner.mmdpo_scoring.router = router_loss_of(loaded.inner, coefficient or 0.0)
        records = pairs(4)
        trainer = make_trainer(
            loaded,
            records,
            tmp_path / str(coefficient),
            two_pass=two_pass,
            max_steps=1,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1.0,
        )
        order = [[int(n) for n in batch["index"]] for batch in trainer.get_train_dataloader()]
        before = {name: value.detach().clone() for name, value in loaded.model.named_parameters()}
        trainer.train()
        moved = {n: before[n] - v.detach() for n, v in loaded.model.named_parameters()}  # plain descent, rate 1
        assert router is None or router.take() == 0.0  # every loss was used
        return moved, torch.tensor(order)

    plain, _ = gradients(None)
    balanced, order = gradients(COEFFICIENT)
    loaded = loaded_model("qwen3_vl_moe", lora=None)
    router = router_loss_of(loaded.inner, COEFFICIENT)
    collator = make_trainer(loaded, pairs(4), tmp_path / "collator").collator
    assert router is not None
    loaded.inner.mmdpo_scoring.router = router
    losses = []
    for members in order.tolist():
        score(loaded.inner, collator([(n, pairs(4)[n]) for n in members]))
        losses.append(router.take())
    expected = torch.autograd.grad(
        torch.stack([torch.as_tensor(loss) for loss in losses]).mean(),
        [v for v in loaded.model.parameters() if v.requires_grad],
        allow_unused=True,
    )
    names = [n for n, v in loaded.model.named_parameters() if v.requires_grad]
    seen = 0
    for name, gradient in zip(names, expected, strict=True):
        if gradient is None:
            continue
        difference = balanced[name] - plain[name]
        assert torch.allclose(difference, gradient, atol=1e-5 + 1e-3 * float(gradient.abs().max())), name
        seen += float(gradient.abs().max()) > 1e-4
    assert seen > 5
