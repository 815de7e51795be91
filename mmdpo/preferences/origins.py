"""Where a model comes from: the model it started from, its reward's beta, and which media it was trained on."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from mmdpo.answering.loading import load_to_score
from mmdpo.config import ModelSection, RunConfig, parse_config
from mmdpo.diagnostics import Reward, reward_of
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.objectives import Objective
from mmdpo.objectives.configuration import made_terms
from mmdpo.records import Record
from mmdpo.runs.data import read_sources

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """A model and what it started from.

    Args:
        path: The model, as `mmdpo.answering.loading.load_any` takes it.
        reference: The model it started from; None where it is not known.
        settings: How the reference is loaded.
        beta: Factor of the implicit reward.
        config: The configuration of its run, if it is one.
    """

    path: str
    reference: str | None
    settings: ModelSection | None
    beta: float
    config: RunConfig | None = None

    def overlap(self, records: Sequence[Record]) -> list[str]:
        """A flag where the model was trained on some of these records' media, or where that cannot be known."""
        if self.config is None:
            return []
        try:
            terms, _ = made_terms(self.config.loss)
            trained = read_sources(self.config, Objective(terms)).train
        except MMDPOError as error:
            return [f"training_data_unknown: whether these media were trained on cannot be told: {error.what}"]
        seen = {item.identity for record in trained for _, item in record.media_items()}
        again = sum(any(item.identity in seen for _, item in record.media_items()) for record in records)
        if not again:
            return []
        return [f"trained_on: {again} of {len(records)} records show media that the model was trained on"]


def origin_of(path: str, reference: str | None, beta: float | None) -> Origin:
    """What is known of a model.

    Args:
        path: A run folder, an adapter folder, a model folder or a hub name.
        reference: The model that it started from, where the user says so.
        beta: The reward's factor, where the user says so.

    Raises:
        ConfigError: beta is not above 0, or the run's configuration cannot be read.
    """
    if beta is not None and beta <= 0:
        raise ConfigError(
            f"beta is {beta:g}",
            why="It would turn the implicit reward around, or make it 0 for all answers.",
            fix="Give the beta that the model was trained with, 0.1 for instance.",
        )
    run = Path(path)
    if not (run / "manifest.json").is_file():
        return Origin(path, reference, None, Reward().beta if beta is None else beta)
    written = (run / "config.yaml").read_text(encoding="utf-8")
    config = parse_config(yaml.safe_load(written), str(run / "config.yaml"))
    terms, problems = made_terms(config.loss)
    own = Reward() if problems else reward_of(Objective(terms))  # without its plugins
    return Origin(
        path,
        reference or config.model.adapter or config.model.base(run),
        None if reference else config.model,
        own.beta if beta is None else beta,
        config,
    )


def of_stages(origin: Origin, measure: Callable[[Any, Any], T]) -> dict[str, T]:
    """Measures a model, and the one that it started from where that is known; never more than one is in memory.

    Args:
        origin: The model and what it started from.
        measure: From a model, ready to score, and its processor to anything.

    Returns:
        What was measured by stage: ``eval``, and ``base_eval``.
    """
    found = {"eval": measure(*load_to_score(origin.path))}
    gc.collect()  # wrapped models hold reference cycles
    torch.cuda.empty_cache()
    if origin.reference is not None:
        found["base_eval"] = measure(*load_to_score(origin.reference, origin.settings))
    return found
