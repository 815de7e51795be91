"""Yes and no from the logits: the numbers of each question alone, whatever it shares its prefix with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from core.oracle import generation_inputs, picture, record, sound
from mmdpo.encoding import Encoder
from mmdpo.errors import ModelError
from mmdpo.models.families import facts_of
from mmdpo.records import Record
from mmdpo.shared_prompts import batches_by_media, common_prefix
from mmdpo.yes_no import Choice, YesNoReader, spellings
from tiny import CORE, FAMILIES, Tiny, exact_float64

DOG, TWO = picture(1), (picture(2, 40, 20), picture(3))
QUESTIONS = [
    record("dog", "Is there a dog in the image?", [], DOG),
    record("cat", "Is there a cat in the image?", [], DOG),
    record("long", "Is there a red bird on the table in the park, or is it a ball?", [], DOG),
    record("other", "Does the image show a man?", [], DOG),
    record("same", "Are the two pictures the same?", [], *TWO),
    record("cats", "Are there cats?", [], *TWO),
    record("text", "Is water wet?", []),
    record("again", "Is there a dog in the image?", [], DOG),
]
PLAIN = {"qwen3_5": "linear_attention", "paligemma": "both directions", "lfm2_vl": "conv"}


def built(family: str, **options: Any) -> tuple[Tiny, Encoder]:
    tiny = FAMILIES[family](**options)
    return tiny, Encoder(tiny.processor, facts_of(tiny.model), tiny.stop_ids)


@torch.no_grad()
def alone(tiny: Tiny, question: Record, tokens: tuple[int, ...]) -> float:
    """Log-probability that one of the tokens comes next, by the model's own forward on the question alone."""
    inputs = {
        name: value.to(tiny.model.dtype) if torch.is_floating_point(value) else value
        for name, value in generation_inputs(tiny, question).items()
    }
    return float(tiny.model(**inputs).logits[0, -1].log_softmax(-1)[list(tokens)].logsumexp(0))


@pytest.mark.parametrize("family", [*CORE, "paligemma", "mllama", "qwen2_vl", "gemma4", "glm4v"])
def test_shared_prefixes_give_the_numbers_of_each_question_alone(family: str) -> None:
    with exact_float64():
        tiny, encoder = built(family, dtype=torch.float64)
        questions = [question for question in QUESTIONS if family != "paligemma" or question.media]
        reader = YesNoReader(tiny.model, encoder)
        words = spellings(encoder, questions[0])
        for given in (questions, questions[::-1]):
            for question, choice in zip(given, reader.read(given), strict=True):
                assert choice.yes == pytest.approx(alone(tiny, question, words.yes), abs=1e-10), question.id
                assert choice.no == pytest.approx(alone(tiny, question, words.no), abs=1e-10), question.id
    assert (PLAIN.get(family, "") in reader.alone) if family in PLAIN else reader.alone == ""


def test_sounds_are_shared_too() -> None:
    clip = sound(1)
    asked = [record(word, f"Is a {word} heard?", [], clip, kind="audio") for word in ("cat", "dog", "car")]
    with exact_float64():
        tiny, encoder = built("qwen2_audio", dtype=torch.float64)
        reader = YesNoReader(tiny.model, encoder)
        words = spellings(encoder, asked[0])
        for question, choice in zip(asked, reader.read(asked), strict=True):
            assert choice.yes == pytest.approx(alone(tiny, question, words.yes), abs=1e-10)
    assert reader.alone == ""
