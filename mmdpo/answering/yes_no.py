"""Yes or no from the logits: the questions about one image as branches of one image prefix, one forward for all.

The prompt up to where the questions begin to differ (system, media and their first common words) is the prefix, the
rest of each prompt a branch. So the media are encoded once, and their hundreds of tokens are computed once, for all
questions. What is read is the distribution of the first answer token at the end of each branch: P(yes) is what all
spellings of yes that are a token have together, P(no) likewise.

A family for which that is not possible (a state along the row, a whole prompt that attends in both directions) gets a
row for each question, the same computation with one branch.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdpo.collate import Batch, Collator
from mmdpo.encoding.example import EncodedPrompt, Encoder
from mmdpo.encoding.prepared_media import media_of
from mmdpo.encoding.shared_prompts import GivenPrompts, batches_by_media, common_prefix, cut, reason_against_sharing
from mmdpo.errors import MMDPOError, ModelError, ParityError
from mmdpo.parity import FLOOR, own_logprobs, to_model
from mmdpo.policy import encode_once, inner_of
from mmdpo.records import Candidate, Record
from mmdpo.scoring import score
from mmdpo.views import CLEAN, EVERY, View

logger = logging.getLogger(__name__)

WHOLE = 64
"""Questions about the same media that stay in one forward, whatever the batch size: they are short."""
CHECKED = 2
"""Questions whose numbers are compared with the model's own logits before any is answered."""


@dataclass(frozen=True)
class Choice:
    """What a model says to a yes/no question.

    Args:
        yes: Log-probability (nats) that the answer begins with a spelling of yes.
        no: The same of no.
    """

    yes: float
    no: float

    @property
    def p_yes(self) -> float:
        """P(yes) among yes and no."""
        return 1 / (1 + math.exp(min(self.no - self.yes, 700.0)))

    @property
    def text(self) -> str:
        """``Yes`` where yes is likelier, else ``No``."""
        return "Yes" if self.yes > self.no else "No"


@dataclass(frozen=True)
class Spellings:
    """First answer tokens that are yes, and those that are no.

    Args:
        yes: Token ids.
        no: Token ids.
    """

    yes: tuple[int, ...]
    no: tuple[int, ...]


def spellings(encoder: Encoder, record: Record) -> Spellings:
    """The tokens of this tokenizer that spell yes or no, with or without a space before them, in any usual case.

    A word that is no token by itself is known by its first piece.

    Args:
        encoder: The model's encoder.
        record: Any question; what its template makes of the answer "Yes" counts too.

    Raises:
        ModelError: The two words begin with the same token.
    """
    yes, no = (_first_tokens(word, encoder, record) for word in ("yes", "no"))
    if set(yes) & set(no):
        raise ModelError(
            f"the answers yes and no begin with the same token {min(set(yes) & set(no))} of this tokenizer",
            why="The first token of an answer does not tell them apart.",
            fix="Let the model write its answers: --answer-by generation.",
        )
    return Spellings(yes, no)


def _first_tokens(word: str, encoder: Encoder, record: Record) -> tuple[int, ...]:
    forms = (word.capitalize(), word, word.upper())
    begun = [int(encoder.answer(record, Candidate(form)).ids[0]) for form in forms]
    alone = [encoder.tokenizer.encode(lead + form, add_special_tokens=False) for form in forms for lead in ("", " ")]
    found = dict.fromkeys([*begun, *(ids[0] for ids in alone if ids)])
    whole = tuple(token for token in found if encoder.tokenizer.decode([token]).strip().lower() == word)
    return whole or tuple(dict.fromkeys(begun[:2]))


