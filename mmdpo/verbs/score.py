"""The verb ``mmdpo score``: existing answers, scored without a model."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from mmdpo.errors import ConfigError
from mmdpo.verbs.commandline import Plugins, free_to_write, options, use_plugins
from mmdpo.verbs.evaluate import OWN_OPTIONS, JudgeFile
from mmdpo.verbs.terminal import progress


def add_to(app: typer.Typer) -> None:
    """Adds the verb to the command."""
    app.command(rich_help_panel="Pipeline", context_settings=OWN_OPTIONS)(score)


def score(
    context: typer.Context,
    benchmark: Annotated[str, typer.Argument(help="Name of a benchmark: mmdpo ls benchmarks")],
    answers: Annotated[
        Path, typer.Option("--answers", help="Answers in the official form, or a sample log (JSON lines) of lmms-eval.")
    ],
    data: Annotated[Path | None, typer.Option("--data", help="The benchmark's official data.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the JSON, and items.jsonl beside it.")] = None,
    judge: JudgeFile = None,
    replies: Annotated[
        Path | None, typer.Option("--replies", help="The judge's kept replies; default replies.jsonl beside --out.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the pictures, for a judge that is shown them.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Score existing answers without a model; JSON on stdout. Further options are the benchmark's own.

    Example: `mmdpo score pope --data questions.jsonl --answers answers.jsonl --parser official`
    """
    from mmdpo.evals.judging.endpoint import read_endpoint
    from mmdpo.evals.judging.judged import REPLIES_FILE, with_judge
    from mmdpo.evals.runner import make_benchmark
    from mmdpo.evals.shared.lmms_logs import read_answers
    from mmdpo.evals.shared.needs import data_paths
    from mmdpo.jsonfiles import write_json

    use_plugins(plugin)
    items = None if out is None else free_to_write(out, out.parent / "items.jsonl")
    made = make_benchmark(benchmark, **options(context.args))
    with tempfile.TemporaryDirectory() as scratch:  # for a benchmark that draws its own pictures
        given = {} if data is None else {benchmark: data}
        questions = Path(data_paths([benchmark], given, Path(scratch), "Add --data PATH")[benchmark])
        if judge is not None:
            kept = replies or (None if out is None else out.parent / REPLIES_FILE)
            if kept is None:
                raise ConfigError(
                    "--judge without --out or --replies",
                    why="A judge's replies cost time and money; they are kept, so that none is asked for twice.",
                    fix="Add --out FILE: the replies lie beside it.",
                )
            root = images or made.media_root(questions)
            made = with_judge(made, read_endpoint(judge), replies=kept, media_root=root, progress=progress)
        result = made.score(made.samples(questions), read_answers(made, answers))
    if out is not None and items is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result.save_items(items)
        write_json(out, result.to_json())
    typer.echo(json.dumps(result.to_json(), indent=2))
