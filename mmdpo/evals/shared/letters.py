"""What multiple-choice benchmarks share: the letter that lmms-eval reads, answer files that repeat the questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdpo.evals.base import Answer, Benchmark, Item
from mmdpo.evals.shared.options import check_choice

PARSERS = ("official", "lmms_eval")


@dataclass(frozen=True)
class MultipleChoice(Benchmark):
    """Questions with choices, whose answers a parser reads.

    Args:
        parser: How an answer is read, ``official`` or ``lmms_eval``.
    """

    parser: str = "official"
    role = "capability"

    def __post_init__(self) -> None:
        fix = "The default, official, is the rule of the authors' own script."
        check_choice(self.name, "parser", self.parser, PARSERS, fix)

    @property
    def rule(self) -> str:
        """The parser's name."""
        return self.parser

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The answers in some rows, which may repeat the data; questions that nobody answered are passed over."""
        answered = [
            row
            for row in rows
            if any(key in row for key in self.text_keys) or not any(key.startswith("choice") for key in row)
        ]
        # The question is not compared: what the model was asked holds the choices too.
        return super().answers([{key: row[key] for key in row if key != "question"} for row in answered], origin)

    def no_letter(self, items: Sequence[Item]) -> list[str]:
        """Counts the answers in which the rule of lmms-eval finds no letter."""
        lost = sum(item.parsed is None for item in items)
        return [f"no_letter: {lost} answers are wrong for want of a letter; lmms-eval draws one at random"] * bool(lost)


def lmms_eval_letter(text: str, letters: Sequence[str]) -> str | None:
    """The letter that lmms-eval reads in an answer; None where it draws one at random.

    Marks at both ends are removed, then "(A)" is looked for, then " A ", then "A."; the first form that occurs decides.
    Of several letters the last " A " counts, and the first of ``letters`` where none stands between spaces.

    Args:
        text: The raw answer.
        letters: The letters that may be chosen, capitals.
    """
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", " {} ", "{}."):
        found = [letter for letter in letters if form.format(letter) in text]
        if found:
            return max(found, key=lambda letter: text.rfind(f" {letter} "))
    return None
