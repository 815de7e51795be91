"""Edge cases between a record and its scores: sampled ids, precision, rewards, missing views and media, layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mmdpo
from core.oracle import picture, record
from mmdpo.collate import Collator
from mmdpo.diagnostics import Reward, pair_statistics, reward_of
from mmdpo.encoding.example import Encoder
from mmdpo.errors import DataError, ParityError
from mmdpo.models.families import facts_of
from mmdpo.objectives import make_objective
from mmdpo.objectives.terms import Pair
from mmdpo.parity import choose_layout
from mmdpo.policy import encode_once, prepare
from mmdpo.records import Candidate
from mmdpo.views import ScoreTable, View
from tiny import FAMILIES, Tiny


def encoder_of(tiny: Tiny) -> Encoder:
    return Encoder(tiny.processor, facts_of(tiny.model), tiny.stop_ids)


def test_sampled_ids_count_only_where_they_spell_the_text() -> None:
    encoder = encoder_of(FAMILIES["llava"]())
    of = record("r", "What is it?", ["x"])
    rendered = encoder.answer(of, Candidate("a red bird"))
    own = tuple(rendered.ids.tolist())
    for ids in (own[::-1], (10, 11, 12), (10**6,), ()):
        answer = encoder.answer(of, Candidate("a red bird", token_ids=ids))
        assert (answer.way, tuple(answer.ids.tolist())) == (rendered.way, own)
    assert encoder.answer(of, Candidate("a red bird", token_ids=own)).way == "given"


def test_full_fine_tuning_keeps_its_weights_in_float32() -> None:
    tiny = FAMILIES["llava"](dtype=torch.bfloat16)
    loaded = prepare(tiny.model, tiny.processor, lora=None)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_rewards_are_those_of_the_loss() -> None:
    """Mean log-ratios -1 and -2 on answers of 3 and 1 tokens: by sums the order would be the other way round."""
    logp = torch.tensor([[-1.0, -1.0, -1.0], [-2.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    table = ScoreTable(
        logp=logp,
        ref_logp=torch.zeros_like(logp),
        mask=mask,
        weight=mask.float(),
        marks=torch.zeros_like(mask),
        example=torch.tensor([0, 0]),
        candidate=torch.tensor([0, 1]),
        media=torch.tensor([0, 0]),
        score=torch.tensor([float("nan")] * 2),
        label=torch.tensor([1, -1]),
        media_names=("clean",),
    )
    reward = reward_of(make_objective({"nll": {}, "dpo": {"beta": 0.5, "reduction": "mean"}}))
    assert (reward.beta, reward.term.reduction) == (0.5, "mean")
    assert pair_statistics(table, reward).margin.tolist() == [0.5]
    assert pair_statistics(table, Reward(Pair(beta=0.5))).margin.tolist() == [-0.5]


def test_a_batch_without_any_view_says_so() -> None:
    tiny = FAMILIES["llava"]()
    collate = Collator(encoder_of(tiny), [View(0, "blank")])
    with pytest.raises(DataError, match="no record of words has a view"):
        collate([(0, record("words", "What is it?", ["x", "y"]))])


def test_a_layout_that_raises_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = FAMILIES["llava"]()
    prepare(tiny.model, tiny.processor, lora=None)
    encoder, records = encoder_of(tiny), [record("r", "What is it?", ["a cat", "a dog"], picture(0))]

    def refuse(*_: Any) -> None:
        raise TypeError("this model takes no mask of that kind")

    monkeypatch.setattr("mmdpo.forward.attention.row_masks", refuse)
    decision = choose_layout(tiny.model, encoder, records, [View(0), View(1)])
    assert decision.layout == "plain"
    assert "takes no mask of that kind" in decision.reason
    with pytest.raises(ParityError, match="takes no mask"):
        choose_layout(tiny.model, encoder, records, [View(0), View(1)], "shared")


def test_public_score_is_that_of_each_answer_alone() -> None:
    model, processor = mmdpo.load("playground")
    of = record("r", "Describe the image.", ["A red star on a lake.", "A boat on a lake."], picture(0, 64, 64))
    together = mmdpo.score(model, processor, [of])[0]
    alone = [
        mmdpo.score(model, processor, [record("r", "Describe the image.", [c.text], *of.media["images"])])[0][0]
        for c in of.candidates
    ]
    assert together == pytest.approx(alone, abs=1e-3)


def test_records_without_media_have_no_blank_score() -> None:
    """Whichever record comes first: text alone would say nothing about the layout."""
    tiny = FAMILIES["gemma3"]()
    encode_once(tiny.model, facts_of(tiny.model))
    text = record("text", "Say something.", ["There is a red bird."])
    seen = record("seen", "What is it?", ["A cat.", "No"], picture(1))
    first, second = (mmdpo.score(tiny.model, tiny.processor, order) for order in ([text, seen], [seen, text]))
    assert [len(scores) for scores in first] == [1, 2]
    assert first[0] == pytest.approx(second[1], abs=1e-3) and first[1] == pytest.approx(second[0], abs=1e-3)
    blank = mmdpo.score(tiny.model, tiny.processor, [text, seen], media="blank")
    assert [len(scores) for scores in blank] == [0, 2]
    assert mmdpo.score(tiny.model, tiny.processor, []) == []
