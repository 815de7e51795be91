"""Encoders of the tiny families, and what is known of their templates."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from core.oracle import picture, record, setup
from mmdpo.encoding.example import Encoder
from tiny import CORE, FAMILIES, Tiny

every_family = pytest.mark.parametrize("name", CORE)

END_OF_TURN = {
    "llava": "</s>",
    "llava_next": "</s>",
    "qwen2_5_vl": "<|im_end|>",
    "qwen3_5": "<|im_end|>",
    "gemma3": "<end_of_turn>",
    "idefics3": "<end_of_utterance>",
}
WRITTEN_BEFORE = {"idefics3": " "}
"""What the template writes between the prompt and an answer, and the model has to emit."""
TRIMS = {"gemma3", "qwen3_5"}
"""Families whose template trims the answer."""
MARKS_NO_END = {"llava"}
"""Families whose template writes no end token, so that white space at the end is not told from the template's own."""

IMAGE = picture(1)


def fresh_encoder(name: str, **overrides: Any) -> tuple[Encoder, Tiny]:
    """For tests that change the template or the weights."""
    tiny = FAMILIES[name](**overrides)
    return setup(tiny).encoder, tiny


encoder_of = lru_cache(fresh_encoder)
"""For all others."""


def answer_ids(encoder: Encoder, text: str, question: str = "What is it?", **fields: Any) -> list[int]:
    of = record("r", question, [text], IMAGE)
    return encoder.answer(of, replace(of.candidates[0], **fields)).ids.tolist()
