"""Training: the parts that are asked for, through the project's own scoring, equal to the model's own logits."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from composed.languages import Clip, clip, composed, encode, turn, vectors
from mmdpo import registry
from mmdpo.collate import Collator
from mmdpo.corruptions import Corruption
from mmdpo.encoding import Encoder
from mmdpo.modalities.base import Modality
from mmdpo.models.load import Lora, part_of, silence_dropout
from mmdpo.policy import prepare
from mmdpo.records import Candidate, Media, Record
from mmdpo.scoring import score
from mmdpo.views import View


@pytest.fixture
def modalities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio and events whose items are named by their length and seed, so that no file is needed."""

    class Sounds(Modality):
        name = "audio"
        plural = "audios"
        corruptions: ClassVar[Mapping[str, Corruption]] = {
            "blank": lambda item, generator: Clip(np.zeros_like(item.samples), item.rate)
        }

        def load(self, media: Media, root: Path | None) -> Any:
            seconds, seed = (media.data or b"").decode().split()
            return clip(float(seconds), seed=int(seed))

    class Events(Modality):
        name = "event"
        plural = "events"
        corruptions: ClassVar[Mapping[str, Corruption]] = {"blank": lambda item, generator: np.zeros_like(item)}

        def load(self, media: Media, root: Path | None) -> Any:
            count, seed = (media.data or b"").decode().split()
            return vectors(int(count), seed=int(seed))

    for modality in (Sounds, Events):
        monkeypatch.setitem(registry.modalities._entries, modality.name, modality)


def record(name: str, content: str, answers: list[str]) -> Record:
    """``content`` is ``a1.3/7 text e2/1``: audio of 1.3 seconds and seed 7, text, two events of seed 1."""
    parts: list[Any] = []
    media: dict[str, tuple[Media, ...]] = {}
    for word in content.split("|"):
        kind = {"a": ("audio", "audios"), "e": ("event", "events")}.get(word[:1]) if "/" in word else None
        if kind is None:
            parts.append({"type": "text", "text": word})
            continue
        parts.append({"type": kind[0]})
        media[kind[1]] = (*media.get(kind[1], ()), Media(data=word[1:].replace("/", " ").encode()))
    return Record(
        id=name,
        prompt=({"role": "user", "content": parts},),
        candidates=tuple(Candidate(answer) for answer in answers),
        media=media,
    )


RECORDS = [
    record("one", "a1.3/7|What is heard?", ["A dog.", "Two cats on a mat", "Nothing"]),
    record("text", "Say something, please.", ["There is a red bird on the table.", "No."]),
    record("several", "e2/1|and|a0.4/1|then|a2.1/7|What is here?", ["same same", "Yes, there is."]),
    record("again", "a1.3/7|Is there a dog?", ["Yes.", "No, there is not."]),
]


def items(of: Record, blank: bool) -> Iterator[Any]:
    """Parts of a record's prompt as `turn` takes them."""
    queues = {plural: iter(media) for plural, media in of.media.items()}
    for part in of.prompt[0]["content"]:
        if part["type"] == "text":
            yield part["text"]
            continue
        modality = registry.modalities.get(part["type"])()
        item = modality.load(next(queues[modality.plural]), None)
        yield modality.corruptions["blank"](item, None) if blank else item


def own_logprobs(model: Any, processor: Any, of: Record, answer: Tensor, blank: bool) -> Tensor:
    """[L] log-probabilities of one answer, from the model's own logits on its plain row."""
    inputs = encode(processor, turn(*items(of, blank)))
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer[None]], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    logits = model(**inputs).logits[0, -len(answer) - 1 : -1]
    return logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]


@pytest.mark.parametrize("layout", ["shared", "plain"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "granite"])
def test_scores_and_gradients_are_the_models_own(kind: str, layout: Any, modalities: None) -> None:
    model, processor = composed(kind)
    model.double()
    plain = copy.deepcopy(model)
    policy = prepare(model, processor, trainable="all")
    encoder = Encoder(processor, policy.facts, policy.eos_ids)
    views = [View(candidate, variant) for variant in ("clean", "blank") for candidate in range(3)]
    collator = Collator(encoder, views, layout=layout, records_per_row=2)
    batch = collator(list(enumerate(RECORDS)))

    found = score(policy.model, batch)

    expected = torch.zeros_like(found)
    for row, (example, variant) in enumerate(zip(batch["example"], batch["media_index"], strict=True)):
        mask = batch["mask"][row]
        blank = collator.media_names[int(variant)] == "blank"
        own = own_logprobs(plain, processor, RECORDS[int(example)], batch["targets"][row][mask], blank)
        expected[row, mask] = own
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    expected.sum().backward()
    for (name, one), (_, other) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        if other.grad is not None and other.requires_grad:
            scale = other.grad.abs().max().item() + 1e-6
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize(
    ("trainable", "parts"),
    [
        ("llm", {"llm"}),
        ("projector", {"projector"}),
        ("llm+projector", {"llm", "projector"}),
        ("all", {"llm", "projector", "encoder"}),
    ],
)
@pytest.mark.parametrize("lora", [None, Lora(r=2, alpha=4)])
def test_exactly_the_parts_that_are_named_train(trainable: Any, parts: set[str], lora: Lora | None) -> None:
    model, processor = composed()
    policy = prepare(model, processor, trainable=trainable, lora=lora)
    names = [name for name, value in policy.model.named_parameters() if value.requires_grad]
    assert {part_of(name, policy.facts) for name in names} == parts
    for part, path in (("llm", "language_model"), ("projector", "projectors"), ("encoder", "encoders")):
        assert any(f"model.{path}." in name for name in names) == (part in parts)


def test_the_encoder_runs_once_a_distinct_item_and_not_again_while_it_is_frozen(modalities: None) -> None:
    model, processor = composed()
    policy = prepare(model, processor, trainable="llm+projector")
    encoder = Encoder(processor, policy.facts, policy.eos_ids)
    batch = Collator(encoder, [View(0), View(1)])(list(enumerate(RECORDS)))
    seen: list[int] = []
    whisper = model.model.encoders["audio"].encoder
    whisper.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))

    first = score(policy.model, batch)
    first.sum().backward()
    second = score(policy.model, batch)

    assert seen == [2 + 1 + 3]  # windows of one second: three distinct clips of 1.3, 0.4 and 2.1 seconds
    torch.testing.assert_close(first, second)
    assert all(value.grad is None for value in whisper.parameters())
    assert model.model.projectors["audio"].linear_1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_gradient_checkpointing_changes_no_gradient(kind: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model, processor = composed(kind)
        silence_dropout(model)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        inputs = encode(processor, turn(clip(1.3), vectors(3), "What is heard?"))
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    assert any("encoders.audio" in name for name in plain)
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=1e-4, atol=1e-6)


def test_a_projector_alone_learns_to_tell_two_events() -> None:
    """Warm-up: only the projector moves, and afterwards the answer follows the event."""
    model, processor = composed()
    prepare(model, processor, trainable="projector")
    before = {name: value.clone() for name, value in model.named_parameters()}
    yes, no = (processor.tokenizer.encode(word, add_special_tokens=False)[-1] for word in ("Yes", "No"))
    events = [vectors(1, seed) for seed in range(8)]
    inputs = encode(processor, [turn(event, "Is there a dog?") for event in events])
    wanted = torch.tensor([0, 1] * 4)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(80):
        logits = model(**inputs).logits[:, -1, [yes, no]]
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < 0.6 < losses[0]
    assert (model(**inputs).logits[:, -1, [yes, no]].argmax(-1) == wanted).all()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if ".projectors.event." in name}
