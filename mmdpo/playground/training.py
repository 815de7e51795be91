"""What the recipes of the base models share: texts to ids, the loss of answers, and the loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

BATCH_SCENES: Final = 32
LEARNING_RATE: Final = 1.5e-3
WARM_UP_STEPS: Final = 150
IGNORED: Final = -100

Texts = Sequence[tuple[str, str]]
"""Prompts and answers."""


@dataclass
class TextEncoder:
    """Turns prompts and answers into ids: the prompt is what `generate` gets, the answer what it must emit.

    There are only a dozen prompts, so each is rendered by the processor once.

    Args:
        processor: The model's processor.
        modality: ``image`` or ``audio``.
        item: Any picture or clip of the world; all have the same number of tokens.
    """

    processor: Any
    modality: str
    item: Any
    _prompts: dict[str, list[int]] = field(default_factory=dict)

    def prompt(self, request: str) -> list[int]:
        """Ids of the generation prompt for one item and this request."""
        if request not in self._prompts:
            parts = [{"type": self.modality, self.modality: self.item}, {"type": "text", "text": request}]
            rendered = self.processor.apply_chat_template(
                [{"role": "user", "content": parts}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            self._prompts[request] = rendered["input_ids"][0].tolist()
        return self._prompts[request]

    def answer(self, reply: str) -> list[int]:
        """Ids of the answer with the end token."""
        tokenizer = self.processor.tokenizer
        return [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    def rows(self, texts: Texts) -> dict[str, Tensor]:
        """`input_ids` and `labels` [B, T] of (prompt, answer) texts, padded on the right.

        A causal model needs no mask for padding on the right, and is a fifth faster without one.
        """
        coded = [(self.prompt(prompt), self.answer(answer)) for prompt, answer in texts]
        shape = len(coded), max(len(prompt) + len(answer) for prompt, answer in coded)
        input_ids = torch.full(shape, self.processor.tokenizer.pad_token_id)
        labels = torch.full(shape, IGNORED)
        for row, (prompt, answer) in enumerate(coded):
            start, end = len(prompt), len(prompt) + len(answer)
            input_ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, start:end] = torch.tensor(answer)
        return {"input_ids": input_ids, "labels": labels}


def answer_loss(model: Any, encoder: TextEncoder, features: Tensor, texts: Sequence[Texts]) -> Tensor:
    """Mean cross-entropy per answer token.

    Args:
        model: A model with ``model.language_model`` and ``lm_head``.
        encoder: Makes its ids.
        features: [B, tokens, width] of B items, encoded once for all their texts.
        texts: B times the prompts and answers of one item, equally many for each.
    """
    placeholder = encoder.processor.tokenizer.convert_tokens_to_ids(f"<{encoder.modality}>")
    total, count = torch.zeros(()), 0
    for of_all in zip(*texts, strict=True):
        rows = encoder.rows(of_all)
        embedded = model.get_input_embeddings()(rows["input_ids"])
        at_item = (rows["input_ids"] == placeholder).unsqueeze(-1)
        hidden = model.model.language_model(
            inputs_embeds=embedded.masked_scatter(at_item, features),
            use_cache=False,
        ).last_hidden_state
        targets = rows["labels"][:, 1:]
        scored = targets != IGNORED
        logits = model.lm_head(hidden[:, :-1][scored])
        total = total + nn.functional.cross_entropy(logits, targets[scored], reduction="sum")
        count += len(logits)
    return total / count


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm_up = min(WARM_UP_STEPS, max(1, steps // 10))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def fit(model: nn.Module, steps: int, loss_of: Callable[[int], Tensor]) -> list[float]:
    """Trains a model and leaves it in evaluation mode.

    Args:
        model: Its parameters that require gradients train.
        steps: Optimizer steps.
        loss_of: The loss of a step's batch.

    Returns:
        The loss of every step.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    losses: list[float] = []
    started = time.process_time()
    model.train()
    for step in range(steps):
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            recent = sum(losses[-100:]) / 100
            spent = time.process_time() - started
            logger.info("step %d of %d: loss %.4f, %.0f CPU seconds", step + 1, steps, recent, spent)
    model.eval()
    return losses
