"""How similar what records show is: by words, objects, look or CLIP; always a cosine, -1 to 1."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data_builders.care.near_copies import Look, are_alike
from data_builders.partners.scenes import Scene
from data_builders.running.work import Work
from data_builders.splits import seeded_order
from mmdpo.answering.answer_file import model_fingerprint
from mmdpo.errors import DataError
from mmdpo.jsonfiles import append_json_line, read_json_lines
from mmdpo.media import Media, MediaError, open_image
from mmdpo.models.clip_score import ClipScore

Features: TypeAlias = NDArray[np.float32] | csr_array
"""[scenes, features] rows of length 1, or of length 0 where nothing is known."""
_BLOCK = 256  # rows whose similarity to all others is held at once
_DIGITS = 5
_UNKNOWN = 1e-6


class Alike(NamedTuple):
    """Two scenes that are similar.

    Args:
        similarity: Their cosine; None for given pairs.
        first: Place of the one.
        second: Place of the other.
    """

    similarity: float | None
    first: int
    second: int


def bags(contents: Sequence[Iterable[str]]) -> csr_array:
    """[scenes, words] words weighted by log((1 + scenes) / scenes with it), rows of length 1."""
    sets = [set(content) for content in contents]
    counts = Counter(word for content in sets for word in content)
    places = {word: place for place, word in enumerate(sorted(counts))}
    weights = {word: math.log((1 + len(sets)) / count) for word, count in counts.items()}
    rows = [row for row, content in enumerate(sets) for _ in content]
    listed = [word for content in sets for word in sorted(content)]
    values = np.array([weights[word] for word in listed], np.float32)
    lengths = np.sqrt(np.bincount(rows, weights=values**2, minlength=len(sets)))
    values /= lengths[rows]
    columns = [places[word] for word in listed]
    return csr_array((values, (rows, columns)), shape=(len(sets), max(1, len(places))))


def codes(looks: Sequence[Sequence[Look] | None]) -> NDArray[np.float32]:
    """[scenes, 64 x items] bits of the perceptual hashes as -1 and 1: the cosine is 1 - bits that differ / 32.

    What has more items than others is compared with its like alone, so that the columns may be filled up with 0.
    """
    widest = max((len(one) for one in looks if one), default=1)
    found = np.zeros((len(looks), 64 * widest), np.float32)
    for row, one in zip(found, looks, strict=True):
        for place, look in enumerate(one or ()):
            bits = [int(look.codes[0]) >> bit & 1 for bit in range(64)]
            row[64 * place : 64 * (place + 1)] = (2 * np.array(bits, np.float32) - 1) / 8 / math.sqrt(len(one or ()))
    return found


def embeddings(
    scenes: Sequence[Scene], files: Mapping[Media, Media], clip: ClipScore, root: Path | None, work: Work
) -> NDArray[np.float32]:
    """[scenes, width] CLIP's embeddings, of several pictures their mean; kept as they come.

    Args:
        scenes: The scenes.
        files: Every item as it can be opened.
        clip: The model.
        root: Folder of the files.
        work: What the builder works with.

    Raises:
        DataError: An interrupted build had another model.
    """
    path = work.scratch / "clip.journal.jsonl"
    read, fingerprint = read_json_lines(path), model_fingerprint(clip.model)
    if read.unreadable:  # half a line of a build that was killed: the next one must not be joined to it
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    if {row["model"] for row in read.rows} - {fingerprint}:
        raise DataError(
            "the interrupted build had another CLIP",
            why="Embeddings of two models cannot be compared.",
            fix="Give the weights that it began with, or build anew: another --out.",
        )
    known: dict[str, list[float]] = {row["media"]: row["values"] for row in read.rows}
    for item, file in work.progress(files.items()):
        if item.identity not in known:
            try:
                values = clip.picture(open_image(file, root))
            except MediaError:
                continue  # absent, with media=optional: it is similar to nothing
            known[item.identity] = [round(value, _DIGITS) for value in values]
            append_json_line(path, {"model": fingerprint, "media": item.identity, "values": known[item.identity]})
    found = np.zeros((len(scenes), len(next(iter(known.values()), [0.0]))), np.float32)
    for row, scene in zip(found, scenes, strict=True):
        seen = [known[item.identity] for item in scene.items if item.identity in known]
        if len(seen) == len(scene.items):
            row[:] = np.mean(seen, axis=0)
            row /= max(float(np.linalg.norm(row)), _UNKNOWN)
    return found


def comparable(scenes: Sequence[Scene]) -> list[list[int]]:
    """Places of the scenes that have as many items and a question in common, by question; two or more each."""
    found: dict[Any, list[int]] = defaultdict(list)
    for place, scene in enumerate(scenes):
        for question in dict.fromkeys(entry.question for entry in scene.entries):
            found[scene.shape, question].append(place)
    return [places for places in found.values() if len(places) > 1]


def most_similar(features: Features, groups: Iterable[Sequence[int]], neighbours: int, floor: float) -> list[Alike]:
    """Each scene with its nearest ones of the same group, each two once, most similar first.

    Time grows with the square of a group, memory with its size times ``neighbours``.
    """
    found: dict[tuple[int, int], float] = {}
    for group in groups:
        places = np.asarray(group)
        part = features[places]
        for start in range(0, len(places), _BLOCK):
            product: Any = part[start : start + _BLOCK] @ part.T
            cosines = np.asarray(product.todense() if isinstance(product, csr_array) else product, np.float64)
            own = np.arange(len(cosines))
            cosines[own, start + own] = -np.inf
            count = min(neighbours, len(places) - 1)
            nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
            for row, columns in enumerate(nearest):
                for column in columns[cosines[row, columns] >= floor]:
                    low, high = sorted((int(places[start + row]), int(places[column])))
                    found[low, high] = round(float(cosines[row, column]), _DIGITS)
    return [Alike(found[pair], *pair) for pair in found]


def in_order(alike: Iterable[Alike], names: Sequence[str], seed: int) -> list[Alike]:
    """Most similar first; a hash of the seed and the names decides between equals."""

    def key(one: Alike) -> tuple[float, str]:
        return -(one.similarity or 0.0), seeded_order(seed, *sorted((names[one.first], names[one.second])))

    return sorted(alike, key=key)


def are_copies(first: Sequence[Look] | None, second: Sequence[Look] | None) -> bool:
    """Whether all pictures of two scenes are near copies of each other; not where they cannot be seen."""
    if not first or not second:
        return False
    return all(are_alike(a, b) for a, b in zip(first, second, strict=True))


def matched(
    alike: Iterable[Alike], fits: Callable[[Alike], bool], *, one_way: bool
) -> Iterator[tuple[Alike, int | None]]:
    """Partners, the most similar first: two scenes that have none yet and fit each other.

    Args:
        alike: In their order.
        fits: Whether two may be partners; asked only where both, or one, are free.
        one_way: Afterwards, scenes that are left over take the nearest one that fits among those that have a partner.

    Yields:
        Two scenes; and None, or which one of them was left over and is no partner of the other.
    """
    taken: set[int] = set()
    rest: list[Alike] = []
    for one in alike:
        if one.first in taken or one.second in taken:
            rest.append(one)
        elif fits(one):
            taken |= {one.first, one.second}
            yield one, None
    late: set[int] = set()
    for one in rest if one_way else ():
        free = {one.first, one.second} - taken
        if len(free) == 1 and not free & late and fits(one):
            late |= free
            yield one, next(iter(free))
