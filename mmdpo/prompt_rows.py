"""Prompts as the rows of one call of ``generate``, with what several of them begin with computed once.

Questions about one image, and several answers to one prompt, share a prefix: system, media, first common words. Each
distinct image is encoded once, each distinct prefix goes through the model once, and every row goes on from a copy of
its keys and values. A family for which that is not possible, or that gives other numbers, gets whole prompts.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdpo.collate import distinct_units
from mmdpo.encoding.example import EncodedPrompt, Encoder
from mmdpo.encoding.shared_prompts import common_prefix, cut, reason_against_sharing
from mmdpo.errors import ModelError
from mmdpo.features.encode_once import FeatureStore
from mmdpo.features.units import outputs_of
from mmdpo.modalities.encoders import concatenate
from mmdpo.models.families import backbone_of
from mmdpo.parity import FLOOR, to_model
from mmdpo.policy import inner_of

logger = logging.getLogger(__name__)

STEPS, LIKELIEST = 2, 10
"""Tokens, and likeliest of each, whose log-probabilities are compared with those that follow the whole prompt."""
PADDING = 8
"""Tokens of padding that tell the model's own noise."""
_KNOWN: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""What came of comparing a shared prefix with whole prompts, by model: why they are not shared, or nothing."""


@dataclass(frozen=True)
class _Start:
    """A prefix: the rows that begin with it, and its length in tokens."""

    rows: list[int]
    length: int


class PromptRows:
    """Makes the inputs of ``generate``.

    Args:
        model: A Hugging Face model, or PEFT's wrapper around it.
        encoder: Its encoder.
        new_tokens: Longest answer in tokens.
        share: Whether prefixes and encoded media are shared, where the family allows it.

    Attributes:
        alone: Why each row is a whole prompt; empty where prefixes are shared. The first shared ones may change it.
    """

    def __init__(self, model: Any, encoder: Encoder, new_tokens: int, *, share: bool = True) -> None:
        self.model = model
        self.inner = inner_of(model)
        self.encoder = encoder
        self.new_tokens = new_tokens
        self.alone = (_reason_against_reuse(encoder) or _KNOWN.get(self.inner, "")) if share else "asked for"
        self._encode_once = share and encoder.facts.takes_outputs and not encoder.facts.family.cross_attention
        # what positions are made of (the grids of images) is given beside the encoded media
        rope = encoder.facts.rope_index
        self._placing = set(inspect.signature(rope).parameters) if rope else set()
        self._store = _store_of(self.inner, encoder)
        pad = encoder.tokenizer.pad_token_id
        self.pad: int = encoder.eos_ids[0] if pad is None else pad
        self.call = {"pad_token_id": self.pad, "eos_token_id": list(encoder.eos_ids), "use_cache": True}
        """What every call of ``generate`` is given."""

    def inputs(self, prompts: Sequence[EncodedPrompt], owners: Sequence[Hashable]) -> dict[str, Any]:
        """Inputs of ``generate``, with ``past_key_values`` where prefixes are shared.

        Args:
            prompts: One a row.
            owners: Rows of one owner are about the same media, or the same prompt.
        """
        if self.alone or not (starts := self._starts(prompts, owners)):
            return self._whole(prompts)
        if self.inner not in _KNOWN:
            self._check(prompts, starts)
        return self._whole(prompts) if self.alone else self._continued(prompts, starts)

    def _starts(self, prompts: Sequence[EncodedPrompt], owners: Sequence[Hashable]) -> list[_Start]:
        """What can be computed once for several rows; empty where that is nothing."""
        of_owner: dict[Hashable, list[int]] = {}
        for row, owner in enumerate(owners):
            of_owner.setdefault(owner, []).append(row)
        starts = []
        for rows in of_owner.values():
            shared = common_prefix([prompts[row] for row in rows], self.encoder)
            for group in [rows] if shared else [[row] for row in rows]:
                shortest = min(len(prompts[row].input_ids) for row in group)
                starts.append(_Start(group, min(shared or shortest, shortest - 1)))  # a token is left to go on with
        rests = (len(prompts[row].input_ids) - start.length for start in starts for row in start.rows)
        longest = max(start.length for start in starts) + max(rests) + self.new_tokens
        window = self.encoder.facts.window  # padding between prefix and rest would count in one that binds
        useful = len(starts) < len(prompts) and min(start.length for start in starts) > 0
        return starts if useful and (window is None or longest < window) else []

    def _whole(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        return to_model(self._padded(prompts), self.inner) | self._media(prompts)

    def _padded(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """Token ids, attention mask and further per-token inputs, padded on the left."""
        inputs = {
            "input_ids": _left_padded([prompt.input_ids for prompt in prompts], self.pad),
            "attention_mask": _left_padded([torch.ones_like(prompt.input_ids) for prompt in prompts], 0),
        }
        for name in prompts[0].fields:
            inputs[name] = _left_padded([prompt.fields[name] for prompt in prompts], 0)
        return inputs

    def _media(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """The media of all rows: encoded where the model takes it so, else as the processor gave them."""
        names = {name for prompt in prompts for name in prompt.extras}
        outputs: dict[str, Any] = {}
        if self._encode_once and (units := [unit for prompt in prompts for unit in prompt.units]):
            media = distinct_units([(0, unit, f"unit {n}") for n, unit in enumerate(units)])
            media = {name: entry for name, entry in media.items() if not self.encoder.facts.embeds(name)}
            media = to_model(media, self.inner)
            try:
                outputs = {name: outputs_of(features) for name, features in self._store.units(media).items()}
            except ModelError as error:
                self._encode_once = False
                logger.warning("media are encoded for every prompt anew: %s", error)
            self._store.keep_only(media)
            names -= {name for unit in units if unit.modality.name in outputs for name in unit.inputs} - self._placing
        extras = {
            name: concatenate([prompt.extras[name] for prompt in prompts if name in prompt.extras]) for name in names
        }
        return to_model(extras, self.inner) | ({"mm_encoder_outputs": outputs} if outputs else {})

    def _continued(self, prompts: Sequence[EncodedPrompt], starts: Sequence[_Start]) -> dict[str, Any]:
        """Each prefix goes through the model once; the rows go on from there with the rest of their prompts."""
        before = self._whole([cut(prompts[start.rows[0]], start.length) for start in starts])
        options = {"do_sample": False, "max_new_tokens": 1, "return_dict_in_generate": True}
        cache = self.model.generate(**before, **self.call, **options).past_key_values
        number = {row: n for n, start in enumerate(starts) for row in start.rows}
        index = torch.tensor([number[row] for row in range(len(prompts))], device=before["input_ids"].device)
        cache.batch_select_indices(index)
        rests = [_rest(prompt, starts[number[row]].length) for row, prompt in enumerate(prompts)]
        after = to_model(self._padded(rests), self.inner)
        rows = {name: torch.cat([before[name][index], values], 1) for name, values in after.items()}
        return rows | self._positions(prompts, rows["input_ids"]) | {"past_key_values": cache}

    def _positions(self, prompts: Sequence[EncodedPrompt], ids: Tensor) -> dict[str, Tensor]:
        """Positions by the model's own function, right where the rests are; nothing where it counts 0, 1, 2, ..."""
        if self.encoder.facts.rope_index is None:
            return {}
        own = [self.encoder.positions(prompt, 1) for prompt in prompts]
        rows = [one[:, :-1].T for one in own if one is not None]
        return {"position_ids": _left_padded(rows, 0, ids.shape[1]).permute(2, 0, 1).to(ids.device)}

    def _check(self, prompts: Sequence[EncodedPrompt], starts: Sequence[_Start]) -> None:
        """Compares what follows shared prefixes with what follows the whole prompts; stops sharing where it differs."""
        largest, *others = sorted(starts, key=lambda start: len(start.rows), reverse=True)
        other = max(others, key=lambda start: abs(start.length - largest.length), default=None)  # it gets padding
        rows = [*largest.rows[:2], *(other.rows[:1] if other else [])]
        some = [prompts[row] for row in rows]
        tried = [_Start([rows.index(row) for row in start.rows if row in rows], start.length) for start in starts]
        tried = [start for start in tried if start.rows]
        try:
            alone = [self._next(self._whole([prompt]))[0] for prompt in some]
            padded = [self._next(_shifted(self._whole([prompt]), self.pad))[0] for prompt in some]
            ours = self._next(self._continued(some, tried))
        except Exception as error:  # whatever a model says to a cache that it does not know
            self.alone = f"a shared prefix fails ({type(error).__name__}: {error})"
        else:
            noise = max(_difference(one, own) for one, own in zip(alone, padded, strict=True))
            found = max(_difference(one, own) for one, own in zip(alone, ours, strict=True))
            if not found <= max(FLOOR, 4 * noise):
                self.alone = f"a shared prefix differs by {found:.3g} nats (allowed {max(FLOOR, 4 * noise):.2g})"
        _KNOWN[self.inner] = self.alone
        if self.alone:
            logger.info("each prompt is computed as a whole: %s", self.alone)

    def _next(self, inputs: dict[str, Any]) -> list[list[Tensor]]:
        """[V] log-probabilities of the next tokens of each row, as far as it goes on."""
        out = self.model.generate(
            **inputs,
            **self.call,
            do_sample=False,
            max_new_tokens=STEPS,
            return_dict_in_generate=True,
            output_logits=True,
        )
        steps = [step.double().log_softmax(-1).cpu() for step in out.logits]
        return [[step[row] for step in steps] for row in range(len(inputs["input_ids"]))]


