"""ms-swift: `messages` with a rejected answer, rejected messages, or a label; `query` and `response`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from data_builders.importers.base import Columns, Draft, Format, OutRow, Sample
from data_builders.importers.media_out import MediaOut
from data_builders.importers.messages import (
    ALL,
    Slots,
    answer_text,
    as_items,
    filled,
    history_messages,
    read_messages,
    without_marks,
    written,
)
from data_builders.importers.pairs import label_of, last_answer, only_pair, single_prompt, unpaired
from data_builders.importers.unusable import Unusable
from mmdpo.records import Candidate, Record

_REJECTED = ("rejected_response", "rejected_messages", "rejected_images", "rejected_videos", "rejected_audios")
_MEDIA = ("images", "videos", "audios")
_NUMBER = (int, float)
_TURN = {"query": "user", "response": "assistant"}


class MsSwift(Format):
    """ms-swift: `messages` (or `query` and `response`) with `rejected_response`, `rejected_messages` or `label`."""

    name = "ms_swift"
    keeps = frozenset({"label"})
    columns: ClassVar[Columns] = {"margin": _NUMBER, "channel": (str,), "chat_template_kwargs": (dict,)}

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        about = next((name for name in ("messages", "query") if sample.has(name)), None)
        found = next((name for name in _REJECTED if sample.has(name)), None)
        if about is not None and found is not None:
            return f"rows have {about} and {found}"
        if about is not None and sample.holds("label", bool):
            return f"rows have {about} and a label that is true or false"
        return None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        for name, why in (("tools", "offers tools"), ("objects", "names boxes that stand for words of its texts")):
            if row.pop(name, None):
                raise Unusable(name, f"the row {why}, which records do not hold")
        messages = _messages(row)
        listed = {name: as_items(row.pop(name, None) or row.pop(name.removesuffix("s"), None)) for name in _MEDIA}
        _require_same_media(row, listed)
        rejected = row.pop("rejected_response", None)
        others = row.pop("rejected_messages", None)
        if others is not None:
            return single_prompt(messages, others, listed, kinds=ALL)
        beginning, answer = last_answer(messages)
        slots = Slots()
        prompt = read_messages(beginning, slots)
        if rejected is not None:
            candidates = [Candidate(answer), Candidate(answer_text(rejected))]
        elif "label" in row:
            candidates = [Candidate(answer, label=label_of(row.pop("label"), "label"))]
        else:
            raise Unusable("no_preference", "the row has no rejected answer and no label")
        return Draft(prompt, candidates, filled(slots, listed))

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        messages = written(record.prompt)
        if unpaired(record):
            (answer,) = record.candidates
            cells: dict[str, Any] = {"label": answer.label}
        else:
            answer, rejected = only_pair(record)
            cells = {"rejected_response": without_marks(rejected.text)}
        messages.append({"role": "assistant", "content": without_marks(answer.text)})
        table = "kto" if "label" in cells else "pairs"
        return OutRow({"messages": messages, **cells, **media.columns(record)}, table)


def _messages(row: dict[str, Any]) -> Any:
    """The conversation with the answer, also of a row with query and response."""
    if "messages" in row:
        return row.pop("messages")
    system = row.pop("system", None)
    turns = [{"role": "system", "content": system}] if system else []
    turns += history_messages(row.pop("history", None) or [])
    turns += [{"role": role, "content": row.pop(name, None)} for name, role in _TURN.items()]
    return turns


def _require_same_media(row: dict[str, Any], listed: Mapping[str, list[Any]]) -> None:
    """Takes the media of the rejected side, which must be those of the chosen one.

    Raises:
        Unusable: They are others: a record has one set of media for all its answers.
    """
    for name in _MEDIA:
        own = row.pop(f"rejected_{name}", None)
        if own is not None and as_items(own) != listed[name]:
            raise Unusable(
                "rejected_media", f"the rejected answer has other {name}; a record has one set of media", own
            )
