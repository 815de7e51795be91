"""Records to a batch: the union of the views that the objective reads, laid out as trees.

A batch is a plain nested dictionary of tensors, so that accelerate can move it and DDP can pass it on:

    input_ids, record, segment, depth, block  [B, T]      the packed trees (see branches.py)
    position_ids                              [B, T] or [R, B, T]
    fields                                    {name: [B, T] or [B, T, ...]}  further per-token inputs
    hidden_index, targets, mask               [N, A]      where each answer token is predicted, and what it is
    weight, marks                             [N, A]      token weights, and which tokens are marked
    example, candidate, media_index           [N]         which record, candidate and media variant a row is
    score, label                              [N]         how it was rated (more is better, NaN), 1 / -1 / 0
    identity                                  [N, 4]      digests of a row's place, prompt, answer and encoder inputs
    index                                     [E]         place of each record in its data set
    media                                     {modality: {units, ..., order, rows}}: distinct encoder inputs, which of
                                              them each placeholder group takes, and in which row, in reading order
    layout                                    "shared" or "plain": whether the attention rule is needed
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmdpo.branches import Tree, fill_rows, pack
from mmdpo.encoding.companions import Companions
from mmdpo.encoding.example import EncodedPrompt, Encoder, extended
from mmdpo.encoding.media_units import MediaUnit
from mmdpo.encoding.planning import PlannedRow, media_names, plan
from mmdpo.encoding.rendering import EncodedAnswer
from mmdpo.errors import DataError
from mmdpo.records import Record
from mmdpo.views import ScoreTable, View

Batch = dict[str, Any]
UNIT_FIELDS = ("units", "keys", "items", "lengths", "tokens", "names", "lasting")
"""Of each distinct unit: encoder inputs, content hash, items, rows of the main input, placeholder tokens, whose,
and whether it can come back."""
Layout = Literal["shared", "plain"]


@dataclass(frozen=True)
class Row:
    """One scored answer of a batch: of which record, what was planned, its tokens, and digests of all that."""

    example: int
    planned: PlannedRow
    answer: EncodedAnswer
    identity: list[int]


@dataclass(frozen=True)
class _Laid:
    """One tree of a batch, the scored answers that are its branches, and the media of its prefix in reading order."""

    tree: Tree
    rows: Sequence[Row]
    units: Sequence[MediaUnit]
    record: str


class RecordDataset(Dataset[tuple[int, Record]]):
    """Records with their place, so that results can be told apart after shuffling and sharding."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[int, Record]:
        return index, self.records[index]


