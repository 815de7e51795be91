"""The verbs of the command line as functions."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmdpo.answering.answers import AnswerBy
from mmdpo.answering.benchmarking import evaluate_model
from mmdpo.answering.loading import load_to_score
from mmdpo.answering.text_scores import candidate_scores
from mmdpo.config import EvalSection, describe_problem, parse_config
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.comparing.folders import compare_folders
from mmdpo.evals.judging.endpoint import read_endpoint
from mmdpo.evals.shared.needs import data_paths, known_names
from mmdpo.pipeline import run
from mmdpo.records import Record, Records
from mmdpo.results import Results


def load(path: str) -> tuple[Any, Any]:
    """Loads a run's trained model, an adapter, a model folder or a hub model.

    Args:
        path: Where it is; ``"playground"`` is the tiny model that ships with the package.

    Returns:
        The model, ready to answer and to score, and its processor.
    """
    return load_to_score(path)


def score(
    model: Any, processor: Any, records: Records | Sequence[Record], *, media: str = "clean", batch_size: int = 8
) -> list[list[float]]:
    """Log-probability of every candidate of every record.

    Args:
        model: A model of :func:`load`.
        processor: Its processor.
        records: Records with any number of candidates.
        media: Media variant: ``"clean"``, or a corruption such as ``"blank"``.
        batch_size: Records at a time.

    Returns:
        For each record, the summed natural-log probability of each candidate, its end of turn included. A record
        without media has no corrupted variant, and gets an empty list.

    Raises:
        DataError: A record is longer than the model's positions allow, or its media cannot be read.
    """
    found = candidate_scores(model, processor, records, media=media, batch_size=batch_size)
    if found.unfit:
        first = next(iter(found.unfit))
        raise DataError(
            f"{len(found.unfit)} of {len(records)} records cannot be scored "
            f"(first: {records[first].id!r}: {found.unfit[first]})",
            why="A list without their numbers could be taken for a complete one.",
            fix="Leave them out, or mend their text or media.",
        )
    return [[one.total for one in own] for own in found.scores]


def train(config: Mapping[str, Any], out: str | Path, *, resume: bool = False) -> Path:
    """Trains on preference records, evaluates before and after, and writes the report, as ``mmdpo train``.

    Args:
        config: The configuration's sections as plain values.
        out: Run folder.
        resume: Go on from its last checkpoint.

    Returns:
        The run folder.
    """
    run(parse_config(config), Path(out), resume=resume, command=["mmdpo.train"])
    return Path(out)


def evaluate(
    model: str | Path | tuple[Any, Any],
    benchmarks: str | Sequence[str] | Mapping[str, Mapping[str, Any]],
    out: str | Path | None = None,
    *,
    data: Mapping[str, str | Path] | None = None,
    images: Mapping[str, str | Path] | None = None,
    limit: int | None = None,
    answer_by: AnswerBy = "generation",
    batch_size: int = 16,
    judge: str | Path | None = None,
) -> Results:
    """Lets a model answer benchmarks and scores the answers, as ``mmdpo eval``.

    Args:
        model: A run folder, model folder or hub name; or what :func:`load` gives, a model and its processor.
        benchmarks: Names; or by name ``data``, and optionally ``images``, ``limit``, ``max_new_tokens``, ``options``,
            ``answer_by`` and ``batch_size``, which go before the arguments below.
        out: Folder of answers, items and metrics; an interrupted evaluation in it goes on. None takes a fresh folder
            among the system's temporary ones; ``Results.folder`` names it.
        data: Path of the questions by benchmark; benchmarks that ship their own need none.
        images: Folder of the images or other media by benchmark; by default beside the questions.
        limit: Use the first so many images or clips, with all questions about each.
        answer_by: How yes/no questions are answered: ``generation``, ``logits`` or ``both``.
        batch_size: Prompts at a time.
        judge: YAML file of an endpoint, for benchmarks whose answers a judge judges.

    Returns:
        Each benchmark's result in the form of ``mmdpo score``; printed, or shown in a notebook, a table.

    Raises:
        ConfigError: A benchmark or key is unknown, or a benchmark lacks its data: the error says which files it reads.
    """
    loaded = str(model) if isinstance(model, str | Path) else model
    if not isinstance(loaded, str) and not (isinstance(loaded, tuple | list) and len(loaded) == 2):
        raise ConfigError(
            f"a {type(model).__name__} is no model to evaluate",
            why="A model answers through its processor.",
            fix="Give a path or hub name, or both: mmdpo.evaluate((model, processor), ...).",
        )
    named = [benchmarks] if isinstance(benchmarks, str) else list(benchmarks)
    own = benchmarks if isinstance(benchmarks, Mapping) else {}
    paths = {name: values["data"] for name, values in own.items() if "data" in values} | dict(data or {})
    folder = Path(tempfile.mkdtemp(prefix="mmdpo-eval-")) if out is None else Path(out)
    paths = data_paths(named, paths, folder, "Give data={{{name!r}: PATH}}.")
    known_names(images or {}, named, "images")
    how = {"limit": limit, "answer_by": answer_by, "batch_size": batch_size}
    media = {name: str(path) for name, path in (images or {}).items()}
    sections = {
        name: _section(name, {**how, "images": media.get(name), **own.get(name, {}), "data": paths[name]})
        for name in named
    }
    endpoint = None if judge is None else read_endpoint(Path(judge))
    return Results(evaluate_model(loaded, sections, folder, judge=endpoint), folder)


def _section(name: str, values: Mapping[str, Any]) -> EvalSection:
    try:
        return EvalSection.model_validate(values)
    except ValidationError as error:
        problems = [f"{name}.{describe_problem(problem, EvalSection)}" for problem in error.errors()]
        raise ConfigError(
            "; ".join(problems), why="Nothing was evaluated.", fix=f"Known keys: {', '.join(EvalSection.model_fields)}."
        ) from error


def compare(before: str | Path, after: str | Path, correction: str = "holm") -> dict[str, Any]:
    """Paired differences of two evaluated models, as ``mmdpo compare``.

    Args:
        before: Run or evaluation folder of model A.
        after: The same of model B.
        correction: Of the p-values for their number: ``holm``, ``bh``, ``by`` or ``none``.
    """
    return compare_folders(Path(before), Path(after), correction)
