"""A judge that takes answers apart and checks each claim on the picture: what `faithscore` needs, behind one endpoint.

The prompts are our own, not those of the paper.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from mmdpo.evals.faithscore import KINDS, Claims
from mmdpo.evals.judging.judge import Question
from mmdpo.evals.judging.replies import Unjudged, filled

SPLIT = """A model was asked to describe an image. Take its answer apart.

Answer: {answer}

1. Cut it into sub-sentences and keep those that describe what the image shows; leave out opinions and guesses.
2. Write every single claim that they make as a short sentence of its own, such as "There is a dog." or "The dog is \
brown.", and say of which kind it is: entities (something is there), relations, colors, counting or other.

Reply with one JSON object and nothing else:
{"sentences": ["..."], "facts": [{"fact": "There is a dog.", "kind": "entities"}]}"""
"""What the judge is asked of an answer; the wording is ours."""

VERIFY = """Look at the image. Is the following statement about it right?

Statement: {fact}

Reply with one word: yes or no."""
"""What the judge is asked of a claim; the wording is ours."""

Ask = Callable[[Question], str]
"""From a question, with pictures or without, to the judge's reply."""


def claims_of_reply(reply: str) -> Claims | None:
    """The claims in a judge's reply, from its first brace on; None if they are not there in the form asked for."""
    try:
        value, _ = json.JSONDecoder().raw_decode(reply, reply.index("{"))
        facts = {str(entry["fact"]): entry["kind"] for entry in value["facts"]}
        sentences = value["sentences"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    texts = isinstance(sentences, list) and all(isinstance(text, str) for text in sentences)
    return Claims(facts, sentences) if texts and set(facts.values()) <= set(KINDS) else None


def yes_of_reply(reply: str) -> bool | None:
    """Whether a reply says yes; None where it has not exactly one of the words yes and no."""
    found = set(re.findall(r"\b(yes|no)\b", reply.lower()))
    return found == {"yes"} if len(found) == 1 else None


def claim_functions(name: str, ask: Ask) -> dict[str, Any]:
    """The options ``split`` and ``verify`` of `mmdpo.evals.faithscore.FaithScore`, asked of one judge.

    Args:
        name: The judge's, as the result's rule names it.
        ask: Asks it.
    """

    def split(answer: str) -> Claims:
        claims = claims_of_reply(ask(Question(filled(SPLIT, {"answer": answer}))))
        if claims is None:
            raise Unjudged
        return claims

    def verify(image: str, fact: str) -> bool:
        right = yes_of_reply(ask(Question(filled(VERIFY, {"fact": fact}), (image,))))
        if right is None:
            raise Unjudged
        return right

    split.__name__ = verify.__name__ = name
    return {"split": split, "verify": verify}
