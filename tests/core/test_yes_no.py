"""Yes and no from the logits: the numbers of each question alone, whatever it shares its prefix with."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from core.oracle import generation_inputs, picture, record, sound
from mmdpo.answering.yes_no import Choice, YesNoReader, spellings
from mmdpo.encoding.example import Encoder
from mmdpo.encoding.shared_prompts import batches_by_media, common_prefix
from mmdpo.errors import ModelError, ParityError
from mmdpo.forward import attention
from mmdpo.models.families import facts_of
from mmdpo.records import Record
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


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("paligemma", "mllama", "qwen2_vl", "gemma4", "glm4v")]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's and GLM-4V's processors
@pytest.mark.parametrize("family", [*CORE, *OTHERS])
def test_shared_prefixes_give_the_numbers_of_each_question_alone(family: str) -> None:
    with exact_float64():
        tiny, encoder = built(family, dtype=torch.float64)
        questions = [question for question in QUESTIONS if family != "paligemma" or question.media]
        reader = YesNoReader(tiny.model, encoder)
        words = spellings(encoder, questions[0])
        for question, choice in zip(questions, reader.read(questions), strict=True):
            assert choice.yes == pytest.approx(alone(tiny, question, words.yes), abs=1e-10), question.id
            assert choice.no == pytest.approx(alone(tiny, question, words.no), abs=1e-10), question.id
    assert (PLAIN[family] in reader.alone) if family in PLAIN else reader.alone == ""


def test_sounds_are_shared_too() -> None:
    clip = sound(1)
    asked = [record(word, f"Is a {word} heard?", [], clip, kind="audio") for word in ("cat", "dog", "car")]
    tiny, encoder = built("qwen2_audio")
    reader = YesNoReader(tiny.model, encoder)
    words = spellings(encoder, asked[0])
    for question, choice in zip(asked, reader.read(asked), strict=True):
        assert choice.yes == pytest.approx(alone(tiny, question, words.yes), abs=1e-4)
    assert reader.alone == ""


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "idefics3"])
def test_a_prefix_holds_the_image_and_the_first_common_words(family: str) -> None:
    _, encoder = built(family)
    prompts = [encoder.prompt(question) for question in QUESTIONS]
    same = common_prefix(prompts[:2], encoder)
    assert same == next(n for n, (a, b) in enumerate(zip(*(p.input_ids for p in prompts[:2]), strict=False)) if a != b)
    other = common_prefix([prompts[0], prompts[3]], encoder)
    assert int((prompts[0].input_ids == encoder.facts.media_token_ids["image"]).nonzero()[-1]) < other < same
    assert common_prefix([prompts[0], prompts[4]], encoder) == 0  # other images
    assert common_prefix([prompts[0], prompts[6]], encoder) == 0  # none
    assert common_prefix([prompts[0], prompts[7]], encoder) == len(prompts[0].input_ids)


def test_the_image_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, encoder = built("llava")
    reader = YesNoReader(tiny.model, encoder)
    reader.read(QUESTIONS[:4])
    seen: list[tuple[int, ...]] = []
    tiny.model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple((args[0] if args else kwargs["pixel_values"]).shape)),
        with_kwargs=True,
    )
    reader.read(QUESTIONS[:4])
    assert [shape[0] for shape in seen] == [1]


def test_wrong_numbers_of_a_shared_prefix_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches that see each other, as with an attention that ignores the rule: each question gets its own row."""
    tiny, encoder = built("llava")
    right = YesNoReader(tiny.model, encoder).read(QUESTIONS)
    rule = attention.attention_rule

    def leaking(record: Any, segment: Any, depth: Any, *rest: Any, **options: Any) -> Any:
        return rule(record, torch.zeros_like(segment), depth, *rest, **options)

    monkeypatch.setattr(attention, "attention_rule", leaking)
    reader = YesNoReader(tiny.model, encoder)
    assert [choice.yes for choice in reader.read(QUESTIONS)] == pytest.approx([one.yes for one in right], abs=1e-4)
    assert reader.alone.startswith("one prefix for all questions differs by")


