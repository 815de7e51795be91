"""The verbs of the command line as functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from mmdpo.collate import Collator
from mmdpo.config import EvalSection, describe_problem, parse_config
from mmdpo.encoding import Encoder
from mmdpo.errors import ConfigError
from mmdpo.evals.folders import compare_folders
from mmdpo.evaluation import encoder_of, evaluate_model, load_any
from mmdpo.parity import choose_layout, to_model
from mmdpo.pipeline import train as run_training
from mmdpo.policy import encode_once
from mmdpo.records import Record, Records
from mmdpo.scoring import score as score_batch
from mmdpo.views import CLEAN, View


def load(path: str) -> tuple[Any, Any]:
    """Loads a run's trained model, an adapter, a model folder or a hub model.

    Args:
        path: Where it is; ``"playground"`` is the tiny model that ships with the package.

    Returns:
        The model, ready to answer and to score, and its processor.
    """
    model, processor = load_any(path)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    encode_once(inner, encoder_of(model, processor, None).facts)
    return model, processor


@torch.no_grad()
def score(
    model: Any, processor: Any, records: Records | Sequence[Record], *, media: str = "clean", batch_size: int = 8
) -> list[list[float]]:
    """Log-probability of every candidate of every record.

    Args:
        model: A model of :func:`load`.
        processor: Its processor.
        records: Records with any number of candidates.
        media: Media variant: ``"clean"``, or a corruption such as ``"blank"``.
        batch_size: Records at a time.

    Returns:
        For each record, the summed natural-log probability of each candidate, its end of turn included. A record
        without media has no corrupted variant, and gets an empty list.
    """
    scored = [n for n, record in enumerate(records) if media == CLEAN or any(record.media.values())]
    if not scored:
        return [[] for _ in records]
    encoder: Encoder = encoder_of(model, processor, getattr(records, "media_root", None))
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    views = [View(k, media) for k in range(max(len(record.candidates) for record in records))]
    by_media = sorted(scored, key=lambda n: len(list(records[n].media_items())))
    probes = [records[n] for n in dict.fromkeys((by_media[-1], by_media[0]))]
    collate = Collator(encoder, views, layout=choose_layout(inner, encoder, probes, views).layout)
    totals: list[list[float]] = [[] for _ in records]
    for start in range(0, len(scored), batch_size):
        part = scored[start : start + batch_size]
        batch = to_model(collate([(n, records[n]) for n in part]), inner)
        sums = score_batch(model, batch).sum(-1)
        inner.mmdpo_scoring.features.clear()
        for place, n in enumerate(part):
            totals[n] = sums[batch["example"] == place].tolist()
    return totals


def train(config: Mapping[str, Any], out: str | Path, *, resume: bool = False) -> Path:
    """Trains on preference records, as ``mmdpo train``.

    Args:
        config: The configuration's sections as plain values.
        out: Run folder.
        resume: Go on from its last checkpoint.

    Returns:
        The run folder.
    """
    return run_training(parse_config(config), Path(out), resume=resume, command=["mmdpo.train"])


def evaluate(model: str, benchmarks: Mapping[str, Mapping[str, Any]], out: str | Path) -> dict[str, dict[str, Any]]:
    """Lets a model answer benchmarks and scores the answers, as ``mmdpo eval``.

    Args:
        model: Run folder, model folder or hub name.
        benchmarks: By name: ``data``, and optionally ``images``, ``limit``, ``max_new_tokens``, ``options``.
        out: Folder of answers, items and metrics.

    Returns:
        Each benchmark's result in the form of ``mmdpo score``.

    Raises:
        ConfigError: A key is unknown, or a benchmark's ``data`` is missing.
    """
    return evaluate_model(model, {name: _section(name, values) for name, values in benchmarks.items()}, Path(out))


def _section(name: str, values: Mapping[str, Any]) -> EvalSection:
    try:
        return EvalSection.model_validate(values)
    except ValidationError as error:
        problems = [f"{name}.{describe_problem(problem, EvalSection)}" for problem in error.errors()]
        raise ConfigError(
            "; ".join(problems), why="Nothing was evaluated.", fix=f"Known keys: {', '.join(EvalSection.model_fields)}."
        ) from error


def compare(before: str | Path, after: str | Path) -> dict[str, Any]:
    """Paired differences of two evaluated models, as ``mmdpo compare``."""
    return compare_folders(Path(before), Path(after))
