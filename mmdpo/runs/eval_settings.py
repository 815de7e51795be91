"""What the ``eval:`` and ``stop:`` sections ask for: every problem at once, before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.answering.evaluation import limited
from mmdpo.config import EvalSection, RunConfig
from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.evals.base import Benchmark, Sample
from mmdpo.evals.runner import make_benchmark
from mmdpo.evals.stats import Better
from mmdpo.runs.stopping import Known, Which, directions, resolved

IMAGES_TRIED = 3
"""How many samples' images must be there before a run starts that will end with their benchmark."""

BEST_OF_HELD_OUT = ("metric_for_best_model", "greater_is_better")
"""Fields of ``TrainingArguments`` that say which checkpoint is the best one by the held-out records."""


def eval_problems(config: RunConfig, given: Mapping[str, Any]) -> Iterator[MMDPOError]:
    """A benchmark that cannot run, or a rule that cannot be followed, is told now, and not after hours of training.

    Args:
        config: The configuration.
        given: The fields of ``train:`` that the user set.
    """
    known: dict[str, dict[str, Better]] = {}
    for name, section in config.eval.items():
        yield from _benchmark_problems(name, section, known, section.every is not None or config.stop is not None)
    if any(section.every for section in config.eval.values()) and (given.get("fsdp") or given.get("deepspeed")):
        yield sharded()
    if config.stop is not None:
        yield from _best_problems(given)
    yield from _stop_problems(config, known)


def _benchmark_problems(
    name: str, section: EvalSection, known: dict[str, dict[str, Better]], tried: bool
) -> Iterator[MMDPOError]:
    """What is wrong with one benchmark.

    Args:
        name: The benchmark.
        section: Its section.
        known: Gets its metrics, if they are asked for and nothing is wrong.
        tried: Whether its metrics are asked for.
    """
    data = Path(section.data)
    try:
        benchmark = make_benchmark(name, **section.options)
    except MMDPOError as error:
        yield ConfigError(f"eval.{name}: {error.what}", why=error.why, fix=error.fix)
        return
    if section.answer_by != "generation" and not benchmark.yes_no:
        yield ConfigError(
            f"eval.{name}.answer_by is {section.answer_by!r}, but {name} asks no yes/no questions",
            why="Only yes and no can be read from the logits of the first token.",
            fix="Remove it.",
        )
    if not data.exists() and section.data != benchmark.own_data:
        if benchmark.own_data is None:
            yield _missing(f"eval.{name}.data", data)
        return
    try:
        samples = benchmark.samples(data)
        few = limited(samples, section.while_training.limit)
        if tried:
            known[name] = metrics_of(benchmark, few)
    except MMDPOError as error:
        yield ConfigError(f"eval.{name}.data: {error.what}", why=error.why, fix=error.fix)
        return
    if section.every is not None and len({sample.group for sample in few}) < 2:
        yield ConfigError(
            f"eval.{name} has questions on fewer than two images or clips for the evaluations while training",
            why="What has changed since step 0 has no interval without several of them.",
            fix=f"Raise eval.{name}.limit, or remove every.",
        )
    root = Path(section.images) if section.images else benchmark.media_root(data)
    paths = {root / path for sample in samples[:IMAGES_TRIED] for media in sample.media.values() for path in media}
    absent = sorted(path for path in paths if not path.is_file())
    if absent:
        yield _missing(f"eval.{name}.images: an image", absent[0])


