"""The ``mmdpo`` command. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.logging import RichHandler

from mmdpo.errors import MMDPOError
from mmdpo.interrupts import sigterm_is_ctrl_c, telling_full_disk, telling_signals_at_start
from mmdpo.verbs import bench, data, evaluate, export, helpers, preferences, score, winrate
from mmdpo.verbs.commandline import AsJson, Out, Plugins, merged, relaunch, run_config, use_plugins
from mmdpo.verbs.terminal import (
    closing,
    difference_table,
    notes,
    print_checks,
    print_comparison,
    print_error,
    print_run_comparison,
    progress,
    results,
    say,
    say_warnings,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Align vision-language models with human preferences, so that they hallucinate less.",
)
PIPELINE, HELPERS = "Pipeline", "Helpers"

INTERRUPTED = 130
WITH_ROOM = "Give the same command again; with --resume if the verb has it."

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Settings as `section.key=value`. `loss=NAME` and `loss={...}` replace the file's loss, "
        "`loss.NAME.key=value` changes it.",
        show_default=False,
    ),
]


@app.callback()
def settings(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show details and tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show warnings only.")] = False,
) -> None:
    """Sets up messages for every verb."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if verbose else "1")  # one bar at a time: ours
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    if not verbose:  # peft asks transformers for an old name; nobody who reads the message can do anything about it
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    if not notes.is_terminal:  # must be set before anything imports the hub's client
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    handler = RichHandler(console=notes, show_path=False, show_time=verbose)
    logging.getLogger("mmdpo").setLevel(level)
    logging.getLogger("data_builders").setLevel(level)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])


@app.command(rich_help_panel=PIPELINE)
def demo(
    out: Out = Path("runs/demo"),
    audio: Annotated[bool, typer.Option("--audio", help="Sounds and a listening model instead of pictures.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of scenes, sampling, raters and training.")] = 0,
    scenes: Annotated[int, typer.Option(help="Held-out scenes to measure on.", min=20)] = 500,
) -> None:
    """The whole story on a CPU, from ratings to report: one to two minutes on two cores, with `--audio` too.

    Example: `mmdpo demo --out runs/demo`, or `mmdpo demo --audio --out runs/sounds`
    """
    from mmdpo.playground.audio.worlds import SOUNDS
    from mmdpo.playground.demo import Plan, run_demo
    from mmdpo.playground.worlds import PICTURES

    plan = Plan(world=SOUNDS if audio else PICTURES, seed=seed, heldout_scenes=scenes)
    summary = run_demo(out, plan=plan, say=say, progress=progress)
    results.print(difference_table(summary))
    closing(f"demo finished in {summary['seconds']:.0f} s", out / "report.html", "open the report in a browser")


@app.command(rich_help_panel=PIPELINE)
def build(
    builder: Annotated[str, typer.Argument(help="Name of a builder: mmdpo ls builders")],
    config: Annotated[
        list[str] | None,
        typer.Argument(help="A YAML file or the name of one that ships (mmdpo ls configs), and settings `key=value`."),
    ] = None,
    out: Out = Path("runs/pairs"),
    strict: Annotated[bool, typer.Option(help="Fail when any row is bad or a quality check fails.")] = False,
    embed: Annotated[bool, typer.Option(help="Store the media's bytes in the records.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted build in that folder.")] = False,
    thresholds: Annotated[
        Path | None, typer.Option("--thresholds", help="YAML with bounds of the quality checks.", show_default=False)
    ] = None,
) -> None:
    """Turn ratings, votes or corrections into preference records.

    Example: `mmdpo build ratings data=ratings.csv media_root=photos scale.min=1 scale.max=5 higher_is_better=true
    --out runs/pairs`
    """
    from data_builders.quality import failures
    from data_builders.running.build import build as run_builder
    from data_builders.running.folder import SET_ASIDE_FILE
    from mmdpo.report import write_quality_page

    values, folder = merged(config or [])
    how: dict[str, Any] = {"strict": strict, "embed": embed, "resume": resume, "folder": folder}
    result = run_builder(builder, values, out, progress=progress, thresholds=thresholds, **how)
    if not result.quality:  # of several processes, the main one tells
        return
    page = write_quality_page(result.quality, out / "quality.html", media_root=result.media_root)
    account = result.quality
    rows = account["rows"]
    results.print(f"{rows['read']} rows read: {rows['used']} used, {rows['set_aside']} set aside")
    for reason, count in account["set_aside"].items():
        results.print(f"  {count:>6}  {reason}")
    for note in result.quality.get("notes", []):
        results.print(note, highlight=False)
    for split, media in result.distinct_media().items():
        results.print(f"{account['splits'][split]} {split} records, {media} distinct media")
    print_checks(result.quality["checks"])
    if rows["set_aside"]:
        say(f"each row that was set aside, with the reason: {out / SET_ASIDE_FILE}")
    closing(f"records in {out}", page, f"mmdpo show {out} -n 3; mmdpo train CONFIG data.path={out}")
    failed = failures(result.quality["checks"]) if strict else None
    if failed is not None:
        raise failed


