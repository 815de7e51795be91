"""Answers that stand there more than once: word for word, or nearly."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_builders.intervals import Sums, estimate
from data_builders.quality.findings import finding, share, short
from data_builders.quality.sample import Sample, plain, preferred, unit_of, words_of
from mmdpo.evals.stats import ratio

SIMILAR = 0.8
"""Jaccard similarity of two answers' shingles from which on they count as near copies."""
_SHINGLE = 3
_FEWEST_WORDS = 5
"""Answers of fewer words ("yes", "a red car") are alike without being copies."""
_HASHES, _BANDS = 64, 16
"""Answers with similarity 0.8 meet in one of 16 bands of 4 with probability 0.9998, those with 0.3 with 0.12."""
_BEFORE = 8
_EXAMPLES = 6
_REPEATED = ratio("repeated", "repeated", "records")


def repeated_answers(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Preferred answers that are also given to other media, and those that are chosen here and rejected there."""
    where: dict[str, set[str]] = defaultdict(set)
    chosen: dict[str, int] = defaultdict(int)
    rejected: dict[str, int] = defaultdict(int)
    for group, record in zip(sample.groups, sample.records, strict=True):
        for candidate in record.candidates:
            where[plain(candidate.text)].add(group)
    for one in sample.comparisons:
        chosen[plain(one.better.text)] += 1
        rejected[plain(one.worse.text)] += 1
    first = [
        (group, plain(text))
        for group, record in zip(sample.groups, sample.records, strict=True)
        if (text := preferred(record)) is not None
    ]
    long = [(group, text) for group, text in first if len(text.split()) >= _FEWEST_WORDS]
    if not long:
        return None, []
    items = [Sums(group, {"records": 1, "repeated": float(len(where[text]) > 1)}) for group, text in long]
    found = estimate(items, _REPEATED)
    both = [text for text in chosen.keys() & rejected.keys() if len(text.split()) >= _FEWEST_WORDS]
    most = sorted((text for text in where if len(text.split()) >= _FEWEST_WORDS), key=lambda t: (-len(where[t]), t))
    distinct = len({text for _, text in long})
    message = (
        f"{share(found)} of the records prefer an answer that is also given to other media, word for word: "
        f"{len(long):,} records have {distinct:,} different preferred answers."
    )
    if len(where[most[0]]) > 1:
        message += f" The most frequent, {short(most[0])}, stands with {len(where[most[0]]):,} different media groups."
    if both:
        message += f" {len(both):,} answers are chosen in one record and rejected in another."
    numbers = {
        "distinct_answers": len(where),
        "chosen_and_rejected": len(both),
        "repeated": found,
        "most_frequent": [{"answer": text, "media_groups": len(where[text])} for text in most[:_EXAMPLES]],
    }
    return numbers, [finding("repeated_answers", found, message)]


def near_duplicates(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Different answers to different prompts or media that share at least 80% of their three-word shingles."""
    units: dict[str, set[str]] = defaultdict(set)
    for record in sample.records:
        unit = unit_of(record)
        for candidate in record.candidates:
            units[" ".join(words_of(candidate.text))].add(unit)
    texts = [text for text in units if text.count(" ") >= _FEWEST_WORDS - 1]
    if len(texts) < 2:
        return None, []
    clusters = [
        cluster
        for cluster in near_copies(texts)
        if len(set().union(*(units[texts[place]] for place in cluster))) > 1  # not the two answers of one prompt
    ]
    copies = sum(map(len, clusters))
    clusters.sort(key=lambda cluster: (-len(cluster), texts[cluster[0]]))
    value = copies / len(texts)
    message = (
        f"{copies:,} of {len(texts):,} different answers ({100 * value:.1f}%) are near copies of an answer to another "
        "prompt or other media (at least 80% of their three-word pieces in common)."
    )
    if clusters:
        a, b = (texts[place] for place in clusters[0][:2])
        message += f" The largest group has {len(clusters[0]):,}, for instance {short(a)} and {short(b)}."
    numbers = {
        "answers": len(texts),
        "near_copies": copies,
        "groups": len(clusters),
        "largest": [[texts[place] for place in cluster[:3]] for cluster in clusters[:_EXAMPLES]],
    }
    return numbers, [finding("near_duplicate_answers", value, message, n=len(texts))]


def near_copies(texts: Sequence[str], similar: float = SIMILAR) -> list[list[int]]:
    """Groups of texts that are connected by pairs with at least that Jaccard similarity of their shingles.

    Candidates come from MinHash signatures in bands (Broder 1997, "On the resemblance and containment of documents");
    each is verified on the shingles themselves, so that no group holds a chance meeting.

    Args:
        texts: Different texts, words between single spaces.
        similar: The similarity.
    """
    shingles = [_shingles(text) for text in texts]
    parent = list(range(len(texts)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for bucket in _buckets(shingles):
        for number, place in enumerate(bucket):
            for other in bucket[max(0, number - _BEFORE) : number]:
                a, b = root(place), root(other)
                if a != b and _jaccard(shingles[place], shingles[other]) >= similar:
                    parent[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = defaultdict(list)
    for place in range(len(texts)):
        groups[root(place)].append(place)
    return [group for group in groups.values() if len(group) > 1]


def _shingles(text: str) -> frozenset[int]:
    parts = text.split(" ")
    pieces = (" ".join(parts[start : start + _SHINGLE]) for start in range(max(1, len(parts) - _SHINGLE + 1)))
    return frozenset(zlib.crc32(piece.encode("utf-8", "surrogatepass")) for piece in pieces)


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def _buckets(shingles: Sequence[frozenset[int]]) -> Iterable[list[int]]:
    """Places of texts whose signatures agree in one band."""
    flat = np.array([value for some in shingles for value in sorted(some)], np.uint64)
    starts = np.concatenate([[0], np.cumsum([len(some) for some in shingles])[:-1]])
    factors = np.random.default_rng(0).integers(1, 2**31, (_HASHES, 2), np.uint64)
    rows = _HASHES // _BANDS
    for band in range(_BANDS):
        signature = np.stack([_minima(flat, starts, *factors[band * rows + row]) for row in range(rows)], axis=1)
        _, place, sizes = np.unique(signature, axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(place.ravel(), kind="stable")
        for bucket in np.split(order, np.cumsum(sizes)[:-1]):
            if len(bucket) > 1:
                yield bucket.tolist()


def _minima(flat: NDArray[np.uint64], starts: NDArray[Any], factor: np.uint64, offset: np.uint64) -> NDArray[np.uint64]:
    """The smallest hash of each text, ``(a x + b) mod p`` with the Mersenne prime 2^31 - 1 (x is folded below it)."""
    prime = np.uint64(2**31 - 1)
    return np.minimum.reduceat(((flat % prime) * factor + offset) % prime, starts)


def identical_answers(sample: Sample) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Comparisons whose answers have the same words, marks and case apart, or one of which has none."""
    if not sample.comparisons:
        return None, []
    pairs = [(words_of(one.better.text), words_of(one.worse.text)) for one in sample.comparisons]
    same = sum(a == b for a, b in pairs)
    empty = sum(not a or not b for a, b in pairs)
    message = f"{same:,} of {len(pairs):,} comparisons have the same words on both sides, case and marks apart; "
    message += f"{empty:,} have an answer without any word."
    found = finding("identical_answers", (same + empty) / len(pairs), message, n=len(pairs))
    return {"same_words": same, "without_words": empty, "comparisons": len(pairs)}, [found]
