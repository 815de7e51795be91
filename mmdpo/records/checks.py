"""Everything that can be wrong with records, reported all at once and with the row."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdpo.errors import DataError
from mmdpo.media import Media, MediaError, open_image, read_bytes
from mmdpo.media.audio import open_audio
from mmdpo.media.video import open_video
from mmdpo.records.record import Candidate, Record, Records, media_field

ROLES = ("system", "user", "assistant", "tool")
_SHOWN = 10
_OPENERS: dict[str, Callable[[Media, Path | None], object]] = {
    "images": open_image,
    "audios": open_audio,
    "videos": open_video,
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one record.

    Args:
        row: Index of the record.
        id: Its id.
        kind: Short stable name of the problem, as docs/records.md lists them.
        message: What is wrong, with the value.
    """

    row: int
    id: str
    kind: str
    message: str


class RecordCheck:
    """Checks records one after the other; what is wrong is counted, and the first problems are kept."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.first: list[Problem] = []
        self._rows = 0
        self._seen: dict[bytes, int] = {}  # short digests: a million ids would fill memory

    def problems_of(
        self, record: Record, media_root: Path | None = None, *, check_media: bool = False
    ) -> list[Problem]:
        """Every problem of the next record.

        Args:
            record: The record.
            media_root: Folder of its media.
            check_media: Also read every media item, compare its content hash, and decode images, sounds and videos.
        """
        row, self._rows = self._rows, self._rows + 1
        first = self._seen.setdefault(_short_digest(record.id), row)
        found = [] if first == row else [("duplicate_id", f"row {first} has the same id")]
        found += _prompt_problems(record)
        found += _candidate_problems(record)
        if check_media:
            found += media_problems(record, media_root)
        problems = [Problem(row, record.id, kind, message) for kind, message in found]
        self.kinds.update(problem.kind for problem in problems)
        self.first += problems[: max(0, _SHOWN - len(self.first))]
        return problems

    def require_none(self, name: str) -> None:
        """Refuses if there were problems.

        Raises:
            DataError: It counts the kinds and shows the first rows.
        """
        total = self.kinds.total()
        if not total:
            return
        shown = "\n".join(f"  row {p.row} ({p.id}): {p.kind}: {p.message}" for p in self.first)
        more = f"\n  and {total - len(self.first)} more" if total > len(self.first) else ""
        raise DataError(
            f"{name} has {total} problems: {', '.join(f'{count} {kind}' for kind, count in self.kinds.most_common())}",
            why=f"Such records would crash training, or be trained on as something else.\n{shown}{more}",
            fix="Correct these rows or leave them out.",
        )


def validate_records(records: Records, *, check_media: bool = False) -> list[Problem]:
    """Every problem of every record, in their order; see `RecordCheck.problems_of`."""
    check = RecordCheck()
    return [
        problem
        for record in records
        for problem in check.problems_of(record, records.media_root, check_media=check_media)
    ]


def require_valid(records: Records, name: str) -> None:
    """Refuses records that have problems.

    Raises:
        DataError: It counts the kinds and shows the first rows.
    """
    check = RecordCheck()
    for record in records:
        check.problems_of(record)
    check.require_none(name)


def _short_digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _prompt_problems(record: Record) -> Iterator[tuple[str, str]]:
    if not record.prompt:
        yield "empty_prompt", "the prompt has no turn"
        return
    for turn, message in enumerate(record.prompt):
        if message["role"] not in ROLES:
            yield "unknown_role", f"turn {turn} has the role {message['role']!r}; known are {', '.join(ROLES)}"
        content: object = message["content"]
        if not isinstance(content, list):
            yield "bad_part", f"turn {turn} has {type(message['content']).__name__} content, not a list of parts"
            return
        for part in message["content"]:
            is_text = part["type"] == "text"
            if set(part) != ({"type", "text"} if is_text else {"type"}):
                yield "bad_part", f"turn {turn} has a {part['type']!r} part with the keys {sorted(part)}"
            elif is_text and not is_unicode(part["text"]):
                yield "bad_text", f"turn {turn} holds half a surrogate pair, which no tokenizer can encode"
    if record.prompt[-1]["role"] == "assistant":
        yield "ends_with_answer", "the prompt ends with an assistant's turn, so there is no question to answer"
    yield from _placeholder_problems(record)


def _placeholder_problems(record: Record) -> Iterator[tuple[str, str]]:
    parts = (part["type"] for message in record.prompt for part in message["content"] if part["type"] != "text")
    places = Counter(media_field(part_type) for part_type in parts)
    items = Counter({name: len(media) for name, media in record.media.items()})
    for name in sorted(places.keys() | items.keys()):
        if places[name] != items[name]:
            yield "placeholder_mismatch", f"the prompt has {places[name]} places for {items[name]} {name}"
    for name, item in record.media_items():
        if item.path is None and item.data is None:
            yield "missing_media", f"one of the {name} has neither a path nor bytes"


def _candidate_problems(record: Record) -> Iterator[tuple[str, str]]:
    if not record.candidates:
        yield "no_candidates", "there is no answer"
    for index, candidate in enumerate(record.candidates):
        if not candidate.text.strip():
            yield "empty_candidate", f"candidate {index} is empty"
        if not is_unicode(candidate.text):
            yield "bad_text", f"candidate {index} holds half a surrogate pair, which no tokenizer can encode"
        if candidate.score is not None and not math.isfinite(candidate.score):
            yield "bad_score", f"candidate {index} has the score {candidate.score}"
        for message in _span_problems(candidate):
            yield "bad_span", f"candidate {index} has {message}"
    texts = [candidate.text.strip() for candidate in record.candidates]
    repeated = [text for text, count in Counter(texts).items() if count > 1]
    if repeated:
        yield "equal_candidates", f"the same answer stands there twice: {repeated[0][:80]!r}"
    yield from _order_problems(record)


def _span_problems(candidate: Candidate) -> Iterator[str]:
    for start, end in candidate.spans:
        if not 0 <= start < end <= len(candidate.text):
            yield f"{len(candidate.text)} characters and a span {start}..{end}"
    if candidate.weights and len(candidate.weights) != len(candidate.spans):
        yield f"{len(candidate.spans)} spans and {len(candidate.weights)} weights"
    for weight in candidate.weights:
        if not (math.isfinite(weight) and weight >= 0):
            yield f"a span of weight {weight}, which is no finite number from 0 on"


def require_spans(record: Record, candidate: Candidate) -> None:
    """Refuses spans outside the text, and weights that are not one finite number from 0 on for each span.

    Raises:
        DataError: With the first problem.
    """
    for message in _span_problems(candidate):
        raise DataError(
            f"candidate {candidate.text[:60]!r} of record {record.id!r} has {message}",
            why="The loss would weigh other tokens than those that are meant, or become NaN.",
            fix="Correct its spans and weights, or leave them out.",
        )


def _order_problems(record: Record) -> Iterator[tuple[str, str]]:
    ratings = ratings_of(record)
    if lacks_direction(record):
        yield "missing_direction", "it has scores or ranks, but higher_is_better is not said"
    elif len(ratings) == 2 and ratings[0] < ratings[1]:
        values = _values(record.candidates)
        yield "wrong_order", f"the chosen answer has {values[0]}, the rejected one {values[1]}"
    if len(record.candidates) == 2 and contradicting_labels(record):
        yield "wrong_order", "the chosen answer is labelled undesirable, the rejected one desirable"


def contradicting_labels(record: Record) -> bool:
    """Whether the first two candidates are labelled undesirable and desirable, against their places."""
    labels = [candidate.label for candidate in record.candidates[:2]]
    return labels == [False, True]


def lacks_direction(record: Record) -> bool:
    """Whether scores or ranks are given without saying which end of them is the good one."""
    rated = any(candidate.score is not None or candidate.rank is not None for candidate in record.candidates)
    return rated and record.higher_is_better is None


def ratings_of(record: Record) -> list[float]:
    """The candidates' scores (else their ranks), turned so that more is better; empty where one has none."""
    sign = 1.0 if record.higher_is_better else -1.0
    return [] if record.higher_is_better is None else [sign * value for value in _values(record.candidates)]


def _values(candidates: Sequence[Candidate]) -> list[float]:
    """Scores where all are given, else ranks where all are given, else nothing."""
    scores = [candidate.score for candidate in candidates if candidate.score is not None]
    ranks = [float(candidate.rank) for candidate in candidates if candidate.rank is not None]
    return next((values for values in (scores, ranks) if len(values) == len(candidates)), [])


def media_problems(record: Record, root: Path | None) -> Iterator[tuple[str, str]]:
    """What is wrong with the record's media: (kind, message) pairs; all that can be decoded here is decoded."""
    for name, item in record.media_items():
        try:
            _OPENERS.get(name, read_bytes)(item, root)
        except MediaError as error:
            yield error.kind, error.what


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded: JSON can smuggle in half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