def _best_problems(given: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Fields of ``train:`` that do not go with ``stop:``."""
    for name in ("load_best_model_at_end", *BEST_OF_HELD_OUT):
        if name in given:
            yield ConfigError(
                f"train.{name} is set, and so is stop:",
                why="stop: chooses the best checkpoint; held-out records then choose nothing.",
                fix=f"Remove train.{name}, or stop:.",
            )
    if given.get("save_strategy") in ("no", "best"):
        yield ConfigError(
            f"train.save_strategy is {given['save_strategy']!r}, and stop: is set",
            why="stop: has a checkpoint written whenever it finds a better one, beside those to go on from.",
            fix="Remove train.save_strategy.",
        )
    if given.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy"):
        yield ConfigError(
            f"train.lr_scheduler_type is {given['lr_scheduler_type']!r}, and stop: is set",
            why="It follows the metric of the best checkpoint of the held-out records, and there is none.",
            fix="Choose another schedule, or remove stop:.",
        )


def _missing(name: str, path: Path) -> ConfigError:
    return ConfigError(
        f"{name} {str(path)!r} does not exist",
        why="The benchmark runs after the training, which would end without it.",
        fix="Correct the path; a relative one starts from the working folder.",
    )


def _stop_problems(config: RunConfig, known: Known) -> Iterator[ConfigError]:
    """What is wrong with the ``stop:`` section; ``known`` lacks benchmarks that have problems of their own."""
    if config.stop is None:
        return
    if all(section.every is None for section in config.eval.values()):
        yield ConfigError(
            "stop: is set, and no benchmark of eval: has every",
            why="Nothing would be evaluated while training.",
            fix="Set eval.BENCH.every to a number of optimizer steps.",
        )
        return
    metric: Which | None = None
    for field, name in [("metric", config.stop.metric), *(("keep", name) for name in config.stop.keep)]:
        try:
            which = resolved(name, known, metric.benchmark if metric else "")
        except ConfigError as error:
            if known.keys() == config.eval.keys():
                yield ConfigError(f"stop.{field}: {error.what}", why=error.why, fix=error.fix)
            continue
        metric = metric or (which if field == "metric" else None)
        yield from _when_problems(config, f"stop.{field}: {name!r}", which, metric)
        if field == "metric" and known[which.benchmark][which.metric] == "neither":
            yield ConfigError(
                f"stop.metric: {name!r} is neither better when higher nor when lower",
                why="It is not known what an improvement would be.",
                fix="Name it under stop.keep, and another metric here.",
            )


def _when_problems(config: RunConfig, origin: str, which: Which, metric: Which | None) -> Iterator[ConfigError]:
    """Metrics that are not there when they are needed."""
    every = config.eval[which.benchmark].every
    if every is None:
        yield ConfigError(
            f"{origin} is of {which.benchmark}, and eval.{which.benchmark} has no every",
            why="It is not evaluated while training.",
            fix=f"Set eval.{which.benchmark}.every.",
        )
    elif metric is not None and (needed := config.eval[metric.benchmark].every) and needed % every:
        yield ConfigError(
            f"{origin} is evaluated every {every} steps, and the stop metric every {needed}",
            why="There would be evaluations of which it is not known whether it is kept.",
            fix=f"Let eval.{which.benchmark}.every be {needed}, or divide it.",
        )


def metrics_of(benchmark: Benchmark, samples: Sequence[Sample]) -> dict[str, Better]:
    """The metrics that a benchmark gives for some samples, learnt from empty answers to them.

    Raises:
        MMDPOError: It cannot score answers as it is set up, for want of a judge for instance.
    """
    rows = [_blank(benchmark, sample) for sample in samples for _ in range(benchmark.samples_each)]
    return directions(benchmark, benchmark.score(samples, benchmark.answers(rows)).items)


def _blank(benchmark: Benchmark, sample: Sample) -> dict[str, Any]:
    """A line of ``answers.jsonl`` in which the model says nothing, or gives the text of the sample some probability."""
    given = sample.record.candidates[:1] if sample.record is not None else ()
    text = {benchmark.id_keys[0]: sample.id, benchmark.text_keys[0]: "".join(one.text for one in given)}
    return text | ({"logp": -1.0, "tokens": 1, "tokenizer": ""} if given else {"finished": True})


def never_reached(config: RunConfig, steps: int) -> list[str]:
    """Benchmarks whose ``every`` is more than a run has steps, in words."""
    return [
        f"eval.{name}.every is {section.every}, and the run has {steps} steps: it is evaluated at its start and its end"
        for name, section in config.eval.items()
        if section.every is not None and section.every > steps
    ]


def sharded() -> ConfigError:
    """What to say where a model cannot answer between two steps."""
    return ConfigError(
        "eval: has a benchmark with every, and the weights are sharded over the processes (FSDP, DeepSpeed)",
        why="To answer, a process needs all of them, and each answers other questions.",
        fix="Remove every, or train without sharding (DDP).",
    )
