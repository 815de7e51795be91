"""``mmdpo check``: what a run would do, before it does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmdpo.collate import Collator
from mmdpo.config import RunConfig
from mmdpo.encoding.companions import Companions
from mmdpo.encoding.example import Encoder
from mmdpo.objectives import Objective, Term
from mmdpo.objectives.objective import explained
from mmdpo.objectives.schedules import Linear, Warmup
from mmdpo.policy import LoadedModel
from mmdpo.records import Record
from mmdpo.records.checks import ratings_of
from mmdpo.records.marks import marked_share
from mmdpo.runs.data import Data
from mmdpo.runs.eval_settings import never_reached
from mmdpo.runs.feature_choice import RunFeatures
from mmdpo.runs.resuming import flat
from mmdpo.runs.settings import check_config, what_trains
from mmdpo.runs.training import prepare_run
from mmdpo.training.screening import Screening
from mmdpo.views import CLEAN, EVERY, MISMATCHED, PARTNER, View

GIB = 2**30
CARDS = (8, 24, 48, 80)
"""Accelerator memories, in GiB, that the estimate is compared with."""
WAYS = {
    "prefix": "as the chat template renders them",
    "context": "with the end of the prompt as context",
    "given": "as the sampler emitted them",
}
CANDIDATES = ("chosen", "rejected")
OTHERS = {EVERY: "every candidate", MISMATCHED: "an answer to another prompt", PARTNER: "the partner's answer"}


def check_run(
    config: RunConfig,
    folder: Path,
    overrides: Sequence[str] = (),
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Iterator[RenderableType]:
    """Everything that training would find out at its start, as blocks to print.

    Args:
        config: The configuration.
        folder: Folder that relative plugin paths start from.
        overrides: The ``a.b=c`` settings that were typed, to tell them from the file's.
        progress: Wraps long loops for a progress bar.

    Raises:
        MMDPOError: What training would raise.
    """
    ready = prepare_run(config, *check_config(config, folder, Path("runs/check")), progress)
    objective, arguments, loaded = ready.objective, ready.arguments, ready.loaded
    data, layout = ready.data, ready.layout
    yield _origins(config.model_dump(exclude_unset=True), overrides)
    yield Group(_records(data), *_set_aside(data.screening))
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps = arguments.max_steps if arguments.max_steps > 0 else _steps(len(data.train), batch, arguments)
    yield _facts(
        {
            "scored answers": ", ".join(_view_name(view) for view in objective.views),
            **_about_media(objective, config.data.variants),
            **_about_marks(objective, data.train),
            "layout": f"{layout.layout}: {layout.reason}",
            "trained": f"{what_trains(config)[1]}; {loaded.decisions['trainable_parameters']:,} parameters",
            "answers tokenised": ", ".join(f"{count} {WAYS[way]}" for way, count in data.screening.ways.items()),
            "optimizer steps": f"{steps:,} of {batch} records, {steps * batch / len(data.train):.3g} epochs",
            **_about_features(RunFeatures(config, objective, arguments, loaded, data, layout.layout)),
            **_about_evals(config),
        }
    )
    yield from (Text(words, style="yellow") for words in never_reached(config, steps))
    yield Group(*_terms(objective, data))
    longest = data.train[max(range(len(data.train)), key=data.screening.lengths.__getitem__)]
    yield Group(*_example(longest, data.encoder, any(view.candidate == EVERY for view in objective.views)))
    others = Companions(data.train, config.seed)
    collator = Collator(data.encoder, objective.views, companions=others, layout=layout.layout)
    rows = collator([(0, longest)])["input_ids"].numel()
    yield Group(*_memory(loaded, rows * arguments.per_device_train_batch_size, arguments.activation_checkpointing))


def _steps(records: int, batch: int, arguments: Any) -> int:
    return math.ceil(math.ceil(records / batch) * arguments.num_train_epochs)


def _origins(settings: Mapping[str, Any], overrides: Sequence[str]) -> Table:
    """Every setting that is not the default, and whether the file or the command line gave it."""
    typed = [override.split("=", 1)[0] for override in overrides]
    table = Table("setting", "value", "from", box=None, header_style="bold")
    for name, value in flat(settings):
        shell = any(name == key or name.startswith(f"{key}.") for key in typed)
        table.add_row(name, Text(str(value)), Text("shell" if shell else "file", style="yellow" if shell else "dim"))
    return table


def _records(data: Data) -> Table:
    table = Table("records", "count", box=None, header_style="bold")
    table.add_row("train", f"{len(data.train):,}")
    table.add_row("validation", f"{len(data.validation):,}")
    for reason, count in data.screening.reasons().items():
        table.add_row(f"set aside: {reason}", f"{count:,}")
    lengths = sorted(data.screening.lengths)
    for name, place in (("median", len(lengths) // 2), ("longest", len(lengths) - 1)):
        table.add_row(f"tokens of prompt and answer, {name}", f"{lengths[place]:,}")
    return table


def _set_aside(screening: Screening) -> Iterator[Text]:
    """One record of each reason for which records are not trained on; training lists all in ``set_aside.jsonl``."""
    firsts = {entry.reason: entry for entry in reversed(screening.set_aside)}
    for reason, entry in firsts.items():
        yield Text(f"  {reason}, for instance {entry.id}: {entry.message}")


def _facts(facts: Mapping[str, str]) -> Table:
    table = Table("training", "", box=None, header_style="bold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    return table


def _terms(objective: Objective, data: Data) -> Iterator[Table | Text]:
    """Each loss term with its weight, and how many of the records that are kept it is taken of."""
    table = Table("loss term", "weight", "formula", "train", "validation", box=None, header_style="bold")
    unused: list[str] = []
    for name, term in objective.terms.items():
        count, kept = data.screening.terms[name], len(data.train)
        held_out = f"{data.held_out.terms[name]:,} of {len(data.validation):,}"
        style = "" if count == kept else "yellow"
        table.add_row(name, _weight(term), Text(explained(term)), Text(f"{count:,} of {kept:,}", style=style), held_out)
        if count < kept:
            unused.append(f"  {name} leaves out {kept - count:,} of the records: it needs {_need(term)}")
    yield table
    yield from (Text(line, style="yellow") for line in unused)


def _weight(term: Term) -> str:
    """A weight, or how it changes over the run."""
    if isinstance(term.weight, Linear):
        return f"{term.weight.start:g} to {term.weight.end:g} over {term.weight.share:.0%} of the run"
    if isinstance(term.weight, Warmup):
        return f"0 to {term.weight.weight:g} over {term.weight.share:.0%} of the run"
    return f"{term.weight:g}"


def _need(term: Term) -> str:
    """What a record must have to be used by a term."""
    parts = [term.needs] if term.needs else []
    if getattr(term, "unmarked", 1) == 0:
        parts.append("marked tokens")
    return "; ".join(parts) or ", ".join(map(_view_name, term.views()))


def _about_media(objective: Objective, drawn: str) -> dict[str, str]:
    """The media variants that are shown, if any."""
    variants = sorted({view.media for view in objective.views} - {CLEAN})
    when = "drawn anew in every epoch" if drawn == "fresh" else "drawn once for the whole run"
    return {"media variants": f"{', '.join(variants)}; {when}"} if variants else {}


def _about_marks(objective: Objective, records: Sequence[Record]) -> dict[str, str]:
    """How much is marked, if a term reads marks."""
    if not any(getattr(term, "reads_marks", False) for term in objective.terms.values()):
        return {}
    share = marked_share(records)
    words = f"{share.chosen:.0%} of the words of chosen and {share.rejected:.0%} of those of rejected answers"
    return {"marks": f"in {share.records:.0%} of the records; {words}"}


def _about_features(features: RunFeatures) -> dict[str, str]:
    """Whether features are kept, and what that saves and needs."""
    chosen = features.choose()
    found = None if features.config.features.cache == "auto" else features.measure()
    return {"feature cache": f"{chosen.value}: {chosen.reason}" + (f"; {found}" if found else "")}


def _about_evals(config: RunConfig) -> dict[str, str]:
    """What is evaluated while training, and what follows from it."""
    small = {name: section for name, section in config.eval.items() if section.every is not None}
    told = [f"{name} every {s.every} steps on up to {s.while_training.limit} images" for name, s in small.items()]
    facts = {"evaluated while training": "; ".join(told)} if told else {}
    if config.stop is not None:
        kept = " and ".join(f"{name} stays within {by:g}" for name, by in config.stop.keep.items())
        facts["best checkpoint"] = f"by {config.stop.metric}" + (f", while {kept} of step 0" if kept else "")
        facts["stops early"] = f"after {config.stop.patience} evaluations without a better one"
    return facts


def _candidate_name(number: int) -> str:
    return CANDIDATES[number] if number < len(CANDIDATES) else f"candidate {number}"


def _view_name(view: View) -> str:
    name = OTHERS.get(view.candidate) or _candidate_name(view.candidate)
    return name if view.media == CLEAN else f"{name} with {view.media} media"


def _rated_name(record: Record, number: int) -> str:
    """A candidate by its place and its rating, for losses that compare every candidate whatever its place."""
    candidate = record.candidates[number]
    rating = [f"{name} {value:g}" for name in ("score", "rank") if (value := getattr(candidate, name)) is not None]
    if candidate.label is not None:
        rating.append("desirable" if candidate.label else "undesirable")
    if not rating and record.form == "pair":
        return _candidate_name(number)
    return ", ".join([f"candidate {number}", *rating])


def _styles(record: Record, every: bool) -> list[str]:
    """Colours of the candidates: green for the best, red for the worst, by their ratings where ``every`` one counts."""
    labels = [0.0 if candidate.label is None else 2.0 * candidate.label - 1.0 for candidate in record.candidates]
    grades = ratings_of(record) or labels
    if not every or len(set(grades)) == 1:
        return ["green", "red", *["magenta"] * len(grades)][: len(grades)]
    return ["green" if g == max(grades) else "red" if g == min(grades) else "magenta" for g in grades]


def _example(record: Record, encoder: Encoder, every: bool) -> Iterator[Text]:
    """The longest record as the model gets it: media collapsed, scored tokens coloured."""
    yield Text(f"longest record, {record.id} (what is scored is coloured)", style="bold")
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
    styles = _styles(record, every)
    for number, candidate in enumerate(record.candidates):
        ids = encoder.answer(record, candidate).ids
        text = Text(f"  {_rated_name(record, number) if every else _candidate_name(number)}:")
        text.append(encoder.tokenizer.decode(ids), style=styles[number])
        yield text.append(f"  ({len(ids)} tokens)", style="dim")


def _memory(loaded: LoadedModel, tokens: int, checkpointing: bool) -> Iterator[Table | Text]:
    """Rough memory of one micro-batch: weights, optimizer, activations. Estimated, not measured."""
    parameters = list(loaded.model.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    text = loaded.inner.config.get_text_config()
    size = torch.finfo(loaded.inner.dtype).bits // 8
    wide = 2 * text.hidden_size + 3 * text.intermediate_size + 4 * text.hidden_size
    layers = text.num_hidden_layers
    per_token = text.hidden_size * layers + wide if checkpointing else (wide + 2 * text.hidden_size) * layers
    parts = {
        "weights": weights,
        "optimizer": trained * 12,  # gradient and two moments, in float32
        "activations": per_token * tokens * size,
    }
    total = sum(parts.values())
    table = Table("memory (estimated)", "GiB", box=None, header_style="bold")
    for name, value in {**parts, "together": total}.items():
        table.add_row(name, f"{value / GIB:.2g}")
    yield table
    fits = [card for card in CARDS if total < 0.9 * card * GIB]
    advice = f"Fits a card of {fits[0]} GiB." if fits else f"Does not fit a card of {CARDS[-1]} GiB."
    if not checkpointing and (not fits or fits[0] > CARDS[0]):
        advice += " train.activation_checkpointing=true needs less."
    yield Text(advice, style="bold")
