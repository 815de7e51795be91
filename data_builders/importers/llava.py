"""LLaVA's conversations in two versions, as POVID and PDS-DPO publish their pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_builders.importers.base import Draft, Format, OutRow, Sample
from data_builders.importers.media_out import MediaOut
from data_builders.importers.messages import ALL, SHAREGPT, as_items, without_marks, written
from data_builders.importers.pairs import only_pair, single_prompt
from mmdpo.records import Record


class Llava(Format):
    """LLaVA pairs: `conversations` and `rejected_conversations`, equal up to the last answer, with `image`."""

    name = "llava"
    media = ("images",)
    kind = "json"

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        both = sample.has("conversations", "rejected_conversations")
        return "rows have conversations and rejected_conversations" if both else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        chosen, rejected = (row.pop(name, None) for name in ("conversations", "rejected_conversations"))
        listed = {"images": as_items(row.pop("image", None))}
        return single_prompt(chosen, rejected, listed, tags=SHAREGPT, kinds=ALL[:1])

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        prompt = written(record.prompt, tags=SHAREGPT)
        chosen, rejected = (
            [*prompt, {"from": "gpt", "value": without_marks(answer.text)}] for answer in only_pair(record)
        )
        paths = media.paths(record, "images")
        image = {"image": paths[0] if len(paths) == 1 else paths} if paths else {}
        return OutRow({**image, "conversations": chosen, "rejected_conversations": rejected})
