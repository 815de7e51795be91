"""From one record to model inputs: prompt ids with media placeholders expanded, encoder inputs, positions.

Prompt ids are the processor's rendering with the generation prompt: exactly what ``generate`` is given. Answer ids are
what the model would have to emit after them, ending in exactly one id that stops generation. Text is text: no character
of a prompt or candidate becomes a special id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from mmdpo.corruptions import ItemCache
from mmdpo.encoding.media_units import MediaUnit, media_units, run_lengths
from mmdpo.encoding.prepared_media import Prepared, PreparedMedia, media_of
from mmdpo.encoding.prompt_checks import check_inputs, check_places, refuse_both
from mmdpo.encoding.rendering import Renderer
from mmdpo.errors import ConfigError, DataError, MMDPOError, ModelError
from mmdpo.modalities.base import Modality, modality_of
from mmdpo.modalities.variants import items_of, swapped, with_items
from mmdpo.models.families import Facts, accepted
from mmdpo.records import Record
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
        prepared: What the processor made of the latest media, for further prompts about them.
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
        self.prepared = PreparedMedia()

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
        self.check_taken(record)
        check_places(record)
        prepared, conversation, items = self._conversation(record, variant)
        options: dict[str, Any] = {}
        for plural, decoded in items.items():
            options |= modality_of(plural).processor_options(decoded) if decoded else {}
        unsafe = any(self.control_tokens(part.get("text", "")) for m in conversation for part in m["content"])
        own = getattr(self.processor, "chat_template", None)
        try:
            encoded = prepared.by(self.processor).apply_chat_template(
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
        prompt = self._split(dict(encoded), items, record, prepared)
        if variant == CLEAN and items:
            self.prepared.keep((self.root, media_of(record)), prepared)
        if variant != CLEAN and self.fresh:  # its draw does not come back
            prompt = replace(prompt, units=tuple(replace(unit, lasting=False) for unit in prompt.units))
        return prompt

    def unfit(self, record: Record, variant: str = CLEAN) -> str:
        """Why a record's candidates cannot be scored: too long for the model, unreadable; empty where they can.

        Raises:
            ConfigError: The variant is unknown.
            ModelError: The template or the processor does not go with such records.
        """
        try:
            answers = [len(self.answer(record, candidate).ids) for candidate in record.candidates]
            length = len(self.prompt(record, variant).input_ids) + max(answers, default=0)
        except (ConfigError, ModelError):
            raise  # of no single record
        except MMDPOError as error:
            return error.what
        limit = self.facts.max_positions
        return f"{length} tokens, the model's limit is {limit}" if limit is not None and length > limit else ""

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

    def _conversation(
        self, record: Record, variant: str
    ) -> tuple[Prepared, list[dict[str, Any]], dict[str, list[Any]]]:
        """What is kept of the record's media, the prompt with decoded items in its parts, and those items by plural."""
        epoch = self.epoch if self.fresh else None
        prepared = self.prepared.get((self.root, media_of(record))) if variant == CLEAN else Prepared()
        if prepared.items is None:
            prepared.items = items_of(record, variant, self.root, self.cache, seed=self.seed, epoch=epoch)
        return (
            prepared,
            with_items(record.prompt, prepared.items, self.processor, leave_out=variant == NONE),
            prepared.items,
        )

    def _split(
        self, encoded: dict[str, Any], items: Mapping[str, Sequence[Any]], record: Record, prepared: Prepared
    ) -> EncodedPrompt:
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
            places = ids[0] == self.facts.media_token_ids.get(modality.name, -1)
            key = (plural, tuple(run_lengths(places)))
            if key not in prepared.units:
                check_inputs(modality, inputs, len(decoded), record)
                prepared.units[key] = media_units(
                    modality,
                    inputs,
                    decoded,
                    places,
                    self.processor,
                    tokens_needed=self.facts.embeds(modality.name) and modality.name not in self.facts.family.features,
                    together=bool(as_images) or modality.name in self.facts.family.alone,
                )
            own = prepared.units[key]
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
            refuse_both(record)
        return [*items.get("images", ()), *videos] if "pixel_values" in encoded else []

    def check_taken(self, record: Record) -> None:
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
            refuse_both(record)

    def _input_names(self, modality: Modality) -> tuple[str, ...]:
        """What the processor calls the modality's encoder inputs, the main one first."""
        own = getattr(self.processor, "input_names", None)  # of a composed model's processor
        if own is not None:
            return tuple(own(modality.name))
        return (*modality.inputs, *self.facts.feature_inputs.get(modality.name, ()))
