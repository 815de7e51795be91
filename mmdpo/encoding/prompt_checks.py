"""What is refused before a model sees it: media without a place, media that are ignored, inputs that are not finite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from mmdpo.errors import DataError, ModelError
from mmdpo.modalities.base import Modality
from mmdpo.records import Record, media_field


def check_places(record: Record) -> None:
    """Refuses a prompt with more or fewer places than media items.

    Raises:
        DataError: Naming the record.
    """
    parts = [part["type"] for message in record.prompt for part in message["content"]]
    places = Counter(media_field(part) for part in parts if part != "text")
    for plural in sorted({*places, *record.media}):
        items = len(record.media.get(plural, ()))
        if places[plural] != items:
            raise DataError(
                f"the prompt of record {record.id!r} has {places[plural]} places for {items} {plural}",
                why="Every place stands for one item, in reading order.",
                fix=f"Give as many parts of type {plural.removesuffix('s')!r} as items.",
            )


def refuse_both(record: Record) -> None:
    """Refuses images and videos in one prompt.

    Raises:
        ModelError: Naming the record.
    """
    raise ModelError(
        f"record {record.id!r} has images and videos in one prompt, which this model cannot tell apart",
        why="Features would stand at the wrong tokens; the model itself fails on it.",
        fix="Use prompts with one of the two.",
    )


def check_inputs(modality: Modality, inputs: Mapping[str, Tensor], items: int, record: Record) -> None:
    """Refuses media that the processor ignored, and encoder inputs that are not numbers.

    Raises:
        ModelError: There are no inputs.
        DataError: Some are not finite.
    """
    if not inputs:
        raise ModelError(
            f"the processor made no inputs for the {items} {modality.plural} of record {record.id!r}",
            why="The model would be trained without its media.",
            fix=f"Use a model that takes {modality.plural}, or a processor with an encoder for them.",
        )
    for name, values in inputs.items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise DataError(
                f"the {modality.plural} of record {record.id!r} give {name} that are not finite",
                why="One NaN makes every weight NaN at the next step.",
                fix="Correct the file or leave the record out.",
            )
