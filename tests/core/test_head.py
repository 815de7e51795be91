"""The tiled head: `log_softmax` of what the model's forward makes of its last hidden states, and its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from mmdpo.errors import ModelError
from mmdpo.forward.head import TILE_ELEMENTS, Head, token_statistics
from mmdpo.models.families import Facts, Family
from mmdpo.scoring import head_of

ROWS, WIDTH, VOCABULARY = 7, 5, 23
OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"bias": True}, id="bias"),
    pytest.param({"scale": 0.7}, id="scale"),
    pytest.param({"softcap": 2.0}, id="soft-cap"),
    pytest.param({"bias": True, "scale": 1.3, "softcap": 3.0}, id="all"),
]
every_option = pytest.mark.parametrize("options", OPTIONS)
every_tile = pytest.mark.parametrize("tile", [1, 4, 8, 22, 23, 64])


def tensors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, bias, and one target in every part of the vocabulary, first and last included."""
    hidden, weight, bias = torch.randn(ROWS, WIDTH), torch.randn(VOCABULARY, WIDTH), torch.randn(VOCABULARY)
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), torch.tensor([0, 22, 3, 4, 11, 21, 8])


def head(weight: Tensor, bias: Tensor, options: dict[str, Any]) -> Head:
    return Head(weight, **options | ({"bias": bias} if options.get("bias") else {}))


def head_logprobs(hidden: Tensor, of: Head, targets: Tensor, *, tile: int | None = None) -> Tensor:
    """What the head gives when nothing else is asked for."""
    (logp,) = token_statistics(hidden, of, targets, tile=tile).values()
    return logp


def expected_logprobs(hidden: Tensor, of: Head, targets: Tensor) -> Tensor:
    """`log_softmax` of all logits, in float32 at least."""
    logits = hidden @ of.weight.T if of.bias is None else hidden @ of.weight.T + of.bias
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * of.scale
    if of.softcap is not None:
        logits = of.softcap * torch.tanh(logits / of.softcap)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


