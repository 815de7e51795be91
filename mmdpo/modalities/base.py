"""What a modality is: how one item is named, loaded and corrupted, and which encoder inputs it makes.

A modality is one small file that registers a subclass; everything else (placeholders, packing, encoding once, blank
variants) works from these facts. ``mmdpo new modality NAME`` writes such a file, docs/modalities.md is the tutorial and
:mod:`mmdpo.conformance` the check.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmdpo import registry
from mmdpo.corruptions import Corruption, split_variant, with_strength
from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.modalities.encoders import MediaEncoder
from mmdpo.records import Media, media_field
from mmdpo.views import CLEAN, NONE, SWAP


class Modality(ABC):
    """One kind of media.

    Attributes:
        name: Singular name, also the ``type`` of its content part and its key in ``mm_encoder_outputs``.
        plural: Name of its list in :attr:`mmdpo.Record.media`: always the name with an s.
        inputs: Names of the outputs of published models' processors that go into the encoder, the main one first; none
            for a modality that only composed models take.
        grid: Name of the output that holds [items, 3] patch counts when the main one packs the patches of all items.
        corruptions: Media variants by name: functions of an item and a generator, or :class:`~mmdpo.corruptions.Graded`
            for one with a strength. ``blank``, an item of the same size that says nothing, must be among them. A
            variant leaves the item itself as it is, and its type and number of tokens.
        encoders: Encoders by name, for composed models; precomputed ``embeddings`` work for every modality.
    """

    name: ClassVar[str]
    plural: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[str | None] = None
    corruptions: ClassVar[Mapping[str, Corruption]]
    encoders: ClassVar[Mapping[str, type[MediaEncoder]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" in vars(cls) and "plural" not in vars(cls):
            cls.plural = media_field(cls.name)

    @abstractmethod
    def load(self, media: Media, root: Path | None) -> Any:
        """Decodes one item.

        Raises:
            DataError: The item is missing, not readable or refused.
        """

    def for_processor(self, item: Any, processor: Any) -> Any:
        """What a processor's content part takes of a decoded (and perhaps corrupted) item; by default the item itself.

        Raises:
            DataError: The processor would cut the item.
        """
        del processor
        return item

    def processor_options(self, items: Sequence[Any]) -> dict[str, Any]:
        """Keywords of the processor's call that go with all decoded items of a prompt; by default none."""
        del items
        return {}


def modality_of(plural: str) -> Modality:
    """The registered modality whose records list is called ``plural``.

    Raises:
        ConfigError: No such modality is registered.
    """
    known = {}
    for name in registry.modalities:
        modality = registry.modalities.get(name)
        known[modality.plural] = modality
    if plural not in known:
        raise ConfigError(
            f"no modality is registered for media list {plural!r}",
            why=did_you_mean(plural, known),
            fix="Name its file under plugins: in the configuration.",
        )
    return known[plural]()


def corruption_of(modality: Modality, variant: str) -> Corruption:
    """A modality's corruption by name, with its strength after a colon where it is not the usual one.

    Raises:
        ConfigError: The modality has no such variant, or not at this strength.
    """
    name, _ = split_variant(variant)
    if name not in modality.corruptions:
        raise ConfigError(
            f"media variant {variant!r} is unknown for {modality.plural}",
            why=did_you_mean(name, {*modality.corruptions, CLEAN, NONE, SWAP}),
            fix="Use one of the names, or register a modality that has it.",
        )
    return with_strength(modality.corruptions[name], variant)


def check_variant(plural: str, variant: str) -> None:
    """Refuses a media variant that a modality does not know, before anything is loaded.

    Args:
        plural: The modality's list in records, such as ``"images"``.
        variant: The variant, such as ``"clean"`` or ``"crop:0.1"``.

    Raises:
        ConfigError: The modality or the variant is unknown, or the strength is not one of this variant.
    """
    modality = modality_of(plural)
    if variant not in (CLEAN, NONE, SWAP):
        corruption_of(modality, variant)
