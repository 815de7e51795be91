"""A model through several benchmarks: everything is checked first, then it answers, then the answers are scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.answering.evaluation import answer_and_score
from mmdpo.answering.loading import load_any
from mmdpo.config import EvalSection, FeaturesSection
from mmdpo.errors import ConfigError
from mmdpo.evals.base import Benchmark
from mmdpo.evals.judging.endpoint import Endpoint
from mmdpo.evals.judging.judged import REPLIES_FILE, takes_judge, with_judge
from mmdpo.evals.result import METRICS_FILE, Result
from mmdpo.evals.runner import make_benchmark
from mmdpo.evals.shared.needs import require_data
from mmdpo.feature_caching import answers_from, cache_for_answers
from mmdpo.progress import Progress
from mmdpo.shard import Shard


def evaluate_model(
    model: str | tuple[Any, Any],
    sections: Mapping[str, EvalSection],
    out: Path,
    *,
    progress: Progress = iter,
    judge: Endpoint | None = None,
    shard: Shard | None = None,
) -> dict[str, dict[str, Any]]:
    """Answers and scores benchmarks.

    Args:
        model: A run folder, an adapter folder, a model folder or a hub name; or a loaded model and its processor.
        sections: Data, options and how it is answered, by benchmark.
        out: Folder that gets ``eval/BENCHMARK/{answers.jsonl, items.jsonl, metrics.json}``.
        progress: Wraps long loops for a progress bar.
        judge: Judges the answers of benchmarks that take a judge; its replies are kept beside them.
        shard: The part of this process, where several share the work.

    Returns:
        Each benchmark's metrics in the form of ``mmdpo score``, with the habits of the answers.

    Raises:
        ConfigError: ``out`` holds finished evaluations, or answers that were made otherwise; data are missing; answers
            are to be read from the logits and no benchmark asks yes/no questions; or no benchmark takes the judge.
    """
    made = {name: make_benchmark(name, **section.options) for name, section in sections.items()}
    for name, section in sections.items():
        require_data(name, section.data)
    _require_use(made, sections, judge)
    _require_unfinished(made, out)
    if judge is not None:
        made = {
            name: with_judge(
                benchmark,
                judge,
                replies=out / "eval" / name / REPLIES_FILE,
                media_root=_media_root(benchmark, sections[name]),
                progress=progress,
            )
            if takes_judge(type(benchmark))
            else benchmark
            for name, benchmark in made.items()
        }
    _require_same_rules(made, out)
    loaded, processor = load_any(model) if isinstance(model, str) else model
    (shard or Shard()).wait()  # all have seen that nothing is finished before one finishes
    results = {}
    again = len(sections) > 1 or any(section.answer_by == "both" for section in sections.values())
    cache = cache_for_answers(FeaturesSection()) if again else None  # else no medium is encoded twice
    for name, section in sections.items():
        how: dict[str, Any] = {"answer_by": section.answer_by, "shard": shard}
        folder, size = out / "eval" / name, section.batch_size
        with answers_from(cache, loaded, processor):
            result = answer_and_score(loaded, processor, made[name], section, folder, size, progress, **how)
        results[name] = result.summary()
    return results


def _require_use(made: Mapping[str, Benchmark], sections: Mapping[str, EvalSection], judge: Endpoint | None) -> None:
    """Refuses settings that no benchmark would read."""
    names = ", ".join(made)
    forced = [name for name, section in sections.items() if section.answer_by != "generation"]
    if forced and not any(made[name].yes_no for name in forced):
        raise ConfigError(
            f"--answer-by {sections[forced[0]].answer_by}, but {', '.join(forced)} asks no yes/no questions",
            why="Only yes and no can be read from the logits of the first token.",
            fix="Leave --answer-by away.",
        )
    if judge is not None and not any(takes_judge(type(benchmark)) for benchmark in made.values()):
        raise ConfigError(
            f"--judge, but {names} takes no judge",
            why="Nobody would be asked.",
            fix="Leave --judge away; mmdpo ls benchmarks says which take one.",
        )


def _finished(made: Mapping[str, Benchmark], out: Path) -> dict[str, Path]:
    """Folders of the benchmarks that have been evaluated already."""
    folders = {name: out / "eval" / name for name in made}
    return {name: folder for name, folder in folders.items() if (folder / METRICS_FILE).exists()}


def _require_unfinished(made: Mapping[str, Benchmark], out: Path) -> None:
    finished = _finished(made, out)
    if len(finished) == len(made):
        raise _exists(next(iter(finished.values())))


def _require_same_rules(made: Mapping[str, Benchmark], out: Path) -> None:
    """Where one benchmark is finished and another was interrupted, the first is scored again: by the same rule."""
    for name, folder in _finished(made, out).items():
        if not Result.load(folder).rule.startswith(made[name].rule):
            raise _exists(folder)


def _exists(folder: Path) -> ConfigError:
    return ConfigError(f"{str(folder)!r} exists", why="Evaluations are never overwritten.", fix="Choose another --out.")


def _media_root(benchmark: Benchmark, section: EvalSection) -> Path:
    """The folder of a benchmark's media."""
    return Path(section.images) if section.images else benchmark.media_root(Path(section.data))
