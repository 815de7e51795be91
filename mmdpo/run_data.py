"""The records of a run: loaded, split by image, screened for the model that will train on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from data_builders.splits import media_groups, split_by_media
from mmdpo.config import RunConfig
from mmdpo.encoding import Encoder
from mmdpo.errors import DataError
from mmdpo.objectives import Objective
from mmdpo.policy import LoadedModel
from mmdpo.records import Record, Records, load_records
from mmdpo.screening import Screening, screen

Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Data:
    """Records that passed the screening.

    Args:
        train: Records to train on.
        validation: Held-out records.
        groups: Image group of each held-out record.
        screening: Account of the training records.
        fingerprint: Content hash of everything read.
        encoder: The model's encoder over the records' media root.
    """

    train: Sequence[Record]
    validation: Sequence[Record]
    groups: Sequence[str]
    screening: Screening
    fingerprint: str
    encoder: Encoder


def load_data(config: RunConfig, loaded: LoadedModel, objective: Objective, progress: Progress = iter) -> Data:
    """Loads, splits and screens the records of a configuration.

    Raises:
        DataError: No record is left to train on.
    """
    section = config.data
    records = load_records(section.path)
    if section.limit is not None:
        records = records[: section.limit]
    if isinstance(section.validation, str):
        held_out = load_records(section.validation)
    else:
        held_out, records = _held_out(section.path, records, section.validation, config.seed)
    encoder = Encoder(loaded.processor, loaded.facts, loaded.eos_ids, records.media_root, seed=config.seed)
    screening = screen(records, encoder, objective.views, section.max_length, progress)
    kept_out = screen(held_out, encoder, objective.views, section.max_length, progress)
    if not screening.kept:
        raise DataError(
            f"none of the {len(records)} records of {section.path!r} can be trained on: {screening.reasons()}",
            why="; ".join(f"for instance {entry.id}: {entry.message}" for entry in screening.set_aside[:1]),
            fix="Correct the records, or build them again; mmdpo quality DATA --media tries every image.",
        )
    groups = media_groups(held_out)
    return Data(
        train=[records[n] for n in screening.kept],
        validation=[held_out[n] for n in kept_out.kept],
        groups=[groups[n] for n in kept_out.kept],
        screening=screening,
        fingerprint=records.fingerprint(),
        encoder=encoder,
    )


def _held_out(path: str, records: Records, share: float, seed: int) -> tuple[Records, Records]:
    """The data set's own validation split, else a share of its images."""
    if share == 0:
        return records[:0], records
    try:
        return load_records(path, split="validation"), records
    except DataError:
        splits = split_by_media(records, share, seed)
        return splits.get("validation", records[:0]), splits["train"]


def probe_records(data: Data) -> list[Record]:
    """Records that the start-up check tries: the longest, the one with most media, one without media."""
    by_place = dict(zip(data.screening.kept, data.train, strict=True))
    return [by_place[place] for place in data.screening.probes()]
