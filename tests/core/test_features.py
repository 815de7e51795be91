"""Every distinct image is encoded once a step, frozen parts never see a backward pass, and nothing stale is read."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.oracle import Setup, conversation, oracle_logprobs, picture, record, setup
from mmdpo.models.families import facts_of
from mmdpo.models.load import TRAINS, Lora, Trainable, part_of
from mmdpo.policy import prepare
from mmdpo.reference import make_reference
from mmdpo.scoring import score
from tiny import CORE, FAMILIES, Tiny
from tiny.overfit import reply

FIRST, WIDE = picture(1), picture(2, 40, 20)
RECORDS = [
    record("a", "What is it?", ["A cat.", "Two dogs."], FIRST),
    record("b", "Compare.", ["Same.", "Not the same."], FIRST, WIDE),
    record("c", "And in words?", ["One.", "Two."]),
]
WHOLE_TOWERS = ("llava", "llava_next", "gemma3", "idefics3")
"""Families whose projector stands outside of the tower (Qwen's are one module)."""
every_checkpointing = pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])


def build(name: str, trainable: Trainable, checkpointing: bool = False, **options: Any) -> Setup:
    tiny = FAMILIES[name](**options)
    facts = facts_of(tiny.model)
    for parameter_name, parameter in tiny.model.named_parameters():
        parameter.requires_grad_(part_of(parameter_name, facts) in TRAINS[trainable])
    if checkpointing:
        tiny.model.train()
        tiny.model.activation_checkpointing_enable({"use_reentrant": False})
    layout = "shared" if facts.plain_reason is None else "plain"
    return setup(tiny, candidates=2, variants=("clean", "blank"), layout=layout)


def tower_layer(model: nn.Module) -> nn.Module:
    """The first layer of the vision tower."""
    lists = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and "vis" in name and name.endswith(("layers", "blocks"))
    ]
    return lists[0][0]


