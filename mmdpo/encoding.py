"""From one record to model inputs: prompt ids with media placeholders expanded, encoder inputs, positions.

Prompt ids are the processor's rendering with the generation prompt: exactly what ``generate`` is given. Answer ids are
what the model would have to emit after them, ending in exactly one id that stops generation. Text is text: no character
of a prompt or candidate becomes a special id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from mmdpo.corruptions import ItemCache
from mmdpo.errors import DataError, MMDPOError, ModelError
from mmdpo.media_units import MediaUnit, media_units
from mmdpo.modalities.base import Modality, modality_of
from mmdpo.modalities.variants import items_of, swapped, with_items
from mmdpo.models.families import Facts, accepted
from mmdpo.records import Record, media_field
from mmdpo.rendering import Renderer
from mmdpo.views import CLEAN, NONE, SWAP


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the model gets it.

    Args:
        input_ids: [P] token ids with media placeholders expanded.
        fields: Further per-token inputs, each [P] or [P, ...].
        units: Encoder inputs in the order of their placeholders.
        extras: The processor's other outputs (pixels, grids, sizes), for the model's own functions.
    """

    input_ids: Tensor
    fields: Mapping[str, Tensor]
    units: tuple[MediaUnit, ...]
    extras: Mapping[str, Tensor]


def extended(name: str, values: Tensor, length: int, facts: Facts) -> Tensor:
    """A per-token input of a prompt, [P] or [P, ...], with what it is on the ``length`` answer tokens after it."""
    if values.ndim > 1:  # a cross-attention mask: an answer sees what the prompt's end sees, as in generation
        return torch.cat([values, values[-1:].expand(length, *values.shape[1:])])
    return torch.cat([values, values.new_full((length,), facts.family.answer_fields.get(name, 0))])


