"""Pairs of plain texts about one item: RLAIF-V, InternVL's MMPR, MM-RLHF, VL-RLHF, mDPO."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from data_builders.importers.base import Columns, Draft, Format, OutRow, Sample
from data_builders.importers.media_out import MediaOut
from data_builders.importers.messages import (
    Slots,
    as_items,
    as_text,
    filled,
    placeholder_text,
    plain_text,
    single_turn,
    text_parts,
    without_marks,
)
from data_builders.importers.pairs import both, only_pair
from data_builders.importers.unusable import Unusable
from mmdpo.records import Message, Part, Record

if TYPE_CHECKING:
    import datasets

_NUMBER = (int, float)
_MM_RLHF = ("ls_factor", "reference_chosen_logp", "reference_rejected_logp")


class _Flat(Format):
    """One question, one item, two answers, all texts.

    Class attributes:
        question: Column of the question.
        items: Column of each media field.
    """

    question = "prompt"
    items: ClassVar[Mapping[str, str]] = {"images": "image"}

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        listed = {name: as_items(row.pop(column, None)) for name, column in self.items.items()}
        prompt, media = asked(row.pop(self.question, None), listed)
        answers = (row.pop(name, None) for name in ("chosen", "rejected"))
        return Draft([prompt], both(as_text(answer) for answer in answers if answer is not None), media)

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        question = question_text(record, self.items)
        chosen, rejected = self._answers(record)
        cells = {self.question: question, "chosen": chosen, "rejected": rejected}
        paths = {column: media.paths(record, name) for name, column in self.items.items()}
        return OutRow({**{column: one[0] for column, one in paths.items() if one}, **cells})

    def _answers(self, record: Record) -> list[str]:
        kinds = [name.removesuffix("s") for name in self.items]
        return [without_marks(answer.text, kinds) for answer in only_pair(record)]


def asked(question: Any, listed: Mapping[str, list[Any]]) -> tuple[Message, dict[str, list[Any]]]:
    """A question and its media: a single item without a placeholder in the text stands before it.

    Raises:
        Unusable: The question is no text.
    """
    slots = Slots()
    present = [name for name, items in listed.items() if items] or listed  # a placeholder for nothing is a mistake
    parts = text_parts(question, slots, kinds=[name.removesuffix("s") for name in present])
    if not slots and sum(map(len, listed.values())) == 1:
        (name,) = (name for name, items in listed.items() if items)
        return {"role": "user", "content": [{"type": name.removesuffix("s")}, *parts]}, dict(listed)
    return {"role": "user", "content": parts}, filled(slots, listed)


def question_text(record: Record, fields: Iterable[str]) -> str:
    """The text of the only question, which follows its only item or has none.

    Args:
        record: The record.
        fields: Media fields of the format, whose placeholders may not stand in the text.

    Raises:
        Unusable: There are other turns or items, or the item does not stand first.
    """
    content = single_turn(record)["content"]
    kinds = [part["type"] for part in content]
    if any(kind != "text" for kind in kinds[1:]):
        raise Unusable("media_not_first", "the format has one item, which stands before the text")
    rest: list[Part] = content[1:] if kinds and kinds[0] != "text" else content
    return without_marks(plain_text({"role": "user", "content": rest}), [name.removesuffix("s") for name in fields])


class RlaifV(_Flat):
    """RLAIF-V: `image` with its bytes, `question`, `chosen` and `rejected`."""

    name = "rlaif_v"
    question = "question"
    media = ("images",)
    kind = "parquet"
    columns: ClassVar[Columns] = {
        **{name: (str,) for name in ("ds_name", "origin_dataset", "origin_split", "image_path", "logps")},
        "idx": (int,),
    }

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        if not sample.has("image", "question", "chosen", "rejected"):
            return None
        if sample.holds("image", Mapping, bytes):
            return "rows have question, chosen and rejected, and image as bytes"
        return (
            "rows have image, question, chosen, rejected and origin_dataset" if sample.has("origin_dataset") else None
        )

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        if len(record.media.get("images", ())) != 1:
            raise Unusable("not_one_image", f"the format has one image, not {len(record.media.get('images', ()))}")
        question = question_text(record, self.items)
        chosen, rejected = self._answers(record)
        (image,) = media.cells(record, "images")
        return OutRow({"image": image, "question": question, "chosen": chosen, "rejected": rejected})

    def features(self, table: str) -> datasets.Features:
        """See `Format.features`."""
        import datasets

        texts = {name: datasets.Value("string") for name in ("question", "chosen", "rejected", *self.columns)}
        return datasets.Features({"image": datasets.Image(), **texts, "idx": datasets.Value("int64")})


class Mmpr(_Flat):
    """InternVL's MMPR: `image` as a path, `question`, `chosen` and `rejected`; `meta.json` names files and roots."""

    name = "mmpr"
    layouts = ("rows", "meta")
    question = "question"
    media = ("images",)

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        if not sample.has("question", "chosen", "rejected") or sample.has("response_1"):
            return None
        if sample.layout == "meta":
            return "meta.json names annotations, and rows have question, chosen and rejected"
        paths = not sample.has("image") or sample.holds("image", str, list)
        usual = paths and not sample.has("origin_dataset")
        return "rows have question, chosen and rejected, and image as a path if any" if usual else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        draft = super().parse(row, info)
        root = str(info.get("root") or "")
        join = f"{root.rstrip('/')}/" if root else ""
        images = [join + item if isinstance(item, str) else item for item in draft.media.get("images", ())]
        draft.media["images"] = images
        told = {name: info[name] for name in ("entry", "repeat_time", "data_augment") if name in info}
        draft.facts.update(told)
        return draft

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        content = single_turn(record)["content"]
        kinds = [part["type"] for part in content]
        first_only = kinds[:1] == ["image"] and "image" not in kinds[1:]
        text = placeholder_text(content[1:] if first_only else content)
        chosen, rejected = self._answers(record)
        paths = media.paths(record, "images")
        image = {"image": paths[0] if len(paths) == 1 else paths} if paths else {}
        return OutRow({**image, "question": text, "chosen": chosen, "rejected": rejected})

    def descriptions(self, tables: Mapping[str, int], media: MediaOut) -> dict[str, Any]:
        """See `Format.descriptions`."""
        told = {"root": "", "data_augment": False, "repeat_time": 1}
        entries = {table: {"annotation": f"{table}.jsonl", **told, "length": n} for table, n in tables.items()}
        return {"meta.json": entries}


