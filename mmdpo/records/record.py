"""Records: prompts with media and the candidate answers that people preferred, ranked or rated.

A record with two candidates is a pair: the first is chosen, the second rejected. One candidate with a label is
unpaired feedback, more than two are a ranked list. Text is always text: media enter a prompt only through parts such as
`{"type": "image"}`, which correspond one to one, in reading order, to `media["images"]`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, overload

from mmdpo.errors import DataError
from mmdpo.media import Media, resolve_path

__all__ = [
    "Candidate",
    "Media",
    "Message",
    "Part",
    "Record",
    "Records",
    "media_field",
    "prompt_text",
    "user_message",
]

Form = Literal["pair", "list", "unpaired"]


class Part(TypedDict):
    """One part of a message: `{"type": "text", "text": ...}` or a place for media, `{"type": "image"}`."""

    type: str
    text: NotRequired[str]


class Message(TypedDict):
    """One turn of a chat, in the Hugging Face conversational form with content as a list of parts."""

    role: str
    content: list[Part]


@dataclass(frozen=True)
class Candidate:
    """One possible answer to a prompt.

    Args:
        text: The answer.
        score: A rating of any scale; `Record.higher_is_better` says its direction.
        rank: A place in an order; `Record.higher_is_better` says its direction.
        label: Desirable or not, for unpaired feedback.
        source: Who wrote it: a model, a person, a rewriting step.
        spans: Marked stretches of the text as (start, end) in characters, for instance corrected segments.
        weights: How much each span counts, for instance the severity of a hallucination; empty if each counts 1.
        finished: Whether the answer came to its end; an unfinished one gets no end token.
        token_ids: The ids that a model really emitted, kept for answers that were sampled.
    """

    text: str
    score: float | None = None
    rank: int | None = None
    label: bool | None = None
    source: str | None = None
    spans: tuple[tuple[int, int], ...] = ()
    finished: bool = True
    token_ids: tuple[int, ...] | None = None
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Record:
    """A prompt, its media, and K candidates.

    Args:
        id: Unique within the data set.
        prompt: The turns before the answer; the last one is the user's.
        candidates: The answers. Two make a pair: chosen, rejected.
        media: Items by plural name (`images`, `audios`, `videos`, or that of a registered modality), in the order of
            their parts in the prompt.
        higher_is_better: Direction of scores or ranks; required where one is given, never guessed.
        meta: Where the record came from; anything that JSON can hold.
    """

    id: str
    prompt: tuple[Message, ...]
    candidates: tuple[Candidate, ...]
    media: Mapping[str, tuple[Media, ...]] = field(default_factory=dict)
    higher_is_better: bool | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def form(self) -> Form:
        """`pair`, `unpaired` or `list`."""
        return {1: "unpaired", 2: "pair"}.get(len(self.candidates), "list")  # type: ignore[return-value]

    @property
    def chosen(self) -> Candidate:
        """The better answer of a pair."""
        return self._pair()[0]

    @property
    def rejected(self) -> Candidate:
        """The worse answer of a pair."""
        return self._pair()[1]

    def media_items(self) -> Iterator[tuple[str, Media]]:
        """Every media item with the name of its field."""
        for name, items in self.media.items():
            for item in items:
                yield name, item

    def _pair(self) -> tuple[Candidate, ...]:
        if len(self.candidates) != 2:
            raise DataError(
                f"record {self.id!r} has {len(self.candidates)} candidates and is no pair",
                why="Only a record of two candidates has one that is chosen and one that is rejected.",
                fix="Build pairs from it first, or use a loss that takes lists.",
            )
        return self.candidates


class Records(Sequence[Record]):
    """Records in their order, with the folder that their media paths are relative to.

    Args:
        records: The records.
        media_root: Folder of the media; None when all media are embedded or there are none.
    """

    def __init__(self, records: Iterable[Record], media_root: str | Path | None = None) -> None:
        self._records = tuple(records)
        self.media_root = None if media_root is None else Path(media_root)

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return Records(self._records[index], self.media_root)
        return self._records[index]

    def __repr__(self) -> str:
        return f"Records({len(self)} {self.form}s, media_root={str(self.media_root)!r})"

    @property
    def form(self) -> Form:
        """The form that holds all records: `pair`, `unpaired`, or `list` when they are mixed or longer."""
        forms = {record.form for record in self._records}
        return forms.pop() if len(forms) == 1 else "list"

    def media_path(self, media: Media) -> Path:
        """The file of a media item, which must lie inside the media root.

        Raises:
            MediaError: It is embedded, missing, remote, or outside the root.
        """
        return resolve_path(media.path or "", self.media_root)

    def fingerprint(self) -> str:
        """A sha256 of everything that training reads: texts, scores, order, and the content of the media.

        It is the same for embedded media and for files with the same recorded hash, and does not depend on where
        they lie. `meta` is left out.
        """
        digest = hashlib.sha256()
        for record in self._records:
            digest.update(fingerprint_line(record).encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()


def fingerprint_line(record: Record) -> str:
    """What `Records.fingerprint` reads of one record."""
    media = {name: [item.identity for item in items] for name, items in sorted(record.media.items()) if items}
    candidates = [_content(candidate) for candidate in record.candidates]
    content = [record.id, record.prompt, candidates, media, record.higher_is_better]
    return json.dumps(content, ensure_ascii=False, sort_keys=True)


def _content(candidate: Candidate) -> list[tuple[str, Any]]:
    """The fields of a candidate; weights only where there are any, so that older fingerprints stay valid."""
    return sorted((name, value) for name, value in vars(candidate).items() if name != "weights" or value)


def user_message(text: str, **media: int) -> Message:
    """A user's turn: places for so many items of each media field (`images=1`, `audios=2`), then the text."""
    content: list[Part] = [{"type": name.removesuffix("s")} for name, count in media.items() for _ in range(count)]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def media_field(part_type: str) -> str:
    """The field of `Record.media` that holds the items of a part type: image -> images."""
    return f"{part_type}s"


def prompt_text(record: Record) -> str:
    """The words of the last user turn, without its media: for messages, tables and reports."""
    turns = [message for message in record.prompt if message["role"] == "user"] or list(record.prompt)
    parts = turns[-1]["content"] if turns else []
    return "\n".join(part["text"] for part in parts if part["type"] == "text")
