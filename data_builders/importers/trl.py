"""TRL: pairs with an explicit or an implicit prompt, and single answers with a label; also the prompts of verl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_builders.importers.base import Draft, Format, OutRow, Sample
from data_builders.importers.media_out import MediaOut
from data_builders.importers.messages import (
    NONE,
    Slots,
    answer_text,
    as_items,
    filled,
    read_messages,
    text_parts,
)
from data_builders.importers.pairs import label_of, only_pair, single_prompt, unpaired
from data_builders.importers.unusable import Unusable
from mmdpo.records import Candidate, Message, Record
from mmdpo.records.rows import features as record_features

if TYPE_CHECKING:
    import datasets

_FIELDS = ("images", "videos", "audios")


class _Trl(Format):
    """What the forms of TRL share: Parquet files, and pictures as `image` or `images`."""

    media = ("images",)
    kind = "parquet"

    def _columns(self) -> dict[str, Any]:
        return dict(record_features("pair", ["images"], embed=True))

    def features(self, table: str) -> datasets.Features:
        """See `Format.features`."""
        import datasets

        known = self._columns()
        return datasets.Features({name: known[name] for name in self.parts})

    parts: tuple[str, ...]


class Trl(_Trl):
    """TRL pairs with an explicit prompt: `prompt`, `chosen` and `rejected`, with `image` or `images`."""

    name = "trl"
    parts = ("prompt", "chosen", "rejected", "images")

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        if not sample.has("prompt", "chosen", "rejected"):
            return None
        if sample.holds("prompt", list):
            return "rows have prompt, chosen and rejected, and prompts are lists of messages"
        singular = any(sample.holds(name, str) for name in ("image", "video", "img_path"))
        return None if singular else "rows have prompt, chosen and rejected as text"

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        prompt, media = _prompt(row)
        candidates = [Candidate(answer_text(row.pop(name, None))) for name in ("chosen", "rejected")]
        return Draft(prompt, candidates, media)

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        chosen, rejected = (_answer(each) for each in only_pair(record))
        cells = {"prompt": _messages(record.prompt), "chosen": [chosen], "rejected": [rejected]}
        return OutRow({**cells, "images": media.cells(record, "images")})


class TrlImplicit(_Trl):
    """TRL pairs with an implicit prompt: `chosen` and `rejected` are whole conversations."""

    name = "trl_implicit"
    parts = ("chosen", "rejected", "images")

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        lists = sample.holds("chosen", list) and sample.holds("rejected", list)
        beside = any(map(sample.has, ("prompt", "messages", "conversations", "instruction", "question")))
        return "rows have chosen and rejected conversations and no prompt" if lists and not beside else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        _refuse_tools(row)
        listed = _listed(row)
        chosen, rejected = (_placed(row.pop(name, None), listed) for name in ("chosen", "rejected"))
        return single_prompt(chosen, rejected, listed)

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        prompt = _messages(record.prompt)
        chosen, rejected = ([*prompt, _answer(each)] for each in only_pair(record))
        return OutRow({"chosen": chosen, "rejected": rejected, "images": media.cells(record, "images")})


class TrlUnpaired(_Trl):
    """TRL single answers: `prompt`, `completion` and `label`."""

    name = "trl_unpaired"
    keeps = frozenset({"label"})
    parts = ("prompt", "completion", "label", "images")

    def _columns(self) -> dict[str, Any]:
        return dict(record_features("unpaired", ["images"], embed=True))

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        return "rows have prompt, completion and label" if sample.has("prompt", "completion", "label") else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        prompt, media = _prompt(row)
        answer = answer_text(row.pop("completion", None))
        return Draft(prompt, [Candidate(answer, label=label_of(row.pop("label", None), "label"))], media)

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        if not unpaired(record):
            raise Unusable("not_unpaired", f"the format has room for one answer, not {len(record.candidates)}")
        (answer,) = record.candidates
        cells = {"prompt": _messages(record.prompt), "completion": [_answer(answer)], "label": answer.label}
        return OutRow({**cells, "images": media.cells(record, "images")})


def _prompt(row: dict[str, Any]) -> tuple[list[Message], dict[str, list[Any]]]:
    """The prompt of a row with its media: messages, or the text of one question with placeholders."""
    _refuse_tools(row)
    listed, slots, prompt = _listed(row), Slots(), row.pop("prompt", None)
    if isinstance(prompt, str):
        kinds = [name.removesuffix("s") for name, items in listed.items() if items]
        return [{"role": "user", "content": text_parts(prompt, slots, kinds=kinds)}], filled(slots, listed)
    return read_messages(_placed(prompt, listed), slots, kinds=NONE), filled(slots, listed)


def _placed(messages: Any, listed: Mapping[str, list[Any]]) -> Any:
    """Messages whose contents are texts get their media before the first question, where TRL puts them."""
    if not isinstance(messages, list | tuple) or not any(listed.values()):
        return messages
    texts = [isinstance(turn, Mapping) and isinstance(turn.get("content"), str) for turn in messages]
    asked = [isinstance(turn, Mapping) and turn.get("role") == "user" for turn in messages]
    if not all(texts) or True not in asked:
        return messages
    places = [{"type": name.removesuffix("s")} for name, items in listed.items() for _ in items]
    first = asked.index(True)
    content = [*places, {"type": "text", "text": messages[first]["content"]}]
    return [*messages[:first], {**messages[first], "content": content}, *messages[first + 1 :]]


def _listed(row: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: as_items(row.pop(name, None) or row.pop(name.removesuffix("s"), None)) for name in _FIELDS}


def _refuse_tools(row: dict[str, Any]) -> None:
    if row.pop("tools", None):
        raise Unusable("tools", "the row offers tools, which records do not hold")


def _messages(prompt: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages as Arrow holds them, with a text for every part."""
    return [{"role": turn["role"], "content": [{"text": None, **part} for part in turn["content"]]} for turn in prompt]


def _answer(candidate: Candidate) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": candidate.text}]}