class Encoder(Renderer):
    """Turns records into token ids and encoder inputs for one model.

    Args:
        processor: Hugging Face processor (or tokenizer) with a chat template.
        facts: Facts of the model.
        eos_ids: Ids that stop generation (``generation_config.eos_token_id``).
        root: Folder that media paths are relative to.
        seed: Seed of the media variants.
        fresh: Variants are drawn anew in every epoch, by :attr:`epoch`, and not once for all.

    Attributes:
        epoch: The epoch that is encoded.
        cache: Corrupted items that were made already.
    """

    def __init__(
        self,
        processor: Any,
        facts: Facts,
        eos_ids: Sequence[int],
        root: Path | None = None,
        seed: int = 0,
        fresh: bool = False,
    ) -> None:
        super().__init__(processor, facts, eos_ids)
        self.root = root
        self.seed = seed
        self.fresh = fresh
        self.epoch = 0
        self.cache = ItemCache(0) if fresh else ItemCache()  # what is drawn anew is never needed again

    def fixed(self) -> Encoder:
        """The same encoder with variants drawn once for all: held-out records must not change from epoch to epoch."""
        return Encoder(self.processor, self.facts, self.eos_ids, self.root, self.seed) if self.fresh else self

    def prompt(self, record: Record, variant: str = CLEAN, partner: Record | None = None) -> EncodedPrompt:
        """Encodes a record's prompt under one media variant.

        Args:
            record: The record.
            variant: ``"clean"``, ``"none"``, ``"swap"``, or a corruption of its modalities (``"diffusion:250"``).
            partner: The record whose media ``"swap"`` shows.

        Raises:
            DataError: The media cannot be read or are not as many as their places, a control token in the text
                cannot be kept as text, or there is no partner to swap with.
            ModelError: The template loses a part of the prompt, or the processor refuses it.
            ConfigError: The variant is unknown.
        """
        try:
            if variant == SWAP:
                return self._prompt(swapped(record, partner), CLEAN)
            return self._prompt(record, variant)
        except MMDPOError as error:
            if repr(record.id) not in error.what:  # a modality knows its item, and nothing of records
                whose = f" with the media of {partner.id!r}" if variant == SWAP and partner else ""
                error.what = f"record {record.id!r}{whose}: {error.what}"
                error.args = ("\n".join(part for part in (error.what, error.why, error.fix) if part),)
            raise

    def _prompt(self, record: Record, variant: str) -> EncodedPrompt:
        self._check_taken(record)
        _check_places(record)
        conversation, items = self._conversation(record, variant)
        options: dict[str, Any] = {}
        for plural, decoded in items.items():
            options |= modality_of(plural).processor_options(decoded) if decoded else {}
        unsafe = any(self.control_tokens(part.get("text", "")) for m in conversation for part in m["content"])
        own = getattr(self.processor, "chat_template", None)
        try:
            encoded = self.processor.apply_chat_template(
                conversation,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                # its own is not given by name: SmolVLM's processor takes another one where there is a video
                **({"chat_template": self.template} if self.template != own else {}),
                **({"processor_kwargs": options} if options else {}),
                **({"sanitize_control_tokens": True} if unsafe else {}),
            )
        except (NotImplementedError, ValueError, TypeError, LookupError, RuntimeError, TemplateError) as error:
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
        return self._split(dict(encoded), items, record)

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
            name: extended(name, values, answer_length, self.facts)[None] for name, values in prompt.fields.items()
        }
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **types, **prompt.extras}
        positions, _ = self.facts.rope_index(**accepted(self.facts.rope_index, given))
        own: Tensor = positions[:, 0]
        # Qwen3-Omni counts in fractions where there is a video, and says whole numbers as fractions elsewhere
        return own if own.is_floating_point() and not torch.equal(own, own.round()) else own.long()

    def _conversation(self, record: Record, variant: str) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
        """The prompt with decoded items in its parts, and those items by plural name."""
        epoch = self.epoch if self.fresh else None
        items = items_of(record, variant, self.root, self.cache, seed=self.seed, epoch=epoch)
        return with_items(record.prompt, items, self.processor, leave_out=variant == NONE), items

    def _split(self, encoded: dict[str, Any], items: Mapping[str, Sequence[Any]], record: Record) -> EncodedPrompt:
        """Sorts the processor's outputs into ids, per-token fields and encoder inputs."""
        encoded.pop("attention_mask", None)
        encoded.pop("labels", None)
        ids = encoded.pop("input_ids")
        units: list[MediaUnit] = []
        extras: dict[str, Tensor] = {}
        as_images = self._videos_as_images(items, encoded, record)
        for plural, decoded in items.items() if not as_images else [("images", as_images)]:
            if not decoded:
                continue
            modality = modality_of(plural)
            inputs = {
                name: torch.as_tensor(encoded.pop(name)) for name in self._input_names(modality) if name in encoded
            }
            _check_inputs(modality, inputs, len(decoded), record)
            own = media_units(
                modality,
                inputs,
                decoded,
                ids[0] == self.facts.media_token_ids.get(modality.name, -1),
                self.processor,
                tokens_needed=self.facts.embeds(modality.name) and modality.name not in self.facts.family.features,
                together=bool(as_images) or modality.name in self.facts.family.alone,
            )
            # what is read through cross-attention stands in place of no token
            units += [replace(unit, tokens=None) for unit in own] if self.facts.family.cross_attention else own
            extras |= inputs
        self._check_placeholders(ids, items, record)
        fields = {}
        for name, values in encoded.items():
            tensor = torch.as_tensor(values)
            if tensor.shape[:2] == ids.shape:
                fields[name] = tensor[0]
            else:
                extras[name] = tensor
        return EncodedPrompt(ids[0], fields, tuple(units), extras)

    def _videos_as_images(
        self, items: Mapping[str, Sequence[Any]], encoded: Mapping[str, Any], record: Record
    ) -> list[Any]:
        """All pictures of a prompt, where the processor makes images of a video's frames (InternVL, SmolVLM)."""
        videos = items.get("videos", ())
        if not videos or any(name in encoded for name in self._input_names(modality_of("videos"))):
            return []
        if items.get("images") and len(encoded.get("pixel_values", ())) == 1:  # SmolVLM's keeps the frames alone
            _refuse_both(record)
        return [*items.get("images", ()), *videos] if "pixel_values" in encoded else []

    def _check_taken(self, record: Record) -> None:
        """Refuses media that the model has no encoder for, before its processor drops or misreads them.

        Raises:
            ModelError: Naming the media and the record.
        """
        takes = set(self.facts.feature_inputs)
        if "image" in takes and getattr(self.processor, "video_processor", None) is not None:
            takes.add("video")  # as images
        for plural, refs in record.media.items():
            if refs and modality_of(plural).name not in takes:
                raise ModelError(
                    f"record {record.id!r} has {plural}, and {self.facts.model_type!r} takes none",
                    why="The model would be trained on answers about something that it does not get.",
                    fix=f"Use a model that takes {plural}, or records without them.",
                )

    def _check_placeholders(self, ids: Tensor, items: Mapping[str, Sequence[Any]], record: Record) -> None:
        """Refuses media that take no place in the prompt: an encoder gives nothing for a clip of a few milliseconds."""
        known = list(self.facts.media_token_ids.values())
        if any(items.values()) and known and not bool(torch.isin(ids, torch.tensor(known)).any()):
            raise DataError(
                f"the media of record {record.id!r} have no placeholder token in its prompt",
                why="The item is too short for its encoder, or the template drops it; the model would not read it.",
                fix="Leave the record out, or use the template that the model was trained with.",
            )
        both = items.get("images") and items.get("videos") and "video" in self.facts.feature_inputs
        if both and not bool(torch.isin(ids, self.facts.media_token_ids.get("video", -1)).any()):  # GLM-4V
            _refuse_both(record)

    def _input_names(self, modality: Modality) -> tuple[str, ...]:
        """What the processor calls the modality's encoder inputs, the main one first."""
        own = getattr(self.processor, "input_names", None)  # of a composed model's processor
        if own is not None:
            return tuple(own(modality.name))
        return (*modality.inputs, *self.facts.feature_inputs.get(modality.name, ()))


