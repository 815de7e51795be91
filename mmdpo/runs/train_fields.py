"""Fields of ``transformers.TrainingArguments`` that it takes without a look, and that fail when training begins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import TrainingArguments

from mmdpo.errors import ConfigError

WHOLE: Mapping[str, int] = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
}
"""Whole numbers, and the least that each may be."""
NOT_NEGATIVE = ("learning_rate", "weight_decay", "max_grad_norm", "eval_delay")
POSITIVE = ("num_train_epochs", "logging_steps", "eval_steps", "save_steps")
ABSENT = ("dataloader_prefetch_factor", "eval_steps", "max_grad_norm")
"""Those that may be null."""
BOOLEANS = frozenset(name for name, field in TrainingArguments.__dataclass_fields__.items() if field.type is bool)
"""A word would count as true, whatever it says."""


def value_problems(given: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Values of the ``train:`` section that are none of the kind that a field takes."""
    for name, value in given.items():
        if (value is None and name in ABSENT) or not (rule := _rule(name, value)):
            continue
        yield ConfigError(
            f"train.{name} is {value!r}",
            why=f"It is {rule}.",
            fix="Give such a value, or remove the field: it has a default.",
        )


def _rule(name: str, value: Any) -> str:
    """What a value should be and is not; empty where nothing is known against it."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or (isinstance(value, float) and math.isfinite(value))
    if name in WHOLE and not (whole and value >= WHOLE[name]):
        return f"a whole number, {WHOLE[name]} or more"
    if name == "max_steps" and not (whole and (value == -1 or value >= 1)):
        return "a whole number, 1 or more; -1 leaves it to num_train_epochs"
    if name in NOT_NEGATIVE and not (number and value >= 0):
        return "a number, 0 or more"
    if name in BOOLEANS and not isinstance(value, bool):
        return "true or false"
    if name in POSITIVE and not (number and value > 0):
        return "a number above 0"
    return ""