class YesNoReader:
    """Reads answers to yes/no questions off a model's logits.

    Args:
        model: A Hugging Face model, or PEFT's wrapper around it; it gets the scoring keyword if it lacks it.
        encoder: Its encoder.
        share: Whether questions about the same media share their prefix, where the family allows it.

    Attributes:
        alone: Why each question has a row of its own; empty where prefixes are shared. The first batch may change it.
    """

    def __init__(self, model: Any, encoder: Encoder, *, share: bool = True) -> None:
        self.model = model
        self.inner = inner_of(model)
        if not hasattr(self.inner, "mmdpo_scoring"):
            encode_once(self.inner, encoder.facts)
        self.encoder = encoder
        self.alone = reason_against_sharing(encoder) if share else "asked for"
        self._spellings: Spellings | None = None

    def batches(self, records: Sequence[Record], size: int) -> list[list[int]]:
        """Places of the records in batches for :meth:`read`.

        Args:
            records: The questions, in any order.
            size: Prompts that fit at a time. Up to :data:`WHOLE` about the same media are never torn apart where they
                share their prefix: the media would be computed twice.

        Raises:
            MMDPOError: As :meth:`read`.
        """
        if records:
            self._words(records)
        return batches_by_media(records, size, 0 if self.alone else WHOLE)

    def read(self, records: Sequence[Record]) -> list[Choice]:
        """The answers to some questions, in one forward pass.

        Args:
            records: The questions; those about the same media stand side by side.

        Raises:
            DataError: A question cannot be encoded.
            ModelError: The tokenizer does not tell yes from no by the first token.
            ParityError: The first questions' numbers are not those of the model's own logits.
        """
        words = self._words(records)
        with self._evaluating():
            logps = self._logps(records, words)
        first = len(words.yes)
        sums = (part.logsumexp(1).tolist() for part in (logps[:, :first], logps[:, first:]))
        return [Choice(yes, no) for yes, no in zip(*sums, strict=True)]

    def _words(self, records: Sequence[Record]) -> Spellings:
        """The spellings of yes and no, once the first questions have been checked."""
        if self._spellings is None:
            words = spellings(self.encoder, records[0])
            with self._evaluating():
                self._check(records, words)
            self._spellings = words
        return self._spellings

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)

    def _logps(self, records: Sequence[Record], words: Spellings) -> Tensor:
        """[N, spellings] log-probabilities of all spellings as first answer token."""
        prompts = [self.encoder.prompt(record) for record in records]
        groups = [
            piece
            for media, group in itertools.groupby(range(len(records)), lambda n: media_of(records[n]))
            for piece in self._shared([*group], prompts, bool(media))
        ]
        batch = to_model(self._batch(records, prompts, groups, words), self.inner)
        try:
            return score(self.model, batch)
        finally:
            self.inner.mmdpo_scoring.features.clear()

    def _shared(self, group: list[int], prompts: Sequence[EncodedPrompt], media: bool) -> list[tuple[list[int], int]]:
        """Questions about the same media as trees: their places, and the length of their prefix."""
        if media and len(group) > 1 and not self.alone:
            length = common_prefix([prompts[n] for n in group], self.encoder)
            if length:
                return [(group, length)]
        return [([n], len(prompts[n].input_ids)) for n in group]

    def _batch(
        self,
        records: Sequence[Record],
        prompts: Sequence[EncodedPrompt],
        groups: Sequence[tuple[list[int], int]],
        words: Spellings,
    ) -> Batch:
        """A batch in which each question predicts every spelling from the last token of its prompt."""
        ids = torch.tensor([*words.yes, *words.no])
        prefixes, trees = {}, []
        for number, (group, length) in enumerate(groups):
            first = records[group[0]]
            rests = [(*prompts[n].input_ids[length:].tolist(), int(ids[0])) for n in group]
            branches = tuple(Candidate("", token_ids=rest, finished=False) for rest in rests)
            prefixes[str(number)] = cut(prompts[group[0]], length)
            trees.append((number, Record(str(number), first.prompt, branches, first.media)))
        plain = self.encoder.facts.plain_reason is not None
        collate = Collator(GivenPrompts(self.encoder, prefixes), [View(EVERY)], layout="plain" if plain else "shared")
        batch = collate(trees)
        # of each branch only what predicts its last token counts: the end of the prompt
        end = batch["hidden_index"].gather(1, batch["mask"].sum(1, keepdim=True) - 1)
        shape = (len(records), len(ids))
        wanted = {"hidden_index": end.expand(shape), "targets": ids.expand(shape), "mask": torch.ones(shape).bool()}
        return batch | wanted

    def _check(self, records: Sequence[Record], words: Spellings) -> None:
        """Compares the first questions with the model's own logits; stops sharing where they differ.

        Raises:
            ParityError: Neither one prefix nor a row for each question gives the model's own numbers.
        """
        first = next((record for record in records if media_of(record)), records[0])
        about = [record for record in records if media_of(record) == media_of(first)][:CHECKED]
        columns = [0, len(words.yes)]
        tokens = [(*words.yes, *words.no)[column] for column in columns]
        exact, padded = (
            torch.stack([self._own(record, tokens, padding) for record in about]).cpu() for padding in (0, 8)
        )
        allowed = max(FLOOR, 4 * float((padded - exact).abs().max()))
        tried = []
        for _ in range(2):
            try:
                difference = float((self._logps(about, words).cpu()[:, columns] - exact).abs().max())
                if difference <= allowed:
                    break
                problem = f"differs by {difference:.3g} nats (allowed {allowed:.2g})"
            except MMDPOError:
                raise  # the question's fault
            except Exception as error:  # whatever a model says to a mask that it does not know
                problem = f"fails ({type(error).__name__}: {error})"
            tried.append(f"{'a row for each question' if self.alone else 'one prefix for all questions'} {problem}")
            if self.alone:
                raise ParityError(
                    f"P(yes) does not agree with {type(self.inner).__name__}'s own logits: {'; '.join(tried)}",
                    why="Answers would be read from numbers that are not the model's.",
                    fix="Let the model write its answers: --answer-by generation.",
                )
            self.alone = tried[-1]
        if self.alone:
            logger.info("yes/no questions get a row each: %s", self.alone)

    def _own(self, record: Record, tokens: Sequence[int], padding: int) -> Tensor:
        """[tokens] log-probabilities of first answer tokens by the model's own forward."""
        ids = torch.tensor(tokens, device=self.inner.device)
        values = [own_logprobs(self.inner, self.encoder, record, CLEAN, one[None], padding) for one in ids]
        return torch.cat(values)
