"""The ``mmdpo`` command. Everything heavy is imported inside the verb that needs it; results go to stdout, all else to
stderr.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from mmdpo.errors import ConfigError, MMDPOError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Align vision-language models with human preferences, so that they hallucinate less.",
)
PIPELINE, HELPERS = "Pipeline", "Helpers"
notes = Console(stderr=True, soft_wrap=True)
results = Console(soft_wrap=True)

Overrides = Annotated[list[str] | None, typer.Argument(help="Settings as `section.key=value`.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="Folder to make; nothing is overwritten.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def settings(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show details and tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show warnings only.")] = False,
) -> None:
    """Sets up messages for every verb."""
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    handler = RichHandler(console=notes, show_path=False, show_time=verbose)
    logging.getLogger("mmdpo").setLevel(level)
    logging.getLogger("data_builders").setLevel(level)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])


@app.command(rich_help_panel=PIPELINE)
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of scenes, sampling, raters and training.")] = 0,
    scenes: Annotated[int, typer.Option(help="Held-out scenes to measure on.", min=20)] = 500,
) -> None:
    """The whole story on a CPU, from ratings to report, in about two minutes.

    Example: `mmdpo demo --out runs/demo`
    """
    from mmdpo.playground.demo import run_demo

    summary = run_demo(out, seed=seed, scenes=scenes, say=_say, progress=_progress)
    results.print(_difference_table(summary))
    _closing(f"demo finished in {summary['seconds']:.0f} s", out / "report.html", "open the report in a browser")


@app.command(rich_help_panel=PIPELINE)
def build(
    builder: Annotated[str, typer.Argument(help="Name of a builder: mmdpo ls builders")],
    config: Annotated[list[str] | None, typer.Argument(help="A YAML file, and settings as `key=value`.")] = None,
    out: Out = Path("runs/pairs"),
    strict: Annotated[bool, typer.Option(help="Fail when any row is bad.")] = False,
    embed: Annotated[bool, typer.Option(help="Store the media's bytes in the records.")] = False,
) -> None:
    """Turn ratings, votes or corrections into preference records.

    Example: `mmdpo build ratings data=ratings.csv media_root=photos scale.min=1 scale.max=5 higher_is_better=true
    --out runs/pairs`
    """
    from data_builders.base import build as run_builder
    from mmdpo.report import write_quality_page

    values = _merged(config or [])
    result = run_builder(builder, values, out, strict=strict, embed=embed)
    page = write_quality_page(result.quality, out / "quality.html", media_root=result.records.media_root)
    account = result.ledger.account()
    rows = account["rows"]
    results.print(f"{rows['read']} rows read: {rows['used']} used, {rows['set_aside']} set aside")
    for reason, count in account["set_aside"].items():
        results.print(f"  {count:>6}  {reason}")
    for split, records in result.splits.items():
        results.print(f"{len(records)} {split} records")
    _closing(f"records in {out}", page, f"mmdpo show {out} -n 3; mmdpo train CONFIG data.path={out}")


@app.command(rich_help_panel=PIPELINE)
def check(
    config: Annotated[Path, typer.Argument(help="The run's YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Look before training: every error at once, one example with its answer mask, lengths, what is set aside.

    Example: `mmdpo check start.yaml`
    """
    from mmdpo.checking import check_run

    for block in check_run(_run_config(config, overrides), config.parent, progress=_progress):
        results.print(block)


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
    run_config = _run_config(config, overrides)
    if processes > 1:
        _relaunch(processes)
    from accelerate import PartialState

    from mmdpo.evaluation import evaluate_run
    from mmdpo.pipeline import train as run_training
    from mmdpo.report import write_card, write_figures, write_report

    folder = out or Path("runs") / config.stem
    run_training(run_config, folder, resume=resume, folder=config.parent, progress=_progress)
    if PartialState().is_main_process:
        if run_config.eval:
            evaluate_run(folder, run_config, progress=_progress)
        write_figures(folder)
        write_card(folder)
        page = write_report([folder])
        _closing(f"trained; run folder {folder}", page, f"mmdpo eval {folder} pope --data pope=QUESTIONS --out DIR")