@every_option
@every_tile
def test_values_and_gradients_equal_log_softmax(options: dict[str, Any], tile: int) -> None:
    hidden, weight, bias, targets = tensors()
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    incoming = torch.randn(ROWS, dtype=torch.float64)
    results = []
    for function in (lambda *args: head_logprobs(*args, tile=tile), expected_logprobs):
        value = function(hidden, head(weight, bias, options), targets)
        gradients = torch.autograd.grad(value, inputs, incoming, allow_unused=True)
        results.append([value, *(gradient for gradient in gradients if gradient is not None)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@every_option
@pytest.mark.parametrize("tile", [4, 23])
def test_gradcheck(options: dict[str, Any], tile: int) -> None:
    hidden, weight, bias, targets = tensors()

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return head_logprobs(hidden, head(weight, bias, options), targets, tile=tile)

    if options.get("bias"):
        assert gradcheck(function, [tensor.requires_grad_() for tensor in (hidden, weight, bias)])
    else:
        assert gradcheck(lambda h, w: function(h, w, bias), [hidden.requires_grad_(), weight.requires_grad_()])


@pytest.mark.parametrize("trained", [(True, False, False), (False, True, False), (False, False, True)])
def test_each_input_may_be_the_only_one_that_trains(trained: tuple[bool, bool, bool]) -> None:
    *inputs, targets = tensors()
    for tensor, trains in zip(inputs, trained, strict=True):
        tensor.requires_grad_(trains)
    hidden, weight, bias = inputs
    only = inputs[trained.index(True)]
    (ours,) = torch.autograd.grad(head_logprobs(hidden, Head(weight, bias), targets, tile=4).sum(), [only])
    (expected,) = torch.autograd.grad(expected_logprobs(hidden, Head(weight, bias), targets).sum(), [only])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tile", [4, 23])
def test_bfloat16_is_as_exact_as_its_logits(tile: int) -> None:
    """Logits are made in bfloat16, as the model makes them; everything after that is float32."""
    hidden, weight, bias, targets = tensors(torch.bfloat16)
    hidden.requires_grad_()
    ours = head_logprobs(hidden, Head(weight, bias), targets, tile=tile)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected_logprobs(hidden, Head(weight, bias), targets), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(ours.sum(), [hidden])
    wide = hidden.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(
        expected_logprobs(wide, Head(weight.float(), bias.float()), targets).sum(), [wide]
    )
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.float(), expected, rtol=0.05, atol=0.05)


def test_autocast_makes_forward_and_backward_of_the_same_logits() -> None:
    """The gradient of the logits sums to zero only when the backward normalises the logits that the forward made."""
    hidden, weight, bias, targets = tensors(torch.float32)
    hidden, bias = (hidden * 16).requires_grad_(), bias.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = head_logprobs(hidden, Head(weight, bias), targets, tile=8)
        model = nn.functional.linear(hidden, weight, bias).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, model, rtol=0.01, atol=0.5)
    gradients = torch.autograd.grad(ours.sum(), [hidden, bias])
    expected = torch.autograd.grad(model.sum(), [hidden, bias])
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    assert gradients[1].sum().abs() < 0.02  # as close as rounding to bfloat16 leaves it
    torch.testing.assert_close(gradients, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_gaps_of_ten_thousand_stay_finite(softcap: float | None) -> None:
    weight = torch.tensor([[1e4], [-1e4], [0.0], [1e4]], requires_grad=True)
    hidden = torch.ones(3, 1, requires_grad=True)
    logp = head_logprobs(hidden, Head(weight, softcap=softcap), torch.tensor([0, 1, 2]), tile=2)
    expected = [0.0, -2e4, -1e4] if softcap is None else [0.0, -100.0, -50.0]
    torch.testing.assert_close(logp, torch.tensor(expected) - torch.log(torch.tensor(2.0)), rtol=0, atol=2e-3)
    logp.sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    assert torch.isfinite(hidden.grad).all() and torch.isfinite(weight.grad).all()


class LargestOutput(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation makes (views of inputs are none)."""

    def __init__(self, known: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.elements = max(self.elements, tensor.numel())
        return result


def test_only_one_tile_of_logits_is_held() -> None:
    """Nothing larger than a tile of logits or a gradient of the weight appears, forward and backward."""
    rows, vocabulary, width, tile = 64, 1000, 4, 100
    hidden, weight = torch.randn(rows, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,))
    with LargestOutput((hidden, weight)) as probe:
        head_logprobs(hidden, Head(weight), targets, tile=tile).sum().backward()
    assert probe.elements <= max(rows * tile, weight.numel()) < rows * vocabulary
    with LargestOutput((hidden, weight)) as probe:  # power: the probe sees what the plain way makes
        expected_logprobs(hidden, Head(weight), targets).sum().backward()
    assert probe.elements == rows * vocabulary


def test_the_default_tile_keeps_its_budget() -> None:
    rows, vocabulary = 4096, 9000
    hidden, weight = torch.randn(rows, 2), torch.randn(vocabulary, 2)
    with LargestOutput((hidden, weight)) as probe:
        head_logprobs(hidden, Head(weight), torch.zeros(rows, dtype=torch.long))
    assert probe.elements <= TILE_ELEMENTS < rows * vocabulary


def test_no_rows_give_no_numbers() -> None:
    assert head_logprobs(torch.zeros(0, 3), Head(torch.zeros(5, 3)), torch.zeros(0, dtype=torch.long)).shape == (0,)


def facts(final_softcap: bool) -> Facts:
    return Facts(
        family=Family(final_softcap=final_softcap),
        model_type="named",
        two_way="none",
        layer_types=frozenset({"full_attention"}),
        window=None,
        plain_reason=None,
        rope_index=None,
        media_token_ids={},
        max_positions=None,
        prefix="",
        projectors=(),
        takes_outputs=True,
        feature_inputs={},
    )


class Named(nn.Module):
    """As much of a model as `head_of` reads."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.config = type("Config", (), {"get_text_config": lambda _: self.config, "final_logit_softcapping": 30.0})()

    def get_output_embeddings(self) -> nn.Module:
        return self.layer


def test_a_soft_cap_is_used_where_the_class_uses_it() -> None:
    """Gemma 3 names one in its configuration and ignores it; the family's row says so."""
    model = Named(nn.Linear(3, 5))
    assert head_of(model, facts(final_softcap=False)).softcap is None
    found = head_of(model, facts(final_softcap=True))
    assert found.softcap == 30.0 and found.bias is model.layer.bias


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="Sequential"):
        head_of(Named(nn.Sequential(nn.Linear(3, 5))), facts(final_softcap=False))
