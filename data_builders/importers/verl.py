"""verl and EasyR1: prompts with a truth to judge answers by, and no answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from data_builders.importers.base import Columns, Draft, Format, OutRow, Sample
from data_builders.importers.media_out import MediaOut
from data_builders.importers.messages import (
    Slots,
    as_items,
    filled,
    placeholder_text,
    read_messages,
    single_turn,
    text_parts,
    written,
)
from mmdpo.records import Record

if TYPE_CHECKING:
    import datasets

_FIELDS = ("images", "videos")


class Verl(Format):
    """verl: `prompt` as messages with `images` and `reward_model`. Records of prompts alone."""

    name = "verl"
    prompts_only = True
    media = ("images",)
    kind = "parquet"

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        prompts = sample.holds("prompt", list) and sample.has("reward_model")
        return "rows have prompt as messages and reward_model" if prompts else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        slots = Slots()
        prompt = read_messages(row.pop("prompt", None), slots)
        return Draft(prompt, [], filled(slots, {name: as_items(row.pop(name, None)) for name in _FIELDS}))

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        cells = {"prompt": written(record.prompt), "images": media.cells(record, "images")}
        columns = record.meta.get("columns", {})
        told = columns.get("reward_model") if isinstance(columns, Mapping) else None
        known = {name: told.get(name) for name in ("style", "ground_truth")} if isinstance(told, Mapping) else {}
        texts = {name: value for name, value in known.items() if isinstance(value, str)}
        return OutRow({**cells, "reward_model": {"style": None, "ground_truth": None, **texts}})

    def features(self, table: str) -> datasets.Features:
        """See `Format.features`."""
        import datasets

        text = datasets.Value("string")
        columns = {"prompt": datasets.List({"role": text, "content": text}), "images": datasets.List(datasets.Image())}
        return datasets.Features({**columns, "reward_model": {"style": text, "ground_truth": text}})


class EasyR1(Format):
    """EasyR1: `problem`, `images` and `answer`. Records of prompts alone."""

    name = "easyr1"
    prompts_only = True
    media = ("images",)
    kind = "parquet"
    columns: ClassVar[Columns] = {"answer": (str,)}

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        return "rows have problem and answer" if sample.has("problem", "answer") else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        slots = Slots()
        parts = text_parts(row.pop("problem", None), slots)
        media = filled(slots, {name: as_items(row.pop(name, None)) for name in _FIELDS})
        return Draft([{"role": "user", "content": parts}], [], media)

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        problem = placeholder_text(single_turn(record)["content"])
        return OutRow({"problem": problem, "images": media.cells(record, "images")})

    def features(self, table: str) -> datasets.Features:
        """See `Format.features`."""
        import datasets

        text = datasets.Value("string")
        return datasets.Features({"problem": text, "images": datasets.List(datasets.Image()), "answer": text})
