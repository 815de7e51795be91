"""The official rules of VQA evaluations, written anew from their description, slowly and plainly."""

import json
import re
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from typer.testing import CliRunner

from mmdpo.cli import app
from mmdpo.evals.shared.vqa_text import CONTRACTIONS

MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def punctuation(text: str, comma: str = "[0-9],[0-9]") -> str:
    """The official processPunctuation."""
    out = text
    for mark in MARKS:
        if mark + " " in text or " " + mark in text or re.search(comma, text):
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    kept, deleted = "", 0
    for place, character in enumerate(out):
        dot = character == "." and not out[place + 1 : place + 2].isdigit()
        if dot and deleted < 32:
            deleted += 1
        else:
            kept += character
    return kept


def digits_and_articles(text: str) -> str:
    """The official processDigitArticle."""
    words = []
    for word in text.lower().split():
        word = "0" if word == "none" else str(WORDS.index(word)) if word in WORDS else word
        if word not in ("a", "an", "the"):
            words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


def trimmed(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def eval_ai(text: str) -> str:
    """The processor of TextVQA's evaluation."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return digits_and_articles(punctuation(trimmed(text), r"\d,+\d"))


def vqa_accuracy(records: list[dict[str, Any]], said: str, *, always: bool = False) -> float:
    """The official VQA accuracy of one answer; ``records`` are not changed."""
    records = [{**record, "answer": trimmed(record["answer"])} for record in records]
    said = trimmed(said)
    if always or len({record["answer"] for record in records}) > 1:
        said = digits_and_articles(punctuation(said))
        for record in records:
            record["answer"] = digits_and_articles(punctuation(record["answer"]))
    scores = []
    for record in records:
        others = [other for other in records if other != record]
        scores.append(min(1, float(len([other for other in others if other["answer"] == said])) / 3))
    return added(scores) / len(scores)


def eval_ai_accuracy(references: list[str], said: str) -> float:
    """TextVQA's accuracy of one answer."""
    said, references = eval_ai(said), [eval_ai(reference) for reference in references]
    scores = []
    for place in range(len(references)):
        others = references[:place] + references[place + 1 :]
        scores.append(min(1, float(others.count(said)) / 3))
    return added(scores) / len(scores)


def added(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


def percent(values: list[float]) -> float:
    """The official mean in percent, rounded as Python 2 rounds."""
    return float(Decimal(100 * added(values) / len(values)).quantize(Decimal("0.01"), ROUND_HALF_UP))


def score_command(*words: object) -> dict[str, Any]:
    """What ``mmdpo score`` prints."""
    result = CliRunner().invoke(app, ["score", *(str(word) for word in words)])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)
