"""Answers written from shared prefixes: those of each prompt alone, the image encoded once, and a way back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from composed.languages import composed
from core.oracle import generation_inputs, picture, record, sound
from mmdpo import generate as generating
from mmdpo.encoding.example import Encoder
from mmdpo.encoding.shared_prompts import common_prefix
from mmdpo.errors import ModelError
from mmdpo.features.encode_once import FeatureStore
from mmdpo.generate import Generated, GenerationSettings, generate
from mmdpo.models.families import facts_of
from mmdpo.models.load import encoder_modules
from mmdpo.prompt_rows import PromptRows
from mmdpo.records import Record
from tiny import CORE, FAMILIES, Tiny, exact_float64

DOG, TWO = picture(1), (picture(2, 40, 20), picture(3))
QUESTIONS = [
    record("dog", "Is there a dog in the image?", [], DOG),
    record("cat", "Is there a cat in the image?", [], DOG),
    record("same", "Are the two pictures the same?", [], *TWO),
    record("long", "Is there a red bird on the table in the park, or is it a ball?", [], DOG),
    record("cats", "Are there cats?", [], *TWO),
    record("text", "Is water wet?", []),
    record("again", "Is there a dog in the image?", [], DOG),
]
WHOLE = {"qwen3_5": "linear_attention", "paligemma": "both directions", "mllama": "not along the row"}
"""Families whose rows are whole prompts, with the reason."""
WIDE = {name: {"sliding_window": 400} for name in ("gemma3", "gemma4", "aya_vision", "idefics2")}
"""Options that make windows wider than any prompt here, as real ones are as a rule."""
OTHERS = (
    "aya_vision",
    "gemma4",
    "glm4v",
    "idefics2",
    "llava_onevision",
    "mllama",
    "ovis2",
    "paligemma",
    "qwen2_5_omni",
    "qwen3_vl_moe",
)
SETTINGS = GenerationSettings(max_new_tokens=6, batch_size=8)


def built(family: str, **options: Any) -> tuple[Tiny, Encoder]:
    tiny = FAMILIES[family](**options)
    return tiny, Encoder(tiny.processor, facts_of(tiny.model), tiny.stop_ids)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[PromptRows]:
    """The rows of every call of `generate`."""
    made: list[PromptRows] = []

    def make(*args: Any, **options: Any) -> PromptRows:
        made.append(PromptRows(*args, **options))
        return made[-1]

    monkeypatch.setattr(generating, "PromptRows", make)
    return made


@pytest.fixture
def continued(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows each time that some go on from shared prefixes."""
    seen: list[int] = []
    plain = PromptRows._continued

    def go_on(self: PromptRows, prompts: Any, starts: Any) -> Any:
        seen.append(len(prompts))
        return plain(self, prompts, starts)

    monkeypatch.setattr(PromptRows, "_continued", go_on)
    return seen


def ids(answers: list[list[Generated]]) -> list[list[tuple[int, ...]]]:
    return [[answer.token_ids for answer in of_prompt] for of_prompt in answers]


def alone(tiny: Tiny, question: Record) -> list[tuple[int, ...]]:
    """What the model itself writes to a prompt."""
    inputs: dict[str, Any] = generation_inputs(tiny, question)
    written = tiny.model.generate(**inputs, max_new_tokens=SETTINGS.max_new_tokens, do_sample=False)
    return [tuple(written[0, inputs["input_ids"].shape[1] :].tolist())]


@contextmanager
def encoded(tiny: Tiny) -> Iterator[list[int]]:
    """Counts the calls of the vision tower."""
    seen: list[int] = []
    tower = encoder_modules(tiny.model, facts_of(tiny.model))[0]
    handle = tower.register_forward_pre_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's and GLM-4V's processors
