"""LLaMA-Factory: ShareGPT and Alpaca pairs and KTO rows with `dataset_info.json`, and the typed messages of its v1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from data_builders.importers.base import Draft, Format, OutRow, Sample
from data_builders.importers.media_out import MediaOut
from data_builders.importers.messages import (
    NONE,
    OPENAI,
    SHAREGPT,
    Slots,
    Tags,
    answer_text,
    as_items,
    as_text,
    filled,
    history_messages,
    placeholder_text,
    plain_text,
    read_messages,
    text_parts,
    without_marks,
    written,
)
from data_builders.importers.pairs import both, inline, label_of, last_answer, only_pair, single_prompt, unpaired
from data_builders.importers.unusable import Unusable
from mmdpo.records import Candidate, Message, Record

_MEDIA = ("images", "videos", "audios")
_FORMATTING = {"sharegpt": "sharegpt", "openai": "sharegpt", "alpaca": "alpaca"}


class _Told(Format):
    """What the formats with `dataset_info.json` share: its columns and tags, and their defaults."""

    layouts = ("rows", "dataset_info")
    formatting: ClassVar[str]
    defaults: ClassVar[Mapping[str, str]]

    def _column(self, info: Mapping[str, Any], name: str) -> str:
        told = info.get("columns")
        return str(told[name]) if isinstance(told, Mapping) and told.get(name) else self.defaults.get(name, name)

    def _told(self, info: Mapping[str, Any]) -> str | None:
        """Why an entry of `dataset_info.json` is of this format."""
        if _FORMATTING.get(info.get("formatting", "alpaca")) != self.formatting:
            return None
        columns = info.get("columns") or {}
        what = "ranking" if info.get("ranking") else "kto_tag" if columns.get("kto_tag") else None
        return what and f"dataset_info.json declares {info.get('entry')} as {self.formatting} with {what}"

    def _media(self, row: dict[str, Any], info: Mapping[str, Any], slots: Slots) -> dict[str, list[Any]]:
        return filled(slots, {name: as_items(row.pop(self._column(info, name), None)) for name in _MEDIA})

    def _beginning(self, row: dict[str, Any], info: Mapping[str, Any]) -> list[Message]:
        """The system prompt of a column of its own."""
        if row.pop(self._column(info, "tools"), None):
            raise Unusable("tools", "the row offers tools, which records do not hold")
        system = row.pop(self._column(info, "system"), None)
        return [{"role": "system", "content": text_parts(system, {}, kinds=NONE)}] if system else []

    def _description(self, tables: Mapping[str, int], media: MediaOut) -> dict[str, dict[str, Any]]:
        """An entry of `dataset_info.json` for each file."""
        entries = {}
        for table in tables:
            columns = dict(self.defaults) | {name: name for name in media.fields}
            answers = {"kto_tag": "kto_tag"} if table == "kto" else {"chosen": "chosen", "rejected": "rejected"}
            entry = {"file_name": f"{table}.{self.kind}", "formatting": self.formatting}
            ranking = {} if table == "kto" else {"ranking": True}
            entries[table] = {**entry, **ranking, "columns": {**columns, **answers}}
        return entries


class ShareGpt(_Told):
    """LLaMA-Factory ShareGPT: `conversations` with `chosen` and `rejected` messages, or `messages` with `kto_tag`."""

    name = "llamafactory_sharegpt"
    formatting = "sharegpt"
    defaults: ClassVar[Mapping[str, str]] = {"messages": "conversations"}
    keeps = frozenset({"label"})

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        if sample.layout == "dataset_info":
            return self._told(sample.info)
        pair = sample.holds("chosen", Mapping) and sample.holds("rejected", Mapping)
        if sample.has("conversations", "chosen", "rejected") and pair:
            return "rows have conversations, and chosen and rejected as messages"
        if sample.has("messages", "chosen", "rejected") and pair and any(map(sample.has, _MEDIA)):
            return "rows have messages and media, and chosen and rejected as messages"
        if sample.has("kto_tag") and (sample.has("messages") or sample.has("conversations")):
            return "rows have messages and kto_tag"
        return None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        messages = row.pop(self._column(info, "messages"), None) or row.pop("messages", None)
        tags, slots = _tags(messages, info), Slots()
        chosen, rejected = (row.pop(self._column(info, name), None) for name in ("chosen", "rejected"))
        tag = row.pop(self._column(info, "kto_tag"), None)
        beginning = self._beginning(row, info)
        if tag is not None:
            messages, answer = last_answer(messages, tags=tags)
            candidates = [Candidate(answer, label=label_of(tag, "kto_tag"))]
        else:
            candidates = both(answer_text(one, tags=tags) for one in (chosen, rejected) if one is not None)
        prompt = [*beginning, *read_messages(messages, slots, tags=tags)]
        return Draft(prompt, candidates, self._media(row, info, slots))

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        if unpaired(record):
            messages = written(_alternating(record), tags=OPENAI)
            (answer,) = record.candidates
            messages.append({"role": "assistant", "content": without_marks(answer.text)})
            return OutRow({"messages": messages, "kto_tag": answer.label, **media.columns(record)}, "kto")
        answers = [{"from": "gpt", "value": without_marks(each.text)} for each in only_pair(record)]
        cells: dict[str, Any] = {"conversations": written(_alternating(record), tags=SHAREGPT)}
        cells |= dict(zip(("chosen", "rejected"), answers, strict=True))
        return OutRow({**cells, **media.columns(record)}, "pairs")

    def descriptions(self, tables: Mapping[str, int], media: MediaOut) -> dict[str, Any]:
        """See `Format.descriptions`."""
        entries = self._description(tables, media)
        names = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag")
        for table, entry in entries.items():
            tags = OPENAI if table == "kto" else SHAREGPT
            entry["columns"]["messages"] = "messages" if table == "kto" else "conversations"
            values = (tags.role, tags.content, tags.user, tags.assistant, tags.system)
            entry["tags"] = dict(zip(names, values, strict=True))
        return {"dataset_info.json": entries}


class Alpaca(_Told):
    """LLaMA-Factory Alpaca: `instruction` and `input` with `chosen` and `rejected`, or with `output` and `kto_tag`."""

    name = "llamafactory_alpaca"
    formatting = "alpaca"
    defaults: ClassVar[Mapping[str, str]] = {"prompt": "instruction", "query": "input", "response": "output"}
    keeps = frozenset({"label"})

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        if sample.layout == "dataset_info":
            return self._told(sample.info)
        if sample.has("instruction", "chosen", "rejected"):
            return "rows have instruction, chosen and rejected"
        return "rows have instruction, output and kto_tag" if sample.has("instruction", "output", "kto_tag") else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        slots = Slots()
        beginning = self._beginning(row, info)
        history = row.pop(self._column(info, "history"), None) or []
        questions = [row.pop(self._column(info, name), None) for name in ("prompt", "query")]
        prompt = beginning + read_messages(history_messages(history), slots)
        question = "\n".join(as_text(text) for text in questions if text)
        prompt.append({"role": "user", "content": text_parts(question, slots)})
        tag = row.pop(self._column(info, "kto_tag"), None)
        if tag is not None:
            answer = as_text(row.pop(self._column(info, "response"), None))
            candidates = [Candidate(answer, label=label_of(tag, "kto_tag"))]
        else:
            answers = (row.pop(self._column(info, name), None) for name in ("chosen", "rejected"))
            candidates = both(as_text(answer) for answer in answers if answer is not None)
            if row.get(self._column(info, "response")) == "":
                del row[self._column(info, "response")]
        return Draft(prompt, candidates, self._media(row, info, slots))

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        turns = [*_alternating(record)]
        cells: dict[str, Any] = {"system": ""}  # it looks the column up in every row
        if turns[0]["role"] == "system":
            cells["system"] = _system_text(turns.pop(0))
        texts = [placeholder_text(turn["content"]) for turn in turns]
        if not texts[-1]:
            raise Unusable("empty_prompt", "the question has no text and no media")
        cells |= {"instruction": texts[-1], "input": "", "history": [*zip(texts[:-1:2], texts[1:-1:2], strict=True)]}
        if unpaired(record):
            (answer,) = record.candidates
            cells |= {"output": without_marks(answer.text), "kto_tag": answer.label}
        else:
            chosen, rejected = (without_marks(each.text) for each in only_pair(record))
            cells |= {"chosen": chosen, "rejected": rejected}
        return OutRow({**cells, **media.columns(record)}, "kto" if unpaired(record) else "pairs")

    def descriptions(self, tables: Mapping[str, int], media: MediaOut) -> dict[str, Any]:
        """See `Format.descriptions`."""
        entries = self._description(tables, media)
        for entry in entries.values():
            entry["columns"] |= {"history": "history", "system": "system"}
        return {"dataset_info.json": entries}


class V1(Format):
    """LLaMA-Factory v1: `chosen_messages` and `rejected_messages` of typed parts with the media inside them."""

    name = "llamafactory_v1"

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        both_there = sample.has("chosen_messages", "rejected_messages")
        return "rows have chosen_messages and rejected_messages" if both_there else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        return single_prompt(row.pop("chosen_messages", None), row.pop("rejected_messages", None))

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        answers = only_pair(record)
        prompt = [{**message, "loss_weight": 0.0} for message in inline(record, media, "value")]
        made = [
            {"role": "assistant", "content": [{"type": "text", "value": answer.text}], "loss_weight": 1.0}
            for answer in answers
        ]
        return OutRow({"chosen_messages": [*prompt, made[0]], "rejected_messages": [*prompt, made[1]]})


def _tags(messages: Any, info: Mapping[str, Any]) -> Tags:
    """What the messages' keys are called: as `dataset_info.json` says, else as the first message has them."""
    told = info.get("tags")
    first = messages[0] if isinstance(messages, list | tuple) and messages else {}
    openai = info.get("formatting") == "openai" or (isinstance(first, Mapping) and "role" in first and not told)
    names = {"role": "role_tag", "content": "content_tag", "user": "user_tag", "assistant": "assistant_tag"}
    names |= {"system": "system_tag"}
    given = {name: str(told[tag]) for name, tag in names.items() if told.get(tag)} if isinstance(told, Mapping) else {}
    return Tags(**{**vars(OPENAI if openai else SHAREGPT), **given})


def _alternating(record: Record) -> tuple[Message, ...]:
    """The prompt, if it has the turns that LLaMA-Factory takes; it leaves others out with a warning.

    Raises:
        Unusable: They are not the user's and the assistant's by turns, after a system prompt or none.
    """
    turns = record.prompt[1:] if record.prompt[0]["role"] == "system" else record.prompt
    if [turn["role"] for turn in turns] != [
        ("user", "assistant")[place % 2] for place in range(len(turns))
    ] or not turns:
        raise Unusable(
            "turns_do_not_alternate", "it takes turns of user and assistant, after one system prompt or none"
        )
    return record.prompt


def _system_text(message: Message) -> str:
    text = plain_text(message)
    if not text:
        raise Unusable("empty_prompt", "an empty system prompt would be read as none")
    return text
