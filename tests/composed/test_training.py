"""Training: the parts that are asked for, through the project's own scoring, equal to the model's own logits."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from composed.languages import clip, composed, encode, turn, vectors
from mmdpo import registry
from mmdpo.collate import Collator
from mmdpo.corruptions import Corruption
from mmdpo.encoding.example import Encoder
from mmdpo.modalities.base import Modality
from mmdpo.models.load import Lora, part_of, silence_dropout
from mmdpo.policy import prepare
from mmdpo.records import Candidate, Media, Record
from mmdpo.scoring import score
from mmdpo.views import View
from tiny import exact_float64


@pytest.fixture(autouse=True)
def events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A modality of arrays [t, 6], embedded as `.npy`; audio is the project's own."""

    class Events(Modality):
        name = "event"
        plural = "events"
        corruptions: ClassVar[Mapping[str, Corruption]] = {"blank": lambda item, generator: np.zeros_like(item)}

        def load(self, media: Media, root: Path | None) -> Any:
            return np.load(io.BytesIO(media.data or b""), allow_pickle=False)

    monkeypatch.setitem(registry.modalities._entries, "event", Events)


def wav(seconds: float, seed: int) -> Media:
    """Noise at 22.05 kHz as an embedded file."""
    sound = clip(seconds, 22_050, seed)
    buffer = io.BytesIO()
    soundfile.write(buffer, sound.samples, sound.rate, format="WAV", subtype="FLOAT")
    return Media(data=buffer.getvalue())


def npy(count: int, seed: int) -> Media:
    """Vectors as an embedded file."""
    buffer = io.BytesIO()
    np.save(buffer, vectors(count, seed))
    return Media(data=buffer.getvalue())


def record(name: str, parts: list[str | tuple[str, Media]], answers: list[str]) -> Record:
    """A record of one user turn; a part is text, or media of a modality."""
    media: dict[str, tuple[Media, ...]] = {}
    content: list[Any] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
            continue
        content.append({"type": part[0]})
        media[f"{part[0]}s"] = (*media.get(f"{part[0]}s", ()), part[1])
    candidates = tuple(Candidate(answer) for answer in answers)
    return Record(id=name, prompt=({"role": "user", "content": content},), candidates=candidates, media=media)


LONG, SHORT, LONGER = ("audio", wav(1.3, 7)), ("audio", wav(0.4, 1)), ("audio", wav(2.1, 7))
RECORDS = [
    record("one", [LONG, "What is heard?"], ["A dog.", "Two cats on a mat", "Nothing"]),
    record("text", ["Say something, please."], ["There is a red bird on the table.", "No."]),
    record(
        "several",
        [("event", npy(2, 1)), "and", SHORT, "then", LONGER, "What is here?"],
        ["same same", "Yes, there is."],
    ),
    record("again", [LONG, "Is there a dog?"], ["Yes.", "No, there is not."]),
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


def plain_row(processor: Any, of: Record, answer: Tensor, blank: bool) -> dict[str, Tensor]:
    """The prompt and one answer as the model's own forward takes them."""
    inputs = encode(processor, turn(*items(of, blank)))
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer[None]], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


@pytest.mark.parametrize("layout", ["shared", "plain"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "granite"])
def test_scores_and_gradients_are_the_models_own(kind: str, layout: Any) -> None:
    model, processor = composed(kind)
    model.double()
    plain = copy.deepcopy(model)
    policy = prepare(model, processor, trainable="all")
    encoder = Encoder(processor, policy.facts, policy.eos_ids)
    views = [View(candidate, variant) for variant in ("clean", "blank") for candidate in range(3)]
    collator = Collator(encoder, views, layout=layout, records_per_row=2)
    batch = collator(list(enumerate(RECORDS)))

    rows = []
    for row, (example, variant) in enumerate(zip(batch["example"], batch["media_index"], strict=True)):
        answer = batch["targets"][row][batch["mask"][row]]
        blank = collator.media_names[int(variant)] == "blank"
        rows.append((answer, plain_row(processor, RECORDS[int(example)], answer, blank)))

    with exact_float64():
        found = score(policy.model, batch)
        expected = torch.zeros_like(found)
        for row, (answer, inputs) in enumerate(rows):
            logits = plain(**inputs).logits[0, -len(answer) - 1 : -1]
            expected[row, batch["mask"][row]] = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
        found.sum().backward()
        expected.sum().backward()

    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for (name, one), (_, other) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if other.grad is not None:
            scale = float(other.grad.abs().max())
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-9 * scale + 1e-12, msg=name)


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


def test_the_encoder_runs_once_a_distinct_item_and_not_again_while_it_is_frozen() -> None:
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