def _check_places(record: Record) -> None:
    """Refuses a prompt with more or fewer places than media items."""
    parts = [part["type"] for message in record.prompt for part in message["content"]]
    places = Counter(media_field(part) for part in parts if part != "text")
    for plural in sorted({*places, *record.media}):
        items = len(record.media.get(plural, ()))
        if places[plural] != items:
            raise DataError(
                f"the prompt of record {record.id!r} has {places[plural]} places for {items} {plural}",
                why="Every place stands for one item, in reading order.",
                fix=f"Give as many parts of type {plural.removesuffix('s')!r} as items.",
            )


def _refuse_both(record: Record) -> None:
    raise ModelError(
        f"record {record.id!r} has images and videos in one prompt, which this model cannot tell apart",
        why="Features would stand at the wrong tokens; the model itself fails on it.",
        fix="Use prompts with one of the two.",
    )


def _check_inputs(modality: Modality, inputs: Mapping[str, Tensor], items: int, record: Record) -> None:
    """Refuses media that the processor ignored, and encoder inputs that are not numbers."""
    if not inputs:
        raise ModelError(
            f"the processor made no inputs for the {items} {modality.plural} of record {record.id!r}",
            why="The model would be trained without its media.",
            fix=f"Use a model that takes {modality.plural}, or a processor with an encoder for them.",
        )
    for name, values in inputs.items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise DataError(
                f"the {modality.plural} of record {record.id!r} give {name} that are not finite",
                why="One NaN makes every weight NaN at the next step.",
                fix="Correct the file or leave the record out.",
            )
