"""Answers scored by what a model itself says of their claims: `mmdpo build self_check`.

    answers --split--> claims --ask--> P(yes) of "Is it true that ...?" --count--> score --pair--> records

The divide and conquer of RLAIF-V (Yu et al. 2024, arXiv:2405.17220): an answer is cut into claims, each is a question
that a model answers, and the score is minus the number of claims that it rejects. P(yes) is read from the logits; all
questions about one picture share its prefix.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data_builders.asking.claims import claims, question
from data_builders.asking.prompt_sources import Asked, media_key
from data_builders.asking.sample_sources import OPERATIONAL
from data_builders.asking.scored import SOUND, Pairing, Scored, ScoredConfig, answers_of, groups_of
from data_builders.base import Builder, Work
from data_builders.running.journal import Journal
from data_builders.tables.spool import Spool
from mmdpo.answering.answer_file import model_fingerprint
from mmdpo.answering.loading import encoder_of, load_any
from mmdpo.answering.yes_no import Choice, YesNoReader
from mmdpo.errors import ConfigError, DataError, ModelError
from mmdpo.evals.judging.calls import JudgeError
from mmdpo.evals.judging.claims import SPLIT, claims_of_reply
from mmdpo.evals.judging.endpoint import Endpoint
from mmdpo.evals.judging.judge import ChatJudge, Question
from mmdpo.evals.judging.replies import filled
from mmdpo.records import Record, user_message
from mmdpo.registry import builders
from mmdpo.shard import Shard

_ANSWERS_AT_A_TIME = 64
_DIGITS = 4  # of log-probabilities: what stands beside a question in its batch changes the ones behind


class SelfCheckConfig(ScoredConfig):
    """Configuration of `mmdpo build self_check`; docs/data.md explains each key.

    Args:
        model: Who answers the questions: a run, an adapter, a model folder or a hub name.
        score: `rejected`, minus the number of claims that are rejected (RLAIF-V); `mean` or `min` of P(yes).
        reject_below: Smallest P(yes) of a claim that is not rejected.
        question: What is asked; `{question}` stands for the question that the claim became.
        endpoint: A model behind an endpoint that takes answers apart, in place of our rules.
        batch_size: Questions at a time.
    """

    model: str
    score: Literal["rejected", "mean", "min"] = "rejected"
    reject_below: float = Field(0.5, gt=0.0, lt=1.0)
    question: str = Field("{question} Please answer yes or no.", pattern=r"\{question\}")
    endpoint: Endpoint | None = None
    batch_size: int = Field(16, ge=1)


@builders.register("self_check")
class SelfCheck(Builder[SelfCheckConfig]):
    """Pairs or lists of answers, scored by what a model says to their claims as yes/no questions."""

    Config = SelfCheckConfig
    sound_reasons = (*SOUND, "no_claims")
    shares = True

    def media_root(self, config: SelfCheckConfig) -> Path | None:
        """Folder that the records' media paths are relative to."""
        return config.known_root

    def identity(self, config: SelfCheckConfig) -> dict[str, Any]:
        """The configuration without what does not decide the scores."""
        told = config.model_dump(mode="json", exclude={"batch_size"})
        if config.endpoint is not None:
            told["endpoint"] = {key: value for key, value in told["endpoint"].items() if key not in OPERATIONAL}
        return told

    def records(self, config: SelfCheckConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        shard = work.shard or Shard()
        answers = answers_of(config, work, f"answers-{shard.index}")
        checker = _Checker(config, work, Journal(work.scratch, "self_check", shard))
        checker.ask(answers)
        checker.journal.gather()
        if not shard.is_main:
            return
        pairing = Pairing("self_check", Path(config.model).name, config, work)
        for groups in groups_of(answers, work):
            yield from pairing.records([one for group in groups for one in checker.scores(group)])
        pairing.close()
        work.quality["self_check"] = checker.numbers()


class _Checker:
    """Asks the questions and counts what was said."""

    def __init__(self, config: SelfCheckConfig, work: Work, journal: Journal) -> None:
        self._config, self._work, self.journal = config, work, journal
        self._failed: dict[str, str] = {}
        self._sums: Counter[str] = Counter()
        self._probability = 0.0

    # ---- asking ----

    def ask(self, answers: Spool[Asked]) -> None:
        """Asks everything that the journal lacks; of several processes each asks about its share of the media."""
        shard = self.journal.shard
        alike = Counter(one.record.id for one in answers)
        mine = (
            one
            for one in answers
            if alike[one.record.id] > 1 and zlib.crc32(media_key(one.record).encode()) % shard.count == shard.index
        )
        todo = iter(self._work.progress(mine))
        reader: YesNoReader | None = None
        while block := list(islice(todo, _ANSWERS_AT_A_TIME)):
            if self._config.endpoint is not None:
                self._split(block, self._config.endpoint)
            questions: dict[str, Record] = {}
            for one in block:
                asked = (self._question(one, claim) for claim in self._claims(one) or ())
                questions |= {record.id: record for record in asked if record.id not in self.journal}
            if questions:
                reader = reader or self._reader()
                self._read(reader, list(questions.values()))

    def _reader(self) -> YesNoReader:
        model, processor = load_any(self._config.model)
        self.journal.require_same(f"model {self._config.model}", model_fingerprint(model))
        return YesNoReader(model, encoder_of(model, processor, self._config.known_root))

    def _read(self, reader: YesNoReader, questions: Sequence[Record]) -> None:
        try:
            batches = reader.batches(questions, self._config.batch_size)
        except (ConfigError, ModelError):
            raise
        except DataError:  # the first of them; each is tried alone below
            batches = [[place] for place in range(len(questions))]
        for batch in batches:
            records = [questions[place] for place in batch]
            try:
                self._keep(reader, records)
            except (ConfigError, ModelError):
                raise
            except DataError:
                for record in records:
                    try:
                        self._keep(reader, [record])
                    except DataError as error:
                        self._failed[record.id] = error.what

    def _keep(self, reader: YesNoReader, records: Sequence[Record]) -> None:
        for record, choice in zip(records, reader.read(records), strict=True):
            self.journal.add(record.id, {"yes": round(choice.yes, _DIGITS), "no": round(choice.no, _DIGITS)})

    def _split(self, block: Sequence[Asked], endpoint: Endpoint) -> None:
        """Has answers taken apart by a model behind an endpoint."""
        per_minute = endpoint.per_minute and endpoint.per_minute / self.journal.shard.count
        judge = ChatJudge(replace(endpoint, per_minute=per_minute))
        left = {_claims_key(one): one for one in block}
        left = {key: one for key, one in left.items() if key not in self.journal}

        def ask(key: str) -> None:
            reply = judge.ask(Question(filled(SPLIT, {"answer": _text(left[key])})))
            found = claims_of_reply(reply)
            self.journal.add(key, {"claims": None if found is None else list(found.facts), "reply": reply})

        for key, error in judge.each(left, ask).items():
            if isinstance(error, JudgeError):
                self._failed[key] = error.what

    # ---- scoring ----

    def scores(self, group: Sequence[Asked]) -> Iterator[Scored]:
        """The answers to a prompt that can be scored."""
        for one in group:
            found = self._claims(one)
            if not found:
                reason, told = ("no_claims", "") if found is not None else ("not_split", "the reply holds no claims")
                self._set_aside(reason, one, self._failed.get(_claims_key(one), told))
                continue
            records = [self._question(one, claim) for claim in found]
            missing = next((record.id for record in records if record.id not in self.journal), None)
            if missing is not None:
                self._set_aside("unchecked_claim", one, self._failed.get(missing, ""))
                continue
            said = (self.journal[record.id] for record in records)
            choices = [Choice(row["yes"], row["no"]) for row in said]
            yes = [choice.p_yes for choice in choices]
            rejected = sum(value < self._config.reject_below for value in yes)
            self._sums.update({"answers": 1, "claims": len(yes), "rejected": rejected})
            self._probability += sum(math.exp(choice.yes) + math.exp(choice.no) for choice in choices)
            score = {"rejected": -float(rejected), "mean": sum(yes) / len(yes), "min": min(yes)}[self._config.score]
            told_claims = [[claim, round(value, _DIGITS)] for claim, value in zip(found, yes, strict=True)]
            yield Scored(one, score, {"claims": told_claims, "rejected": rejected})

    def numbers(self) -> dict[str, Any]:
        """How many answers, claims and rejected claims there were; how much of the probability yes and no have."""
        n = self._sums["claims"]
        return {
            "model": self._config.model,
            "score": self._config.score,
            "answers": self._sums["answers"],
            "claims": n,
            "rejected": self._sums["rejected"],
            "yes_no_mass": self._probability / n if n else None,
        }

    def _set_aside(self, reason: str, one: Asked, message: str) -> None:
        self._work.ledger.set_aside(reason, one.row, _text(one), column=one.column, message=message)

    def _claims(self, one: Asked) -> list[str] | None:
        """The claims of an answer; None where the model that should take it apart said nothing that can be read."""
        if self._config.endpoint is None:
            return claims(_text(one))
        key = _claims_key(one)
        found: list[str] | None = self.journal[key]["claims"] if key in self.journal else None
        return found

    def _question(self, one: Asked, claim: str) -> Record:
        """A claim as a question about the media of its answer."""
        media = one.record.media
        text = self._config.question.replace("{question}", question(claim, self._config.modality))
        name = hashlib.sha256(f"{media_key(one.record)}\n{text}".encode("utf-8", "replace")).hexdigest()[:24]
        return Record(name, (user_message(text, **{plural: len(items) for plural, items in media.items()}),), (), media)


def _text(one: Asked) -> str:
    assert one.answer is not None
    return one.answer.text


def _claims_key(one: Asked) -> str:
    return f"claims {hashlib.sha256(_text(one).encode('utf-8', 'replace')).hexdigest()[:24]}"
