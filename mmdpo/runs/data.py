"""The records of a run: loaded, split by media, screened for the model that will train on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from data_builders.splits import media_groups, split_by_media
from mmdpo.config import DataSection, RunConfig, together
from mmdpo.encoding.example import Encoder
from mmdpo.errors import DataError
from mmdpo.media import frame_paths, read_bytes
from mmdpo.objectives import Objective
from mmdpo.policy import LoadedModel
from mmdpo.progress import Progress
from mmdpo.records import Record, Records, load_records
from mmdpo.records.files import list_splits
from mmdpo.records.marks import MARKINGS
from mmdpo.training.objective_checks import objective_problems
from mmdpo.training.screening import Screening, SetAsideRecord, screen


@dataclass(frozen=True)
class Data:
    """Records that passed the screening.

    Args:
        train: Records to train on.
        validation: Held-out records.
        groups: Media group of each held-out record.
        screening: Account of the training records.
        held_out: Account of the held-out records.
        fingerprint: Content hash of everything read: all training and validation records, before ``data.limit``.
        encoder: The model's encoder over the records' media root.
    """

    train: Sequence[Record]
    validation: Sequence[Record]
    groups: Sequence[str]
    screening: Screening
    held_out: Screening
    fingerprint: str
    encoder: Encoder

    @property
    def set_aside(self) -> list[SetAsideRecord]:
        """The records of both splits that are not used."""
        return [*self.screening.set_aside, *self.held_out.set_aside]


class WithMedia(Sequence[Record]):
    """Records that are handed out with the bytes of their media, for an encoder over another media root.

    Args:
        records: The records, with the root that their media are read from.

    Raises:
        DataError: An item is a folder of frames, which has no bytes of its own.
    """

    def __init__(self, records: Records) -> None:
        self.records = records
        for record in records:
            for _, item in record.media_items():
                if frame_paths(item, records.media_root) is not None:
                    raise DataError(
                        f"the video {item.name!r} of validation record {record.id!r} is a folder of frames, "
                        "and lies under another media root than the training records",
                        why="It cannot be handed on as bytes.",
                        fix="Put both under one root (data.validation_media_root), or use video files.",
                    )

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> WithMedia: ...
    def __getitem__(self, index: int | slice) -> Record | WithMedia:
        if isinstance(index, slice):
            return WithMedia(self.records[index])
        record, root = self.records[index], self.records.media_root
        media = {
            name: tuple(replace(item, data=read_bytes(item, root)) for item in items)
            for name, items in record.media.items()
        }
        return replace(record, media=media)


@dataclass(frozen=True)
class Sources:
    """The records of a configuration before any model has seen them, marked as it asks for.

    Args:
        train: Records to train on, before the screening.
        held_out: Records to validate on.
        own_validation: Whether those were given, and are no share of the others.
        fingerprint: Content hash of everything read, before ``data.limit``.
    """

    train: Records
    held_out: Records
    own_validation: bool
    fingerprint: str


def read_sources(config: RunConfig, objective: Objective) -> Sources:
    """Reads and splits the records, and checks that the objective can use them. Needs no model.

    Raises:
        DataError: The records cannot be read.
        ConfigError: A term can use none of them, or a media variant is unknown.
    """
    section = config.data
    everything = load_records(section.path, media_root=section.media_root)
    records = everything if section.limit is None else everything[: section.limit]
    own = _own_validation(section)
    fingerprint = everything.fingerprint()
    if own is None:
        splits = split_by_media(records, float(section.validation), config.seed)
        records, held_out = splits.get("train", records[:0]), splits.get("validation", records[:0])
    else:
        held_out, fingerprint = own, _joined(fingerprint, own.fingerprint())
    train, held_out = (_marked(each, section.marks) for each in (records, held_out))
    if problems := list(objective_problems(objective, train, config.seed)):
        raise together("the loss and the data", problems)
    return Sources(train, held_out, own is not None, fingerprint)


def _marked(records: Records, marks: str) -> Records:
    return Records(map(MARKINGS[marks], records), records.media_root)


def load_data(config: RunConfig, loaded: LoadedModel, objective: Objective, progress: Progress = iter) -> Data:
    """Reads, splits and screens the records of a configuration.

    Raises:
        DataError: No record is left to train on, or none of the validation records that were asked for.
        ConfigError: A term can use none of them, or a media variant is unknown.
    """
    return screened(read_sources(config, objective), config, loaded, objective, progress)


def screened(
    sources: Sources, config: RunConfig, loaded: LoadedModel, objective: Objective, progress: Progress = iter
) -> Data:
    """Screens records for a model.

    Raises:
        DataError: No record is left to train on, or none of the validation records that were asked for.
    """
    section, records, held_out = config.data, sources.train, sources.held_out

    def encoder_over(root: Path | None) -> Encoder:
        fresh = section.variants == "fresh"
        return Encoder(loaded.processor, loaded.facts, loaded.eos_ids, root, seed=config.seed, fresh=fresh)

    encoder = encoder_over(records.media_root)
    screening = screen(records, encoder, objective, section.max_length, progress)
    kept_out = screen(
        held_out, encoder_over(held_out.media_root), objective, section.max_length, progress, split="validation"
    )
    _require_some(screening, section.path, "trained on")
    if sources.own_validation:
        origin = section.validation if isinstance(section.validation, str) else section.path
        _require_some(kept_out, origin, "used for validation")
    groups = media_groups(held_out)
    validation = Records((held_out[n] for n in kept_out.kept), held_out.media_root)
    return Data(
        train=[records[n] for n in screening.kept],
        validation=validation if held_out.media_root == records.media_root else WithMedia(validation),
        groups=[groups[n] for n in kept_out.kept],
        screening=screening,
        held_out=kept_out,
        fingerprint=sources.fingerprint,
        encoder=encoder,
    )


def _own_validation(section: DataSection) -> Records | None:
    """The records at a validation path, else the data set's own validation split, else None: a share is held out."""
    if isinstance(section.validation, str):
        return load_records(section.validation, media_root=section.validation_media_root)
    if section.validation > 0 and "validation" in list_splits(Path(section.path)):
        return load_records(section.path, split="validation", media_root=section.media_root)
    return None


def _require_some(screening: Screening, origin: str, purpose: str) -> None:
    if screening.kept:
        return
    raise DataError(
        f"none of the {len(screening.set_aside)} records of {origin!r} can be {purpose}: {screening.reasons()}",
        why="; ".join(f"for instance {entry.id}: {entry.message}" for entry in screening.set_aside[:1]),
        fix="Correct the records, or build them again; mmdpo quality DATA --media opens every item.",
    )


def _joined(*fingerprints: str) -> str:
    return hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()


def probe_records(data: Data) -> list[Record]:
    """Records that the start-up check tries: the longest, the one with most media, one without media."""
    by_place = dict(zip(data.screening.kept, data.train, strict=True))
    return [by_place[place] for place in data.screening.probes()]
