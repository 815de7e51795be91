"""Candidates drawn from models: `mmdpo build sample`.

    prompts --draw, source after source--> journal --put together--> records of K candidates, without scores

Each candidate is in the journal as soon as it is there, so a server that dies costs what it had not yet answered.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from data_builders.asking.prompt_sources import Asked, PromptsConfig, read_prompts, spooled
from data_builders.asking.sample_sources import Draws, SourceConfig
from data_builders.base import Builder, Work
from data_builders.running.journal import Journal
from mmdpo.evals.diversity import prompt_counts
from mmdpo.records import Candidate, Record
from mmdpo.registry import builders
from mmdpo.shard import Shard


class SampleConfig(PromptsConfig):
    """Configuration of `mmdpo build sample`; docs/data.md explains each key.

    Args:
        sources: Where candidates are drawn from.
        min_candidates: Different candidates that a prompt needs.
    """

    validation: float = Field(0.0, ge=0.0, lt=1.0)
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    min_candidates: int = Field(2, ge=1)


@builders.register("sample")
class Sample(Builder[SampleConfig]):
    """Candidates drawn from one or several models or servers, to be judged by another builder."""

    Config = SampleConfig
    sound_reasons = ("duplicate_row", "equal_candidate")
    shares = True

    def media_root(self, config: SampleConfig) -> Path | None:
        """Folder that the records' media paths are relative to."""
        return config.known_root

    def identity(self, config: SampleConfig) -> dict[str, Any]:
        """The configuration without what does not decide the candidates."""
        told = config.model_dump(mode="json", exclude={"sources"})
        return told | {"sources": [source.identity() for source in config.sources]}

    def records(self, config: SampleConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        shard = work.shard or Shard()
        prompts = spooled(work, f"prompts-{shard.index}")
        prompts.extend(read_prompts(config, work))
        journal = Journal(work.scratch, "sample", shard)
        draws = Draws(config.sources, journal, config.known_root, config.seed, work.progress, work.store)
        draws.draw(prompts)
        journal.gather()
        if not shard.is_main:
            return
        tally = _Tally()
        for asked in prompts:
            record = _record(asked, draws, config, work, tally)
            if record is not None:
                yield record
        work.quality |= {"source": config.source, "sampling": tally.numbers()}
        work.notes.append(
            "the candidates are in no order: score them with another builder (judge, self_check, clip_score) before "
            "anything is trained on them"
        )


def _record(asked: Asked, draws: Draws, config: SampleConfig, work: Work, tally: _Tally) -> Record | None:
    kept: dict[str, Candidate] = {}
    lost: list[tuple[str, Any, str, str]] = []
    for key, candidate in draws.candidates(asked.record.id):
        if candidate is None:
            lost.append(("no_answer", None, key, draws.failed.get(key, "")))
            continue
        tally.add(candidate)
        if not candidate.text:
            lost.append(("empty_caption", "", key, ""))
        elif " ".join(candidate.text.split()) in kept:
            lost.append(("equal_candidate", candidate.text, key, ""))
            tally.equal += 1
        else:
            kept[" ".join(candidate.text.split())] = candidate
    tally.close()
    if len(kept) < config.min_candidates:
        message = next((told for *_, told in lost if told), "")
        work.ledger.set_aside("too_few_candidates", asked.row, len(kept), message=message)
    for reason, value, key, message in lost:
        work.ledger.set_aside(reason, asked.row, value, column=key, message=message)
    if len(kept) < config.min_candidates:
        return None
    work.ledger.use(asked.row)
    meta = {**asked.record.meta, "builder": "sample", "rows": [asked.row], "scored": False}
    return replace(asked.record, candidates=tuple(kept.values()), meta=meta)


class _Tally:
    """How many candidates were drawn, and how different they are, by source and over all."""

    def __init__(self) -> None:
        self.equal = 0
        self._texts: dict[str, list[str]] = defaultdict(list)
        self._sums: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, candidate: Candidate) -> None:
        """Takes the next candidate of the present prompt."""
        for name in (str(candidate.source), "all"):
            self._texts[name].append(candidate.text)
            self._sums[name].update({"candidates": 1, "finished": int(candidate.finished)})

    def close(self) -> None:
        """Compares the candidates of the present prompt."""
        for name, texts in self._texts.items():
            self._sums[name].update(prompt_counts(texts))
        self._texts.clear()

    def numbers(self) -> dict[str, Any]:
        """`n`, `equal` (left out because the prompt has the same words already), and by source `n`, `finished`,
        `distinct_1`, `distinct_2` and `self_similarity` as the benchmark `diversity` defines them.
        """
        told = {name: _numbers(sums) for name, sums in self._sums.items()}
        return {**told.pop("all", {"n": 0}), "equal": self.equal, "by_source": told}


def _numbers(sums: Counter[str]) -> dict[str, Any]:
    def share(part: str, whole: str) -> float | None:
        return sums[part] / sums[whole] if sums[whole] else None

    return {
        "n": sums["candidates"],
        "finished": share("finished", "candidates"),
        "distinct_1": share("different_1", "grams_1"),
        "distinct_2": share("different_2", "grams_2"),
        "self_similarity": share("similarity", "pairs"),
    }
