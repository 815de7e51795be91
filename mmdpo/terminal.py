"""What people see in a terminal: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmdpo.errors import MMDPOError
from mmdpo.jsonfiles import read_json

notes = Console(stderr=True, soft_wrap=True)
results = Console(soft_wrap=True)


def print_error(error: MMDPOError) -> None:
    """The three parts of an error, on stderr."""
    notes.print(f"[bold red]error:[/bold red] {escape(error.what)}", highlight=False)
    for line in (error.why, error.fix):
        if line:
            notes.print(f"       {escape(line)}", highlight=False)


def say(message: str) -> None:
    """One line on stderr."""
    notes.print(escape(message), highlight=False)


def say_warnings(run: Path) -> None:
    """What a run's diagnostics warned of, once more at its end."""
    for entry in read_json(run / "manifest.json").get("advice", []):
        say(f"warning: {entry['metric']} is {entry['value']:.3g} on {entry['pairs']} {entry['split']} pairs.")
        say(f"         {entry['meaning']} To try: {entry['attempt']}")


def progress(items: Iterable[Any]) -> Iterable[Any]:
    """A progress bar on stderr, when it is a terminal."""
    from tqdm import tqdm

    return tqdm(items, file=sys.stderr, leave=False, disable=not sys.stderr.isatty())


def closing(what: str, where: Path, following: str) -> None:
    """What was made, where, and what to do next."""
    notes.print(f"[green]done:[/green] {escape(what)}", highlight=False)
    notes.print(f"      {escape(str(where))}", highlight=False)
    notes.print(f"next: {escape(following)}", highlight=False)


def percent(value: float | None, form: str = ".1f") -> str:
    """A fraction as percent with one decimal; a bound that there is none of as a dash."""
    return "–" if value is None else f"{100 * value:{form}}"


def metric_table(result: dict[str, Any]) -> Table:
    """Metrics of one benchmark."""
    table = Table("metric", "%", "95% interval", "n", title=f"{result['benchmark']} ({result['rule']})", box=None)
    for name, entry in result["metrics"].items():
        table.add_row(
            name, percent(entry["value"]), f"{percent(entry['low'])} to {percent(entry['high'])}", str(entry["n"])
        )
    return table


def comparison_table(comparison: dict[str, Any]) -> Table:
    """Paired differences of two models, in percent, narrow enough for 80 columns."""
    table = Table("metric", box=None, header_style="bold", pad_edge=False)
    for name in ("A", "B", "B - A [95% interval]", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.columns[0].no_wrap = True
    colours = {"better": "green", "worse": "red"}
    for name, entry in comparison["metrics"].items():
        gap = entry["difference"]
        verdict = gap.get("verdict", "").partition(" (")[0].replace("no difference shown", "not shown")
        table.add_row(
            name,
            percent(entry["before"]["value"]),
            percent(entry["after"]["value"]),
            f"{percent(gap['value'], '+.1f')} [{percent(gap['low'], '+.1f')}, {percent(gap['high'], '+.1f')}]".replace(
                "[", r"\["
            ),
            "<.001" if gap["p"] < 0.001 else f"{gap['p']:.3f}",
            f"[{colours[verdict]}]{verdict}[/]" if verdict in colours else verdict,
        )
    return table


def difference_table(summary: dict[str, Any]) -> Table:
    """Before and after, from the demo's summary."""
    metrics = {
        name: {"before": summary["base"][name], "after": summary["tuned"][name], "difference": gap}
        for name, gap in summary["difference"].items()
    }
    return comparison_table({"metrics": metrics})


def quality_table(numbers: Mapping[str, Any]) -> Table:
    """What ``data_builders.quality.measure`` found, for people."""
    table = Table("records", "", box=None, header_style="bold")
    table.add_row(f"form {numbers['form']}", f"{numbers['n']:,}")
    for name, count in numbers["media"].items():
        table.add_row(f"distinct {name}", f"{count:,}")
    for kind, count in numbers["problems"].items():
        table.add_row(f"[red]problem: {escape(kind)}[/red]", f"{count:,}")
    if not numbers["problems"]:
        table.add_row("problems", "none")
    length, margin = numbers["length"], numbers["margin"]
    if length:
        share = length["longer_is_chosen"]
        table.add_row(
            f"{length['unit']}, chosen and rejected", f"{length['chosen_mean']:.1f}, {length['rejected_mean']:.1f}"
        )
        interval = f"{percent(share['low'])} to {percent(share['high'])}"
        table.add_row("longer answer is chosen", f"{percent(share['value'])}% ({interval}), n = {share['n']:,}")
    if margin:
        table.add_row("margin of the scores", f"mean {margin['mean']:.2f}, median {margin['median']:.2f}")
    return table
