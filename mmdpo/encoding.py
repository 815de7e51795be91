"""From one record to model inputs: prompt ids with media placeholders expanded, encoder inputs, positions.

Prompt ids are the processor's rendering with the generation prompt: exactly what ``generate`` is given. Answer ids are
what the model would have to emit after them, ending in exactly one id that stops generation. Text is text: no character
of a prompt or candidate becomes a special id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdpo.corruptions import generator_for
from mmdpo.errors import DataError, ModelError
from mmdpo.modalities.base import Modality, corruption_of, modality_of
from mmdpo.models.families import Facts, accepted
from mmdpo.records import Record
from mmdpo.rendering import Renderer
from mmdpo.views import CLEAN


@dataclass(frozen=True)
class MediaUnit:
    """The smallest set of items whose encoder inputs can be told apart: one item, or all of a prompt.

    Args:
        modality: The modality.
        key: Content hash of the encoder inputs.
        inputs: Encoder inputs, batched along dimension 0.
        items: How many items it holds.
    """

    modality: Modality
    key: str
    inputs: Mapping[str, Tensor]
    items: int


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the model gets it.

    Args:
        input_ids: [P] token ids with media placeholders expanded.
        fields: Further per-token inputs, each [P].
        units: Encoder inputs in the order of their placeholders.
        extras: The processor's other outputs (grids, sizes), for the model's position function.
    """

    input_ids: Tensor
    fields: Mapping[str, Tensor]
    units: tuple[MediaUnit, ...]
    extras: Mapping[str, Tensor]


class Encoder(Renderer):
    """Turns records into token ids and encoder inputs for one model.

    Args:
        processor: Hugging Face processor (or tokenizer) with a chat template.
        facts: Facts of the model.
        eos_ids: Ids that stop generation (``generation_config.eos_token_id``).
        root: Folder that media paths are relative to.
        seed: Seed of the media variants.
    """

    def __init__(
        self, processor: Any, facts: Facts, eos_ids: Sequence[int], root: Path | None = None, seed: int = 0
    ) -> None:
        super().__init__(processor, facts, eos_ids)
        self.root = root
        self.seed = seed

    def prompt(self, record: Record, variant: str = CLEAN) -> EncodedPrompt:
        """Encodes a record's prompt under one media variant.

        Raises:
            DataError: The media cannot be read, or a control token in the text cannot be kept as text.
            ModelError: The template loses a part of the prompt, or the processor refuses it.
        """
        conversation, items = self._conversation(record, variant)
        unsafe = any(self.control_tokens(part.get("text", "")) for m in conversation for part in m["content"])
        try:
            encoded = self.processor.apply_chat_template(
                conversation,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **({"sanitize_control_tokens": True} if unsafe else {}),
            )
        except (NotImplementedError, ValueError, TypeError, IndexError) as error:
            if unsafe:
                raise DataError(
                    "the prompt contains the text of a control token, and this processor cannot keep it as text",
                    why="The model would read it as a control token or as another image.",
                    fix="Rewrite the prompt without it.",
                ) from error
            raise ModelError(
                f"the processor refuses the prompt of record {record.id!r}: {error}",
                why="The record cannot be turned into model inputs.",
                fix="Compare its content parts with its media lists.",
            ) from error
        return self._split(dict(encoded), items)

    def positions(self, prompt: EncodedPrompt, answer_length: int) -> Tensor | None:
        """Positions of the plain row prompt + answer, by the model's own function.

        Returns:
            [R, P + answer_length], or None when the model counts 0, 1, 2, ...
        """
        if self.facts.rope_index is None:
            return None
        filler = torch.full((answer_length,), self.eos_ids[0])
        ids = torch.cat([prompt.input_ids, filler])[None]
        types = {
            name: torch.cat([values, values.new_zeros(answer_length)])[None] for name, values in prompt.fields.items()
        }
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **types, **prompt.extras}
        positions, _ = self.facts.rope_index(**accepted(self.facts.rope_index, given))
        return positions[:, 0].long()

    def _conversation(self, record: Record, variant: str) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
        """The prompt with decoded items in its parts, and those items by plural name."""
        loaded: dict[str, list[Any]] = {}
        for plural, refs in record.media.items():
            modality = modality_of(plural)
            items = [modality.load(ref, self.root) for ref in refs]
            if variant != CLEAN:
                corrupt = corruption_of(modality, variant)
                items = [
                    corrupt(item, generator_for(record.id, variant, index, self.seed))
                    for index, item in enumerate(items)
                ]
            loaded[plural] = items
        queues = {modality_of(plural).name: iter(items) for plural, items in loaded.items()}
        conversation = []
        for message in record.prompt:
            parts = []
            for part in message["content"]:
                kind = part["type"]
                parts.append(dict(part) if kind == "text" else {"type": kind, kind: next(queues[kind])})
            conversation.append({"role": message["role"], "content": parts})
        return conversation, loaded

    def _split(self, encoded: dict[str, Any], items: Mapping[str, Sequence[Any]]) -> EncodedPrompt:
        """Sorts the processor's outputs into ids, per-token fields and encoder inputs."""
        ids = encoded.pop("input_ids")
        encoded.pop("attention_mask", None)
        units: list[MediaUnit] = []
        media_inputs: dict[str, Tensor] = {}
        for plural, refs in items.items():
            if refs:
                modality = modality_of(plural)
                inputs = {name: torch.as_tensor(encoded.pop(name)) for name in modality.inputs if name in encoded}
                if not inputs:
                    raise ModelError(
                        f"the processor made no inputs for {len(refs)} {plural}",
                        why="The model would be trained without its media.",
                        fix=f"Use a model that takes {plural}, or a processor with an encoder for them.",
                    )
                units += _units(modality, inputs, len(refs))
                media_inputs |= inputs
        fields = {
            name: values[0]
            for name, values in encoded.items()
            if isinstance(values, Tensor) and values.shape == ids.shape
        }
        return EncodedPrompt(ids[0], fields, tuple(units), media_inputs)


def _units(modality: Modality, inputs: Mapping[str, Tensor], items: int) -> list[MediaUnit]:
    """Splits encoder inputs by item where their shapes allow it, else keeps them together as one unit."""
    main = inputs[next(name for name in modality.inputs if name in inputs)]
    grid = inputs.get(modality.grid) if modality.grid else None
    if all(len(values) == items for values in inputs.values()):
        pieces = [{name: values[i : i + 1] for name, values in inputs.items()} for i in range(items)]
        counts = [1] * items
    elif grid is not None and len(grid) == items and int(grid.prod(-1).sum()) == len(main):
        ends = grid.prod(-1).cumsum(0).tolist()
        pieces = []
        for i, end in enumerate(ends):
            start = ends[i - 1] if i else 0
            pieces.append(
                {
                    name: values[i : i + 1] if len(values) == items and values is not main else values[start:end]
                    for name, values in inputs.items()
                }
            )
        counts = [1] * items
    else:
        pieces, counts = [dict(inputs)], [items]
    return [MediaUnit(modality, _content_key(piece), piece, count) for piece, count in zip(pieces, counts, strict=True)]


def _content_key(inputs: Mapping[str, Tensor]) -> str:
    """SHA-256 of the encoder inputs: equal inputs are one distinct item, wherever they come from."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        values = inputs[name].detach().cpu().contiguous()
        digest.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