@contextmanager
def counted(*models: nn.Module) -> Iterator[list[int]]:
    """Tokens that pass the first tower layer of these models, call by call."""
    seen: list[int] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        seen.append(hidden.numel() // hidden.shape[-1])

    handles = [tower_layer(model).register_forward_pre_hook(hook, with_kwargs=True) for model in models]
    yield seen
    for handle in handles:
        handle.remove()


def tokens_of_distinct_images(tiny: Tiny, same_size: bool) -> int:
    """What the model's own forward spends on each distinct image alone: two clean ones, and their blank variants.

    Blank images are equal when the processor makes all images the same size.
    """
    images = [("clean", FIRST), ("clean", WIDE), ("blank", FIRST), *([] if same_size else [("blank", WIDE)])]
    with counted(tiny.model) as seen, torch.no_grad():
        for variant, media in images:
            tiny.model(
                **tiny.processor.apply_chat_template(
                    conversation(record("x", "?", ["x"], media), variant),
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                )
            )
    return sum(seen)


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_5_vl", "qwen3_5"])
@every_checkpointing
def test_one_forward_for_each_distinct_image_of_a_step(name: str, checkpointing: bool) -> None:
    """Policy, reference and a second pass; two candidates; two media variants; one image in two records."""
    built = build(name, "llm", checkpointing)
    expected = tokens_of_distinct_images(built.tiny, same_size=name in ("llava", "gemma3"))
    model, reference = built.tiny.model, copy.deepcopy(built.tiny.model)
    batch = built.collator(list(enumerate(RECORDS)))
    model.mmdpo_scoring.features.clear()
    with counted(model, reference) as seen:
        with torch.no_grad():
            score(model, batch)
        score(model, batch).sum().backward()
        with torch.no_grad():
            score(reference, batch)
        assert sum(seen) == expected
        model.mmdpo_scoring.features.clear()
        with torch.no_grad():
            score(reference, batch)
        assert sum(seen) == 2 * expected
    parts = {part_of(n, facts_of(model)) for n, p in model.named_parameters() if p.grad is not None}
    assert parts == {"llm"}


@pytest.mark.parametrize("name", ["llava_next", "idefics3"])
@every_checkpointing
def test_images_of_several_tiles_are_encoded_once_a_prompt(name: str, checkpointing: bool) -> None:
    """Their encoder inputs are known for the prompt as a whole: once for each prompt and variant, in one call."""
    built = build(name, "llm", checkpointing)
    model, reference = built.tiny.model, copy.deepcopy(built.tiny.model)
    batch = built.collator(list(enumerate(RECORDS)))
    with counted(model, reference) as seen:
        score(model, batch).sum().backward()
        with torch.no_grad():
            score(reference, batch)
    assert len(seen) == 1


@pytest.mark.parametrize("name", WHOLE_TOWERS)
@every_checkpointing
def test_a_frozen_tower_under_a_projector_that_trains(name: str, checkpointing: bool) -> None:
    """The projector runs for the policy and for the reference, with their own weights; the tower once for both."""
    built = build(name, "llm+projector", checkpointing)
    model, reference = built.tiny.model, copy.deepcopy(built.tiny.model)
    batch = built.collator(list(enumerate(RECORDS)))
    with counted(model, reference) as seen:
        with torch.no_grad():
            first = score(reference, batch)
        score(model, batch).sum().backward()
    assert len(seen) == 1
    facts = facts_of(model)
    parts = {part_of(n, facts) for n, p in model.named_parameters() if p.grad is not None}
    assert parts == {"llm", "projector"}
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if part_of(parameter_name, facts) == "projector":
                parameter.mul_(1.5)
        assert (score(model, batch) - first).abs().max() > 1e-2
        assert torch.equal(score(reference, batch), first)


@pytest.mark.parametrize("name", CORE)
def test_a_tower_that_trains_is_never_kept(name: str) -> None:
    built = build(name, "all")
    model = built.tiny.model
    batch = built.collator(list(enumerate(RECORDS)))
    with counted(model) as seen:
        first = score(model, batch)
        first.sum().backward()
        assert len(seen) == 1
        assert all(p.grad is not None for p in tower_layer(model).parameters())
        with torch.no_grad():
            for parameter in tower_layer(model).parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            assert (score(model, batch) - first).abs().max() > 1e-3
        assert len(seen) == 2


# --- nothing stale --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", TRAINS)
def test_generation_between_steps_sees_its_own_images(trainable: Trainable) -> None:
    """Neither the features of the last step nor those of the last generation."""
    fresh = {n: reply(FAMILIES["llava"](), conversation(RECORDS[n]), max_new_tokens=6) for n in (0, 1)}
    other = record("other", "What is it?", ["A cat.", "Two dogs."], picture(9))
    fresh_other = reply(FAMILIES["llava"](), conversation(other), max_new_tokens=6)
    assert fresh_other != fresh[0]
    built = build("llava", trainable)
    batch = built.collator(list(enumerate(RECORDS)))
    for clear in (False, True):
        score(built.tiny.model, batch).sum().backward()
        if clear:
            built.tiny.model.mmdpo_scoring.features.clear()
        for _ in range(2):
            assert reply(built.tiny, conversation(other), max_new_tokens=6) == fresh_other
            assert reply(built.tiny, conversation(RECORDS[0]), max_new_tokens=6) == fresh[0]
            assert reply(built.tiny, conversation(RECORDS[1]), max_new_tokens=6) == fresh[1]


@pytest.mark.parametrize("trainable", ["llm", "llm+projector"])
def test_a_batch_that_shares_some_images_with_the_last_one(trainable: Trainable) -> None:
    """Kept items and new ones come together in the order of the placeholders."""
    built = build("llava", trainable)
    records = [record("new", "Compare.", ["Same.", "Not the same."], picture(7), FIRST, picture(8)), *RECORDS]
    with torch.no_grad():
        score(built.tiny.model, built.collator(list(enumerate(RECORDS[:1]))))
        batch = built.collator(list(enumerate(records)))
        ours = score(built.tiny.model, batch)
        expected = oracle_logprobs(built, records, batch)
    for row, mask, answer in zip(ours, batch["mask"], expected, strict=True):
        torch.testing.assert_close(row[mask], answer, rtol=1e-4, atol=1e-4)


def test_a_copy_scores_with_its_own_weights() -> None:
    """And goes on doing so, whatever becomes of the model that it was copied from."""
    built = build("llava", "llm")
    model, reference = built.tiny.model, copy.deepcopy(built.tiny.model)
    batch = built.collator(list(enumerate(RECORDS)))
    with torch.no_grad():
        before = score(model, batch)
        for parameter in model.model.language_model.parameters():
            parameter.mul_(1.2)
        assert torch.equal(score(reference, batch), before)
        assert (score(model, batch) - before).abs().max() > 1e-2
    assert reference.mmdpo_scoring.features.backbone is reference.model


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")  # peft reads it
@every_checkpointing
def test_an_adapter_switched_off_shares_the_features(checkpointing: bool) -> None:
    """LoRA as `mmdpo train` has it by default: one forward of the tower for policy and reference, none backwards."""
    tiny = FAMILIES["llava"]()
    loaded = prepare(tiny.model, tiny.processor, trainable="llm", lora=Lora(r=4, alpha=8))
    reference = make_reference(loaded)
    built = setup(tiny, candidates=2)
    policy: Any = loaded.model
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    if checkpointing:
        policy.train()
        tiny.model.activation_checkpointing_enable({"use_reentrant": False})
    batch = built.collator(list(enumerate(RECORDS)))
    with counted(tiny.model) as seen:
        ours = score(policy, batch)
        ours.sum().backward()
        base = reference.score(policy, batch)
        assert len(seen) == 1 and seen[0] == 2 * 10  # two distinct images of 9 patches and the class token
    assert (ours - base).abs().max() > 1e-2
    with torch.no_grad():
        untouched = setup(FAMILIES["llava"](), candidates=2)
        torch.testing.assert_close(base, score(untouched.tiny.model, batch), rtol=1e-5, atol=1e-5)
    assert all("lora_" in name for name, parameter in policy.named_parameters() if parameter.grad is not None)