def _store_of(inner: Any, encoder: Encoder) -> FeatureStore:
    """Where media are encoded once: with the cache that the model scores with, if it has one."""
    if hasattr(inner, "mmdpo_scoring"):
        return inner.mmdpo_scoring.features.while_answering()
    return FeatureStore(backbone_of(inner), encoder.facts.family, "all")


def _reason_against_reuse(encoder: Encoder) -> str:
    """Why rows cannot go on from a common prefix; empty where nothing is known against it."""
    crossed = "keys and values of media are not along the row" if encoder.facts.family.cross_attention else ""
    return reason_against_sharing(encoder) or crossed


def _rest(prompt: EncodedPrompt, start: int) -> EncodedPrompt:
    fields = {name: values[start:] for name, values in prompt.fields.items()}
    return EncodedPrompt(prompt.input_ids[start:], fields, (), {})


def _shifted(inputs: dict[str, Any], pad: int) -> dict[str, Any]:
    """The same row behind some padding."""
    known = {"input_ids": pad, "attention_mask": 0}
    width = inputs["input_ids"].shape[1]
    wider = {
        name: torch.cat([values.new_full((1, PADDING, *values.shape[2:]), known.get(name, 0)), values], 1)
        for name, values in inputs.items()
        if isinstance(values, Tensor) and values.shape[:2] == (1, width)
    }
    return inputs | wider


def _difference(exact: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Largest difference among the likeliest tokens, over the steps up to which both say the same."""
    largest = 0.0
    for one, two in zip(exact, other, strict=False):
        likeliest = one.topk(min(LIKELIEST, len(one))).indices
        largest = max(largest, float((one - two)[likeliest].abs().max()))
        if int(one.argmax()) != int(two.argmax()):
            break
    return largest


def _left_padded(rows: Sequence[Tensor], value: int, width: int = 0) -> Tensor:
    width = max(width, *(len(row) for row in rows))
    return torch.stack([torch.cat([row.new_full((width - len(row), *row.shape[1:]), value), row]) for row in rows])