def test_a_model_that_is_not_understood_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, encoder = built("llava")

    def everything(batch: Any, *_: Any) -> Any:
        rows, length = batch["record"].shape
        return torch.zeros(rows, 1, length, length)

    monkeypatch.setattr(attention, "row_masks", everything)
    with pytest.raises(ParityError, match="a row for each question differs"):
        YesNoReader(tiny.model, encoder).read(QUESTIONS[:2])


def test_batches_keep_questions_about_an_image_together() -> None:
    assert batches_by_media(QUESTIONS, 8) == [[0, 1, 2, 3, 7, 4, 5, 6]]
    assert batches_by_media(QUESTIONS, 6) == [[0, 1, 2, 3, 7], [4, 5, 6]]
    assert batches_by_media(QUESTIONS, 3) == [[0, 1, 2], [3, 7], [4, 5, 6]]
    assert batches_by_media([], 3) == []
    assert batches_by_media(QUESTIONS, 3, whole=5) == [[0, 1, 2, 3, 7], [4, 5, 6]]


def test_questions_that_share_a_prefix_are_not_torn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each has a row of its own the batch size holds, also if that comes out only when the first are tried."""
    tiny, encoder = built("llava")
    assert YesNoReader(tiny.model, encoder).batches(QUESTIONS, 3) == [[0, 1, 2, 3, 7], [4, 5, 6]]
    apart = [[0, 1, 2], [3, 7], [4, 5, 6]]
    assert YesNoReader(tiny.model, encoder, share=False).batches(QUESTIONS, 3) == apart
    assert YesNoReader(tiny.model, encoder).batches([], 3) == []
    rule = attention.attention_rule

    def leaking(record: Any, segment: Any, depth: Any, *rest: Any, **options: Any) -> Any:
        return rule(record, torch.zeros_like(segment), depth, *rest, **options)

    monkeypatch.setattr(attention, "attention_rule", leaking)
    assert YesNoReader(tiny.model, encoder).batches(QUESTIONS, 3) == apart


def test_a_choice_is_between_two_words() -> None:
    choice = Choice(yes=math.log(0.3), no=math.log(0.1))
    assert (choice.p_yes, choice.text) == (pytest.approx(0.75), "Yes")
    assert (Choice(-2.0, -2.0).p_yes, Choice(-2.0, -2.0).text) == (0.5, "No")
    assert Choice(-2000.0, 0.0).p_yes == pytest.approx(0, abs=1e-300)
    assert Choice(0.0, -2000.0).p_yes == 1.0


class Words:
    """A tokenizer with a vocabulary of given pieces, longest first, as far as an answer needs one."""

    def __init__(self, *pieces: str) -> None:
        self.pieces, self.tokenizer = pieces, self

    def encode(self, text: str, **_: Any) -> list[int]:
        ids = []
        while text:
            piece = max((one for one in self.pieces if text.startswith(one)), key=len)
            ids.append(self.pieces.index(piece))
            text = text[len(piece) :]
        return ids

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[token] for token in ids)

    def answer(self, record: Record, candidate: Any) -> Any:
        return SimpleNamespace(ids=torch.tensor(self.encode(candidate.text)))


def spelled(*pieces: str) -> tuple[list[str], list[str]]:
    found = spellings(cast(Any, Words(*pieces)), QUESTIONS[0])
    return [pieces[token] for token in found.yes], [pieces[token] for token in found.no]


def test_every_spelling_that_is_a_token_counts() -> None:
    letters = (" ", *"yesnoYESNO")
    yes, no = spelled(*letters, "Yes", " Yes", "yes", "YES", "No", " no", "Not", "y")
    assert (set(yes), set(no)) == ({"Yes", " Yes", "yes", "YES"}, {"No", " no"})
    assert spelled(*letters) == (["Y", "y"], ["N", "n"])  # known by their first letters
    with pytest.raises(ModelError, match="begin with the same token"):
        spellings(cast(Any, Leading(*letters)), QUESTIONS[0])


class Leading(Words):
    """Every answer begins with a space of its own."""

    def answer(self, record: Record, candidate: Any) -> Any:
        return SimpleNamespace(ids=torch.tensor(self.encode(f" {candidate.text}")))
