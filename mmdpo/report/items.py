"""What a judged item says: objects named, asked for and there, of which kind its question is, and whether it failed.

Benchmarks write different things into their items; what is looked for here is what several of them write. An item that
does not say something gives None, and never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Item = Mapping[str, Any]

KINDS = {
    "task": "task",
    "kind": "kind of question",
    "category": "category",
    "question_type": "kind of question",
    "dimension": "dimension",
    "sub_category": "sub-category",
    "difficulty": "difficulty",
}
"""Keys of an item that say of which kind its question is, in words."""
COUNTED = "kind of question"
"""What the kinds are called that only the sums of an item tell (`adversarial_questions`, `questions/number`)."""
_IN_SUMS = re.compile(r"(?:type/)?(?:(?P<before>.+)[/_])?questions(?:/(?P<behind>.+))?")
_HALLUSION_ID = re.compile(r"(V[DS]_.+?)(?:_[^_]+){3}")
_ASKED = re.compile(r"\bIs there (?:an?|any) (.+?) in (?:the|this) \w+ ?\?", re.IGNORECASE)


def pairs(value: Any) -> list[list[str]]:
    """Entries of a list as [word as written, object it names]; a lone word is both."""
    if not isinstance(value, list):
        return []
    return [[str(word) for word in entry] if isinstance(entry, list) and entry else [str(entry)] for entry in value]


def group_of(item: Item) -> str:
    """The image or clip that it is about, which stands or falls as a whole."""
    return str(item.get("group", item.get("id")))


def asked_object(item: Item) -> str | None:
    """The object of a question of POPE's form, "Is there a dog in the image?"; None for other questions."""
    found = _ASKED.search(str(item.get("prompt") or ""))
    return " ".join(found[1].lower().split()) if found and item.get("label") in ("yes", "no") else None


def said_yes(item: Item) -> bool:
    """Whether an answer to a yes/no question was read as yes; of a forced choice, whether yes is the likelier word."""
    parsed = item.get("parsed")
    return parsed > 0 if isinstance(parsed, float) else parsed == "yes"


def present_objects(item: Item) -> frozenset[str] | None:
    """The objects that are there, of an item about a caption; None where the item does not say."""
    if not isinstance(item.get("hallucinated"), list):
        return None
    label = item.get("label")
    label = label.get("truth") if isinstance(label, Mapping) else label
    return frozenset(map(str, label)) if isinstance(label, list) else None


def wrong_objects(item: Item) -> frozenset[str]:
    """The objects that a caption names and that are not there, by the names that `present_objects` has for objects."""
    named, label = item.get("parsed"), item.get("label")
    if isinstance(named, list) and isinstance(label, list):
        return frozenset(map(str, named)) - frozenset(map(str, label))
    return frozenset(pair[-1] for pair in pairs(item.get("hallucinated")))


def failure(item: Item) -> float | None:
    """How far an answer to a question failed, 0 to 1; None for what is no question."""
    if isinstance(item.get("correct"), bool):
        return float(not item["correct"])
    sums = item.get("counts") or {}
    if "questions" in sums and "score" in sums:
        return float(sums["questions"] - sums["score"])
    return float(sums["hallucinated"]) if {"answers", "hallucinated"} <= set(sums) else None


def kinds(item: Item) -> dict[str, list[str]]:
    """Of which kinds a question is: what the kinds are called -> the kinds."""
    told = {words: [str(item[key])] for key, words in KINDS.items() if item.get(key) not in (None, "")}
    if told:
        return told
    of_id = _HALLUSION_ID.fullmatch(str(item.get("id")))
    if of_id:
        return {"category": [of_id[1].replace("_", ", ", 1)]}
    matches = [_IN_SUMS.fullmatch(column) for column, amount in (item.get("counts") or {}).items() if amount]
    counted = [found["behind"] or found["before"] for found in matches if found]
    named = [kind for kind in counted if kind]
    return {COUNTED: named} if named else {}
