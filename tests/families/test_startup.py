"""What protects a run: the start-up check, and text that is never taken for media."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.oracle import setup
from families.matrix import Item, Measured, check, item, layout_of, record, taken, varied
from families.specs import SPECS
from mmdpo.encoding.example import Encoder
from mmdpo.errors import DataError, ParityError
from mmdpo.models.families import facts_of
from mmdpo.objectives import make_objective
from mmdpo.parity import choose_layout
from mmdpo.records import Record
from tiny import FAMILIES

VIEWS = make_objective({"dpo": {}, "blind": {"term": "dpo", "media": "blank"}}).views


@check("startup")
def test_the_startup_check_takes_the_layout_and_finds_a_wrong_fact(family: str, measured: Measured) -> None:
    """It takes the shared layout, or plain rows with the reason; told of a window that is not there, it refuses."""
    tiny = FAMILIES[family]()
    built = setup(tiny)
    records = [entry for entry in varied(family) if len(entry.candidates) > 1]
    records += taken(family, [record("text", "Say something.", ["There is a bird.", "No"])])
    decision = choose_layout(tiny.model, built.encoder, records, VIEWS)
    facts = facts_of(tiny.model)
    measured(layout=decision.layout, reason=facts.plain_reason or "", difference=decision.difference)
    assert decision.layout == layout_of(tiny.model)
    assert decision.difference < 1e-3
    if facts.plain_reason is not None:
        assert facts.plain_reason in decision.reason
    else:
        wrong = replace(facts, window=3, layer_types=frozenset({"sliding_attention"}))
        tiny.model.mmdpo_scoring.facts = wrong
    with pytest.raises(ParityError, match="the shared layout"):
        choose_layout(tiny.model, built.encoder, records, VIEWS, wanted="shared")


@check("text")
def test_text_is_never_media(family: str, measured: Measured) -> None:
    """The text of every placeholder, in a question and in an answer: refused, or kept as the text that it is."""
    tiny = FAMILIES[family]()
    facts = facts_of(tiny.model)
    encoder = Encoder(tiny.processor, facts, tiny.stop_ids)
    placeholders = placeholders_of(family)
    outcome = {"prompt": set[str](), "answer": set[str]()}
    for text in placeholders:
        for kind in (*SPECS[family].kinds, *(() if SPECS[family].needs_media else (None,))):
            items = [] if kind is None else [Item(kind, item(kind, 1))]
            neutral = record("plain", "What is it? Tell me.", ["A cat."], *items)
            asked = record("asked", f"What is {text} it? Tell me.", ["A cat."], *items)
            answered = record("answered", "What is it? Tell me.", [f"A {text} cat."], *items)
            outcome["prompt"].add(prompt_outcome(encoder, asked, neutral, text))
            outcome["answer"].add(answer_outcome(encoder, answered, text))
    refused = " (answers are refused)" if outcome["answer"] != {"kept"} else ""
    measured(reason=" or ".join(sorted(outcome["prompt"])) + refused)


def placeholders_of(family: str) -> list[str]:
    """What the processor replaces by media, and the token that the model puts them at."""
    tiny = FAMILIES[family]()
    config = tiny.model.config
    names = {getattr(tiny.processor, f"{kind}_token", None) for kind in ("image", "video", "audio")}
    ids = [getattr(config, f"{kind}_token_id", None) for kind in ("image", "video", "audio")]
    names |= set(tiny.tokenizer.convert_ids_to_tokens([value for value in ids if value is not None]))
    found = sorted(str(name) for name in names if name)
    assert found
    return found


def media_ids(encoder: Encoder) -> set[int]:
    """Ids at which media are put."""
    return set(encoder.facts.media_token_ids.values())


def prompt_outcome(encoder: Encoder, asked: Record, neutral: Record, text: str) -> str:
    """Whether a prompt with the text of a placeholder is refused or kept; a placeholder too many fails."""
    wanted = sum(token in media_ids(encoder) for token in encoder.prompt(neutral).input_ids.tolist())
    try:
        ids = encoder.prompt(asked).input_ids.tolist()
    except DataError:
        return "refused"
    assert sum(token in media_ids(encoder) for token in ids) == wanted
    assert text in encoder.tokenizer.decode([token for token in ids if token not in media_ids(encoder)])
    return "kept"


def answer_outcome(encoder: Encoder, answered: Record, text: str) -> str:
    """Whether an answer with the text of a placeholder is refused or kept."""
    try:
        ids = encoder.answer(answered, answered.candidates[0]).ids.tolist()
    except DataError:
        return "refused"
    assert not media_ids(encoder) & set(ids)
    assert text in encoder.tokenizer.decode(ids)
    return "kept"
