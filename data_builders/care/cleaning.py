"""Cleaning of records between a builder and the disk: counted, shown, and never a change of what a mark points to.

Answers and, where a cleaner suits them, prompts are cleaned; ids and media stay as they are. A record that cleaning
leaves without an answer, or with the same answer twice, is not used, and its rows say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data_builders.care.cleaners import CLEANERS, CleanerName, Edit, apply
from data_builders.running.ledger import Ledger
from mmdpo.records import Candidate, Message, Part, Record

EMPTIED, EQUAL = "emptied_by_cleaning", "equal_after_cleaning"
EXAMPLES = 5
"""Changes of each cleaner that are shown."""
_AROUND = 60  # characters shown on each side of a change


@dataclass
class Tally:
    """What one cleaner did.

    Args:
        candidates: Answers that it changed.
        prompts: Texts of prompts that it changed.
        left_for_marks: Changes that it did not make because a mark begins, ends or would vanish there.
        token_ids_dropped: Changed answers that had the ids which a model emitted; those fit them no longer.
        examples: The first changes.
    """

    candidates: int = 0
    prompts: int = 0
    left_for_marks: int = 0
    token_ids_dropped: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def show(self, record: Record, where: str, before: str, edits: Sequence[Edit]) -> None:
        """Keeps a change if it is among the first."""
        if len(self.examples) < EXAMPLES:
            start, end = max(0, edits[0].start - _AROUND), min(len(before), edits[0].end + _AROUND)
            near = [Edit(one.start - start, one.end - start, one.text) for one in edits if one.end <= end]
            shown = {"before": before[start:end], "after": apply(before[start:end], near)}
            self.examples.append({"record": record.id, "where": where, **shown})


class Cleaning:
    """Cleans records one by one.

    Args:
        names: Cleaners, in any order.
        ledger: Gets the rows of records that cannot be used any more.
    """

    def __init__(self, names: Iterable[CleanerName], ledger: Ledger) -> None:
        wanted = set(names)
        self._cleaners = {name: cleaner for name, cleaner in CLEANERS.items() if name in wanted}
        self._tallies = {name: Tally() for name in self._cleaners}
        self._ledger = ledger
        self._set_aside: Counter[str] = Counter()
        self._changed = 0
        self._withdrawn: set[int] = set()

    def clean(self, record: Record) -> Record | None:
        """The record with clean texts; None where nothing usable is left of it."""
        prompt = tuple(self._message(record, turn) for turn in record.prompt)
        candidates = tuple(self._candidate(record, place, one) for place, one in enumerate(record.candidates))
        if prompt == record.prompt and candidates == record.candidates:
            return record
        self._changed += 1
        cleaned = replace(record, prompt=prompt, candidates=candidates)
        reason = _unusable(record, cleaned)
        if reason is None:
            return cleaned
        self._set_aside[reason] += 1
        rows = set(_rows(record.meta))
        self._withdrawn |= rows
        for row in sorted(rows) or [0]:
            self._ledger.set_aside(reason, row, record.candidates[0].text, message=f"record {record.id!r}")
        return None

    def settle(self, kept: Iterable[Record]) -> None:
        """Corrects the account: rows of records that were set aside are used only if a kept record has them too."""
        if self._withdrawn:
            for record in kept:
                self._withdrawn.difference_update(_rows(record.meta))
            for row in self._withdrawn:
                self._ledger.withdraw(row)

    def numbers(self) -> dict[str, Any]:
        """What `quality.json` holds under `cleaning`."""
        return {
            "records_changed": self._changed,
            "records_set_aside": dict(self._set_aside),
            "by_cleaner": {name: vars(tally) for name, tally in self._tallies.items()},
        }

    def notes(self) -> list[str]:
        """A sentence for people; none where nothing was changed."""
        if not self._changed:
            return []
        told = ", ".join(
            f"{name} {tally.candidates} answers and {tally.prompts} prompts"
            for name, tally in self._tallies.items()
            if tally.candidates or tally.prompts
        )
        gone = self._set_aside.total()
        left_out = f"; {gone} of them have no usable answers left and were set aside" if gone else ""
        return [f"cleaning changed {self._changed} records ({told}){left_out}: see `cleaning` in quality.json"]

    def _message(self, record: Record, message: Message) -> Message:
        content: list[Part] = []
        for part in message["content"]:
            text = part.get("text")
            if part["type"] == "text" and isinstance(text, str):
                content.append({"type": "text", "text": self._prompt(record, text)})
            else:
                content.append(part)
        return {"role": message["role"], "content": content}

    def _prompt(self, record: Record, text: str) -> str:
        for name, cleaner in self._cleaners.items():
            edits = list(cleaner.edits(text)) if cleaner.prompts else []
            if edits:
                self._tallies[name].prompts += 1
                self._tallies[name].show(record, "prompt", text, edits)
                text = apply(text, edits)
        return text

    def _candidate(self, record: Record, place: int, candidate: Candidate) -> Candidate:
        for name, cleaner in self._cleaners.items():
            found = list(cleaner.edits(candidate.text))
            edits = [edit for edit in found if _keeps_marks(edit, candidate.spans)]
            edits = edits if _leaves_every_mark(edits, candidate.spans) else []
            tally = self._tallies[name]
            tally.left_for_marks += len(found) - len(edits)
            if not edits:
                continue
            tally.candidates += 1
            tally.token_ids_dropped += candidate.token_ids is not None
            tally.show(record, f"candidate {place + 1}", candidate.text, edits)
            candidate = replace(
                candidate,
                text=apply(candidate.text, edits),
                spans=tuple((_moved(start, edits), _moved(end, edits)) for start, end in candidate.spans),
                token_ids=None,
                finished=candidate.finished and not cleaner.cuts,
            )
        return candidate


def _keeps_marks(edit: Edit, spans: Iterable[tuple[int, int]]) -> bool:
    """Whether an edit lies outside or inside every mark, and takes none of them away."""
    for start, end in spans:
        is_outside = edit.end <= start or edit.start >= end
        is_inside = start <= edit.start and edit.end <= end and (edit.text or edit.end - edit.start < end - start)
        if not (is_outside or is_inside):
            return False
    return True


def _leaves_every_mark(edits: Sequence[Edit], spans: Iterable[tuple[int, int]]) -> bool:
    """Whether several edits together leave something of every mark."""
    return all(_moved(start, edits) < _moved(end, edits) for start, end in spans)


def _moved(place: int, edits: Iterable[Edit]) -> int:
    """Where a place of the old text is in the new one; it lies in no edit."""
    return place + sum(len(edit.text) - (edit.end - edit.start) for edit in edits if edit.end <= place)


def _unusable(before: Record, after: Record) -> str | None:
    """Why a cleaned record cannot be used although it could be before."""
    texts = [candidate.text.strip() for candidate in after.candidates]
    parts = [
        (old.get("text", ""), new.get("text", ""))
        for old_turn, new_turn in zip(before.prompt, after.prompt, strict=True)
        for old, new in zip(old_turn["content"], new_turn["content"], strict=True)
    ]
    if not all(texts) or any(old.strip() and not new.strip() for old, new in parts):
        return EMPTIED
    were_distinct = len({candidate.text.strip() for candidate in before.candidates}) == len(texts)
    return EQUAL if were_distinct and len(set(texts)) < len(texts) else None


def _rows(meta: Mapping[str, Any]) -> Iterator[int]:
    """The rows that a record was made from, as builders write them to its `meta`."""
    yield from _numbers([meta.get("rows"), meta.get("row")])


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
