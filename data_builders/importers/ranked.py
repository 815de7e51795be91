"""Ranked answers of texts alone: Axolotl's pairs and Nectar's lists, NeMo-RL."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from data_builders.importers.base import Columns, Draft, Format, OutRow, Sample
from data_builders.importers.media_out import MediaOut
from data_builders.importers.messages import (
    NONE,
    Slots,
    answer_text,
    as_text,
    filled,
    plain_text,
    read_messages,
    text_parts,
    written_plain,
)
from data_builders.importers.pairs import both, only_pair
from data_builders.importers.ranking import best_first, rank_of, ranks_of
from data_builders.importers.unusable import Unusable
from mmdpo.records import Candidate, Message, Record

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class Axolotl(Format):
    """Axolotl's `chat_template` pairs: `messages`, with `chosen` and `rejected` as one message each."""

    name = "axolotl"
    media = ()

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        answers = sample.holds("chosen", Mapping) and sample.holds("rejected", Mapping)
        media = any(map(sample.has, ("image", "images", "video", "videos", "audio", "audios")))
        if sample.has("messages") and answers and not media:
            return "rows have messages without media, and chosen and rejected as messages"
        return None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        slots = Slots()
        prompt = read_messages(row.pop("messages", None), slots, kinds=NONE)
        answers = (row.pop(name, None) for name in ("chosen", "rejected"))
        return Draft(prompt, both(answer_text(one) for one in answers if one is not None), filled(slots, {}))

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        messages = written_plain(record.prompt)
        chosen, rejected = ({"role": "assistant", "content": answer.text} for answer in only_pair(record))
        return OutRow({"messages": messages, "chosen": chosen, "rejected": rejected})


class Nectar(Format):
    """Nectar: `prompt` as a text with its turns, and `answers` with a `rank` each; rank 1 is the best."""

    name = "nectar"
    media = ()
    keeps = frozenset({"rank", "source"})

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        return "rows have prompt and answers" if sample.has("prompt", "answers") else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        prompt = _turns(as_text(row.pop("prompt", None)))
        found = row.pop("answers", None)
        ranked = []
        for answer in found if isinstance(found, list | tuple) else []:
            told = answer if isinstance(answer, Mapping) else {}
            model = told.get("model")
            ranked.append((as_text(told.get("answer")), told.get("rank"), model if isinstance(model, str) else None))
        return _ordered(prompt, ranked, {})

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        answers = [
            {"answer": candidate.text, "rank": rank, **({"model": candidate.source} if candidate.source else {})}
            for candidate, rank in zip(record.candidates, ranks_of(record, 1), strict=True)
        ]
        return OutRow({"prompt": _templated(record), "answers": answers})


class NemoRl(Format):
    """NeMo-RL: `context`, and `completions` with a `rank` each; the lowest rank is the best."""

    name = "nemo_rl"
    media = ()
    keeps = frozenset({"rank"})
    columns: ClassVar[Columns] = {"task_name": (str,)}

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        return "rows have context and completions" if sample.has("context", "completions") else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        slots = Slots()
        prompt = read_messages(row.pop("context", None), slots, kinds=NONE)
        found = row.pop("completions", None)
        ranked = []
        for completion in found if isinstance(found, list | tuple) else []:
            told = completion if isinstance(completion, Mapping) else {}
            ranked.append((answer_text(told.get("completion")), told.get("rank"), None))
        return _ordered(prompt, ranked, filled(slots, {}))

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        completions = [
            {"rank": rank, "completion": [{"role": "assistant", "content": candidate.text}]}
            for candidate, rank in zip(record.candidates, ranks_of(record, 0), strict=True)
        ]
        return OutRow({"context": written_plain(record.prompt), "completions": completions, "task_name": "mmdpo"})


def _ordered(
    prompt: list[Message], ranked: Sequence[tuple[str, Any, str | None]], media: dict[str, list[Any]]
) -> Draft:
    """Answers with their ranks (text, rank, source), the lowest rank first."""
    dropped: list[Unusable] = []
    candidates = []
    for text, value, source in ranked:
        rank = rank_of(value)
        if rank is None:
            dropped.append(Unusable("not_a_rank", "the rank of an answer is no whole number", value, column="rank"))
        else:
            candidates.append(Candidate(text, rank=rank, source=source))
    return Draft(prompt, best_first(candidates, dropped, higher_is_better=False), media, False, {}, dropped)


def _turns(prompt: str) -> list[Message]:
    """The turns of a prompt as Nectar writes them; a text without its template is one question."""
    first = _TURN.match(prompt)
    if first is None:
        return [{"role": "user", "content": text_parts(prompt, {}, kinds=NONE)}]
    pieces = _TURN.split(prompt)[1:]
    roles, texts = [_ROLES[name] for name in pieces[::2]], [text.removeprefix(" ") for text in pieces[1::2]]
    if roles[-1] != "assistant" or texts[-1]:
        raise Unusable("unknown_template", "the prompt does not end where the assistant is to answer", prompt)
    turns = zip(roles[:-1], texts[:-1], strict=True)
    return [{"role": role, "content": text_parts(text, {}, kinds=NONE)} for role, text in turns]


def _templated(record: Record) -> str:
    """A prompt as one text, with its turns marked as Nectar does."""
    names = {role: name for name, role in _ROLES.items()}
    pieces = []
    for message in record.prompt:
        text = plain_text(message)
        if message["role"] not in names:
            raise Unusable("unknown_role", f"the format has no turns of {message['role']!r}")
        if _TURN.search(text):
            raise Unusable("template_in_text", "the text would not be told from the turns around it", text)
        pieces.append(f"\n\n{names[message['role']]}: {text}")
    return "".join(pieces) + "\n\nAssistant: "
