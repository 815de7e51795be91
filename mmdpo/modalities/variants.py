"""A record's media under a variant: decoded, corrupted by seed, swapped or left out, and put into its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mmdpo.corruptions import ItemCache, generator_for, split_variant
from mmdpo.errors import DataError
from mmdpo.modalities.base import Modality, corruption_of, modality_of
from mmdpo.records import Media, Message, Record, media_field
from mmdpo.views import CLEAN, NONE


def swapped(record: Record, partner: Record | None) -> Record:
    """A record with the media of its partner.

    Raises:
        DataError: There is no partner, or it has more or fewer items of a modality.
    """
    if partner is None:
        raise DataError(
            f"record {record.id!r} has no partner whose media it could show",
            why="The variant 'swap' shows the media of another record with as many items.",
            fix="Give more than one record, or use another variant.",
        )
    wanted, found = ({name: len(items) for name, items in of.media.items() if items} for of in (record, partner))
    if wanted != found:
        raise DataError(
            f"record {record.id!r} has {wanted or 'no media'} and its partner {partner.id!r} {found or 'none'}",
            why="Every place in the prompt stands for one item.",
            fix="Take a partner with as many items of each modality.",
        )
    return replace(record, media=partner.media)


def items_of(
    record: Record, variant: str, root: Path | None, cache: ItemCache, *, seed: int = 0, epoch: int | None = None
) -> dict[str, list[Any]]:
    """The decoded items of a record under a variant, by plural name.

    Args:
        record: The record.
        variant: ``"clean"``, ``"none"``, or a corruption with or without a strength.
        root: Folder that media paths are relative to.
        cache: Keeps corrupted items, by all that they depend on.
        seed: Seed of the draws.
        epoch: Only for draws that are to differ from epoch to epoch.

    Raises:
        DataError: An item cannot be read.
        ConfigError: A modality of the record does not know the variant.
    """
    if variant == NONE:
        return {}
    name, _ = split_variant(variant)
    found: dict[str, list[Any]] = {}
    for plural, refs in record.media.items():
        modality = modality_of(plural)
        if variant == CLEAN:
            found[plural] = [modality.load(ref, root) for ref in refs]
            continue
        found[plural] = []
        for place, ref in enumerate(refs):
            draw = (record.id, name, place, seed, epoch)
            make = partial(_corrupted, modality, variant, ref, root, draw)
            found[plural].append(cache.get((plural, root, ref.identity, variant, draw), make))
    return found


def _corrupted(modality: Modality, variant: str, ref: Media, root: Path | None, draw: tuple[Any, ...]) -> Any:
    return corruption_of(modality, variant)(modality.load(ref, root), generator_for(*draw))


def with_items(
    prompt: Sequence[Message], items: Mapping[str, Sequence[Any]], processor: Any, *, leave_out: bool = False
) -> list[dict[str, Any]]:
    """A prompt as a processor takes it: its turns, with decoded items in their places.

    Args:
        prompt: The turns.
        items: As many items by plural name as there are places, in reading order.
        processor: What the items are for.
        leave_out: Leaves the places out instead.
    """
    queues = {plural: iter(decoded) for plural, decoded in items.items()}
    conversation = []
    for message in prompt:
        parts: list[dict[str, Any]] = []
        for part in message["content"]:
            kind = part["type"]
            if kind == "text":
                parts.append(dict(part))
            elif not leave_out:
                plural = media_field(kind)
                parts.append({"type": kind, kind: modality_of(plural).for_processor(next(queues[plural]), processor)})
        conversation.append({"role": message["role"], "content": parts})
    return conversation