class MmRlhf(_Flat):
    """MM-RLHF: `image` or `video`, `prompt`, `chosen`, `rejected`, and numbers of its trainer."""

    name = "mm_rlhf"
    media = ("images", "videos")
    items: ClassVar[Mapping[str, str]] = {"images": "image", "videos": "video"}
    columns: ClassVar[Columns] = dict.fromkeys(_MM_RLHF, _NUMBER)

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        if not sample.has("prompt", "chosen", "rejected"):
            return None
        its_own = [name for name in _MM_RLHF if sample.has(name)]
        its_own += [] if its_own or not sample.holds("video", str) else ["video"]
        return f"rows have prompt, chosen, rejected and {its_own[0]}" if its_own else None


class VlRlhf(_Flat):
    """VL-RLHF: `image` as a path, `prompt`, `chosen` and `rejected`, all texts."""

    name = "vl_rlhf"
    media = ("images",)
    kind = "json"

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        texts = all(sample.holds(name, str) for name in ("image", "prompt", "chosen", "rejected"))
        other = any(map(sample.has, (*_MM_RLHF, "video")))
        return "rows have image, prompt, chosen and rejected as text" if texts and not other else None


class Mdpo(_Flat):
    """mDPO: `img_path`, `chosen`, `rejected`, and `prompt` in the template of Vicuna, which is stripped."""

    name = "mdpo"
    media = ("images",)
    items: ClassVar[Mapping[str, str]] = {"images": "img_path"}
    kind = "json"
    _TEMPLATE = re.compile(r"(?P<preface>.*?)USER: ?(?P<question>.*?)\s*ASSISTANT:\s*", re.DOTALL)

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        return "rows have img_path, chosen and rejected" if sample.has("img_path", "chosen", "rejected") else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        prompt = as_text(row.get("prompt"))
        found = self._TEMPLATE.fullmatch(prompt)
        if found is None or prompt.count("USER:") != 1 or prompt.count("ASSISTANT:") != 1:
            raise Unusable("unknown_template", "the prompt is not one question between USER: and ASSISTANT:", prompt)
        row["prompt"] = re.sub(r"^<image>\n|\n<image>$", "<image>", found["question"])
        draft = super().parse(row, info)
        draft.facts["preface"] = found["preface"].strip()
        return draft

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        text = question_text(record, self.items)
        if re.search("USER:|ASSISTANT:", text) or text != text.strip():
            raise Unusable("template_in_text", "the question would not be told from the template around it", text)
        preface = record.meta.get("preface")
        made = super().row(record, media)
        mark = "<image>\n" if record.media.get("images") else ""
        beginning = f"{preface} " if isinstance(preface, str) and preface else ""
        made.cells["prompt"] = f"{beginning}USER: {mark}{text} ASSISTANT:"
        return made
