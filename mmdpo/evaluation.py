"""Answers first, then metrics: lets a model answer benchmarks, keeps the answers, scores them, compares models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from mmdpo.config import EvalSection, RunConfig
from mmdpo.encoding import Encoder
from mmdpo.errors import ConfigError, DataError, MMDPOError
from mmdpo.evals.base import Benchmark, Result, Sample
from mmdpo.evals.runner import compare, make_benchmark
from mmdpo.generate import GenerationSettings, generate
from mmdpo.jsonfiles import read_json, write_json, write_json_lines
from mmdpo.models.families import facts_of
from mmdpo.models.load import load_pretrained
from mmdpo.records import Media, Record, user_message

Progress = Callable[[Iterable[Any]], Iterable[Any]]


def evaluate_model(
    path: str, sections: Mapping[str, EvalSection], out: Path, *, batch_size: int = 16, progress: Progress = iter
) -> dict[str, dict[str, Any]]:
    """Answers and scores benchmarks.

    Args:
        path: A run folder, an adapter folder, a model folder or a hub name.
        sections: Data and options by benchmark.
        out: Folder that gets ``eval/BENCHMARK/{answers.jsonl, items.jsonl, metrics.json}``.
        batch_size: Prompts at a time.
        progress: Wraps long loops for a progress bar.

    Returns:
        Each benchmark's metrics in the form of ``mmdpo score``.

    Raises:
        ConfigError: ``out`` holds evaluations already.
    """
    benchmarks = {name: make_benchmark(name, **section.options) for name, section in sections.items()}
    for name in benchmarks:
        if (out / "eval" / name).exists():
            raise ConfigError(
                f"{str(out / 'eval' / name)!r} exists",
                why="Evaluations are never overwritten.",
                fix="Choose another --out.",
            )
    model, processor = load_any(path)
    return {
        name: answer_and_score(
            model, processor, benchmarks[name], section, out / "eval" / name, batch_size, progress
        ).to_json()
        for name, section in sections.items()
    }


def evaluate_run(run: Path, config: RunConfig, *, batch_size: int = 16, progress: Progress = iter) -> None:
    """Evaluates a run's model and its base model on the benchmarks of its configuration, and compares them."""
    stages = {"eval": str(run)} if config.model.adapter else {"base_eval": config.model.path, "eval": str(run)}
    for stage, path in stages.items():
        model, processor = load_any(path)
        for name, section in config.eval.items():
            folder = run / stage / name
            if not folder.exists():
                benchmark = make_benchmark(name, **section.options)
                answer_and_score(model, processor, benchmark, section, folder, batch_size, progress)
    if "base_eval" in stages:
        write_json(run / "comparison.json", compare_stages(run / "base_eval", run / "eval"))