@app.command(name="eval", rich_help_panel=PIPELINE)
def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a hub name.")],
    benchmarks: Annotated[list[str], typer.Argument(help="Names of benchmarks: mmdpo ls benchmarks")],
    data: Annotated[list[str] | None, typer.Option("--data", help="BENCH=PATH of the questions.")] = None,
    images: Annotated[list[str] | None, typer.Option("--images", help="BENCH=FOLDER of the images.")] = None,
    out: Out = Path("runs/eval"),
    limit: Annotated[int | None, typer.Option(help="Use the first N samples.", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Prompts at a time.", min=1)] = 16,
) -> None:
    """Let a model answer benchmarks, keep the answers, and score them.

    Example: `mmdpo eval runs/first pope --data pope=questions.jsonl --images pope=photos --out runs/first-pope`
    """
    from mmdpo.evaluation import evaluate_model

    sections = _eval_sections(benchmarks, data or [], images or [], limit)
    metrics = evaluate_model(model, sections, out, batch_size=batch_size, progress=_progress)
    for result in metrics.values():
        results.print(_metric_table(result))
    _closing("answers, items and metrics written", out, f"mmdpo compare OTHER {out}")


@app.command(rich_help_panel=PIPELINE, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def score(
    context: typer.Context,
    benchmark: Annotated[str, typer.Argument(help="Name of a benchmark: mmdpo ls benchmarks")],
    data: Annotated[Path, typer.Option("--data", help="The benchmark's official data.")],
    answers: Annotated[Path, typer.Option("--answers", help="Existing answers in the official form.")],
    out: Annotated[Path | None, typer.Option("--out", help="Also write the JSON (and the items beside it).")] = None,
) -> None:
    """Score existing answers without a model; JSON on stdout. Further options are the benchmark's own.

    Example: `mmdpo score pope --data questions.jsonl --answers answers.jsonl --parser official`
    """
    from mmdpo.evals.runner import score as run_score

    result = run_score(benchmark, data, answers, **_options(context.args))
    text = json.dumps(result.to_json(), indent=2)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    typer.echo(text)


@app.command(rich_help_panel=PIPELINE)
def compare(
    before: Annotated[Path, typer.Argument(help="Run or evaluation folder A.")],
    after: Annotated[Path, typer.Argument(help="Run or evaluation folder B.")],
    fail_under: Annotated[
        list[str] | None, typer.Option("--fail-under", help="METRIC=VALUE that B must reach; exit 1 below it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Paired differences of two evaluated models, with intervals, p-values and a verdict in words.

    Example: `mmdpo compare runs/base-eval runs/tuned-eval --fail-under pope_f1=0.85`
    """
    from mmdpo.evaluation import compare_folders, require

    comparison = compare_folders(before, after)
    if as_json:
        typer.echo(json.dumps(comparison, indent=2))
    else:
        results.print(_comparison_table(comparison))
    require(comparison, fail_under or [])


@app.command(rich_help_panel=PIPELINE)
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, side by side in one page.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the page.")] = None,
) -> None:
    """One self-contained report.html, figures and the model card.

    Example: `mmdpo report runs/demo`
    """
    from mmdpo.report import write_card, write_figures, write_report

    for run in runs:
        write_figures(run)
        write_card(run)
    _closing("report written", write_report(runs, out), "open it in a browser")


@app.command(rich_help_panel=HELPERS)
def quality(data: Annotated[Path, typer.Argument(help="Folder of records.")], as_json: AsJson = False) -> None:
    """Counts, length bias and every problem of a set of records; exit 1 when there are problems.

    Example: `mmdpo quality runs/pairs`
    """
    from data_builders.quality import measure
    from mmdpo.records import load_records

    numbers = measure(load_records(data))
    if as_json:
        typer.echo(json.dumps(numbers, indent=2))
    else:
        results.print_json(json.dumps({k: v for k, v in numbers.items() if k != "examples"}))
    if numbers.get("problems"):
        raise typer.Exit(1)


@app.command(rich_help_panel=HELPERS)
def show(
    data: Annotated[Path, typer.Argument(help="Folder of records.")],
    n: Annotated[int, typer.Option("-n", help="How many.", min=1)] = 5,
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
) -> None:
    """Look at records: media, prompt, chosen and rejected.

    Example: `mmdpo show runs/pairs -n 3`
    """
    from mmdpo.records import load_records, prompt_text

    for record in load_records(data, split=split)[:n]:
        results.print(f"[bold]{escape(record.id)}[/bold]")
        for plural, items in record.media.items():
            results.print(f"  {plural}: " + ", ".join(escape(item.name) for item in items))
        results.print(f"  prompt: {escape(prompt_text(record))}")
        names = ["chosen", "rejected"] if record.form == "pair" else [str(k) for k in range(len(record.candidates))]
        for name, candidate in zip(names, record.candidates, strict=True):
            style = {"chosen": "green", "rejected": "red"}.get(name, "cyan")
            rated = "" if candidate.score is None else f"  ({candidate.score:g})"
            results.print(f"  [{style}]{name}[/{style}]: {escape(candidate.text)}{rated}")


@app.command(name="ls", rich_help_panel=HELPERS)
def list_names(
    kind: Annotated[str, typer.Argument(help="losses, builders, benchmarks, modalities, configs or families")],
    as_json: AsJson = False,
) -> None:
    """What there is to choose from.

    Example: `mmdpo ls losses`
    """
    from mmdpo.discovery import listing

    rows = listing(kind)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(*(key for key in rows[0]), box=None, header_style="bold") if rows else Table()
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    results.print(table)


@app.command(name="cp", rich_help_panel=HELPERS)
def copy_config(
    name: Annotated[str, typer.Argument(help="A configuration of mmdpo ls configs.")],
    to: Annotated[Path | None, typer.Argument(help="Where to; default NAME.yaml here.")] = None,
) -> None:
    """Copy a ready-made configuration to edit.

    Example: `mmdpo cp llava_7b`
    """
    from mmdpo.config import copy_shipped

    path = copy_shipped(name, to or Path(f"{name}.yaml"))
    _closing("configuration copied", path, f"mmdpo check {path}")


@app.command(rich_help_panel=HELPERS)
def merge(
    run: Annotated[Path, typer.Argument(help="A run folder with an adapter.")],
    out: Out = Path("runs/merged"),
) -> None:
    """Merge a run's adapter into its base model, for serving.

    Example: `mmdpo merge runs/first --out runs/first-merged`
    """
    from mmdpo.evaluation import merge_run

    _closing("merged model written", merge_run(run, out), f"mmdpo eval {out} BENCH --data BENCH=PATH")


@app.command(rich_help_panel=HELPERS)
def env(as_json: AsJson = False) -> None:
    """Versions and devices, for a bug report.

    Example: `mmdpo env`
    """
    from mmdpo.discovery import environment

    facts = environment()
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(f"{k:>14}  {v}" for k, v in facts.items()))


def main() -> None:
    """Runs the command; foreseen failures end with a message and their exit code, not a traceback."""
    try:
        app(standalone_mode=False)
    except MMDPOError as error:
        if "--verbose" in sys.argv:
            notes.print_exception()
        _print_error(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        notes.print("[yellow]interrupted[/yellow]")
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # usage errors of the command line itself
            error.show()
            sys.exit(error.exit_code)
        raise


def _print_error(error: MMDPOError) -> None:
    notes.print(f"[bold red]error:[/bold red] {escape(error.what)}", highlight=False)
    for line in (error.why, error.fix):
        if line:
            notes.print(f"       {escape(line)}", highlight=False)


def _say(message: str) -> None:
    notes.print(escape(message), highlight=False)


def _progress(items: Iterable[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, file=sys.stderr, leave=False, disable=not sys.stderr.isatty())


def _closing(what: str, where: Path, following: str) -> None:
    notes.print(f"[green]done:[/green] {escape(what)}", highlight=False)
    notes.print(f"      {escape(str(where))}", highlight=False)
    notes.print(f"next: {escape(following)}", highlight=False)


def _run_config(config: Path, overrides: list[str] | None) -> Any:
    from mmdpo.config import load_config

    return load_config(config, overrides or [])


def _merged(words: list[str]) -> dict[str, Any]:
    from mmdpo.config import read_yaml, shipped_configs

    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise ConfigError(
            f"two configuration files were given: {', '.join(files)}",
            why="It is not known which one counts.",
            fix="Give one file, and settings as key=value.",
        )
    path = None if not files else Path(files[0])
    if path is not None and not path.exists():
        path = shipped_configs().get(files[0], path)
    return read_yaml(path, [word for word in words if "=" in word])


def _eval_sections(benchmarks: list[str], data: list[str], images: list[str], limit: int | None) -> dict[str, Any]:
    from mmdpo.config import EvalSection

    paths, folders = _by_name(data, "--data"), _by_name(images, "--images")
    missing = [name for name in benchmarks if name not in paths]
    if missing:
        raise ConfigError(
            f"no --data for {', '.join(missing)}",
            why="A benchmark needs its questions.",
            fix=f"Add --data {missing[0]}=PATH",
        )
    return {name: EvalSection(data=paths[name], images=folders.get(name), limit=limit) for name in benchmarks}


def _by_name(pairs: list[str], option: str) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(
                f"{option} {pair!r} has no benchmark name",
                why="It is not known which benchmark it belongs to.",
                fix=f"Write {option} BENCH=PATH.",
            )
    return dict(pair.split("=", 1) for pair in pairs)


def _options(words: list[str]) -> dict[str, Any]:
    """``--name value`` and ``--name=value`` pairs of a benchmark's own options."""
    flat = [piece for word in words for piece in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(flat) % 2 or any(not name.startswith("--") for name in flat[::2]):
        raise ConfigError(
            f"options {' '.join(words)!r} are not pairs of --name value",
            why="The benchmark's own options take one value each.",
            fix="Write --name value.",
        )
    return {name[2:].replace("-", "_"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _relaunch(processes: int) -> None:
    """Runs the same command under ``accelerate launch``; does not return."""
    import subprocess

    words, skip = [], False
    for word in sys.argv[1:]:
        if skip or word == "--processes":
            skip = not skip
        elif not word.startswith("--processes="):
            words.append(word)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), "-m", "mmdpo"]
    sys.exit(subprocess.run([*command, *words], check=False).returncode)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _metric_table(result: dict[str, Any]) -> Table:
    table = Table("metric", "%", "95% interval", "n", title=f"{result['benchmark']} ({result['rule']})", box=None)
    for name, entry in result["metrics"].items():
        table.add_row(
            name, _percent(entry["value"]), f"{_percent(entry['low'])} to {_percent(entry['high'])}", str(entry["n"])
        )
    return table


def _comparison_table(comparison: dict[str, Any]) -> Table:
    table = Table("metric", "A %", "B %", "difference (95% interval)", "p", "verdict", box=None, header_style="bold")
    for name, entry in comparison["metrics"].items():
        gap = entry["difference"]
        table.add_row(
            name,
            _percent(entry["before"]["value"]),
            _percent(entry["after"]["value"]),
            f"{100 * gap['value']:+.1f} ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})",
            f"{gap['p']:.3g}",
            gap.get("verdict", ""),
        )
    return table


def _difference_table(summary: dict[str, Any]) -> Table:
    metrics = {
        name: {"before": summary["base"][name], "after": summary["tuned"][name], "difference": gap}
        for name, gap in summary["difference"].items()
    }
    return _comparison_table({"metrics": metrics})


if __name__ == "__main__":
    main()
