"""Answers from a model: batched, greedy or sampled, from exactly the prompts that training scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from mmdpo.encoding.example import EncodedPrompt, Encoder
from mmdpo.encoding.prepared_media import media_of
from mmdpo.forward.attention import dense_attention
from mmdpo.prompt_rows import PromptRows
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
    *,
    share: bool = True,
    seeds: Sequence[int] | None = None,
) -> list[list[Generated]]:
    """Answers to the prompts of records.

    Args:
        model: A Hugging Face model, or PEFT's wrapper around it.
        encoder: Its encoder.
        records: Their prompts and media are used; their candidates are not.
        settings: How to draw; greedy by default.
        progress: Wraps the batches for a progress bar.
        on_answer: Told the place of a record and its answers as soon as they are there.
        share: Whether what several prompts begin with (an image above all) is computed once.
        seeds: One of each record, in place of that of the settings: its answers then do not depend on the records
            that are answered beside it, so that a part of them gets the answers that all of them would get.

    Returns:
        For each record, ``settings.samples`` answers.
    """
    settings = settings or GenerationSettings()
    training = model.training
    model.eval()
    rows = PromptRows(model, encoder, settings.max_new_tokens, share=share)
    order = _order(records)
    answers: dict[int, list[Generated]] = {}
    try:
        with torch.random.fork_rng(), dense_attention(rows.inner):
            torch.manual_seed(settings.seed)
            for start in progress(range(0, len(order), settings.batch_size)):
                members = order[start : start + settings.batch_size]
                prompts = {n: encoder.prompt(records[n]) for n in members}
                for group in _groups(prompts, encoder):
                    # one row an answer: ``num_return_sequences`` repeats audio inputs item by item, not by prompt
                    of_row = [n for n in group for _ in range(settings.samples)]
                    inputs = rows.inputs([prompts[n] for n in of_row], [media_of(records[n]) or n for n in of_row])
                    row_seeds = (
                        None if seeds is None else [seeds[n] + k for n in group for k in range(settings.samples)]
                    )
                    output = model.generate(**inputs, **rows.call, **_drawing(settings, row_seeds)).cpu()
                    for n, row in zip(of_row, output[:, inputs["input_ids"].shape[1] :], strict=True):
                        answers.setdefault(n, []).append(_generated(encoder, row))
                    if on_answer is not None:
                        for n in group:
                            on_answer(n, answers[n])
    finally:
        model.train(training)
    return [answers[n] for n in range(len(records))]


def _drawing(settings: GenerationSettings, seeds: Sequence[int] | None) -> dict[str, Any]:
    drawn: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if settings.temperature > 0 and seeds is not None:
        drawn["logits_processor"] = LogitsProcessorList(
            [
                TemperatureLogitsWarper(settings.temperature),
                *([TopPLogitsWarper(settings.top_p)] if settings.top_p < 1 else []),
                SeededDraws(seeds),
            ]
        )
    elif settings.temperature > 0:
        drawn = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    return {"max_new_tokens": settings.max_new_tokens, **drawn}


class SeededDraws(LogitsProcessor):
    """Makes the likeliest token a random one, drawn from each row's distribution by the row's own generator.

    The largest of logits + Gumbel noise is a draw from softmax(logits) (Gumbel 1954); the noise is -log of an
    exponential variable.

    Args:
        seeds: One for each row.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._generators: list[torch.Generator] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[rows, vocabulary] logits with noise."""
        del input_ids
        if not self._generators:
            self._generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self._seeds]
        waits = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
        for row, generator in zip(waits, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() - waits.log()


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


def _order(records: Sequence[Record]) -> list[int]:
    """Places of the records: those about the same media side by side, shorter prompts first."""
    lengths = [len(str(record.prompt)) for record in records]
    groups: dict[Any, list[int]] = {}
    for place, record in enumerate(records):
        groups.setdefault(media_of(record) or place, []).append(place)
    in_order = sorted(groups.values(), key=lambda group: max(lengths[n] for n in group))
    return [n for group in in_order for n in sorted(group, key=lengths.__getitem__)]


def _generated(encoder: Encoder, row: Tensor) -> Generated:
    ids = row.tolist()
    stop = next((at for at, token in enumerate(ids) if token in encoder.eos_ids), None)
    finished = stop is not None
    ids = ids[: stop + 1] if stop is not None else ids
    text = encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return Generated(text, tuple(ids), finished)
