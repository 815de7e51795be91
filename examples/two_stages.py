"""What the examples of custom modalities share: questions as records, a supervised stage, DPO, and the blank check."""

from __future__ import annotations

import json
import random
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from rich.table import Table as Printed

import mmdpo
from mmdpo import registry
from mmdpo.config import load_config
from mmdpo.conformance import BlankCheck, blank_check
from mmdpo.playground.tiny_llm import save_tiny_llm
from mmdpo.records import Candidate, Media, Record, Records, save_records, user_message
from mmdpo.runs.training import train

Events = Mapping[str, Mapping[str, bool]]
"""File -> event -> whether it happens."""


def question_records(
    events: Events, questions: Mapping[str, str], modality: str, root: Path, *, wrong: bool, per_item: int = 2
) -> Records:
    """Yes/no questions about files.

    Args:
        events: The files and what happens in them.
        questions: The question about each event.
        modality: Name of the modality.
        root: Folder of the files.
        wrong: Whether the wrong answer stands beside the right one (a pair), or the right one alone.
        per_item: Questions about each file.
    """
    chance = random.Random(0)
    records = []
    for name, happens in events.items():
        for event in chance.sample(sorted(questions), per_item):
            answers = ("Yes", "No") if happens[event] else ("No", "Yes")
            records.append(
                Record(
                    id=f"{name}/{event}",
                    prompt=(user_message(questions[event], **{f"{modality}s": 1}),),
                    candidates=tuple(Candidate(text) for text in answers[: 2 if wrong else 1]),
                    media={f"{modality}s": (Media(path=name),)},
                )
            )
    return Records(records, root)


@dataclass(frozen=True)
class Example:
    """One example.

    Args:
        folder: Its folder, with ``warm_up.yaml``, ``dpo.yaml`` and the modality's file, which is called by its name.
        modality: The modality.
        questions: The question about each event.
        write: Makes a number of items in a folder from a seed, and tells what happens in each.
        items: How many items for ``warm_up`` (right answers alone), ``pairs`` and ``held_out`` (right, wrong).
    """

    folder: Path
    modality: str
    questions: Mapping[str, str]
    write: Callable[[Path, int, int], Events]
    items: Mapping[str, int]


def run(example: Example, out: Path, overrides: Mapping[str, Iterable[str]] | None = None) -> dict[str, Any]:
    """Generates items, trains both stages and prints how much each model uses its media.

    Args:
        example: The example.
        out: Folder to make.
        overrides: Further settings of ``warm_up`` and ``dpo``.

    Returns:
        What ``results.json`` holds: for each model accuracy with the media, with them blanked, and the difference.
    """
    quiet()
    began = time.perf_counter()
    registry.load_plugins([example.folder / f"{example.modality}.py"])
    data = {}
    for seed, (part, count) in enumerate(example.items.items()):
        events = example.write(out / "items", count, seed)
        data[part] = question_records(
            events, example.questions, example.modality, out / "items", wrong=part != "warm_up"
        )
        save_records(data[part], out / part)
    save_tiny_llm([*example.questions.values(), "Yes", "No"], out / "llm")
    places = {
        "warm_up": [f"model.compose.llm={out / 'llm'}", f"data.path={out / 'warm_up'}"],
        "dpo": [f"model.path={out / 'runs' / 'warm_up' / 'model'}", f"data.path={out / 'pairs'}"],
    }
    for stage, settings in places.items():
        words = [*settings, "train.disable_tqdm=true", *(overrides or {}).get(stage, ())]
        train(load_config(example.folder / f"{stage}.yaml", words), out / "runs" / stage, folder=example.folder)
    stages = {"untrained": "warm_up/base", "after the supervised stage": "warm_up", "after DPO": "dpo"}
    found = {
        title: blank_check(*mmdpo.load(str(out / "runs" / path)), data["held_out"]) for title, path in stages.items()
    }
    seconds = round(time.perf_counter() - began)
    print_table(found, len(data["held_out"]), seconds)
    results = {"seconds": seconds} | {title: as_json(check) for title, check in found.items()}
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def as_json(check: BlankCheck) -> dict[str, Any]:
    """The numbers by name."""
    return {name: value.to_json() for name, value in vars(check).items()}


def print_table(found: Mapping[str, BlankCheck], questions: int, seconds: float) -> None:
    """Percent, with 95% intervals over items."""
    table = Printed("model", "with the media", "blanked", "difference", box=None, header_style="bold")
    for title, check in found.items():
        table.add_row(title, *(written(value) for value in (check.clean, check.blank)), written(check.gain, "+"))
    console = Console(width=110, highlight=False)
    console.print(f"\nRight answers to {questions} held-out questions, % (95% interval over items)", table, sep="\n")
    console.print(f"{seconds} s")


def written(value: Any, sign: str = "") -> str:
    """``96.6 (89.0 to 99.1)``."""
    return f"{100 * value.value:{sign}.1f} ({100 * value.low:{sign}.1f} to {100 * value.high:{sign}.1f})"


def quiet() -> None:
    """No progress bars of loading, and no warning that an example cannot act on."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
