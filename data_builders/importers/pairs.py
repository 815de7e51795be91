"""What formats of pairs and of single answers have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_builders.importers.base import Draft
from data_builders.importers.media_out import MediaOut
from data_builders.importers.messages import (
    NONE,
    OPENAI,
    Slots,
    Tags,
    answer_text,
    filled,
    read_messages,
    shared_turns,
)
from data_builders.importers.unusable import Unusable
from mmdpo.records import Candidate, Record, media_field


def both(answers: Iterable[str]) -> list[Candidate]:
    """Chosen and rejected answer.

    Raises:
        Unusable: There are not two.
    """
    texts = list(answers)
    if len(texts) != 2:
        raise Unusable("no_preference", f"a pair has a chosen and a rejected answer; the row has {len(texts)} of them")
    return [Candidate(text) for text in texts]


def label_of(value: Any, column: str) -> bool:
    """Whether an answer is desirable.

    Raises:
        Unusable: The label is not true or false; which number or word means what is not guessed.
    """
    if not isinstance(value, bool):
        raise Unusable("not_a_label", f"{column} must be true or false", value)
    return value


def last_answer(messages: Any, *, tags: Tags = OPENAI) -> tuple[Sequence[Any], str]:
    """A conversation without its last turn, and the answer that this is.

    Raises:
        Unusable: It does not end with an answer.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise Unusable("no_messages", "there is no conversation", messages)
    return messages[:-1], answer_text([messages[-1]], tags=tags)


def single_prompt(
    chosen: Any,
    rejected: Any,
    listed: Mapping[str, list[Any]] | None = None,
    *,
    tags: Tags = OPENAI,
    kinds: Sequence[str] = NONE,
) -> Draft:
    """Two conversations that differ in their last turn, the answer.

    Args:
        chosen: The better one.
        rejected: The worse one.
        listed: Media that are listed beside them.
        tags: What keys and roles are called.
        kinds: Types of media whose placeholders in texts are places for them.

    Raises:
        Unusable: They differ in earlier turns or in their media.
    """
    prompts, answers, media = [], [], []
    for value in (chosen, rejected):
        beginning, answer = last_answer(value, tags=tags)
        slots = Slots()
        prompts.append(read_messages(beginning, slots, tags=tags, kinds=kinds))
        answers.append(Candidate(answer))
        media.append(filled(slots, listed or {}))
    if prompts[0] != prompts[1]:
        shared = shared_turns(*prompts)
        raise Unusable("other_prompt", f"the two conversations differ in turn {shared + 1}, before the last answer")
    if media[0] != media[1]:
        raise Unusable("rejected_media", "the rejected answer has other media; a record has one set of them")
    return Draft(prompts[0], answers, media[0])


def only_pair(record: Record) -> tuple[Candidate, Candidate]:
    """The two answers of a pair.

    Raises:
        Unusable: It is none.
    """
    if len(record.candidates) != 2:
        raise Unusable(
            "not_a_pair", f"the format has room for two answers, and the record has {len(record.candidates)}"
        )
    return record.candidates[0], record.candidates[1]


def unpaired(record: Record) -> bool:
    """Whether it is one answer with a label.

    Raises:
        Unusable: It is one answer without a label.
    """
    if len(record.candidates) == 1 and record.candidates[0].label is None:
        raise Unusable("no_label", "a single answer is written with its label, and it has none")
    return len(record.candidates) == 1


def inline(record: Record, media: MediaOut, key: str) -> list[dict[str, Any]]:
    """A prompt as messages of typed parts with the media's paths inside them, under that key.

    Raises:
        Unusable: A part is of a type that cannot be written so, or a file cannot be used.
    """
    kinds = {"image": "image_url", "video": "video_url", "audio": "audio_url"}
    for message in record.prompt:
        other = next((p["type"] for p in message["content"] if p["type"] not in ("text", *kinds)), None)
        if other is not None:
            raise Unusable("media_not_supported", f"the format has no part for {other!r}")
    paths = {media_field(kind): iter(media.paths(record, media_field(kind))) for kind in kinds}
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "text", key: part["text"]}
                if part["type"] == "text"
                else {"type": kinds[part["type"]], key: next(paths[media_field(part["type"])])}
                for part in message["content"]
            ],
        }
        for message in record.prompt
    ]
