"""The whole way: what was scored as an answer is what a model that learnt it generates, and it stops by itself."""

from __future__ import annotations

import pytest
import torch

from core.encoders import fresh_encoder
from core.oracle import conversation, picture, record, setup
from mmdpo.scoring import score
from tiny import FAMILIES
from tiny.overfit import Dialogue, overfit, reply

ANSWERS = ["There is a red bird.", "No, there is not.", "Two small dogs", "A blue car on the beach."]
PUBLISHED = ("llava", "llava_next", "qwen2_5_vl", "idefics3", "gemma3")


@pytest.mark.parametrize(
    "name",
    [
        "llava",
        "qwen2_5_vl",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("llava_next", "idefics3", "gemma3")),
    ],
)
def test_a_model_that_learnt_four_answers_stops_by_itself(name: str) -> None:
    """Trained on the encoder's ids by the family's own loss; the reply depends on the image alone."""
    encoder, tiny = fresh_encoder(name)
    records = [record(str(n), "What is this?", [answer], picture(n)) for n, answer in enumerate(ANSWERS)]
    dialogues = [Dialogue(conversation(of), encoder.answer(of, of.candidates[0]).ids.tolist()) for of in records]
    overfit(tiny, dialogues, steps=45)
    assert [reply(tiny, dialogue.prompt) for dialogue in dialogues] == [dialogue.answer_ids for dialogue in dialogues]
    assert [
        tiny.tokenizer.decode(dialogue.answer_ids, skip_special_tokens=True).strip() for dialogue in dialogues
    ] == ANSWERS


@pytest.mark.parametrize("name", ["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED[1:])])
def test_a_model_trained_through_branches_says_what_it_was_trained_on(name: str) -> None:
    """The same through our own scoring, all answers of a record as branches: the likeliest one is generated."""
    tiny = FAMILIES[name]()
    built = setup(tiny, candidates=2)
    records = [record(str(n), "What is this?", [answer, "A cat."], picture(n)) for n, answer in enumerate(ANSWERS)]
    batch = built.collator(list(enumerate(records)))
    sign = torch.where(batch["candidate"] == 0, 1.0, 0.02)  # the second one is hardly wanted
    optimizer = torch.optim.AdamW(tiny.model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(60):
        loss = -(score(tiny.model, batch).sum(1) * sign).sum() / 40
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tiny.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    first = batch["candidate"] == 0
    chosen = [ids[mask].tolist() for ids, mask in zip(batch["targets"][first], batch["mask"][first], strict=True)]
    assert [reply(tiny, conversation(of)) for of in records] == chosen
