"""``mmdpo check``: what a run would do, before it does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from mmdpo import registry
from mmdpo.collate import Collator
from mmdpo.config import RunConfig
from mmdpo.encoding import Encoder
from mmdpo.objectives import make_objective
from mmdpo.parity import choose_layout
from mmdpo.pipeline import Data, load_data, load_policy, probe_records, training_arguments
from mmdpo.policy import LoadedModel
from mmdpo.records import Record

GIB = 2**30
CARDS = (8, 24, 48, 80)
"""Accelerator memories, in GiB, that the estimate is compared with."""


def check_run(
    config: RunConfig, folder: Path, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> Iterator[Table | Text]:
    """Everything that training would find out at its start, as blocks to print.

    Args:
        config: The configuration.
        folder: Folder that relative plugin paths start from.
        progress: Wraps long loops for a progress bar.

    Raises:
        MMDPOError: What training would raise.
    """
    registry.load_plugins([folder / plugin for plugin in config.plugins])
    objective = make_objective(config.loss)
    arguments = training_arguments(config, Path("runs/check"))
    loaded = load_policy(config, arguments.device)
    data = load_data(config, loaded, objective, progress)
    layout = choose_layout(loaded.inner, data.encoder, probe_records(data), objective.views, config.layout)
    yield _records(data)
    yield _facts(
        {
            "loss": "  +  ".join(f"{e['weight']:g} * ({e['formula']})" for e in objective.describe().values()),
            "views": ", ".join(f"candidate {v.candidate} / {v.media}" for v in objective.views),
            "layout": f"{layout.layout}: {layout.reason}",
            "trained": f"{config.model.trainable}, {loaded.decisions['trainable_parameters']:,} parameters",
            "answers tokenised": ", ".join(f"{count} {way}" for way, count in data.screening.ways.items()),
        }
    )
    longest = data.train[max(range(len(data.train)), key=data.screening.lengths.__getitem__)]
    yield from _example(longest, data.encoder)
    rows = Collator(data.encoder, objective.views, layout=layout.layout)([(0, longest)])["input_ids"].numel()
    yield _memory(loaded, rows * arguments.per_device_train_batch_size, arguments.gradient_checkpointing)


def _records(data: Data) -> Table:
    table = Table("records", "count", box=None, header_style="bold")
    table.add_row("train", str(len(data.train)))
    table.add_row("validation", str(len(data.validation)))
    for reason, count in data.screening.reasons().items():
        table.add_row(f"set aside: {reason}", str(count))
    lengths = sorted(data.screening.lengths)
    for name, place in (("median", len(lengths) // 2), ("longest", len(lengths) - 1)):
        table.add_row(f"tokens of a row, {name}", str(lengths[place]))
    return table


def _facts(facts: dict[str, str]) -> Table:
    table = Table("setting", "value", box=None, header_style="bold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    return table


def _example(record: Record, encoder: Encoder) -> Iterator[Text]:
    """The longest record as the model gets it: media collapsed, scored tokens coloured."""
    yield Text(f"longest record {record.id}: what is scored is coloured", style="bold")
    prompt = encoder.prompt(record).input_ids.tolist()
    media = {token: name for name, token in encoder.facts.media_token_ids.items()}
    shown = Text()
    position = 0
    while position < len(prompt):
        token, end = prompt[position], position
        while end < len(prompt) and prompt[end] == token:
            end += 1
        if token in media:
            shown.append(f"<{media[token]} x{end - position}>", style="cyan")
        else:
            end = position + 1
            while end < len(prompt) and prompt[end] not in media:
                end += 1
            shown.append(encoder.tokenizer.decode(prompt[position:end]), style="dim")
        position = end
    yield shown
    styles = ("green", "red")
    for number, candidate in enumerate(record.candidates):
        ids = encoder.answer(record, candidate).ids
        text = Text(f"  {number}: ")
        text.append(encoder.tokenizer.decode(ids), style=styles[number] if number < len(styles) else "magenta")
        yield text.append(f"  ({len(ids)} tokens)", style="dim")


def _memory(loaded: LoadedModel, tokens: int, checkpointing: bool) -> Table:
    """Rough memory of one micro-batch: weights, optimizer, activations. Estimated, not measured."""
    parameters = list(loaded.model.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    optimizer = trained * 12  # gradient and two moments, in float32
    text = loaded.inner.config.get_text_config()
    size = torch.finfo(loaded.inner.dtype).bits // 8
    wide = 2 * text.hidden_size + 3 * text.intermediate_size + 4 * text.hidden_size
    layers = text.num_hidden_layers
    per_token = text.hidden_size * layers + wide if checkpointing else (wide + 2 * text.hidden_size) * layers
    total = weights + optimizer + per_token * tokens * size
    table = Table("memory (estimated)", "GiB", box=None, header_style="bold")
    for name, value in (("weights", weights), ("optimizer", optimizer), ("activations", per_token * tokens * size)):
        table.add_row(name, f"{value / GIB:.2f}")
    fits = [card for card in CARDS if total < 0.9 * card * GIB]
    advice = f"fits a card of {fits[0]} GiB" if fits else "does not fit 80 GiB"
    if not checkpointing and (not fits or fits[0] > CARDS[0]):
        advice += "; train.gradient_checkpointing=true needs less"
    table.add_row(Text(advice, style="bold"), f"{total / GIB:.2f}")
    return table
