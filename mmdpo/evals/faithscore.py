"""FaithScore: which of an answer's claims about the image are right?

Paper: Jing et al., "FaithScore: Fine-grained Evaluations of Hallucinations in Large Vision-Language Models", Findings
    of EMNLP 2024 (arXiv:2311.01477).
Official code: github.com/bcdnlp/FAITHSCORE, MIT; its annotation.jsonl likewise, on photos of COCO val2014.
Official rule: a language model marks the sub-sentences of an answer that describe the image and splits them into atomic
    facts of five kinds (entities, relations, colors, counting, other); a vision-language model is asked of each whether
    it is right, and "yes" anywhere in its reply counts. score = mean over answers of right facts / facts, 0 for an
    answer without facts. sentence_score = mean over answers of the sub-sentences without a wrong fact / sub-sentences,
    1 for an answer without any. A wrong fact belongs to each sub-sentence that holds the noun of one of the answer's
    entities, as letters: of the entity itself if it is the wrong fact, else of one that the fact holds too.
Known quirks: an answer without facts scores 0 by facts and 1 by sentences; "man" is found in "woman"; a wrong fact
    about no entity spoils no sub-sentence; "yesterday" is a yes. Of an entity's fact its last noun, adjective, adverb
    or article is taken, by a tagger; here `noun` does it, by default the last word without its dot.
Two models are needed here too (`split`, `verify`), or a file in which the work is done: rows with ``facts``
    ``{claim: 1 right, 0 wrong}``, or people's labels as annotation.jsonl has them. **Its README says that 1 means
    hallucinated; the labels say the opposite**: of the 231 claims "There is a ..." about a COCO category, 216 agree
    with COCO's objects if 1 means right, and 15 if it means hallucinated. So 1 is right here, and in "stage 1" it is a
    sub-sentence that describes.
Data: rows ``{id, image}`` (``question`` too, where a model is to answer), or annotation.jsonl itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Benchmark, Item, Metric, Result, Sample
from mmdpo.evals.shared.files import read_rows
from mmdpo.evals.shared.options import check_function
from mmdpo.evals.stats import ratio
from mmdpo.registry import benchmarks

KINDS = ("entities", "relations", "colors", "counting", "other")
"""Kinds of facts, in the official order."""
PROMPT = "Describe this image."


@dataclass(frozen=True)
class Claims:
    """What an answer claims.

    Attributes:
        facts: Atomic facts -> their kind, a name in `KINDS`, or "" for one that is no entity's and else not known.
        sentences: The sub-sentences that describe the image; None where they are not known.
    """

    facts: Mapping[str, str]
    sentences: Sequence[str] | None = None


Splitter = Callable[[str], Claims]
"""From an answer to its claims."""
Verifier = Callable[[str, str], bool]
"""From an image's path, as the data give it, and a fact to whether it is right."""


@dataclass(frozen=True)
class CheckedAnswer(Answer):
    """An answer whose facts are judged already.

    Attributes:
        verdicts: Fact -> whether it is right.
        claims: The facts' kinds and the sub-sentences, as far as they are known; None if nothing is judged yet.
    """

    verdicts: Mapping[str, bool] = field(default_factory=dict)
    claims: Claims | None = None


def said_yes(reply: str) -> bool:
    """How the official script reads what a verifying model replies."""
    return "yes" in reply.lower()


def last_word(fact: str) -> str:
    """The last word of a fact, without the mark behind it: "dog" of "There is a dog."."""
    return fact.split()[-1].rstrip(".,;!?") if fact.split() else ""


def faithful_sentences(claims: Claims, verdicts: Mapping[str, bool], noun: Callable[[str], str]) -> int:
    """How many sub-sentences hold no wrong fact, by the official rule.

    Args:
        claims: With the kinds of facts and the sub-sentences.
        verdicts: Fact -> whether it is right.
        noun: From an entity's fact to the word by which it is found in sub-sentences and in other facts.
    """
    entities = {fact: noun(fact) for fact, kind in claims.facts.items() if kind == "entities"}
    others = [fact for fact, kind in claims.facts.items() if kind != "entities" and not verdicts[fact]]
    spoilt = {
        word
        for fact, word in entities.items()
        if word and (not verdicts[fact] or any(word in other for other in others))
    }
    return sum(not any(word in sentence for word in spoilt) for sentence in claims.sentences or ())


