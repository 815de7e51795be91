"""Lets a model answer the questions of a benchmark: written out, yes and no read from the logits, or texts scored."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmdpo.answering.answer_file import NUMBER, AnswerFile
from mmdpo.answering.text_scores import text_scores
from mmdpo.answering.yes_no import Choice, YesNoReader, spellings
from mmdpo.corruptions import generator_for
from mmdpo.encoding.example import Encoder
from mmdpo.evals.base import Benchmark, Item, Result, Sample
from mmdpo.evals.shared.habits import NOT_WRITTEN, habits
from mmdpo.generate import Generated, GenerationSettings, generate
from mmdpo.progress import Progress
from mmdpo.records import Media, Record, user_message

AnswerBy = Literal["generation", "logits", "both"]
"""How yes/no questions are answered; all other questions are always answered by generation."""
LITTLE = 0.5
"""Probability of yes and no together below which a model would mostly say something else."""


def sample_record(sample: Sample) -> Record:
    """A sample as a record: the one that it carries, else one without candidates."""
    if sample.record is not None:
        return sample.record
    media = {plural: tuple(Media(path=str(path)) for path in paths) for plural, paths in sample.media.items()}
    counts = {plural: len(items) for plural, items in media.items()}
    return Record(id=sample.id, prompt=(user_message(sample.prompt, **counts),), candidates=(), media=media)


@dataclass
class Answering:
    """How the samples of one benchmark are answered.

    A text that a sample carries is scored; a yes/no question is answered as `answer_by` says; all else is written.

    Args:
        model: The model, wrapped or not.
        encoder: Its encoder.
        benchmark: Whose samples they are.
        settings: How answers are written.
        answer_by: How yes/no questions are answered.
        hashes: sha256 of each media path, for the answers' rows.
    """

    model: Any
    encoder: Encoder
    benchmark: Benchmark
    settings: GenerationSettings
    answer_by: AnswerBy
    hashes: Mapping[str, str]

    def run(self, samples: Sequence[Sample], file: AnswerFile, progress: Progress = iter) -> None:
        """Answers this process's part of the samples, as far as the file lacks it; each answer is kept at once."""
        groups = {group: place for place, group in enumerate(dict.fromkeys(sample.group for sample in samples))}
        shard = file.shard
        left = [
            sample
            for sample in samples
            if groups[sample.group] % shard.count == shard.index and sample.id not in file.done
        ]
        ticks = iter(progress(left))  # a bar of questions, whatever the batches are
        for row in self._scored([sample for sample in left if self.scores(sample)]):
            file.add(row)
            next(ticks, None)
        choices: dict[str, Choice] = {}
        for sample, choice in self._choices([sample for sample in left if self.reads(sample)]):
            choices[sample.id] = choice
            if not self.writes(sample):
                file.add(self.row(sample, choice.text, choice))
                next(ticks, None)

        def keep(sample: Sample, answers: Sequence[Generated]) -> None:
            for number, answer in enumerate(answers):
                drawn = {NUMBER: number, "finished": answer.finished} if self.benchmark.samples_each > 1 else {}
                file.add(self.row(sample, answer.text, choices.get(sample.id)) | drawn)
            next(ticks, None)

        self._write([sample for sample in left if self.writes(sample)], keep)
        next(ticks, None)

    def scores(self, sample: Sample) -> bool:
        """Whether the sample carries a text, whose probability is measured in place of an answer."""
        return sample.record is not None and bool(sample.record.candidates)

    def reads(self, sample: Sample) -> bool:
        """Whether the sample's answer is read from the logits."""
        return self.answer_by != "generation" and self.benchmark.asks_yes_no(sample)

    def writes(self, sample: Sample) -> bool:
        """Whether the model writes an answer to the sample."""
        return not self.scores(sample) and (self.answer_by != "logits" or not self.benchmark.asks_yes_no(sample))

    def spelled(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Which first tokens count as yes and as no, where answers are read from the logits."""
        asked = next((sample for sample in samples if self.reads(sample)), None)
        if asked is None:
            return {}
        found, names = spellings(self.encoder, sample_record(asked)), self.encoder.tokenizer.convert_ids_to_tokens
        return {"spellings": {"yes": names(list(found.yes)), "no": names(list(found.no))}}

    def row(self, sample: Sample, text: str, choice: Choice | None = None) -> dict[str, Any]:
        """A line of ``answers.jsonl``; a probability that is 0 in this precision is left at the smallest one."""
        lowest = math.log(5e-324)
        read = {} if choice is None else {"yes": max(choice.yes, lowest), "no": max(choice.no, lowest)}
        return {
            self.benchmark.id_keys[0]: sample.id,
            "prompt": sample.prompt,
            "media": {plural: list(paths) for plural, paths in sample.media.items()},
            "sha256": {plural: [self.hashes[str(path)] for path in paths] for plural, paths in sample.media.items()},
            self.benchmark.text_keys[0]: text,
            **read,
            **({} if choice is None else {"p_yes": choice.p_yes}),
        }

    def _write(self, samples: Sequence[Sample], keep: Callable[[Sample, Sequence[Generated]], None]) -> None:
        """Lets the model write its answers; drawn ones depend on their question alone, not on what was asked before."""
        if self.settings.temperature == 0:
            records = [sample_record(sample) for sample in samples]

            def at(place: int, answers: Sequence[Generated]) -> None:
                keep(samples[place], answers)

            generate(self.model, self.encoder, records, self.settings, on_answer=at)
            return
        for sample in samples:
            seed = int(generator_for(sample.id, "answers", 0, self.settings.seed).integers(2**31))
            drawing = replace(self.settings, seed=seed)
            keep(sample, generate(self.model, self.encoder, [sample_record(sample)], drawing)[0])

    def _scored(self, samples: Sequence[Sample]) -> Iterable[dict[str, Any]]:
        """The lines of samples whose text is scored; one that cannot be has the reason in place of the numbers."""
        if not samples:
            return
        tokenizer = vocabulary_of(self.encoder.tokenizer)
        records = [sample_record(sample) for sample in samples]
        for place, scored in text_scores(self.model, self.encoder, records, self.settings.batch_size):
            row = self.row(samples[place], records[place].candidates[0].text) | {"tokenizer": tokenizer}
            yield row | (
                {"unscored": scored} if isinstance(scored, str) else {"logp": scored.total, "tokens": scored.tokens}
            )

    def _choices(self, samples: Sequence[Sample]) -> Iterable[tuple[Sample, Choice]]:
        if not samples:
            return
        reader = YesNoReader(self.model, self.encoder)
        records = [sample_record(sample) for sample in samples]
        for batch in reader.batches(records, self.settings.batch_size):
            read = reader.read([records[place] for place in batch])
            yield from zip([samples[place] for place in batch], read, strict=True)


def vocabulary_of(tokenizer: Any) -> str:
    """What tells one tokenizer's vocabulary from another's: its size, and eight hex digits of what is in it."""
    entries = sorted(tokenizer.get_vocab().items())
    return f"{len(entries)} tokens, {hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:8]}"


def judged(
    benchmark: Benchmark, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]], answer_by: AnswerBy
) -> Result:
    """The score of the answers in some rows with their habits, and with what the logits say of each beside it.

    The rule of answers that were read from the logits says so: they are a forced choice, and `mmdpo compare` refuses to
    hold them against written ones. With both, the written ones are scored, and a flag says how often the two differ.
    """
    result = _read(benchmark, samples, rows, answer_by)
    wanted = benchmark.refusals_wanted
    return replace(result, habits=habits(result.items, refusals_wanted=wanted, known=result.metrics))


def _read(
    benchmark: Benchmark, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]], answer_by: AnswerBy
) -> Result:
    result = benchmark.score(samples, benchmark.answers(rows))
    choices = {str(row[benchmark.id_keys[0]]): Choice(row["yes"], row["no"]) for row in rows if "p_yes" in row}
    if not choices:
        return result
    items = [_with_probability(item, choices.get(item.id), answer_by) for item in result.items]
    flags = [*result.flags, *_little_mass(choices)]
    if answer_by == "logits":
        return replace(result, rule=f"{result.rule}; answered by logits", items=items, flags=flags)
    text = benchmark.text_keys[0]
    said = [{**row, text: Choice(row["yes"], row["no"]).text} if "p_yes" in row else row for row in rows]
    forced = {item.id: item.parsed for item in benchmark.score(samples, benchmark.answers(said)).items}
    differ = sum(item.parsed != forced[item.id] for item in items if item.id in choices)
    flags.append(
        f"logits_differ: {differ} of {len(choices)} answers ({100 * differ / len(choices):.1f}%) are read otherwise "
        "from the logits than from what the model wrote; the latter is scored"
    )
    return replace(result, items=items, flags=flags)


def _with_probability(item: Item, choice: Choice | None, answer_by: AnswerBy) -> Item:
    if choice is None:
        return item
    written = NOT_WRITTEN if answer_by == "logits" else {}
    return replace(item, details={**item.details, "p_yes": choice.p_yes, **written})


def _little_mass(choices: Mapping[str, Choice]) -> list[str]:
    mass = sum(math.exp(choice.yes) + math.exp(choice.no) for choice in choices.values()) / len(choices)
    told = f"little_mass: yes and no have {mass:.3f} of the probability; the model would mostly say something else"
    return [told] if mass < LITTLE else []
