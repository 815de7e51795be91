"""Statistics of answer tokens: against distributions over all logits, worked numbers, and the model's own logits."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.autograd import gradcheck
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
from torch.distributions import Categorical, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from core.oracle import answers_of, plain_row, varied_records
from core.test_head import OPTIONS, ROWS, VOCABULARY, WIDTH, LargestOutput, head, tensors
from mmdpo.collate import Batch, Collator
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError, ModelError
from mmdpo.forward.head import STATISTICS, Head, token_statistics
from mmdpo.models.load import Lora
from mmdpo.policy import LoadedModel, prepare
from mmdpo.reference import make_reference
from mmdpo.scoring import score, scores
from mmdpo.views import View
from tiny import FAMILIES, Tiny, exact_float64

ALL = ("logp", *STATISTICS)
every_option = pytest.mark.parametrize("options", OPTIONS)
every_statistic = pytest.mark.parametrize("name", STATISTICS)
every_tile = pytest.mark.parametrize("tile", [1, 8, 22, 23, 64])


def logits_of(hidden: Tensor, of: Head) -> Tensor:
    """[n, V] logits as a model's forward makes them, in float32 at least."""
    logits = torch.nn.functional.linear(hidden, of.weight, of.bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * of.scale
    return logits if of.softcap is None else of.softcap * torch.tanh(logits / of.softcap)


def expected_statistics(logits: Tensor, targets: Tensor, reference: Tensor | None = None) -> dict[str, Tensor]:
    """All numbers of each token, from all logits at once and PyTorch's distributions."""
    policy = Categorical(logits=logits)
    values = {
        "logp": policy.log_prob(targets),
        "logit": logits.gather(1, targets[:, None])[:, 0],
        "entropy": policy.entropy(),
        "sum_squared_probability": policy.probs.square().sum(-1),
    }
    if reference is not None:
        values["token_kl"] = kl_divergence(Categorical(logits=reference.detach()), policy)
    return values


def other_model(options: dict[str, Any], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Head]:
    """Hidden states and head of a reference that is not the policy."""
    hidden, weight, bias, _ = tensors(dtype)
    return hidden, head(weight, bias, options)


@every_option
@every_tile
def test_values_and_gradients_equal_those_of_all_logits(options: dict[str, Any], tile: int) -> None:
    hidden, weight, bias, targets = tensors()
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    policy = head(weight, bias, options)
    ref_hidden, ref_head = other_model(options)
    ours = token_statistics(hidden, policy, targets, STATISTICS, ref_hidden=ref_hidden, ref_head=ref_head, tile=tile)
    expected = expected_statistics(logits_of(hidden, policy), targets, logits_of(ref_hidden, ref_head))
    assert tuple(ours) == ALL
    for name in ALL:
        torch.testing.assert_close(
            ours[name], expected[name], rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )
    incoming = torch.randn(len(ALL), ROWS, dtype=torch.float64)
    results = [
        torch.autograd.grad(torch.stack([values[name] for name in ALL]), inputs, incoming, allow_unused=True)
        for values in (ours, expected)
    ]
    for gradient, wanted in zip(*results, strict=True):
        assert (gradient is None) is (wanted is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)


@every_statistic
@every_option
@pytest.mark.parametrize("tile", [4, 23])
def test_gradcheck(name: str, options: dict[str, Any], tile: int) -> None:
    hidden, weight, bias, targets = tensors()
    ref_hidden, ref_head = other_model(options)

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        policy = head(weight, bias, options)
        return token_statistics(hidden, policy, targets, (name,), ref_hidden=ref_hidden, ref_head=ref_head, tile=tile)[
            name
        ]

    if options.get("bias"):
        assert gradcheck(function, [tensor.requires_grad_() for tensor in (hidden, weight, bias)])
    else:
        assert gradcheck(lambda h, w: function(h, w, bias), [hidden.requires_grad_(), weight.requires_grad_()])


@every_statistic
def test_each_is_the_same_alone_and_beside_the_others(name: str) -> None:
    hidden, weight, bias, targets = tensors()
    ref_hidden, ref_head = other_model({})
    results = []
    for asked in ((name,), STATISTICS[::-1]):
        leaf = hidden.clone().requires_grad_()
        values = token_statistics(
            leaf, Head(weight, bias), targets, asked, ref_hidden=ref_hidden, ref_head=ref_head, tile=8
        )
        assert tuple(values) == ("logp", *asked)
        results.append((values[name], *torch.autograd.grad(values[name].sum(), [leaf])))
    torch.testing.assert_close(results[0], results[1], rtol=1e-14, atol=1e-14)


def test_the_reference_has_no_gradient() -> None:
    hidden, weight, bias, targets = tensors()
    ref_hidden, ref_head = other_model({"bias": True})
    theirs = [tensor.requires_grad_() for tensor in (ref_hidden, ref_head.weight, ref_head.bias) if tensor is not None]
    value = token_statistics(
        hidden.requires_grad_(), Head(weight, bias), targets, ("token_kl",), ref_hidden=ref_hidden, ref_head=ref_head
    )["token_kl"].sum()
    assert torch.autograd.grad(value, [hidden, *theirs], allow_unused=True)[1:] == (None, None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_option
def test_a_policy_that_is_its_reference_has_no_divergence_and_no_gradient(
    dtype: torch.dtype, options: dict[str, Any]
) -> None:
    """Exactly 0: both sides are the same computation."""
    hidden, weight, bias, targets = tensors(dtype)
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    value = token_statistics(
        hidden, head(weight, bias, options), targets, ("token_kl",), ref_hidden=hidden.detach().clone(), tile=8
    )["token_kl"]
    assert not value.any()
    gradients = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
    assert not any(gradient.any() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("tile", [1, 2, 3, 4])
def test_gaps_of_ten_thousand(tile: int) -> None:
    """Logits 1e4, -1e4, 0, 1e4: p is 1/2, 0, 0, 1/2. The reference's logits are all 0."""
    weight = torch.tensor([[1e4], [-1e4], [0.0], [1e4]], requires_grad=True)
    hidden = torch.ones(3, 1, requires_grad=True)
    targets = torch.tensor([0, 1, 2])
    values = token_statistics(hidden, Head(weight), targets, STATISTICS, ref_hidden=torch.zeros(3, 1), tile=tile)
    # KL of the even r: sum 1/4 (log 1/4 - log p), with -log p = log 2 + (0, 2e4, 1e4, 0)
    expected = {"entropy": math.log(2), "sum_squared_probability": 0.5, "token_kl": 7500 - math.log(2)}
    for name, value in expected.items():
        torch.testing.assert_close(values[name], torch.full((3,), value), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(values["logit"], torch.tensor([1e4, -1e4, 0.0]))
    # d KL / dz = p - r = (1/4, -1/4, -1/4, 1/4) on each of three rows; hidden is 1
    (gradient,) = torch.autograd.grad(values["token_kl"].sum(), [weight], retain_graph=True)
    torch.testing.assert_close(gradient[:, 0], torch.tensor([0.75, -0.75, -0.75, 0.75]), rtol=1e-3, atol=1e-3)
    assert all(g.isfinite().all() for g in torch.autograd.grad(sum(v.sum() for v in values.values()), [hidden, weight]))


@pytest.mark.parametrize("softcap", [None, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_everything_is_finite(size: float, dtype: torch.dtype, softcap: float | None) -> None:
    hidden, weight, bias, targets = tensors(dtype)
    inputs = [tensor.mul_(size if tensor is hidden else 1).requires_grad_() for tensor in (hidden, weight, bias)]
    ref_hidden, ref_head = other_model({"bias": True}, dtype)
    values = token_statistics(
        *(hidden, Head(weight, bias, softcap=softcap), targets, STATISTICS),
        **{"ref_hidden": ref_hidden * size, "ref_head": ref_head, "tile": 8},
    )
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in values.values())
    assert (values["entropy"] >= 0).all() and (values["token_kl"] >= 0).all()
    gradients = torch.autograd.grad(torch.stack(list(values.values())).sum(), inputs)
    assert all(gradient.isfinite().all() and gradient.dtype == dtype for gradient in gradients)


def test_bfloat16_is_as_exact_as_its_logits() -> None:
    """Logits are made in bfloat16, as the model makes them; everything after that is float32."""
    hidden, weight, bias, targets = tensors(torch.bfloat16)
    ref_hidden, ref_head = other_model({"bias": True}, torch.bfloat16)
    policy = Head(weight, bias)
    ours = token_statistics(hidden, policy, targets, STATISTICS, ref_hidden=ref_hidden, ref_head=ref_head, tile=8)
    # linear() adds the bias before it rounds, so the logits are made as the head makes them: rounded, then added to
    policy_logits, ref_logits = (
        (states @ of.weight.T + of.bias).float() for states, of in ((hidden, policy), (ref_hidden, ref_head))
    )
    expected = expected_statistics(policy_logits, targets, ref_logits)
    for name in ALL:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-5, atol=1e-5)


def test_autocast_rounds_the_reference_as_the_policy() -> None:
    hidden, weight, bias, targets = tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = token_statistics(hidden, Head(weight, bias), targets, ("token_kl",), ref_hidden=hidden.bfloat16())
    assert not value["token_kl"].any()


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.mm.default
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(("asked", "forward"), [((), 3), (STATISTICS[:3], 3), (("token_kl",), 6), (STATISTICS, 6)])
def test_one_pass_over_the_tiles(asked: Sequence[str], forward: int) -> None:
    """Three tiles: a product each forward, twice as many with a reference; backward one more each for the gradient."""
    hidden, weight, _, targets = tensors()
    hidden.requires_grad_()
    with Products() as counter:
        values = token_statistics(hidden, Head(weight), targets, asked, ref_hidden=hidden.detach(), tile=8)
        assert counter.count == forward
        torch.stack(list(values.values())).sum().backward()
    assert counter.count == 2 * forward + 3


def test_only_tiles_are_held() -> None:
    rows, vocabulary, width, tile = 64, 1000, 4, 100
    hidden, weight = torch.randn(rows, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    ref_hidden, targets = torch.randn(rows, width), torch.randint(vocabulary, (rows,))
    with LargestOutput((hidden, weight)) as probe:
        values = token_statistics(hidden, Head(weight), targets, STATISTICS, ref_hidden=ref_hidden, tile=tile)
        torch.stack(list(values.values())).sum().backward()
    assert probe.elements <= max(rows * tile, weight.numel()) < rows * vocabulary


def test_what_cannot_be_given_is_refused() -> None:
    hidden, weight, _, targets = tensors()
    with pytest.raises(ConfigError, match=r"'entrop' is no statistic.*\n.*\n.*'entropy'"):
        token_statistics(hidden, Head(weight), targets, ("entrop",))
    with pytest.raises(ModelError, match=f"token_kl of {ROWS} tokens with no reference"):
        token_statistics(hidden, Head(weight), targets, ("token_kl",))
    with pytest.raises(ModelError, match=f"token_kl of {ROWS} tokens with a reference of 1"):
        token_statistics(hidden, Head(weight), targets, ("token_kl",), ref_hidden=hidden[:1])


def test_no_rows_give_no_numbers() -> None:
    none = torch.zeros(0, WIDTH, requires_grad=True)
    head_of_all = Head(torch.zeros(VOCABULARY, WIDTH))
    values = token_statistics(none, head_of_all, torch.zeros(0, dtype=torch.long), STATISTICS, ref_hidden=none.detach())
    assert {value.shape for value in values.values()} == {(0,)}
    torch.stack(list(values.values())).sum().backward()
    assert none.grad is not None and none.grad.shape == none.shape


# ---- through a model ----

RECORDS = varied_records()
VIEWS = [View(candidate, variant) for variant in ("clean", "blank") for candidate in range(2)]
KINDS: dict[str, dict[str, Any]] = {
    "adapter": {"lora": Lora(r=4, alpha=8)},
    "copy": {"lora": None},
    "copy with one head": {"lora": None, "trainable": "projector"},
}


def prepared(kind: str) -> tuple[Tiny, LoadedModel, Batch, Collator]:
    """A tiny LLaVA in float64, and a batch of texts, images and their blank variants."""
    tiny = FAMILIES["llava"](dtype=torch.float64)
    loaded = prepare(tiny.model, tiny.processor, **KINDS[kind])
    loaded.model.double().eval()
    collator = Collator(Encoder(loaded.processor, loaded.facts, loaded.eos_ids), VIEWS)
    return tiny, loaded, collator(list(enumerate(RECORDS))), collator


def moved(loaded: LoadedModel) -> dict[str, Tensor]:
    """Changes every parameter that trains, as training would, and gives those parameters."""
    trained = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return trained


def own_logits(tiny: Tiny, model: Any, batch: Batch, collator: Collator) -> list[Tensor]:
    """[L, V] logits of each answer of a batch, from the model's own forward on plain rows."""
    return [
        model(**plain_row(tiny, RECORDS[example], answer, collator.media_names[variant])).logits[
            0, -len(answer) - 1 : -1
        ]
        for example, variant, answer in answers_of(batch)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_the_models_own_logits(kind: str) -> None:
    tiny, loaded, batch, collator = prepared(kind)
    with exact_float64():
        with torch.no_grad():
            before = own_logits(tiny, copy.deepcopy(tiny.model), batch, collator)  # a fresh adapter changes nothing
        reference = make_reference(loaded)
        trained = moved(loaded)
        found = reference.scores(loaded.model, batch, STATISTICS[:3], keep_hidden=True)
        assert found.hidden is not None and (found.hidden.head is not None) is (kind == "copy")
        ours = scores(loaded.model, batch, STATISTICS, found.hidden)
        after = own_logits(tiny, tiny.model, batch, collator)

        mask, targets = batch["mask"], batch["targets"][batch["mask"]]
        expected = expected_statistics(torch.cat(after), targets, torch.cat(before))
        ref_expected = expected_statistics(torch.cat(before), targets)
        assert (expected["token_kl"] > 1e-3).any()  # power: the two are different models
        for values, wanted in ((ours, expected), (found.values, ref_expected)):
            assert values.keys() == wanted.keys()
            for name, value in values.items():
                assert value.shape == mask.shape and not value[~mask].any()
                torch.testing.assert_close(value[mask], wanted[name], rtol=1e-8, atol=1e-8)

        incoming = torch.randn(len(ALL), len(targets), dtype=torch.float64)
        results = [
            torch.autograd.grad(stacked, list(trained.values()), incoming)
            for stacked in (
                torch.stack([ours[name][mask] for name in ALL]),
                torch.stack([expected[name] for name in ALL]),
            )
        ]
    for name, gradient, wanted_gradient in zip(trained, *results, strict=True):
        torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-7, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_nothing_has_diverged(kind: str) -> None:
    _, loaded, batch, _ = prepared(kind)
    reference = make_reference(loaded)
    hidden = reference.scores(loaded.model, batch, keep_hidden=True).hidden
    assert hidden is not None and not hidden.hidden.requires_grad
    values = scores(loaded.model, batch, ("token_kl",), hidden)
    torch.testing.assert_close(values["token_kl"], torch.zeros_like(values["token_kl"]), rtol=0, atol=1e-12)
    # what is not asked for is not there, and the short forms are the same numbers
    plain = reference.scores(loaded.model, batch)
    assert plain.hidden is None and plain.values.keys() == {"logp"}
    assert torch.equal(plain.values["logp"], reference.score(loaded.model, batch))
    assert torch.equal(values["logp"], score(loaded.model, batch))


def test_a_model_refuses_what_its_head_does() -> None:
    _, loaded, batch, _ = prepared("adapter")
    reference = make_reference(loaded)
    with pytest.raises(ConfigError, match="is no statistic"):
        scores(loaded.model, batch, ("kl",))
    with pytest.raises(ModelError, match="no reference"):
        scores(loaded.model, batch, ("token_kl",))
    with pytest.raises(ModelError, match="no reference"):
        reference.scores(loaded.model, batch, ("token_kl",))


def test_a_copy_whose_head_is_sharded_is_gathered(tmp_path: Path) -> None:
    """FSDP2 may leave the frozen copy's head in shards, which no product of whole tensors takes."""
    _, loaded, batch, _ = prepared("copy")
    reference = make_reference(loaded)
    moved(loaded)
    hidden = reference.scores(loaded.model, batch, keep_hidden=True).hidden
    assert hidden is not None
    expected = scores(loaded.model, batch, ("token_kl",), hidden)["token_kl"]
    assert expected.any()
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        weight = distribute_tensor(hidden.head.weight, init_device_mesh("cpu", (1,)))
        sharded = replace(hidden, head=SimpleNamespace(weight=weight, bias=None))
        assert torch.equal(scores(loaded.model, batch, ("token_kl",), sharded)["token_kl"], expected)
    finally:
        distributed.destroy_process_group()
