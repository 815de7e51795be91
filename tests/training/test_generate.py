"""Answers from a model: those that it would give to each prompt alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.oracle import film, generation_inputs, picture, record, sound
from mmdpo.encoding.example import Encoder
from mmdpo.generate import GenerationSettings, generate
from mmdpo.models.families import facts_of
from tiny import FAMILIES, Tiny

RECORDS = [
    record("one", "What is here?", ["-"], picture(1)),
    record(
        "two", "Compare the two pictures, please, and say what is on the table.", ["-"], picture(2, 40, 20), picture(3)
    ),
    record("text", "Say something.", ["-"]),
]
SAMPLED = GenerationSettings(max_new_tokens=12, temperature=1.0, samples=3, seed=7, batch_size=2)
each_family = pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])


def built(family: str) -> tuple[Tiny, Encoder]:
    tiny = FAMILIES[family]()
    return tiny, Encoder(tiny.processor, facts_of(tiny.model), tiny.stop_ids)


@each_family
@pytest.mark.parametrize("batch_size", [1, 3])
def test_greedy_answers_are_those_of_each_prompt_alone(family: str, batch_size: int) -> None:
    tiny, encoder = built(family)
    settings = GenerationSettings(max_new_tokens=10, batch_size=batch_size)
    answers = generate(tiny.model, encoder, RECORDS, settings)
    for of, (answer,) in zip(RECORDS, answers, strict=True):
        inputs: dict[str, Any] = generation_inputs(tiny, of)
        alone = tiny.model.generate(**inputs, max_new_tokens=10, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert list(answer.token_ids) == alone.tolist(), of.id
        assert answer.finished is (int(alone[-1]) in tiny.stop_ids)
        assert answer.text == tiny.tokenizer.decode(alone, skip_special_tokens=True).strip()


def test_samples_are_seeded_and_leave_the_generator_alone() -> None:
    tiny, encoder = built("llava")
    state = torch.get_rng_state()
    first, again = (generate(tiny.model, encoder, RECORDS, SAMPLED) for _ in range(2))
    assert torch.get_rng_state().equal(state)
    assert first == again
    assert [len(answers) for answers in first] == [3, 3, 3]
    assert len({answer.token_ids for answer in first[0]}) > 1
    other = GenerationSettings(max_new_tokens=12, temperature=1.0, samples=3, seed=8, batch_size=2)
    assert generate(tiny.model, encoder, RECORDS, other) != first


def test_an_answer_is_finished_where_the_model_stopped() -> None:
    """A model that prefers its end token stops at once; one that cannot emit it is cut and says so."""
    tiny, encoder = built("llava")
    head = tiny.model.get_output_embeddings()
    biased = torch.nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        biased.weight.copy_(head.weight)
        biased.bias.zero_()
    tiny.model.set_output_embeddings(biased)
    for bias, finished, length in ((1e4, True, 1), (-1e4, False, 5)):
        with torch.no_grad():
            biased.bias[tiny.end_of_turn_id] = bias
        answers = generate(tiny.model, encoder, RECORDS, GenerationSettings(max_new_tokens=5))
        for (answer,) in answers:
            assert (answer.finished, len(answer.token_ids)) == (finished, length)
            assert answer.text == "" if finished else answer.text


def test_generating_keeps_the_mode_of_the_model() -> None:
    tiny, encoder = built("llava")
    tiny.model.train()
    generate(tiny.model, encoder, RECORDS[:1], GenerationSettings(max_new_tokens=1))
    assert tiny.model.training


def test_answers_are_told_as_they_come() -> None:
    tiny, encoder = built("llava")
    told: dict[int, Any] = {}
    settings = GenerationSettings(max_new_tokens=2, batch_size=2)
    answers = generate(tiny.model, encoder, RECORDS, settings, on_answer=told.__setitem__)
    assert [told[n] for n in range(len(RECORDS))] == answers
    seen: list[int] = []

    def stop(place: int, answer: Any) -> None:
        seen.append(place)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tiny.model, encoder, RECORDS, settings, on_answer=stop)
    assert len(seen) == 1


def test_no_records_give_no_answers() -> None:
    tiny, encoder = built("llava")
    assert generate(tiny.model, encoder, []) == []


@pytest.mark.parametrize("family", ["qwen2_audio", "voxtral", "granite_speech", "qwen3_omni_moe"])
def test_cold_samples_of_clips_are_the_greedy_answers_of_each_prompt_alone(family: str) -> None:
    """Several clips in a prompt, several samples of each prompt, several prompts in a batch: nothing is mixed up."""
    tiny, encoder = built(family)
    clips = [sound(seed, seconds) for seed, seconds in ((1, 0.5), (2, 1.2), (3, 0.8))]
    records = [
        record("two", "Compare.", ["-"], *clips[:2], kind="audio"),
        record("one", "What is heard?", ["-"], clips[2], kind="audio"),
        record("text", "Say something.", ["-"]),
    ]
    cold = GenerationSettings(max_new_tokens=6, temperature=1e-4, samples=2, batch_size=3)
    sampled = generate(tiny.model, encoder, records, cold)
    for of, answers in zip(records, sampled, strict=True):
        ((alone,),) = generate(tiny.model, encoder, [of], GenerationSettings(max_new_tokens=6))
        assert [answer.token_ids for answer in answers] == [alone.token_ids] * 2, of.id


def test_videos_of_different_length_are_answered_in_one_call() -> None:
    tiny, encoder = built("llava_onevision")
    records = [record(f"{frames}", "What happens?", ["-"], film(frames, frames), kind="video") for frames in (4, 6)]
    settings = GenerationSettings(max_new_tokens=5)
    together = generate(tiny.model, encoder, records, settings)
    assert together == [generate(tiny.model, encoder, [of], settings)[0] for of in records]
