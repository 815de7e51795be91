"""Where candidates are drawn from: a model on this machine, or one behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import gc
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_builders.asking.prompt_sources import Asked, media_key
from data_builders.care.media_store import MediaStore
from data_builders.running.journal import Journal
from mmdpo.answering.answer_file import model_fingerprint
from mmdpo.answering.loading import encoder_of, load_any
from mmdpo.corruptions import generator_for
from mmdpo.errors import ConfigError, DataError, MMDPOError, ModelError
from mmdpo.evals.judging.calls import JudgeError, PatientClient
from mmdpo.evals.judging.endpoint import Endpoint
from mmdpo.evals.judging.judge import picture_address
from mmdpo.generate import Generated, GenerationSettings, generate
from mmdpo.progress import Progress
from mmdpo.records import Candidate, Record

_PROMPTS_AT_A_TIME = 128  # at an endpoint; their pictures are in memory
OPERATIONAL = ("timeout", "attempts", "first_wait", "longest_wait", "per_minute", "at_once", "key_variable")
"""Settings of an endpoint that do not decide what it answers."""


class SourceConfig(BaseModel):
    """One source of candidates: `model` or `endpoint`.

    Args:
        model: A run, an adapter, a model folder or a hub name.
        endpoint: Where a server is and how it is asked; its own `temperature` and `max_tokens` are not used.
        name: What candidates say of who wrote them; by default the last part of the model's name.
        n: Candidates of a prompt at each temperature; at temperature 0 there is one.
        temperatures: Of the drawing.
        top_p: Nucleus mass.
        max_new_tokens: Longest candidate, in tokens.
        batch_size: Prompts that a model answers at a time; with `n` candidates each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    endpoint: Endpoint | None = None
    name: str | None = None
    n: int = Field(4, ge=1)
    temperatures: tuple[Annotated[float, Field(ge=0.0, allow_inf_nan=False)], ...] = Field((1.0,), min_length=1)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    max_new_tokens: int = Field(128, ge=1)
    batch_size: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _is_one(self) -> SourceConfig:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("give either model, or endpoint with url and model")
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError("temperatures: one stands there twice")
        return self

    def label(self, temperature: float) -> str:
        """Who wrote a candidate."""
        named = self.model if self.endpoint is None else self.endpoint.model
        return f"{self.name or Path(str(named)).name} T={temperature:g}"

    def count(self, temperature: float) -> int:
        """Candidates of a prompt at a temperature."""
        return self.n if temperature > 0 else 1

    def identity(self) -> dict[str, Any]:
        """What decides the candidates."""
        told = self.model_dump(mode="json", exclude={"batch_size", "endpoint"})
        return told | {"endpoint": None if self.endpoint is None else self.endpoint.model}


