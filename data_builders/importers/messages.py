"""Conversations of other formats: texts with placeholders, lists of typed parts, roles under other names, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_builders.importers.unusable import Unusable
from data_builders.tables.rows import named_kind
from mmdpo.records import Message, Part, Record, media_field

ALL = ("image", "video", "audio")
"""Types of parts that have a placeholder in texts: `<image>`, `<video>`, `<audio>`."""
NONE: tuple[str, ...] = ()
"""Texts are texts: no placeholder is read."""

_KINDS = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}
_KINDS |= {"audio": "audio", "audio_url": "audio"}
_PART_VALUES = ("value", "url", "path")

Slots = dict[str, list[Any]]
"""Media by field in reading order, as the messages name them; None for a place whose item is listed elsewhere."""


@dataclass(frozen=True)
class Tags:
    """What a message's keys and roles are called.

    Args:
        role: Key of the role.
        content: Key of the content.
        user: Role of who asks.
        assistant: Role of who answers.
        system: Role of the instructions.
    """

    role: str = "role"
    content: str = "content"
    user: str = "user"
    assistant: str = "assistant"
    system: str = "system"

    def standard(self, role: Any) -> str:
        """The role's usual name; one that is not known stays as it is."""
        names = {self.user: "user", self.assistant: "assistant", self.system: "system"}
        return names.get(role, role) if isinstance(role, str) else str(role)


OPENAI = Tags()
SHAREGPT = Tags("from", "value", "human", "gpt")


def read_messages(value: Any, slots: Slots, *, tags: Tags = OPENAI, kinds: Sequence[str] = ALL) -> list[Message]:
    """The messages of a conversation.

    Args:
        value: A list of messages.
        slots: Gets a place for each of their media.
        tags: What keys and roles are called.
        kinds: Types of media whose placeholders in texts are places for them.

    Raises:
        Unusable: It is no list of messages.
    """
    if not isinstance(value, list | tuple):
        raise Unusable("no_messages", f"a conversation is a list, not {named_kind(value)}", value)
    return [read_message(message, slots, tags=tags, kinds=kinds) for message in value]


def read_message(value: Any, slots: Slots, *, tags: Tags = OPENAI, kinds: Sequence[str] = ALL) -> Message:
    """One message; see `read_messages`."""
    if not isinstance(value, Mapping) or value.get(tags.role) is None:
        raise Unusable("no_messages", f"a message has a {tags.role} and a {tags.content}", value)
    content = value.get(tags.content)
    if value.get("tool_calls"):
        raise Unusable("tools", "a message calls tools, which records do not hold")
    parts = _typed(content, slots) if isinstance(content, list | tuple) else text_parts(content, slots, kinds=kinds)
    return {"role": tags.standard(value[tags.role]), "content": parts}


def text_parts(text: Any, slots: Slots, *, kinds: Sequence[str] = ALL) -> list[Part]:
    """The parts of a text: placeholders become places for media, all else stays as it is.

    Raises:
        Unusable: It is no text.
    """
    parts: list[Part] = []
    marks = {f"<{kind}>": kind for kind in kinds}
    for piece in re.split(f"({'|'.join(marks)})", as_text(text)) if marks else [as_text(text)]:
        if piece in marks:
            _place(marks[piece], None, parts, slots)
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _typed(content: Sequence[Any], slots: Slots) -> list[Part]:
    """Parts that say of what type they are, with the item inside them or listed elsewhere."""
    parts: list[Part] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind in _KINDS:
            item = next((part[key] for key in (kind, *_PART_VALUES) if part.get(key) is not None), None)
            _place(_KINDS[kind], item.get("url", item) if isinstance(item, Mapping) else item, parts, slots)
        elif kind == "text":
            text = as_text(part["text"] if part.get("text") is not None else part.get("value"))
            parts += [{"type": "text", "text": text}] if text else []
        else:
            raise Unusable("bad_part", f"a part of the type {kind!r}; known are text, {', '.join(_KINDS)}")
    return parts


def _place(kind: str, item: Any, parts: list[Part], slots: Slots) -> None:
    parts.append({"type": kind})
    slots.setdefault(media_field(kind), []).append(item)


def as_text(value: Any) -> str:
    """A value that must be text.

    Raises:
        Unusable: It is not.
    """
    if not isinstance(value, str):
        raise Unusable("not_text", f"a text is expected, not {named_kind(value)}", value)
    return value


