"""The modality "event": what a sound tagger gave for a clip, [t, 4] probabilities, one row every half second.

The frames go to the projector as they are (`kind: embeddings`), so there is no network here: only how an item is read
and spoilt. The projector begins by normalising each vector, which would make a quiet frame as loud as any other. So
each probability p stands beside 1 - p: [t, 8].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmdpo import registry
from mmdpo.corruptions import Corruption
from mmdpo.media import MediaError
from mmdpo.modalities.arrays import Array, open_array
from mmdpo.modalities.base import Modality
from mmdpo.records import Media

CLASSES = ("dog", "siren", "speech", "music")


def blank(item: Array, generator: np.random.Generator) -> Array:
    """As many frames in which the tagger is sure of nothing."""
    del generator  # nothing random
    return np.full_like(item, 0.5)


def class_shuffle(item: Array, generator: np.random.Generator) -> Array:
    """The same probabilities of other classes."""
    order = generator.permutation(len(CLASSES))
    return np.ascontiguousarray(item[:, [*order, *(order + len(CLASSES))]])


@registry.modalities.register("event")
class EventModality(Modality):
    """Sound events as a tagger sees them."""

    name: ClassVar[str] = "event"
    corruptions: ClassVar[Mapping[str, Corruption]] = {"blank": blank, "class_shuffle": class_shuffle}

    def load(self, media: Media, root: Path | None) -> Any:
        """[t, 8] float32: p and 1 - p of each class.

        Raises:
            MediaError: As ``open_array``; ``not_probabilities``.
        """
        item = open_array(media, root, channels=len(CLASSES))
        if item.min() < 0 or item.max() > 1:
            raise MediaError(
                "not_probabilities",
                f"the frames of {media.name!r} go from {item.min():.3g} to {item.max():.3g}",
                why="Probabilities go from 0 to 1; these may be logits.",
                fix="Apply the tagger's sigmoid before they are written.",
            )
        return np.concatenate([item, 1 - item], axis=1)