@app.command(rich_help_panel=PIPELINE)
def check(
    config: Annotated[Path, typer.Argument(help="The run's YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Look before training: every error at once, one example with its answer mask, lengths, what is set aside.

    Example: `mmdpo check start.yaml`
    """
    from mmdpo.checking import check_run

    for block in check_run(run_config(config, overrides), config.parent, overrides or [], progress):
        results.print(block, "")
    closing("nothing was trained", config, f"mmdpo train {' '.join([str(config), *(overrides or [])])}")


@app.command(rich_help_panel=PIPELINE)
def train(
    config: Annotated[Path, typer.Argument(help="The run's YAML file.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME of the file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    processes: Annotated[int, typer.Option("--processes", help="Processes on this machine.", min=1)] = 1,
) -> None:
    """Train on preference records; leaves a run folder with adapter, logs, evaluations and report.

    Example: `mmdpo train start.yaml train.learning_rate=1e-5 --out runs/first`
    """
    with telling_signals_at_start():
        settings = run_config(config, overrides)
    if processes > 1:
        relaunch(processes)
    with telling_signals_at_start():  # the imports take seconds
        from accelerate import PartialState

        from mmdpo.pipeline import run

    folder = out or Path("runs", config.stem)
    page = run(settings, folder, resume=resume, folder=config.parent, progress=progress)
    if PartialState().is_main_process:
        print_run_comparison(folder)
        say_warnings(folder)
        closing(f"trained; run folder {folder}", page, f"mmdpo eval {folder} pope --data pope=QUESTIONS --out DIR")
    PartialState().destroy_process_group()  # its threads, left to the interpreter's end, now and then abort it


evaluate.add_to(app)
score.add_to(app)


@app.command(rich_help_panel=PIPELINE)
def compare(
    before: Annotated[Path, typer.Argument(help="Run or evaluation folder A.")],
    after: Annotated[Path, typer.Argument(help="Run or evaluation folder B.")],
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            help="METRIC=VALUE that B must reach: exit 1 below it, or above it where lower is better (chair_i).",
        ),
    ] = None,
    correction: Annotated[str, typer.Option(help="Of p-values for their number: holm, bh, by or none.")] = "holm",
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Paired differences of two evaluated models, with intervals, p-values and a verdict in words.

    Example: `mmdpo compare runs/base-eval runs/tuned-eval --fail-under pope_f1=0.85`
    """
    from mmdpo.evals.comparing.folders import compare_folders, require

    use_plugins(plugin)
    comparison = compare_folders(before, after, correction)
    if as_json:
        typer.echo(json.dumps(comparison, indent=2))
    else:
        print_comparison(comparison)
    require(comparison, fail_under or [])


@app.command(rich_help_panel=PIPELINE)
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, side by side in one page.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the page.")] = None,
) -> None:
    """One self-contained report.html, figures and the model card.

    Example: `mmdpo report runs/demo/tiny-llava`
    """
    from mmdpo.report import write_run_pages

    closing("report written", write_run_pages(runs, out), "open it in a browser")


for verbs in (bench, data, export, helpers, preferences, winrate):
    verbs.add_to(app)


def main() -> None:
    """Runs the command; foreseen failures end with a message and their exit code, not a traceback."""
    try:
        with sigterm_is_ctrl_c(), telling_full_disk("the command ran", "What it has written whole is kept.", WITH_ROOM):
            code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer catches Ctrl-C and typer.Exit, and returns their codes
            raise KeyboardInterrupt
        sys.exit(code)  # None is 0
    except MMDPOError as error:
        if "--verbose" in sys.argv:
            notes.print_exception()
        print_error(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        notes.print("[yellow]interrupted[/yellow]")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # usage errors of the command line itself
            error.show()
            sys.exit(error.exit_code)
        raise


if __name__ == "__main__":
    main()
