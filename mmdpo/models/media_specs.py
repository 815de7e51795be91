"""Encoders by name: what a composed model's configuration says of a modality, and the encoder that it stands for.

An entry is a flat dictionary: ``kind`` (the name of the encoder), the encoder's own fields, and, once a model is
composed, ``token`` and ``token_id`` of its placeholder.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from mmdpo import registry
from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.modalities.encoders import MediaEncoder

BUILT_IN = {
    "clip": "mmdpo.modalities.clip:ClipPatches",
    "embeddings": "mmdpo.modalities.embeddings:Embeddings",
    "open_clip": "mmdpo.modalities.clip:OpenClipPatches",
    "whisper": "mmdpo.modalities.whisper:WhisperFeatures",
}
"""Encoders that every modality may use, imported when named; a modality adds its own (``Modality.encoders``)."""
RESERVED = frozenset({"kind", "token", "token_id"})
"""Keys of an entry that are no field of the encoder."""


def encoder_of(modality: str, entry: Mapping[str, Any]) -> MediaEncoder:
    """The encoder that an entry describes.

    Args:
        modality: Name of the modality.
        entry: ``kind`` and the encoder's fields.

    Raises:
        ConfigError: The kind is unknown (a plugin file is not loaded), or the fields are not the encoder's.
    """
    if "kind" not in entry:
        raise ConfigError(
            f"the encoder of modality {modality!r} has no kind: {dict(entry)}",
            why="Which encoder is meant is not known.",
            fix=f"Add kind: with one of {', '.join(_known_kinds(modality))}.",
        )
    found = _class_of(modality, str(entry["kind"]))
    fields = {name: value for name, value in entry.items() if name not in RESERVED}
    known = {field.name for field in dataclasses.fields(found)}
    for name in fields:
        if name not in known:
            raise ConfigError(
                f"encoder {entry['kind']!r} of modality {modality!r} has no field {name!r}",
                why=did_you_mean(name, known),
                fix=f"See the fields of {found.__module__}.{found.__qualname__}.",
            )
    try:
        return found(**fields)
    except TypeError as error:
        raise ConfigError(
            f"encoder {entry['kind']!r} of modality {modality!r} cannot be made: {error}",
            why="A field of its configuration is missing.",
            fix=f"See the fields of {found.__module__}.{found.__qualname__}.",
        ) from error


def entry_of(modality: str, encoder: MediaEncoder) -> dict[str, Any]:
    """The entry that describes an encoder: ``kind`` and its fields.

    Raises:
        ConfigError: Its class is not among the encoders of the modality, so that a saved model could not be loaded.
    """
    for kind in _known_kinds(modality):
        if _class_of(modality, kind) is type(encoder):
            return {"kind": kind, **dataclasses.asdict(encoder)}
    raise ConfigError(
        f"encoder {type(encoder).__name__} is not registered for modality {modality!r}",
        why="A saved model could not name it, and so could not be loaded.",
        fix="Register a modality of that name with the class under `encoders`.",
    )


def _known_kinds(modality: str) -> list[str]:
    own = registry.modalities.get(modality).encoders if modality in registry.modalities else {}
    return sorted({*own, *BUILT_IN})


def _class_of(modality: str, kind: str) -> type[MediaEncoder]:
    registered = modality in registry.modalities
    own: Mapping[str, type[MediaEncoder]] = registry.modalities.get(modality).encoders if registered else {}
    if kind in own:
        return own[kind]
    if kind in BUILT_IN:
        module, _, name = BUILT_IN[kind].partition(":")
        found: type[MediaEncoder] = getattr(importlib.import_module(module), name)
        return found
    if not registered:
        raise ConfigError(
            f"encoder {kind!r} belongs to modality {modality!r}, which is not registered",
            why="Its file is not loaded, so neither the encoder nor the way to read its media is known.",
            fix="Name the file that registers the modality under plugins: in the configuration, or with --plugin FILE.",
        )
    raise ConfigError(
        f"modality {modality!r} has no encoder {kind!r}",
        why=did_you_mean(kind, _known_kinds(modality)),
        fix="Use one of the names, or name the plugin file that adds it.",
    )