class Collator:
    """Builds batches for one model and one set of views.

    Args:
        encoder: Turns records into ids and encoder inputs.
        views: What to score of each record.
        companions: Where partners and mismatched answers come from; None where no view asks for them.
        layout: ``"shared"`` lays the answers of a record out as branches of one prefix; ``"plain"`` gives each a row.
        side: Padding side.
        pad_id: Token id on padding.
        records_per_row: With the shared layout, how many records share a row: so many that follow each other, or
            ``"fit"``, as many as find room beside each other in rows no longer than the batch's longest record.
        branches_per_row: With the shared layout, how many answers of a record share a row; None for all of them.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Sequence[View],
        *,
        companions: Companions | None = None,
        layout: Layout = "shared",
        side: Literal["right", "left"] = "right",
        pad_id: int = 0,
        records_per_row: int | Literal["fit"] = 1,
        branches_per_row: int | None = None,
    ) -> None:
        self.encoder = encoder
        self.views = tuple(views)
        self.companions = companions or Companions(())
        self.layout: Layout = layout
        self.side: Literal["right", "left"] = side
        self.pad_id = pad_id
        family = encoder.facts.family  # rows of such families must be told apart by the media of one record
        alone = layout == "plain" or family.cross_attention or family.marks_alike
        self.trees_per_row: int | Literal["fit"] = 1 if alone else records_per_row
        self.branches = branches_per_row if layout == "shared" else 1

    @property
    def media_names(self) -> tuple[str, ...]:
        """Media variants in the order of ``media_index``, the clean one first."""
        return media_names(self.views)

    def __call__(self, examples: Sequence[tuple[int, Record]]) -> Batch:
        """Builds one batch from (place in the data set, record) pairs."""
        laid = [one for number, (_, record) in enumerate(examples) for one in self._laid(number, record)]
        if not laid:
            raise DataError(
                f"no record of {', '.join(record.id for _, record in examples[:3])} has a view that is asked for",
                why=f"Wanted are {', '.join(map(str, self.views))}.",
                fix="A record without media has no corrupted variant; a candidate must exist to be scored.",
            )
        multiple = self.encoder.facts.row_multiple if self.layout == "shared" else 1
        in_rows = self._in_rows([len(one.tree) for one in laid], multiple)
        of_row = [row for row, members in enumerate(in_rows) for _ in members]
        laid = [laid[place] for members in in_rows for place in members]  # answers and media in the order of reading
        ends = list(itertools.accumulate(map(len, in_rows)))
        packed = pack(
            [one.tree for one in laid],
            pad_id=self.pad_id,
            side=self.side,
            rows=[range(end - len(members), end) for end, members in zip(ends, in_rows, strict=True)],
            multiple_of=multiple,
        )
        rows = [row for one in laid for row in one.rows]
        uses = [(row, unit, one.record) for row, one in zip(of_row, laid, strict=True) for unit in one.units]
        return {
            "input_ids": packed.input_ids,
            "record": packed.record,
            "segment": packed.segment,
            "depth": packed.depth,
            "block": packed.block,
            "position_ids": packed.position_ids,
            "fields": packed.fields,
            "hidden_index": packed.hidden_index,
            "targets": packed.targets,
            "mask": packed.mask,
            "weight": _on_tokens([row.answer.weights for row in rows], packed.mask),
            "marks": _on_tokens([row.answer.marks for row in rows], packed.mask),
            "example": torch.tensor([row.example for row in rows]),
            "candidate": torch.tensor([row.planned.view.candidate for row in rows]),
            "media_index": torch.tensor([self.media_names.index(row.planned.view.media) for row in rows]),
            "score": torch.tensor([row.planned.score for row in rows]),
            "label": torch.tensor([row.planned.label for row in rows]),
            "identity": torch.tensor([row.identity for row in rows]),
            "index": torch.tensor([index for index, _ in examples]),
            "media": distinct_units(uses),
            "layout": self.layout,
        }

    def _laid(self, example: int, record: Record) -> Iterator[_Laid]:
        """A record's trees: one for each media variant, or several where a row takes fewer answers."""
        planned = plan(record, self.views, self.companions)
        for variant, group in itertools.groupby(planned.rows, lambda row: row.view.media):
            prompt = self.encoder.prompt(record, variant, planned.partner)
            answers = [(row, self.encoder.answer(record, row.answer)) for row in group]
            rows = [Row(example, row, answer, _identity(record, row, answer, prompt)) for row, answer in answers]
            for tree in self._tree(prompt, [row.answer for row in rows]).split(self.branches or len(rows)):
                yield _Laid(tree, rows[: len(tree.branches)], prompt.units, record.id)
                rows = rows[len(tree.branches) :]

    def _in_rows(self, lengths: Sequence[int], multiple: int) -> list[list[int]]:
        """Which trees each row holds."""
        per_row = self.trees_per_row
        if per_row == "fit":
            return fill_rows(lengths, capacity=-(-max(lengths) // multiple) * multiple)
        return [list(range(at, min(at + per_row, len(lengths)))) for at in range(0, len(lengths), per_row)]

    def _tree(self, prompt: EncodedPrompt, answers: Sequence[EncodedAnswer]) -> Tree:
        return Tree(
            prefix=prompt.input_ids,
            branches=tuple(answer.ids for answer in answers),
            positions=self.encoder.positions(prompt, max(len(answer.ids) for answer in answers)),
            fields={name: extended(name, values, 1, self.encoder.facts) for name, values in prompt.fields.items()},
            block=two_way_blocks(prompt.input_ids, self.encoder),
        )


def two_way_blocks(prefix: Tensor, encoder: Encoder) -> Tensor | None:
    """[P] number of the block of prefix tokens that see each other in both directions, -1 for none."""
    kind = encoder.facts.two_way
    if kind == "none":
        return None
    if kind == "prefix":
        return torch.zeros_like(prefix)
    media_ids = torch.tensor(sorted(encoder.facts.media_token_ids.values()))
    inside = torch.isin(prefix, media_ids)
    starts = inside & ~torch.cat([inside.new_zeros(1), inside[:-1]])
    return torch.where(inside, starts.cumsum(0) - 1, -1)


def table_of(
    batch: Mapping[str, Any],
    media_names: Sequence[str],
    scores: Mapping[str, Tensor],
    reference: Mapping[str, Tensor] | None = None,
) -> ScoreTable:
    """The score table of a batch.

    Args:
        batch: The batch.
        media_names: Media variants by ``media_index``.
        scores: ``logp`` and further statistics of the policy, each [N, A].
        reference: The same of the reference; None without one.
    """
    return ScoreTable(
        logp=scores["logp"],
        ref_logp=None if reference is None else reference["logp"],
        mask=batch["mask"],
        weight=batch["weight"],
        marks=batch["marks"],
        example=batch["example"],
        candidate=batch["candidate"],
        media=batch["media_index"],
        score=batch["score"],
        label=batch["label"],
        media_names=tuple(media_names),
        statistics={name: values for name, values in scores.items() if name != "logp"},
        ref_statistics={name: values for name, values in (reference or {}).items() if name != "logp"},
    )


def _identity(record: Record, row: PlannedRow, answer: EncodedAnswer, prompt: EncodedPrompt) -> list[int]:
    """Short digests of whose row it is (record, view) and of what it is computed from (prompt, answer, media)."""
    place = f"{record.id}\x1f{row.view.candidate}\x1f{row.view.media}"
    media = "\x1f".join(f"{unit.modality.name} {unit.key}" for unit in prompt.units)
    ids = (prompt.input_ids.numpy().tobytes(), answer.ids.numpy().tobytes())
    parts = (place.encode("utf-8", "surrogatepass"), *ids, media.encode())
    digests = (hashlib.blake2b(part, digest_size=8).digest() for part in parts)
    return [int.from_bytes(digest, "little", signed=True) for digest in digests]


def _on_tokens(values: Sequence[Tensor], mask: Tensor) -> Tensor:
    """[N, A] per-token values of all answers, 0 where there is no token."""
    filled = torch.zeros(mask.shape, dtype=values[0].dtype)
    filled[mask] = torch.cat(list(values))
    return filled


def distinct_units(uses: Sequence[tuple[int, MediaUnit, str]]) -> dict[str, Any]:
    """Distinct units by modality, and the order and rows in which the placeholders use them."""
    media: dict[str, Any] = {}
    for row, unit, record in uses:
        entry = media.setdefault(unit.modality.name, {name: [] for name in (*UNIT_FIELDS, "order", "rows")})
        if unit.key not in entry["keys"]:
            whose = f"record {record!r}"
            values = (dict(unit.inputs), unit.key, unit.items, unit.rows, unit.tokens, whose, unit.lasting)
            for name, value in zip(UNIT_FIELDS, values, strict=True):
                entry[name].append(value)
        entry["order"].append(entry["keys"].index(unit.key))
        entry["rows"].append(row)
    return media
