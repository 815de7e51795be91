"""Letters of choices in answers to multiple-choice questions."""

from __future__ import annotations

from collections.abc import Sequence


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
