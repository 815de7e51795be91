"""The verb ``mmdpo eval``: a model answers benchmarks, its answers are kept, then scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmdpo.verbs.commandline import Plugins, eval_sections, relaunch, use_plugins
from mmdpo.verbs.terminal import closing, metric_table, progress, results, say

OWN_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Lets a verb take options that it does not know itself: those of a benchmark."""
JudgeFile = Annotated[
    Path | None,
    typer.Option(
        "--judge", help="YAML file of an endpoint that judges answers: url, model and so on.", show_default=False
    ),
]


def add_to(app: typer.Typer) -> None:
    """Adds the verb to the command."""
    app.command("eval", rich_help_panel="Pipeline", context_settings=OWN_OPTIONS)(evaluate)


def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a hub name.")],
    benchmarks: Annotated[list[str], typer.Argument(help="Names of benchmarks: mmdpo ls benchmarks")],
    data: Annotated[list[str] | None, typer.Option("--data", help="BENCH=PATH of the questions.")] = None,
    images: Annotated[
        list[str] | None, typer.Option("--images", help="BENCH=FOLDER of the images or other media.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to make; an interrupted evaluation in it goes on.")] = Path(
        "runs/eval"
    ),
    limit: Annotated[
        int | None, typer.Option(help="Use the first N images or clips, with all questions about each.", min=1)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Prompts at a time.", min=1)] = 16,
    answer_by: Annotated[
        Literal["generation", "logits", "both"],
        typer.Option("--answer-by", help="How yes/no questions are answered: written out, or read from the logits."),
    ] = "generation",
    judge: JudgeFile = None,
    processes: Annotated[int, typer.Option("--processes", help="Processes on this machine.", min=1)] = 1,
    plugin: Plugins = None,
) -> None:
    """Let a model answer benchmarks, keep the answers, and score them.

    Further options, after the benchmarks, are a benchmark's own; with several benchmarks write `--name BENCH=value`.

    Example: `mmdpo eval runs/first pope --data pope=questions.jsonl --images pope=photos --out runs/first-pope`
    """
    from mmdpo.evals.judging.endpoint import read_endpoint

    use_plugins(plugin)
    how: dict[str, Any] = {"batch_size": batch_size, "answer_by": answer_by}
    sections = eval_sections(benchmarks, data or [], images or [], limit, out, **how)
    endpoint = None if judge is None else read_endpoint(judge)
    if processes > 1:
        relaunch(processes)
    from accelerate import PartialState

    from mmdpo.answering.benchmarking import evaluate_model
    from mmdpo.shard import Shard

    shard = Shard.of_this_process()
    metrics = evaluate_model(model, sections, out, progress=progress, judge=endpoint, shard=shard)
    if shard.is_main:
        for result in metrics.values():
            results.print(metric_table(result))
            for flag in result["flags"]:
                say(f"note: {flag}")
        closing("answers, items and metrics written", out, f"mmdpo compare OTHER {out}")
    PartialState().destroy_process_group()  # its threads, left to the interpreter's end, now and then abort it
