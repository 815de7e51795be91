"""Answers from a model: batched, greedy or sampled, from exactly the prompts that training scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdpo.encoding import EncodedPrompt, Encoder
from mmdpo.modalities.encoders import concatenate
from mmdpo.parity import to_model
from mmdpo.records import Record


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are drawn.

    Args:
        max_new_tokens: Longest answer in tokens.
        temperature: 0 is greedy.
        top_p: Nucleus mass for sampling.
        samples: Answers for each prompt.
        batch_size: Prompts at a time.
        seed: Seed of the sampling.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    batch_size: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Generated:
    """One answer.

    Args:
        text: Decoded text without special tokens.
        token_ids: What the model emitted, up to and with the id that stopped it.
        finished: Whether it stopped by itself.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool


@torch.no_grad()
def generate(
    model: Any,
    encoder: Encoder,
    records: Sequence[Record],
    settings: GenerationSettings | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    on_answer: Callable[[int, list[Generated]], None] | None = None,
) -> list[list[Generated]]:
    """Answers to the prompts of records.

    Args:
        model: A Hugging Face model, or PEFT's wrapper around it.
        encoder: Its encoder.
        records: Their prompts and media are used; their candidates are not.
        settings: How to draw; greedy by default.
        progress: Wraps the batches for a progress bar.
        on_answer: Told the place of a record and its answers as soon as they are there.

    Returns:
        For each record, ``settings.samples`` answers.
    """
    settings = settings or GenerationSettings()
    training = model.training
    model.eval()
    order = sorted(range(len(records)), key=lambda n: len(str(records[n].prompt)))
    answers: dict[int, list[Generated]] = {}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            for start in progress(range(0, len(order), settings.batch_size)):
                members = order[start : start + settings.batch_size]
                prompts = {n: encoder.prompt(records[n]) for n in members}
                for group in _groups(prompts, encoder):
                    generated = _batch(model, encoder, [prompts[n] for n in group], settings)
                    answers |= dict(zip(group, generated, strict=True))
                    if on_answer is not None:
                        for n in group:
                            on_answer(n, answers[n])
    finally:
        model.train(training)
    return [answers[n] for n in range(len(records))]


def _groups(prompts: Mapping[int, EncodedPrompt], encoder: Encoder) -> Iterator[list[int]]:
    """Prompts that can be answered side by side without changing each other, as in scoring."""
    family = encoder.facts.family

    def key(n: int) -> tuple[int, ...]:
        kinds = {unit.modality.name for unit in prompts[n].units}
        if family.cross_attention:  # takes equally many images of each
            return (sum(unit.items for unit in prompts[n].units),)
        if kinds & family.alone:  # its encoder would see the neighbours' padding
            return (1, n)
        return (0, int("video" in kinds)) if family.marks_alike else (0,)

    keys = {n: key(n) for n in prompts}
    for wanted in sorted(set(keys.values())):
        yield [n for n in prompts if keys[n] == wanted]


def _batch(
    model: Any, encoder: Encoder, prompts: Sequence[EncodedPrompt], settings: GenerationSettings
) -> list[list[Generated]]:
    # one row an answer: ``num_return_sequences`` repeats audio inputs item by item, not prompt by prompt
    prompts = [prompt for prompt in prompts for _ in range(settings.samples)]
    pad = encoder.tokenizer.pad_token_id
    pad = encoder.eos_ids[0] if pad is None else pad
    ids = _left_padded([prompt.input_ids for prompt in prompts], pad)
    inputs: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": _left_padded([torch.ones_like(prompt.input_ids) for prompt in prompts], 0),
    }
    for name in prompts[0].fields:
        inputs[name] = _left_padded([prompt.fields[name] for prompt in prompts], 0)
    for name in {name for prompt in prompts for name in prompt.extras}:
        inputs[name] = concatenate([prompt.extras[name] for prompt in prompts if name in prompt.extras])
    drawing = (
        {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        if settings.temperature > 0
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    output = model.generate(
        **to_model(inputs, model),
        max_new_tokens=settings.max_new_tokens,
        pad_token_id=pad,
        eos_token_id=list(encoder.eos_ids),
        use_cache=True,
        **drawing,
    )
    rows = [_generated(encoder, row) for row in output[:, ids.shape[1] :].cpu()]
    return [rows[start : start + settings.samples] for start in range(0, len(rows), settings.samples)]


def _generated(encoder: Encoder, row: Tensor) -> Generated:
    ids = row.tolist()
    stop = next((at for at, token in enumerate(ids) if token in encoder.eos_ids), None)
    finished = stop is not None
    ids = ids[: stop + 1] if stop is not None else ids
    text = encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return Generated(text, tuple(ids), finished)


def _left_padded(rows: Sequence[Tensor], value: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.stack([torch.cat([row.new_full((width - len(row), *row.shape[1:]), value), row]) for row in rows])
