"""A plain supervised loop, to ask a tiny model afterwards whether it stops by itself with what it learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from tiny.base import Message, Tiny, append_ids, encode


class Dialogue(NamedTuple):
    """A prompt and the ids that the model has to emit after it, the one that ends generation included."""

    prompt: list[Message]
    answer_ids: list[int]


def overfit(
    tiny: Tiny, dialogues: Sequence[Dialogue], steps: int = 150, learning_rate: float = 6e-3, until: float = 0.03
) -> float:
    """Train all weights on the answers alone, every dialogue in every step, until the mean loss is below `until`.

    The loss is the family's own (`labels` with -100 on the prompt), so nothing here shares code with what it tests.

    Returns:
        The last step's loss, in nats per token; above `until` when `steps` were not enough.
    """
    batches = []
    for prompt, answer_ids in dialogues:
        batch = append_ids(encode(tiny, prompt), answer_ids)
        batch["labels"] = batch["input_ids"].clone()
        batch["labels"][:, : -len(answer_ids)] = -100
        batches.append(batch)
    optimizer = torch.optim.AdamW(tiny.model.parameters(), lr=learning_rate, weight_decay=0.0)
    value = float("nan")
    for _ in range(steps):
        loss = torch.stack([tiny.model(**batch).loss for batch in batches]).mean()
        value = loss.item()
        if value < until:
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tiny.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return value


def reply(tiny: Tiny, prompt: list[Message], max_new_tokens: int = 40) -> list[int]:
    """The ids that greedy generation emits after the prompt, the one that stopped it included."""
    encoded = encode(tiny, prompt)
    with torch.no_grad():
        generated = tiny.model.generate(**encoded, max_new_tokens=max_new_tokens)
    ids: list[int] = generated[0, encoded["input_ids"].shape[1] :].tolist()
    return ids