@dataclass
class Draws:
    """Draws candidates and keeps each in the journal.

    Args:
        sources: Where from.
        journal: Keeps every candidate under a key of its own.
        root: Folder of the media.
        seed: Of the build; each candidate has a seed that is made from it, its prompt, source and number.
        progress: Wraps long loops.
        store: Has the bytes of media that came inside a table.

    Attributes:
        failed: Key of a candidate that there is none of -> why.
    """

    sources: Sequence[SourceConfig]
    journal: Journal
    root: Path | None
    seed: int
    progress: Progress = iter
    store: MediaStore | None = None
    failed: dict[str, str] = field(default_factory=dict)

    def draw(self, prompts: Iterable[Asked]) -> None:
        """Draws everything that the journal lacks; of several processes each draws for its share of the media.

        Raises:
            JudgeUnavailableError: A server cannot be asked, or no more.
            ConfigError: A model is not the one that the interrupted build drew from.
            MMDPOError: A model cannot be loaded.
        """
        shard = self.journal.shard
        for place, source in enumerate(self.sources):
            if source.endpoint is not None:
                if shard.is_main:  # alone, so that its rate limits hold
                    self._ask(place, source, source.endpoint, prompts)
                continue
            mine = (one for one in prompts if zlib.crc32(media_key(one.record).encode()) % shard.count == shard.index)
            self._generate(place, source, mine)

    def key(self, place: int, temperature: float, prompt: str, number: int) -> str:
        """The name of a candidate in the journal."""
        return f"{place}/{temperature:g}/{prompt}/{number}"

    def candidates(self, prompt: str) -> Iterator[tuple[str, Candidate | None]]:
        """All candidates of a prompt with their keys, source after source; None where there is none."""
        for place, source in enumerate(self.sources):
            for temperature in source.temperatures:
                for number in range(source.count(temperature)):
                    key = self.key(place, temperature, prompt, number)
                    yield key, self._candidate(key, source.label(temperature)) if key in self.journal else None

    def _candidate(self, key: str, label: str) -> Candidate:
        row = self.journal[key]
        ids = row.get("token_ids")
        return Candidate(
            row["text"].strip(),
            source=label,
            finished=row["finished"] is not False,  # where a server does not say, it is taken to be whole
            token_ids=None if ids is None else tuple(ids),
        )

    def _whole(self, record: Record) -> Record:
        return record if self.store is None else self.store.whole_record(record)

    def _seed(self, place: int, temperature: float, prompt: str) -> int:
        return int(generator_for(prompt, f"{place}/{temperature:g}", 0, self.seed).integers(2**31))

    def _missing(self, place: int, source: SourceConfig, temperature: float, prompt: str) -> list[int]:
        numbers = range(source.count(temperature))
        return [number for number in numbers if self.key(place, temperature, prompt, number) not in self.journal]

    # ---- a model of this machine ----

    def _generate(self, place: int, source: SourceConfig, prompts: Iterator[Asked]) -> None:
        left = (
            one for one in prompts if any(self._missing(place, source, t, one.record.id) for t in source.temperatures)
        )
        first = next(left, None)
        if first is None:
            return
        model, processor = load_any(str(source.model))
        self.journal.require_same(f"source {place} ({source.model})", model_fingerprint(model))
        encoder = encoder_of(model, processor, self.root)
        todo = iter(self.progress(chain([first], left)))
        while block := [self._whole(one.record) for one in islice(todo, source.batch_size)]:
            for temperature in source.temperatures:
                records = [one for one in block if self._missing(place, source, temperature, one.id)]
                try:
                    self._write(place, source, temperature, records, model, encoder)
                except (ConfigError, ModelError):
                    raise
                except DataError:
                    for record in records:  # to find out which of them it is
                        try:
                            self._write(place, source, temperature, [record], model, encoder)
                        except DataError as error:
                            for number in range(source.count(temperature)):
                                self.failed[self.key(place, temperature, record.id, number)] = error.what
        del model, encoder
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _write(
        self, place: int, source: SourceConfig, temperature: float, records: list[Record], model: Any, encoder: Any
    ) -> None:
        if not records:
            return
        settings = GenerationSettings(
            max_new_tokens=source.max_new_tokens,
            temperature=temperature,
            top_p=source.top_p,
            samples=source.count(temperature),
            batch_size=source.batch_size,
        )

        def keep(n: int, answers: Sequence[Generated]) -> None:
            for number, answer in enumerate(answers):
                key = self.key(place, temperature, records[n].id, number)
                self.journal.add(key, vars(answer))

        seeds = [self._seed(place, temperature, record.id) for record in records]
        generate(model, encoder, records, settings, on_answer=keep, seeds=seeds)

    # ---- a server ----

    def _ask(self, place: int, source: SourceConfig, endpoint: Endpoint, prompts: Iterable[Asked]) -> None:
        client = PatientClient(endpoint, role="model")
        todo = iter(self.progress(prompts))
        while block := {one.record.id: self._whole(one.record) for one in islice(todo, _PROMPTS_AT_A_TIME)}:
            body = _bodies(source, endpoint, block, self.root)

            def ask(question: tuple[str, float, int], body: Any = body) -> None:
                prompt, temperature, number = question
                seed = self._seed(place, temperature, prompt) + number
                said = client.complete(body(prompt, temperature, seed))
                key = self.key(place, temperature, prompt, number)
                self.journal.add(key, {"text": said.text, "finished": said.finished})

            questions = [
                (prompt, temperature, number)
                for prompt in block
                for temperature in source.temperatures
                for number in self._missing(place, source, temperature, prompt)
            ]
            for (prompt, temperature, number), reply in client.each(questions, ask).items():
                if isinstance(reply, JudgeError):
                    self.failed[self.key(place, temperature, prompt, number)] = reply.what


def _bodies(source: SourceConfig, endpoint: Endpoint, records: Mapping[str, Record], root: Path | None) -> Any:
    """From a prompt, a temperature and a seed to what is posted."""

    @lru_cache(maxsize=4 * endpoint.at_once)  # pictures are made small once for all candidates
    def messages(prompt: str) -> list[dict[str, Any]]:
        return chat_messages(records[prompt], root)

    def body(prompt: str, temperature: float, seed: int) -> bytes:
        values: dict[str, Any] = {
            "model": endpoint.model,
            "messages": messages(prompt),
            "max_tokens": source.max_new_tokens,
            "temperature": temperature,
            "top_p": source.top_p,
            "seed": seed,  # makes the candidates of a prompt differ where a server keeps replies
        }
        return json.dumps(values).encode("ascii")

    return body


def chat_messages(record: Record, root: Path | None) -> list[dict[str, Any]]:
    """A prompt as an OpenAI-compatible endpoint takes it, pictures as ``data:`` addresses.

    Raises:
        JudgeError: It has sounds or other media that are not sent, or a picture that cannot be read.
    """
    other = sorted({part["type"] for turn in record.prompt for part in turn["content"]} - {"text", "image"})
    if other:
        raise JudgeError(f"a prompt with {other[0]} is not sent to an endpoint", why="Only pictures and text are.")
    pictures = iter(record.media.get("images", ()))
    messages = []
    for turn in record.prompt:
        content: list[dict[str, Any]] = []
        for part in turn["content"]:
            if part["type"] == "text":
                content.append({"type": "text", "text": part["text"]})
                continue
            try:
                address = picture_address(next(pictures), root)
            except MMDPOError as error:
                raise JudgeError(error.what, why=error.why, fix=error.fix) from error
            content.append({"type": "image_url", "image_url": {"url": address}})
        messages.append({"role": turn["role"], "content": content})
    return messages
