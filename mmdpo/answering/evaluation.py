"""Answers first, then metrics: lets a model answer benchmarks, keeps the answers, scores them, compares models."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmdpo.answering.answer_file import (
    AnswerFile,
    check_samples,
    data_fingerprint,
    media_hashes,
    model_fingerprint,
)
from mmdpo.answering.answers import AnswerBy, Answering, judged
from mmdpo.answering.loading import encoder_of, load_any, settings_of_run
from mmdpo.answering.memory import telling_answer_memory
from mmdpo.config import EvalSection, ModelSection, RunConfig
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Benchmark, Result, Sample
from mmdpo.evals.comparing.folders import compare_stages
from mmdpo.evals.result import METRICS_FILE
from mmdpo.evals.runner import make_benchmark
from mmdpo.feature_caching import answers_from, cache_for_answers, folder_of
from mmdpo.generate import GenerationSettings
from mmdpo.jsonfiles import write_json
from mmdpo.models.load import BASE_CHANGING
from mmdpo.progress import Progress
from mmdpo.shard import Shard


def evaluate_run(run: Path, config: RunConfig, *, batch_size: int | None = None, progress: Progress = iter) -> None:
    """Evaluates a run's model, and the model it started from, on the benchmarks of its configuration; compares them.

    What is there already stays; an evaluation that was interrupted, and so has no metrics, is made again. There is
    never more than one model in memory, and both stages answer on a base that is loaded as training loaded it.
    ``batch_size`` takes the place of the benchmarks' own.
    """
    todo = {
        stage: [name for name in config.eval if not (run / stage / name / METRICS_FILE).is_file()]
        for stage in ("eval", "base_eval")
    }

    cache = cache_for_answers(config.features, folder_of(config))

    def answer(stage: str, model: Any, processor: Any) -> None:
        for name in todo[stage]:
            section = config.eval[name]
            benchmark = make_benchmark(name, **section.options)
            folder, size = run / stage / name, batch_size or section.batch_size
            by = section.answer_by
            with answers_from(cache, model, processor):
                answer_and_score(model, processor, benchmark, section, folder, size, progress, answer_by=by)
        todo[stage] = []

    if todo["eval"]:
        model, processor = load_any(str(run))
        answer("eval", model, processor)
        if config.model.adapter is None and _base_is_inside(model):
            with model.disable_adapter():
                answer("base_eval", model, processor)
        del model, processor
        _free_memory()
    if todo["base_eval"]:
        answer("base_eval", *load_any(config.model.adapter or config.model.base(run), config.model))
        _free_memory()
    write_json(run / "comparison.json", compare_stages(run / "base_eval", run / "eval"))


def _base_is_inside(model: Any) -> bool:
    """Whether the model without its adapter is the model that training started from."""
    return hasattr(model, "disable_adapter") and not any(
        str(settings.init_lora_weights).split("_niter")[0].lower() in BASE_CHANGING
        for settings in model.peft_config.values()
        if hasattr(settings, "init_lora_weights")
    )


def _free_memory() -> None:
    gc.collect()  # wrapped models hold reference cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def answer_and_score(
    model: Any,
    processor: Any,
    benchmark: Benchmark,
    section: EvalSection,
    folder: Path,
    batch_size: int = 16,
    progress: Progress = iter,
    *,
    answer_by: AnswerBy = "generation",
    shard: Shard | None = None,
) -> Result:
    """Lets a loaded model answer one benchmark; writes answers, items and metrics to a folder.

    Answers that the folder has already are kept, and only the others are asked for.

    Raises:
        ConfigError: The folder's answers were made with other settings, data or another model.
        DataError: A sample has no question or media, or shares its id with another.
        MemoryShortageError: So many questions at a time do not fit in memory.
    """
    data = Path(section.data)
    samples = limited(benchmark.samples(data), section.limit)
    check_samples(samples)
    root = Path(section.images) if section.images else benchmark.media_root(data)
    settings = GenerationSettings(
        max_new_tokens=section.max_new_tokens or benchmark.max_new_tokens,
        temperature=benchmark.temperature,
        samples=benchmark.samples_each,
        batch_size=batch_size,
    )
    hashes = media_hashes(samples, root)
    encoder = encoder_of(model, processor, root)
    answering = Answering(model, encoder, benchmark, settings, answer_by, hashes)
    told = {
        **asdict(settings),
        "answer_by": answer_by,
        "data_fingerprint": data_fingerprint(samples, hashes),
        "model_fingerprint": model_fingerprint(model),
        "media_root": str(root.resolve()),
        "data": section.data,
        **answering.spelled(samples),
    }
    file = AnswerFile(folder, benchmark.id_keys[0], told, shard, benchmark.samples_each)
    with telling_answer_memory(benchmark.name, batch_size):
        answering.run(samples, file, progress)
    rows = file.finish(samples)
    result = judged(benchmark, samples, rows, answer_by) if file.shard.is_main else None
    if result is not None:
        result.save(folder)
    file.shard.wait()
    return result or Result.load(folder)


def limited(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """The samples of the first ``limit`` groups (images, clips): a group's questions stay together."""
    if limit is None:
        return list(samples)
    groups = list(dict.fromkeys(sample.group for sample in samples))[:limit]
    kept = set(groups)
    return [sample for sample in samples if sample.group in kept]


def merge_run(run: Path, out: Path) -> Path:
    """Merges a run's adapter into its base and saves model and processor.

    Raises:
        ConfigError: ``out`` exists.
        DataError: The run has no adapter.
    """
    if out.exists():
        raise ConfigError(f"{str(out)!r} exists", why="It is not overwritten.", fix="Choose another --out.")
    model, processor = load_any(str(run), _settings_to_merge(run))
    if not hasattr(model, "merge_and_unload"):
        raise DataError(
            f"run {str(run)!r} has no adapter",
            why="There is nothing to merge.",
            fix=f"Its model/ folder is already whole: {run / 'model'}",
        )
    merged = model.merge_and_unload()
    merged.save_pretrained(out, safe_serialization=True)
    processor.save_pretrained(out)
    return out


def _settings_to_merge(run: Path) -> ModelSection | None:
    """A run's own settings, but on the whole weights: a merge into quantized ones would round the adapter away."""
    settings = settings_of_run(run)
    return settings and settings.model_copy(update={"quantize": None})