def answer_text(value: Any, *, tags: Tags = OPENAI) -> str:
    """The text of an answer: text itself, an assistant's message, or a list of one such message.

    Raises:
        Unusable: It has several turns, another role, or media.
    """
    if isinstance(value, str):
        return value
    messages = value if isinstance(value, list | tuple) else [value]
    if len(messages) != 1:
        raise Unusable("several_turns", f"an answer is one turn here, not {len(messages)}")
    slots: Slots = {}
    message = read_message(messages[0], slots, tags=tags, kinds=NONE)
    if message["role"] != "assistant":
        raise Unusable("unknown_role", f"an answer is the assistant's, not of {message['role']!r}")
    if slots:
        raise Unusable("media_in_answer", "the answer shows media, which records have in the prompt alone")
    return "".join(part["text"] for part in message["content"])


def filled(slots: Slots, listed: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The items of each field in reading order: those inside parts, and the listed ones in the places left.

    Where there are more or fewer items than places, the record's check will say so.
    """
    media = {}
    for name in dict.fromkeys([*slots, *listed]):
        rest = iter(listed.get(name, ()))
        places = slots.get(name, [])
        items = [item if item is not None else next(rest, None) for item in places]
        media[name] = [item for item in [*items, *rest] if item is not None]
    return media


def history_messages(value: Any) -> list[dict[str, Any]]:
    """Earlier turns, given as pairs of question and answer, as messages.

    Raises:
        Unusable: They are not given so.
    """
    turns = value if isinstance(value, list | tuple) else [None]
    if not all(isinstance(turn, list | tuple) and len(turn) == 2 for turn in turns):
        raise Unusable("no_messages", "the history is no list of pairs of question and answer", value)
    roles = ("user", "assistant") * len(turns)
    texts = [text for turn in turns for text in turn or ()]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def as_items(value: Any) -> list[Any]:
    """A media column as a list: one item is a list of one, nothing an empty one."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def shared_turns(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """How many turns two conversations have in common at their beginning."""
    pairs = zip(chosen, rejected, strict=False)
    return next((turn for turn, (one, other) in enumerate(pairs) if one != other), min(len(chosen), len(rejected)))


def placeholder_text(parts: Iterable[Part]) -> str:
    """Parts as one text in which places for media are placeholders.

    Raises:
        Unusable: A text holds a placeholder itself, or a part is of a type that has none.
    """
    pieces, marks = [], []
    for part in parts:
        if part["type"] not in ("text", *ALL):
            raise Unusable("media_not_supported", f"there is no placeholder for {part['type']!r}")
        pieces.append(part["text"] if part["type"] == "text" else f"<{part['type']}>")
        marks += [] if part["type"] == "text" else pieces[-1:]
    text = "".join(pieces)
    if _marks_in(text, ALL) != marks:  # in one text, or where two of them meet
        raise Unusable("placeholder_in_text", "the text holds a placeholder, which would be read as media", text)
    return text


def without_marks(text: str, kinds: Sequence[str] = ALL) -> str:
    """A text, provided that no placeholder stands in it: others would take it for a place of media.

    Raises:
        Unusable: One does.
    """
    found = _marks_in(text, kinds)
    if found:
        raise Unusable("placeholder_in_text", f"the text holds {found[0]!r}, which would be read as media", text)
    return text


def _marks_in(text: str, kinds: Sequence[str]) -> list[str]:
    return re.findall("|".join(f"<{kind}>" for kind in kinds), text)


def plain_text(message: Message) -> str:
    """The text of a message without media.

    Raises:
        Unusable: It has some.
    """
    if any(part["type"] != "text" for part in message["content"]):
        raise Unusable("media_not_supported", "the format has no place for media here")
    return "".join(part["text"] for part in message["content"])


def written(messages: Iterable[Message], *, tags: Tags = OPENAI) -> list[dict[str, str]]:
    """Messages with texts as contents and placeholders in them, the inverse of `read_messages`."""
    roles = {"user": tags.user, "assistant": tags.assistant, "system": tags.system}
    return [
        {tags.role: roles.get(message["role"], message["role"]), tags.content: placeholder_text(message["content"])}
        for message in messages
    ]


def written_plain(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Messages with texts as contents, for formats without media.

    Raises:
        Unusable: One has media.
    """
    return [{"role": message["role"], "content": plain_text(message)} for message in messages]


def single_turn(record: Record) -> Message:
    """The only turn of a prompt, the user's.

    Raises:
        Unusable: There are others.
    """
    if len(record.prompt) != 1 or record.prompt[0]["role"] != "user":
        raise Unusable("not_one_turn", "the format has room for one question, and no system prompt or earlier turns")
    return record.prompt[0]
