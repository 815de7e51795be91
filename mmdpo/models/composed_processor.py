"""The processor of a composed model: a tokenizer and the encoders' own preparation of their items.

The chat template is the language model's, with media parts first turned into their placeholder token, so that the
tokenizer alone renders them too. A placeholder becomes as many tokens as its item has features in the ids, never in the
text: text that spells a placeholder stays text (``sanitize_control_tokens``).
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from mmdpo.errors import DataError, ModelError
from mmdpo.modalities.encoders import concatenate
from mmdpo.models.media_specs import encoder_of


class ComposedProcessor(ProcessorMixin):
    """Conversations with media to model inputs.

    Args:
        tokenizer: The language model's, with the placeholder tokens.
        media: For each modality its encoder and placeholder, as in the model's configuration.
        chat_template: See :func:`with_media`.
    """

    def __init__(self, tokenizer: Any, media: dict[str, dict[str, Any]], chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        self.media = media
        self.encoders = {modality: encoder_of(modality, entry) for modality, entry in media.items()}
        for modality, entry in media.items():
            setattr(self, f"{modality}_token", entry["token"])
            setattr(self, f"{modality}_token_id", entry["token_id"])

    def input_names(self, modality: str) -> tuple[str, ...]:
        """Names of a modality's encoder inputs among the outputs, the main one first."""
        return tuple(f"{modality}_{name}" for name in self.encoders[modality].inputs)

    @property
    def model_input_names(self) -> list[str]:
        """Names of everything that the model takes from here."""
        return [*self.tokenizer.model_input_names, *(n for modality in self.media for n in self.input_names(modality))]

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        sanitize_control_tokens: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Renders one conversation or a list of them, and encodes their media.

        Args:
            conversation: Turns with ``content`` parts ``{"type": "text", "text": ...}`` or, for each modality of the
                model, ``{"type": modality, modality: item}``.
            chat_template: In place of the processor's own.
            add_generation_prompt: Whether to end in the start of an answer.
            tokenize: False for the rendered text.
            return_dict: False for the ids alone.
            return_tensors: ``"pt"`` for tensors, rows padded on the tokenizer's side; None for lists of ids.
            sanitize_control_tokens: Whether control tokens in the text of the conversation stay text.
            **kwargs: Further variables of the template; ``padding`` is left out, see ``return_tensors``.

        Raises:
            ModelError: A part is of a modality that the model does not take.
            DataError: Placeholders and items differ in number, or an item is refused or becomes no token.
        """
        kwargs.pop("padding", None)  # the tokenizer would pad before placeholders are expanded
        batched = bool(conversation) and isinstance(conversation[0], list | tuple)
        conversations = conversation if batched else [conversation]
        items = [self._items(turns) for turns in conversations]
        rendered = self.tokenizer.apply_chat_template(
            [[_bare(turn) for turn in turns] for turns in conversations],
            chat_template=self.chat_template if chat_template is None else chat_template,
            add_generation_prompt=add_generation_prompt,
            tokenize=tokenize,
            return_dict=False,
            **({"sanitize_control_tokens": True} if sanitize_control_tokens else {}),
            **kwargs,
        )
        if not tokenize:
            return rendered if batched else rendered[0]
        encoded = self._encoded(rendered, items, return_tensors, batched)
        return encoded if return_dict else encoded["input_ids"]

    def __call__(
        self,
        text: str | Sequence[str],
        media: Mapping[str, Sequence[Any]] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Encodes rendered text.

        Args:
            text: One text or several, with a placeholder for every item.
            media: Items by modality, in the order of their placeholders over all texts.
            return_tensors: As in :meth:`apply_chat_template`.
            **kwargs: For the tokenizer; ``padding`` is left out, as in :meth:`apply_chat_template`.

        Raises:
            ModelError: Media are of a modality that the model does not take.
            DataError: There is no text; placeholders and items differ in number; or an item is refused or becomes no
                token.
        """
        kwargs.pop("padding", None)  # the tokenizer would pad before placeholders are expanded
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise DataError(
                "the processor is given an empty list of texts",
                why="There is nothing to encode.",
                fix="Give at least one text.",
            )
        rows = self.tokenizer(texts, **kwargs)["input_ids"]
        queues = {modality: list(items) for modality, items in (media or {}).items()}
        for modality in queues:
            self._check_modality(modality)
        items: list[dict[str, list[Any]]] = []
        for number, row in enumerate(rows):
            last = number == len(rows) - 1  # gets all that is left, so that too many are noticed
            taken = {}
            for modality, queue in queues.items():
                count = len(queue) if last else row.count(self.media[modality]["token_id"])
                taken[modality], queues[modality] = queue[:count], queue[count:]
            items.append(taken)
        return self._encoded(rows, items, return_tensors, batched=not isinstance(text, str))

    def _items(self, turns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Items of one conversation by modality."""
        found: dict[str, list[Any]] = {}
        for turn in turns:
            for part in [] if isinstance(turn.get("content"), str) else turn.get("content") or []:
                kind = part["type"]
                if kind != "text":
                    self._check_modality(kind)
                    if part.get(kind) is not None:
                        found.setdefault(kind, []).append(part[kind])
        return found

    def _check_modality(self, modality: str) -> None:
        if modality not in self.media:
            raise ModelError(
                f"the prompt has media of type {modality!r}; the model takes {', '.join(self.media)}",
                why="They would be dropped, and the model trained or asked without them.",
                fix="Compose the model with an encoder for them, or leave them out.",
            )

    def _encoded(
        self,
        rows: Sequence[Sequence[int]],
        items: Sequence[Mapping[str, Sequence[Any]]],
        return_tensors: str | None,
        batched: bool,
    ) -> BatchFeature:
        expanded = [list(self._expanded(row, of_row)) for row, of_row in zip(rows, items, strict=True)]
        inputs: dict[str, Any] = {}
        for modality, encoder in self.encoders.items():
            prepared = [encoder.prepare(item) for of_row in items for item in of_row.get(modality, ())]
            for name in encoder.inputs if prepared else ():
                inputs[f"{modality}_{name}"] = concatenate([entry[name] for entry in prepared])
        if return_tensors is None:
            masks = [[1] * len(row) for row in expanded]
            both = {"input_ids": expanded, "attention_mask": masks}
            return BatchFeature({**(both if batched else {k: v[0] for k, v in both.items()}), **inputs})
        return BatchFeature({**self._padded(expanded), **inputs}, tensor_type=return_tensors)

    def _expanded(self, row: Sequence[int], items: Mapping[str, Sequence[Any]]) -> Iterator[int]:
        """Ids with each placeholder repeated as often as its item has features."""
        lengths: dict[int, Iterator[int]] = {}
        for modality, entry in self.media.items():
            of_modality = items.get(modality, ())
            count = list(row).count(entry["token_id"])
            if count != len(of_modality):
                raise DataError(
                    f"the prompt has {count} placeholders {entry['token']} for {len(of_modality)} {modality} items",
                    why="Every placeholder stands for one item.",
                    fix="Give as many parts as items; sanitize_control_tokens=True keeps text that spells one.",
                )
            lengths[entry["token_id"]] = iter([self._tokens(modality, item) for item in of_modality])
        for token in row:
            yield from [token] * (next(lengths[token]) if token in lengths else 1)

    def _tokens(self, modality: str, item: Any) -> int:
        count = self.encoders[modality].tokens(item)
        if count < 1:
            raise DataError(
                f"an item of modality {modality!r} becomes {count} tokens ({reprlib.repr(item)})",
                why="Its placeholder would vanish, and the model be trained or asked without it.",
                fix="Leave out the record, or let the encoder give at least one token for so short an item.",
            )
        return count

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        width = max(len(row) for row in rows)
        left = self.tokenizer.padding_side == "left"
        ids = torch.full((len(rows), width), 0 if pad is None else pad)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[number, place], mask[number, place] = torch.tensor(row), 1
        return {"input_ids": ids, "attention_mask": mask}


def _bare(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn whose media parts have no items: nothing of them goes through the template."""
    content = turn.get("content")
    if content is None or isinstance(content, str):
        return dict(turn)
    return {**turn, "content": [dict(part) if part["type"] == "text" else {"type": part["type"]} for part in content]}
