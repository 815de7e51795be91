"""Finding names of any number of words in a text, whatever their endings: for sounds, which are often verbs.

"A dog barks", "dogs barking" and "barked" all name what "bark" names. Endings are made from the names, not removed from
the text, so that no word is found that is not in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmdpo.evals.shared.objects import Mention
from mmdpo.evals.text import tokens

_VOWELS = frozenset("aeiou")


def endings(word: str) -> set[str]:
    """The forms that an English noun or verb can have, regular ones only: "hop" gives "hops", "hopping", "hopped".

    Too many forms are made rather than too few ("barkes"): those that are no words are in no text.
    """
    forms = {word, f"{word}s", f"{word}es", f"{word}ing", f"{word}ed"}
    if word.endswith("e"):
        forms |= {f"{word}d", f"{word[:-1]}ing"}
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        forms |= {f"{word[:-1]}ies", f"{word[:-1]}ied"}
    if len(word) > 2 and word[-1] not in _VOWELS | set("wxy") and word[-2] in _VOWELS and word[-3] not in _VOWELS:
        forms |= {f"{word}{word[-1]}ing", f"{word}{word[-1]}ed"}
    return forms


class Phrases:
    """Names of things and the words they are called by.

    Args:
        names: Category -> its names, of one word or more.
        irregular: Form -> its word, for forms that `endings` does not make ("spoke": "speak").
    """

    def __init__(self, names: Mapping[str, Sequence[str]], irregular: Mapping[str, str] | None = None) -> None:
        self.category_of = {
            " ".join(_lowered(name)): category for category, given in names.items() for name in given if _lowered(name)
        }
        parts = {part for name in self.category_of for part in name.split()}
        self.words = frozenset(parts)
        """The words that names are made of."""
        self._base = {form: part for part in sorted(parts, key=len) for form in endings(part)}
        self._base |= {form: base for form, base in (irregular or {}).items() if base in parts}
        self._base |= {part: part for part in parts}
        self._longest = max((len(name.split()) for name in self.category_of), default=0)

    def base_forms(self, text: str) -> list[str]:
        """The words of a text, those of the table in the form that stands there."""
        return [self._base.get(word, word) for word in _lowered(text)]

    def mentions(self, words: Sequence[str]) -> list[Mention]:
        """The names in a text, each mention by itself; a longer name takes the words of shorter ones.

        Args:
            words: What `base_forms` gave.
        """
        found: list[Mention] = []
        position = 0
        while position < len(words):
            for length in range(min(self._longest, len(words) - position), 0, -1):
                name = " ".join(words[position : position + length])
                if name in self.category_of:
                    found.append(Mention(name, self.category_of[name]))
                    position += length
                    break
            else:
                position += 1
        return found

    def categories(self, text: str) -> list[str]:
        """The categories that a text names, each mention by itself."""
        return [mention.category for mention in self.mentions(self.base_forms(text))]


def _lowered(text: str) -> list[str]:
    # Hyphens join words of one name as often as not: "text-to-speech", "high-pitched".
    return tokens(text.lower().replace("-", " ").replace("/", " "))
