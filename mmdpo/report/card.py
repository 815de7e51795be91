"""The model card: a run as a README.md with the front matter that the Hugging Face hub reads. Nothing is uploaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mmdpo.jsonfiles import read_json
from mmdpo.report import provenance
from mmdpo.report.evaluated import Benchmark
from mmdpo.report.reading import Change, Run, read_run
from mmdpo.report.rendering import write_page
from mmdpo.report.verdict import judge, limits
from mmdpo.report.words import word_for

TAGS = ("mmdpo", "dpo", "preference-optimization", "hallucination")
_TASKS = {"images": "image-text-to-text", "audios": "audio-text-to-text", "videos": "video-text-to-text"}
"""The hub's names of tasks, by the only list of media that a run was evaluated on."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def write_card(run: Path, *, license: str | None = None) -> Path:
    """Writes the model card of a run as its ``README.md``.

    Args:
        run: The run folder.
        license: Identifier of the license that you give the weights. Without it the card says that the terms of the
            base model and of the data decide.

    Returns:
        The file written.

    Raises:
        ConfigError: The folder holds no run.
        DataError: A file of the run is broken.
    """
    read = read_run(run)
    base = _base(read)
    adapter = not (read.path / "model").is_dir()
    objective = provenance.objective(read)
    return write_page(
        read.path / "README.md",
        "card.md.j2",
        front_matter=_front_matter(read, base, license, adapter).to_yaml(),
        run=read,
        base=base,
        own=_needs_mmdpo(base),
        word=word_for(read.media),
        adapter=adapter,
        license=license,
        verdict=judge(read),
        changes=[change for change in read.changes if change.after],
        figure=(read.path / "figures" / "comparison.png").is_file(),
        facts=[fact for fact in provenance.facts(read) if fact[0] in ("Data fingerprint", "Git", "Took")],
        counts=provenance.counts(read),
        set_aside=provenance.set_aside(read),
        data=provenance.setting(read, "data", "path"),
        objective=objective,
        symbols=provenance.symbols(term["formula"] for term in objective),
        versions=provenance.versions(read),
        command=provenance.command(read),
        limits=limits([read]),
    )


def _base(run: Run) -> str:
    """The model that training started from; one that the run composed lies in the run itself."""
    composed = run.path / "base"
    return str(provenance.setting(run, "model", "path") or (composed if composed.is_dir() else ""))


def _needs_mmdpo(base: str) -> bool:
    """Whether the Auto classes alone do not know the base: it was composed, or comes with this package."""
    config = Path(base) / "config.json"
    if config.is_file():
        return bool(read_json(config).get("model_type") == "mmdpo_composed")
    return bool(base) and "/" not in base  # neither a folder nor a hub name: one of the models that come with mmdpo


def _task(run: Run) -> str | None:
    """The hub's name of what the model does; None where nothing was evaluated that would tell it."""
    return _TASKS.get(next(iter(run.media))) if len(run.media) == 1 else None


def _front_matter(run: Run, base: str, license: str | None, adapter: bool) -> ModelCardData:
    terms: dict[str, Any] = {"license": license or "other"}
    if license is None:
        terms["license_name"] = "see-base-model-and-data"
    # A folder on this machine means nothing on the hub, and the hub refuses what is no identifier.
    if _HUB_ID.fullmatch(base) and not Path(base).exists():
        terms["base_model"] = base
    return ModelCardData(
        **terms,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=_task(run),
        tags=list(TAGS),
        model_name=run.name,
        eval_results=_results(run) or None,
    )


def _results(run: Run) -> list[EvalResult]:
    """The values after training as the hub's ``model-index``; the intervals travel as metric arguments."""
    results = []
    for change in run.changes:
        after = change.after
        if after is None or after.value is None:
            continue
        benchmark = _benchmark(change, run.after)
        results.append(
            EvalResult(
                task_type=_task(run) or "text-generation",
                dataset_type=benchmark,
                dataset_name=benchmark,
                metric_type=change.measure.name,
                metric_name=change.measure.label,
                metric_value=after.value,
                metric_args={"low": after.low, "high": after.high, "confidence": 0.95, "n": after.n},
            )
        )
    return results


def _benchmark(change: Change, benchmarks: Mapping[str, Benchmark]) -> str:
    """The benchmark that a metric comes from."""
    name = change.measure.name
    owners = [key for key, found in benchmarks.items() if name in found.metrics or name.startswith(f"{key}_")]
    return max(owners, key=len, default="held-out")