@benchmarks.register("faithscore")
@dataclass(frozen=True)
class FaithScore(Benchmark):
    """Claims of free answers, verified one by one.

    Args:
        split: Takes an answer apart, where the file of answers does not.
        verify: Judges a fact, where the file of answers does not.
        noun: By which word an entity is found in sub-sentences; `last_word` by default.
    """

    split: Splitter | None = None
    verify: Verifier | None = None
    noun: Callable[[str], str] = last_word
    name = "faithscore"
    max_new_tokens = 512
    id_keys = ("id", "question_id")
    text_keys = ("answer", "text")
    one_answer_each = False

    def __post_init__(self) -> None:
        for option in ("split", "verify", "noun"):
            check_function(self.name, option, getattr(self, option))

    @property
    def rule(self) -> str:
        """Who splits and who verifies."""
        return f"split by {_who(self.split)}; verified by {_who(self.verify)}"

    def samples(self, data: Path) -> list[Sample]:
        """The images of a file; rows with the same id are one."""
        rows = {str(row.get("id")): row for row in read_rows(data)}
        if "None" in rows:
            raise DataError(
                f"an entry of {str(data)!r} has no id",
                why="Answers are matched by it.",
                fix='A row looks like {"id": "000000525439", "image": "COCO_val2014_000000525439.jpg"}.',
            )
        return [self._sample(name, row) for name, row in rows.items()]

    def answers(self, rows: Iterable[Mapping[str, Any]], origin: str = "the answers") -> list[Answer]:
        """The answers in some rows, with the judged facts where there are any."""
        rows = list(rows)
        return [
            CheckedAnswer(answer.sample_id, answer.text, answer.question, *_judged(row, f"entry {number} of {origin}"))
            for number, (answer, row) in enumerate(zip(super().answers(rows, origin), rows, strict=True), 1)
        ]

    def score(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> Result:
        """As `Benchmark.score`.

        Raises:
            DataError: Answers come without judged facts, and there is nothing to split or verify them.
        """
        open_ones = sum(getattr(answer, "claims", None) is None for answer in answers)
        if open_ones and (self.split is None or self.verify is None):
            raise DataError(
                f"{open_ones} of {len(answers)} answers come without judged facts",
                why="Two models are needed for them: one that finds an answer's claims, one that looks at the image.",
                fix='Hand in split and verify from Python, or write "facts": {"There is a dog.": 1} into each row.',
            )
        return super().score(samples, answers)

    def item(self, item_id: str, sample: Sample, answer: Answer) -> Item:
        """Judges the claims of one answer."""
        claims, verdicts = self._checked(sample, answer)
        right = sum(verdicts.values())
        counts = {
            "answers": 1.0,
            "facts": float(len(verdicts)),
            "wrong_facts": float(len(verdicts) - right),
            "score": right / len(verdicts) if verdicts else 0.0,
        }
        if claims.sentences is not None:
            sentences = len(claims.sentences)
            good = faithful_sentences(claims, verdicts, self.noun)
            counts |= {"split_answers": 1.0, "sentence_score": good / sentences if sentences else 1.0}
        for kind in {*claims.facts.values()} - {""}:
            judged = [verdicts[fact] for fact in claims.facts if claims.facts[fact] == kind]
            counts |= {f"{kind}/facts": float(len(judged)), f"{kind}/right": float(sum(judged))}
        details = {"prompt": sample.prompt, "image": sample.media["images"][0]}
        wrong = [fact for fact, true in verdicts.items() if not true]
        parsed = list(verdicts) or None
        return Item(item_id, sample.group, answer.text, parsed, None, None, counts, {**details, "hallucinated": wrong})

    def metrics(self, columns: Collection[str]) -> list[Metric]:
        """Score, sentence_score where sub-sentences are known, wrong_facts, facts_per_answer; accuracy by kind."""
        kinds = [kind for kind in KINDS if f"{kind}/facts" in columns]
        sentence = ratio("sentence_score", "sentence_score", "split_answers", role="hallucination")
        return [
            ratio("score", "score", "answers", role="hallucination"),
            *([sentence] if "split_answers" in columns else []),
            ratio("wrong_facts", "wrong_facts", "facts", better="lower", role="hallucination"),
            ratio("facts_per_answer", "facts", "answers", bounds=(0.0, float("inf")), better="neither"),
            *(ratio(f"accuracy/{kind}", f"{kind}/right", f"{kind}/facts") for kind in kinds),
        ]

    def notes(self, items: Sequence[Item]) -> list[str]:
        """Counts answers without a claim."""
        silent = sum(not item.counts["facts"] for item in items)
        return [f"no_facts: {silent} answers claim nothing; each scores 0, as officially"] if silent else []

    def _checked(self, sample: Sample, answer: Answer) -> tuple[Claims, Mapping[str, bool]]:
        claims: Claims | None = getattr(answer, "claims", None)
        if claims is not None:
            return claims, getattr(answer, "verdicts", {})
        assert self.split is not None and self.verify is not None  # `score` has made sure
        claims = self.split(answer.text)
        image = sample.media["images"][0]
        return claims, {fact: bool(self.verify(image, fact)) for fact in claims.facts}

    def _sample(self, name: str, row: Mapping[str, Any]) -> Sample:
        image = str(row.get("image") or f"COCO_val2014_{name}.jpg")
        return Sample(name, str(row.get("question") or PROMPT), {"images": [image]}, None, image)


def _judged(row: Mapping[str, Any], place: str) -> tuple[dict[str, bool], Claims | None]:
    """The verdicts and claims in a row; no claims if nothing in it is judged."""
    facts = row.get("facts", row.get("stage 2"))
    if facts is None:
        return {}, None
    kinds, sentences = row.get("kinds") or {}, row.get("sentences")
    if sentences is None and isinstance(row.get("stage 1"), dict):
        sentences = [text for text, describes in row["stage 1"].items() if describes]
    labelled = isinstance(facts, dict) and all(value in (0, 1) for value in facts.values())
    sorted_out = isinstance(kinds, dict) and all(kind in KINDS for kind in kinds.values())
    cut = sentences is None or (isinstance(sentences, list) and all(isinstance(text, str) for text in sentences))
    if not (labelled and sorted_out and cut):
        raise DataError(
            f"{place} has facts of another form: {str((facts, kinds, sentences))[:200]}",
            why="Every fact needs to be right (1) or wrong (0), its kind, if said, one of five, and sub-sentences "
            "to be a list of texts.",
            fix=f'Write "facts": {{"There is a dog.": 1}}, "kinds": {{"There is a dog.": "{KINDS[0]}"}}, "sentences": '
            '["a dog runs"].',
        )
    claims = Claims({fact: kinds.get(fact) or _kind(fact) for fact in facts}, sentences)
    return {fact: bool(value) for fact, value in facts.items()}, claims


def _kind(fact: str) -> str:
    """The kind of a fact of which it is not said: the official splitter writes of an entity that there is one."""
    return "entities" if fact.startswith(("There is ", "There are ")) else ""


def _who(given: Callable[..., Any] | None) -> str:
    return "the file" if given is None else getattr(given, "__name__", "a function")
