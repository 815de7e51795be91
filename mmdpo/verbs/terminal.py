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
    """Metrics of one benchmark and, where a model answered it, its habits."""
    entries = {**result["metrics"], **result.get("habits", {})}
    mixed = not all(entry.get("percent", True) for entry in entries.values())
    title = f"{result['benchmark']} ({result['rule']})"
    table = Table("metric", "value" if mixed else "%", "95% interval", "n", title=escape(title), box=None)
    for name, entry in entries.items():
        value, low, high = (_shown(entry[key], entry, mixed) for key in ("value", "low", "high"))
        table.add_row(name, value, f"{low} to {high}", str(entry["n"]))
    return table


def _shown(value: float | None, entry: Mapping[str, Any], mixed: bool, sign: str = "") -> str:
    """A number as percent where it is a fraction, with the sign for it where others are not."""
    if value is None or entry.get("percent", True):
        return percent(value, f"{sign}.1f") + ("%" if mixed and value is not None else "")
    return f"{value:{sign}.2f}"


def comparison_table(comparison: dict[str, Any]) -> Table:
    """Paired differences of two models, fractions in percent, narrow enough for 80 columns.

    ``shows`` is the smallest difference that would be shown four times in five; a verdict with a question mark is not
    confirmed after the correction for the number of comparisons.
    """
    table = Table("metric", box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for name in ("A", "B", "B - A [95% interval]", "p", "shows"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.columns[0].overflow = "fold"  # a long name takes two lines; no number is cut
    colours = {"better": "green", "worse": "red"}
    entries = comparison["metrics"]
    mixed = not all(entry.get("percent", True) for entry in entries.values())
    for name, entry in entries.items():
        gap = entry["difference"]
        verdict, _, doubt = gap.get("verdict", "").replace("no difference shown", "not shown").partition(" (")
        value, low, high = (_shown(gap[key], entry, False, "+") for key in ("value", "low", "high"))
        table.add_row(
            name,
            _shown(entry["before"]["value"], entry, mixed),
            _shown(entry["after"]["value"], entry, mixed),
            f"{value} [{low}, {high}]".replace("[", r"\["),
            "<.001" if gap["p"] < 0.001 else f"{gap['p']:.3f}",
            _shown(gap.get("detectable"), entry, False),
            f"[{colours.get(verdict, 'default')}]{verdict}[/]" + "?" * doubt.startswith("not confirmed"),
        )
    return table


def print_comparison(comparison: dict[str, Any]) -> None:
    """What changed and what it cost, each as a table of differences and, below it, what they come to."""
    parts: dict[str, dict[str, Any]] = {"What changed in hallucination": {}, "What it cost": {}}
    change, cost = parts.values()
    for name, entry in comparison["metrics"].items():
        (cost if entry.get("role") == "capability" else change)[name] = entry
    cost |= comparison.get("habits", {})
    for title, entries in parts.items():
        if entries:
            results.print(title, style="bold")
            results.print(comparison_table({"metrics": entries}))
            results.print()
    for sentence in (comparison["conclusion"], *comparison.get("kept", {}).get("sentences", ())):
        results.print(escape(sentence), highlight=False)


def print_run_comparison(run: Path) -> None:
    """What training changed and what it cost, where a run was evaluated."""
    path = run / "comparison.json"
    if path.is_file():
        print_comparison(read_json(path))


def difference_table(summary: dict[str, Any]) -> Table:
    """Before and after, from the demo's summary."""
    metrics = {
        name: {"before": summary["base"][name], "after": summary["tuned"][name], "difference": gap}
        for name, gap in summary["difference"].items()
    }
    return comparison_table({"metrics": metrics})


def quality_table(numbers: Mapping[str, Any]) -> tuple[Table, Table]:
    """What ``data_builders.quality`` found, for people: what there is, and each check with its verdict."""
    records = numbers["records"]
    table = Table("records", "", box=None, header_style="bold")
    table.add_row(f"form {records['form']}", f"{records['n']:,}")
    if records["measured_on"] < records["n"]:
        table.add_row("looked at closely", f"{records['measured_on']:,} of {records['n']:,}")
    for name, count in records["media"].items():
        table.add_row(f"distinct {name}", f"{count:,}")
    for kind, count in records["problems"].items():
        table.add_row(f"[red]problem: {escape(kind)}[/red]", f"{count:,}")
    checks = Table("verdict", "check", "finding", box=None, header_style="bold")
    colours = {"fail": "red", "warn": "yellow", "pass": "green"}
    for check in numbers["checks"]:
        colour = colours.get(check["verdict"], "default")
        checks.add_row(f"[{colour}]{check['verdict']}[/]", check["name"], escape(check["message"]))
    return table, checks


def print_checks(checks: Iterable[Mapping[str, Any]]) -> None:
    """How many quality checks passed, and what the others found."""
    checks = list(checks)
    counts = {verdict: sum(check["verdict"] == verdict for check in checks) for verdict in ("pass", "warn", "fail")}
    results.print(f"quality: {counts['pass']} checks pass, {counts['warn']} warn, {counts['fail']} fail")
    for check in checks:
        if counts.get(check["verdict"]) and check["verdict"] != "pass":
            results.print(f"  {check['verdict']}  {check['name']}: {escape(check['message'])}", highlight=False)
