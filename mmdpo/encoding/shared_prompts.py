"""Prompts about the same media as one prefix and the rest of each: what they share is computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmdpo.encoding.example import EncodedPrompt, Encoder, extended
from mmdpo.encoding.prepared_media import media_of
from mmdpo.encoding.rendering import EncodedAnswer
from mmdpo.records import Candidate, Record
from mmdpo.views import CLEAN


class GivenPrompts(Encoder):
    """An encoder whose prompts are made already, and whose answers are the rests of prompts.

    Args:
        encoder: The model's encoder.
        prompts: By the id of their record.
    """

    def __init__(self, encoder: Encoder, prompts: Mapping[str, EncodedPrompt]) -> None:
        super().__init__(encoder.processor, encoder.facts, encoder.eos_ids, encoder.root)
        self.prompts = prompts

    def prompt(self, record: Record, variant: str = CLEAN, partner: Record | None = None) -> EncodedPrompt:
        """The prompt of a record; there is one variant of it."""
        del variant, partner
        return self.prompts[record.id]

    def answer(self, record: Record, candidate: Candidate) -> EncodedAnswer:
        """The candidate's token ids as they are."""
        del record
        ids = torch.tensor(candidate.token_ids)
        return EncodedAnswer(ids, "given", torch.zeros(len(ids), dtype=torch.bool), torch.ones(len(ids)))


def batches_by_media(records: Sequence[Record], size: int, whole: int = 0) -> list[list[int]]:
    """Places of the records in batches of at most ``size``, questions about the same media side by side.

    Such a group is cut only where it alone is larger than a batch, and than ``whole``.
    """
    groups: dict[Any, list[int]] = {}
    for place, record in enumerate(records):
        groups.setdefault(media_of(record), []).append(place)
    batches: list[list[int]] = []
    most = max(size, whole)
    for group in groups.values():
        for piece in (group[at : at + most] for at in range(0, len(group), most)):
            if not batches or len(batches[-1]) + len(piece) > size:
                batches.append([])
            batches[-1] += piece
    return batches


def reason_against_sharing(encoder: Encoder) -> str:
    """Why no prompt of this model can be cut into a prefix and a rest; empty where nothing is known against it."""
    if encoder.facts.plain_reason is not None:
        return encoder.facts.plain_reason
    return "the whole prompt attends in both directions" if encoder.facts.two_way == "prefix" else ""


def common_prefix(prompts: Sequence[EncodedPrompt], encoder: Encoder) -> int:
    """How many first tokens some prompts share as one prefix; 0 where they cannot.

    They cannot where media or their features differ, where media stand after the first difference, or where the model
    gives a token of the rest another position or type than it would give to a token of an answer.
    """
    first = prompts[0]
    shortest = min(len(prompt.input_ids) for prompt in prompts)
    same = torch.stack([prompt.input_ids[:shortest] == first.input_ids[:shortest] for prompt in prompts]).all(0)
    length = int(same.long().cumprod(0).sum())
    return length if all(_continues(cut(first, length), prompt, encoder) for prompt in prompts) else 0


def cut(prompt: EncodedPrompt, length: int) -> EncodedPrompt:
    """The first ``length`` tokens of a prompt, with all its media."""
    fields = {name: values[:length] for name, values in prompt.fields.items()}
    return EncodedPrompt(prompt.input_ids[:length], fields, prompt.units, prompt.extras)


def _continues(prefix: EncodedPrompt, prompt: EncodedPrompt, encoder: Encoder) -> bool:
    """Whether a prompt is the prefix and then nothing but text."""
    length, rest = len(prefix.input_ids), len(prompt.input_ids) - len(prefix.input_ids)
    media_ids = torch.tensor(list(encoder.facts.media_token_ids.values()), dtype=torch.long)
    if not length or bool(torch.isin(prompt.input_ids[length:], media_ids).any()):
        return False
    if [unit.key for unit in prompt.units] != [unit.key for unit in prefix.units]:
        return False
    if prompt.fields.keys() != prefix.fields.keys():
        return False
    for name, values in prompt.fields.items():
        if not torch.equal(extended(name, prefix.fields[name], rest, encoder.facts), values):
            return False
    ours, theirs = encoder.positions(prefix, rest + 1), encoder.positions(prompt, 1)
    return (ours is None) == (theirs is None) and (ours is None or theirs is None or torch.equal(ours, theirs))