@pytest.mark.parametrize("family", [*CORE, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_answers_are_those_of_each_prompt_alone(family: str, rows: list[PromptRows], continued: list[int]) -> None:
    with exact_float64():
        tiny, encoder = built(family, dtype=torch.float64, **WIDE.get(family, {}))
        questions = [question for question in QUESTIONS if family != "paligemma" or question.media]
        written = generate(tiny.model, encoder, questions, SETTINGS)
        assert ids(written) == [alone(tiny, question) for question in questions]
    reason = rows[0].alone
    assert (WHOLE[family] in reason) if family in WHOLE else reason == ""
    assert continued == ([] if family in WHOLE else [3, len(questions)])  # the check of some rows first


@pytest.mark.parametrize("family", ["qwen2_audio", "voxtral", "audioflamingo3", "granite_speech"])
def test_clips_are_shared_too(family: str, rows: list[PromptRows], continued: list[int]) -> None:
    clip = sound(1)
    asked = [record(word, f"Is a {word} heard?", [], clip, kind="audio") for word in ("cat", "dog in the park", "car")]
    tiny, encoder = built(family)
    written = generate(tiny.model, encoder, asked, SETTINGS)
    assert ids(written) == ids(generate(tiny.model, encoder, asked, SETTINGS, share=False))
    assert (rows[0].alone, rows[1].alone) == ("", "asked for")
    assert continued == ([] if family == "granite_speech" else [2, 3])  # the clips of that one go prompt by prompt


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3", "internvl"])
def test_each_image_is_encoded_once_a_batch(family: str) -> None:
    tiny, encoder = built(family, **WIDE.get(family, {}))
    asked = [QUESTIONS[n] for n in (0, 1, 3)]
    rows = PromptRows(tiny.model, encoder, 6)
    prompts = [encoder.prompt(question) for question in asked]
    with encoded(tiny) as seen:
        rows.inputs(prompts, [0, 1, 2])  # rows of their own: the image all the same
        assert len(seen) == 1
        rows.inputs(prompts, [0, 0, 0])  # the check of the first shared prefix included
        assert len(seen) == 1
    assert rows.alone == ""


def test_features_are_kept_from_one_batch_to_the_next_and_no_longer() -> None:
    tiny, encoder = built("llava")
    rows = PromptRows(tiny.model, encoder, 6)
    dog, two = (encoder.prompt(QUESTIONS[n]) for n in (0, 2))
    with encoded(tiny) as seen:
        for prompt, calls in ((dog, 1), (dog, 1), (two, 2), (dog, 3)):
            rows.inputs([prompt], [0])
            assert len(seen) == calls


def test_a_prefix_is_computed_once() -> None:
    tiny, encoder = built("llava")
    widths: list[tuple[int, ...]] = []
    tiny.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    rows = PromptRows(tiny.model, encoder, 6)
    prompts = [encoder.prompt(QUESTIONS[n]) for n in (0, 1, 3)]
    rows.inputs(prompts, [0, 0, 0])
    widths.clear()
    inputs = rows.inputs(prompts, [0, 0, 0])
    tiny.model.generate(**inputs, **rows.call, max_new_tokens=2, do_sample=False)
    (one, prefix), (three, rest), (_, new) = widths
    assert (one, three, new) == (1, 3, 1)
    assert prefix + rest == max(len(prompt.input_ids) for prompt in prompts)
    assert prefix == common_prefix(prompts, encoder)


def test_a_model_that_reads_its_cache_otherwise_is_noticed(
    rows: list[PromptRows], continued: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that go on at other positions, and rows that cannot go on at all; once for a model."""

    def wrong(self: PromptRows, prompts: Any, padded: Any) -> Any:
        return {"position_ids": torch.zeros_like(padded)}

    def failing(self: PromptRows, prompts: Any, padded: Any) -> Any:
        raise ValueError("no such thing")

    for replaced, reason in ((wrong, "a shared prefix differs by"), (failing, "a shared prefix fails (ValueError: no")):
        tiny, encoder = built("llava")
        plain = ids(generate(tiny.model, encoder, QUESTIONS, SETTINGS, share=False))
        monkeypatch.setattr(PromptRows, "_positions", replaced)
        continued.clear()
        for _ in range(2):
            assert ids(generate(tiny.model, encoder, QUESTIONS, SETTINGS)) == plain
            assert rows[-1].alone.startswith(reason)
        assert continued == [3]


def test_a_window_that_could_bind_leaves_prompts_whole() -> None:
    """Padding between a prefix and its rest would count in the window."""
    _, plain = built("gemma3")
    prompts = [plain.prompt(QUESTIONS[n]) for n in (0, 3)]
    longest = max(len(prompt.input_ids) for prompt in prompts)  # that of the prefix and of the longest rest
    for new_tokens, shares in ((9, True), (10, False)):
        tiny, encoder = built("gemma3", sliding_window=longest + 10)
        inputs = PromptRows(tiny.model, encoder, new_tokens).inputs(prompts, [0, 0])
        assert ("past_key_values" in inputs) is shares


def test_questions_before_their_image_share_nothing(continued: list[int]) -> None:
    tiny, encoder = built("qwen2_vl")
    asked = [
        Record(word, ({"role": "user", "content": [{"type": "text", "text": word}, {"type": "image"}]},), (), one.media)
        for word, one in (("Is it a dog?", QUESTIONS[0]), ("A cat?", QUESTIONS[1]))
    ]
    assert ids(generate(tiny.model, encoder, asked, SETTINGS)) == [alone(tiny, question) for question in asked]
    assert continued == []


def test_samples_of_one_prompt_share_it(rows: list[PromptRows]) -> None:
    """Cold samples are the greedy answer; warm ones differ among themselves."""
    tiny, encoder = built("llava")
    cold = GenerationSettings(max_new_tokens=6, temperature=1e-4, samples=3, batch_size=8)
    assert ids(generate(tiny.model, encoder, QUESTIONS, cold)) == [alone(tiny, one) * 3 for one in QUESTIONS]
    warm = GenerationSettings(max_new_tokens=6, temperature=1.0, samples=8)
    (answers,) = generate(tiny.model, encoder, QUESTIONS[:1], warm)
    assert len({answer.token_ids for answer in answers}) > 1
    assert [one.alone for one in rows] == ["", ""]


def test_questions_about_an_image_are_asked_together() -> None:
    """Whatever their order; a batch that is full goes on in the next one."""
    tiny, encoder = built("llava")
    told: list[int] = []
    answers = generate(
        tiny.model, encoder, QUESTIONS, GenerationSettings(2, batch_size=4), on_answer=lambda n, _: told.append(n)
    )
    groups = [QUESTIONS[n].media.get("images", ()) for n in told]
    assert sum(one != two for one, two in itertools.pairwise(groups)) == 2
    assert [answers[n] for n in (0, 6)] == [answers[0]] * 2


def test_media_that_cannot_be_told_apart_are_encoded_by_the_model_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny, encoder = built("llava")

    def refuse(self: FeatureStore, media: Any) -> Any:
        raise ModelError("the encoder gave 3 feature groups for 2 image items")

    monkeypatch.setattr(FeatureStore, "units", refuse)
    assert ids(generate(tiny.model, encoder, QUESTIONS, SETTINGS)) == [alone(tiny, one) for one in QUESTIONS]
    assert "3 feature groups for 2 image items" in caplog.text


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_composed_models_share_their_clips(kind: str, rows: list[PromptRows], continued: list[int]) -> None:
    model, processor = composed(kind)
    encoder = Encoder(processor, facts_of(model), [model.config.get_text_config().eos_token_id])
    clip = sound(1)
    asked = [record(word, f"Is a {word} heard?", [], clip, kind="audio") for word in ("cat", "dog in the park", "car")]
    asked.append(record("other", "What is heard?", [], sound(2, 0.9), kind="audio"))
    written = generate(model, encoder, asked, SETTINGS)
    assert ids(written) == ids(generate(model, encoder, asked, SETTINGS, share=False))
    assert rows[0].alone == "" and continued == [3, 4]
