"""Lengths of prompts from image headers: how many tokens a picture takes follows from its size alone.

Resizing every picture of a data set, normalising and hashing it, only to count tokens, takes most of the time of the
screening. Here each file is still decoded once, in several threads, so that a damaged one is found before training;
what the processor would make of its pixels is not computed. Tokens come from the processor's own count
(``_get_num_multimodal_tokens``) where it agrees with what the processor does, else from a blank picture of each size.
Whatever is in doubt is encoded as ever.
"""

from __future__ import annotations

import io
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.media import Media, MediaError, open_image
from mmdpo.records import Record

Size = tuple[int, int]
"""Width and height in pixels."""
Sizes = tuple[Size, ...]
TRIALS = 4
"""Different sizes for which the processor's own count is compared with what it does, before it is believed."""
PROOFS = 3
"""Records of each number of pictures that are encoded after all, to compare."""
AHEAD = 64
"""Records whose pictures are decoded ahead of the one that is examined."""


class UnreliableError(Exception):
    """Lengths that were believed turn out wrong: the data set is gone through again without them."""


def sizes_ahead(records: Iterable[Record], encoder: Encoder) -> Iterator[tuple[Record, Sizes | None]]:
    """Each record with the sizes of its pictures, which are decoded ahead in threads.

    Returns:
        None in place of sizes where a record has other media than pictures, none, or one that cannot be decoded.
    """

    def sizes(record: Record) -> Sizes | None:
        if not record.media.get("images") or any(items for name, items in record.media.items() if name != "images"):
            return None
        try:
            return tuple(open_image(item, encoder.root).size for item in record.media["images"])
        except MediaError:  # encoding it gives the same error, with the record's name
            return None

    waiting: deque[tuple[Record, Future[Sizes | None]]] = deque()
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        for record in records:
            waiting.append((record, pool.submit(sizes, record)))
            if len(waiting) > AHEAD:
                first, found = waiting.popleft()
                yield first, found.result()
        while waiting:
            first, found = waiting.popleft()
            yield first, found.result()


@dataclass
class PromptLengths:
    """Counts the tokens of prompts, encoding as few of them as it can.

    Args:
        encoder: Encoder of the model.
        count: Whether the processor's own count may be used.
        sizes: Whether lengths may follow from sizes at all.

    Attributes:
        how: How many lengths came from where: ``count``, ``size`` or ``encoded``.
    """

    encoder: Encoder
    count: bool = True
    sizes: bool = True
    how: Counter[str] = field(default_factory=Counter)
    _by_size: dict[Sizes, int] = field(default_factory=dict)
    _counted: dict[int, _Counted] = field(default_factory=dict)
    _proofs: Counter[int] = field(default_factory=Counter)

    def of(self, record: Record, sizes: Sizes | None) -> int:
        """Tokens of a record's prompt.

        Raises:
            MMDPOError: As :meth:`mmdpo.encoding.example.Encoder.prompt` does.
            UnreliableError: A length that was believed is wrong.
        """
        found = None if sizes is None or not self.sizes else self._from_sizes(record, sizes)
        if found is not None and sizes is not None:
            length, how = found
            if self._proofs[len(sizes)] >= PROOFS:
                self.how[how] += 1
                return length
            self._proofs[len(sizes)] += 1
            if self._encoded(record) != length:
                raise UnreliableError(f"record {record.id!r} has not the length that follows from its pictures' size")
            return length
        return self._encoded(record)

    def _encoded(self, record: Record) -> int:
        self.how["encoded"] += 1
        return len(self.encoder.prompt(record).input_ids)

    def _from_sizes(self, record: Record, sizes: Sizes) -> tuple[int, str] | None:
        """The length of a prompt and how it was found; None where it must be encoded."""
        try:
            self.encoder.check_taken(record)
            text = self.encoder.text_length(record)
            if text is None:
                return None
            if self.count:
                counted = self._counted.setdefault(len(sizes), _Counted())
                told = _told(self.encoder.processor, sizes)
                if told is not None and (more := counted.more(told, sizes)) is not None:
                    return text + more, "count"
                more = self._tried(record, sizes, text)
                if told is not None and not counted.learn(told, more, sizes):
                    raise UnreliableError("the processor's own count of tokens is not what it does")
            else:
                more = self._tried(record, sizes, text)
        except ConfigError:
            raise
        except (MMDPOError, ValueError, TypeError, KeyError, AttributeError, LookupError):
            return None  # whatever it is, encoding the record tells it in its own words
        return text + more, "size"

    def _tried(self, record: Record, sizes: Sizes, text: int) -> int:
        """What pictures of some sizes add to the tokens of a text: what blank ones do."""
        if sizes not in self._by_size:
            blank = replace(record, media={"images": tuple(map(_blank, sizes))})
            self._by_size[sizes] = len(self.encoder.prompt(blank).input_ids) - text
        return self._by_size[sizes]


@dataclass
class _Counted:
    """What is known of the processor's own count, for prompts of one number of pictures.

    Args:
        offset: What a prompt has more than its text and the count; None where that differs.
        seen: Sizes for which it was so.
    """

    offset: int | None = None
    seen: set[Sizes] = field(default_factory=set)
    wrong: bool = False

    def more(self, told: int, sizes: Sizes) -> int | None:
        """What a prompt has more than its text; None before enough was compared, or where these sizes go beyond it."""
        if self.wrong or self.offset is None:
            return None
        if sizes not in self.seen and (len(self.seen) < TRIALS or self._beyond(sizes)):
            return None
        return told + self.offset

    def learn(self, told: int, more: int, sizes: Sizes) -> bool:
        """Takes in what blank pictures have added; False where it contradicts what was believed already."""
        believed = len(self.seen) >= TRIALS and not self.wrong
        if self.offset is None:
            self.offset = more - told
        elif self.offset != more - told:
            self.wrong = True
            return not believed
        self.seen.add(sizes)
        return True

    def _beyond(self, sizes: Sizes) -> bool:
        """Whether a picture is smaller, larger or more oblong than all that were compared."""
        known = [_measures(size) for compared in self.seen for size in compared]
        ranges = [(min(values), max(values)) for values in zip(*known, strict=True)]
        return any(
            not low <= value <= high
            for size in sizes
            for value, (low, high) in zip(_measures(size), ranges, strict=True)
        )


def _measures(size: Size) -> tuple[float, ...]:
    width, height = size
    return min(size), max(size), width * height, width / height


def _blank(size: Size) -> Media:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG", compress_level=1)
    return Media(data=file.getvalue())


def _told(processor: Any, sizes: Sizes) -> int | None:
    """Placeholder tokens of some pictures by the processor's own count; None where it has none."""
    count = getattr(processor, "_get_num_multimodal_tokens", None)
    if count is None:
        return None
    tokens = getattr(count(image_sizes=[(height, width) for width, height in sizes]), "num_image_tokens", None)
    return None if tokens is None else int(sum(tokens))