def answer_and_score(
    model: Any,
    processor: Any,
    benchmark: Benchmark,
    section: EvalSection,
    folder: Path,
    batch_size: int = 16,
    progress: Progress = iter,
) -> Result:
    """Lets a loaded model answer one benchmark; writes answers, items and metrics to a folder."""
    data = Path(section.data)
    samples = limited(benchmark.samples(data), section.limit)
    root = Path(section.images) if section.images else (data if data.is_dir() else data.parent)
    settings = GenerationSettings(
        max_new_tokens=section.max_new_tokens or benchmark.max_new_tokens, batch_size=batch_size
    )
    texts = answer_samples(model, processor, samples, root, settings, progress)
    rows = [
        {
            benchmark.id_keys[0]: sample.id,
            "prompt": sample.prompt,
            "media": {plural: list(paths) for plural, paths in sample.media.items()},
            benchmark.text_keys[0]: text,
        }
        for sample, text in zip(samples, texts, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_json_lines(folder / "answers.jsonl", rows)
    write_json(
        folder / "generation.json", {**asdict(settings), "media_root": str(root.resolve()), "data": section.data}
    )
    result = benchmark.score(samples, benchmark.answers(rows))
    result.save(folder)
    return result


def limited(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """The samples of the first ``limit`` images: an image's questions stay together."""
    if limit is None:
        return list(samples)
    groups = list(dict.fromkeys(sample.group for sample in samples))[:limit]
    kept = set(groups)
    return [sample for sample in samples if sample.group in kept]


def answer_samples(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    root: Path,
    settings: GenerationSettings,
    progress: Progress = iter,
) -> list[str]:
    """One greedy answer for each sample, from the same prompts that training would score."""
    records = [sample_record(sample) for sample in samples]
    return [
        answers[0].text for answers in generate(model, encoder_of(model, processor, root), records, settings, progress)
    ]


def sample_record(sample: Sample) -> Record:
    """A sample as a record without candidates."""
    media = {plural: tuple(Media(path=str(path)) for path in paths) for plural, paths in sample.media.items()}
    images = len(media.get("images", ()))
    return Record(id=sample.id, prompt=(user_message(sample.prompt, images=images),), candidates=(), media=media)


def encoder_of(model: Any, processor: Any, root: Path | None) -> Encoder:
    """The encoder of a loaded model, wrapped or not."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    stop = inner.generation_config.eos_token_id
    stop = [] if stop is None else [stop] if isinstance(stop, int) else list(stop)
    return Encoder(processor, facts_of(inner), stop, root)


def load_any(path: str) -> tuple[Any, Any]:
    """Loads a run's trained model, an adapter with its base, a model folder or a hub model, ready to answer.

    Raises:
        MMDPOError: Nothing loadable is there.
    """
    folder = Path(path)
    if (folder / "manifest.json").is_file():
        trained = next((folder / name for name in ("adapter", "model") if (folder / name).is_dir()), None)
        if trained is None:
            raise DataError(
                f"run {path!r} has no trained model yet (neither adapter/ nor model/)",
                why="It was interrupted or failed before it saved one.",
                fix="Go on with mmdpo train CONFIG --resume.",
            )
        if trained.name == "adapter":
            section = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]
            return _with_adapter(section["path"], trained)
        folder = trained
    elif (folder / "adapter_config.json").is_file():
        return _with_adapter(read_json(folder / "adapter_config.json")["base_model_name_or_path"], folder)
    model, processor = load_pretrained(str(folder) if folder.exists() else path)
    return _placed(model), processor


def _with_adapter(base: str, adapter: Path) -> tuple[Any, Any]:
    from peft import PeftModel

    model, processor = load_pretrained(base)
    return _placed(PeftModel.from_pretrained(model, str(adapter))), processor


def _placed(model: Any) -> Any:
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def merge_run(run: Path, out: Path) -> Path:
    """Merges a run's adapter into its base and saves model and processor.

    Raises:
        ConfigError: ``out`` exists.
        DataError: The run has no adapter.
    """
    if out.exists():
        raise ConfigError(f"{str(out)!r} exists", why="It is not overwritten.", fix="Choose another --out.")
    model, processor = load_any(str(run))
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


def compare_folders(before: Path, after: Path) -> dict[str, Any]:
    """Paired differences of two evaluated models.

    Args:
        before: Run or evaluation folder of model A.
        after: The same of model B.

    Raises:
        DataError: They share no benchmark.
    """
    folders = [folder / "eval" if (folder / "eval").is_dir() else folder for folder in (before, after)]
    return compare_stages(*folders)


def compare_stages(before: Path, after: Path) -> dict[str, Any]:
    """Paired differences of every benchmark that stands in both folders, metrics prefixed with the benchmark's name."""
    names = [path.parent.name for path in sorted(before.glob("*/metrics.json"))]
    shared = [name for name in names if (after / name / "metrics.json").is_file()]
    if not shared:
        raise DataError(
            f"{str(before)!r} and {str(after)!r} share no evaluated benchmark",
            why="Only answers to the same questions can be compared.",
            fix="Evaluate both on the same benchmark with mmdpo eval.",
        )
    metrics: dict[str, Any] = {}
    for name in shared:
        gaps = compare(Result.load(before / name), Result.load(after / name))
        for metric, entry in gaps.items():
            metrics[metric if metric.startswith(name) else f"{name}_{metric}"] = entry
    return {"metrics": metrics}


def require(comparison: Mapping[str, Any], floors: Sequence[str]) -> None:
    """Checks ``METRIC=VALUE`` floors of model B.

    Raises:
        ConfigError: A floor is not of that form or names no metric.
        MMDPOError: A metric is below its floor.
    """
    for floor in floors:
        name, _, value = floor.partition("=")
        if name not in comparison["metrics"] or not value:
            raise ConfigError(
                f"--fail-under {floor!r} names no compared metric",
                why=f"Compared are: {', '.join(comparison['metrics'])}.",
                fix="Write METRIC=VALUE with a fraction between 0 and 1.",
            )
        reached = comparison["metrics"][name]["after"]["value"]
        if reached < float(value):
            raise MMDPOError(f"{name} is {reached:.4f}, below {value}", why="The floor was set by --fail-under.")
