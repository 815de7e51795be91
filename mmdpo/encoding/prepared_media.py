"""Media prepared once: what a processor makes of a prompt's items, kept while prompts about the same items follow.

Benchmarks ask many questions about one image, and samplers draw many answers to one prompt. Decoding the file, resizing
and normalising it, and hashing what the encoder gets take longer than all the text of a question.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from mmdpo.corruptions import size_of
from mmdpo.encoding.media_units import MediaUnit
from mmdpo.records import Record

CACHE_BYTES = 64 * 2**20
"""Memory for prepared media: about 25 photos of 640 x 480 at 336 pixels, decoded and prepared."""
STEPS = ("_process_images", "_process_videos", "_process_audio")
"""Where a processor of transformers turns items into encoder inputs and into the text that stands for them; neither
depends on the rest of the prompt. A processor without one of them prepares its items for every prompt."""


def media_of(record: Record) -> tuple[Any, ...]:
    """What tells the media of a record from those of others; empty without any."""
    return tuple((plural, tuple(item.identity for item in items)) for plural, items in record.media.items() if items)


@dataclass
class Prepared:
    """The media of a prompt.

    Args:
        items: Decoded items by plural name; None until they are loaded.
        outputs: What each of the processor's :data:`STEPS` returned.
        units: Encoder inputs by item, by modality and the lengths of the prompt's runs of placeholders.
    """

    items: dict[str, list[Any]] | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    units: dict[tuple[str, tuple[int, ...]], list[MediaUnit]] = field(default_factory=dict)

    def by(self, processor: Any) -> Any:
        """A processor that takes what it made of these items before in place of making it again."""
        twin = copy.copy(processor)  # the one that others hold stays as it is
        for name in STEPS:
            if hasattr(processor, name):
                setattr(twin, name, self._remembered(name, getattr(processor, name)))
        return twin

    def _remembered(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def process(*args: Any, **kwargs: Any) -> Any:
            if name not in self.outputs:
                self.outputs[name] = step(*args, **kwargs)
            # processors take entries out of what they get, so everyone gets a container of their own
            return tuple(copy.copy(part) for part in self.outputs[name])

        return process


class PreparedMedia:
    """The latest prepared media; those longest unused make room.

    Args:
        limit: Bytes of all that is kept, by :func:`mmdpo.corruptions.size_of`. The latest is kept whatever its size.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.used = 0
        self._kept: OrderedDict[Hashable, tuple[Prepared, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Prepared:
        """What was kept under a key, else a fresh one."""
        return self._kept[key][0] if key in self._kept else Prepared()

    def keep(self, key: Hashable, prepared: Prepared) -> None:
        """Keeps prepared media as the latest."""
        self.used -= self._kept.pop(key)[1] if key in self._kept else 0
        size = sum(size_of(part) for part in (prepared.items, prepared.outputs, list(prepared.units.values())))
        self._kept[key] = (prepared, size)
        self.used += size
        while self.used > self.limit and len(self._kept) > 1:
            self.used -= self._kept.popitem(last=False)[1][1]
