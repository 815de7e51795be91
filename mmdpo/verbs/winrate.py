"""The verb ``mmdpo winrate``: a table for people to fill in, or win rates from their votes, from a judge, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.table import Table

from mmdpo.errors import ConfigError
from mmdpo.verbs.commandline import AsJson, free_to_write
from mmdpo.verbs.terminal import closing, percent, progress, results, say

if TYPE_CHECKING:
    from mmdpo.evals.judging.answer_pairs import AnswerPair
    from mmdpo.evals.judging.endpoint import Endpoint
    from mmdpo.evals.judging.rubric import Rubric
    from mmdpo.evals.winrate import Judgement

RESULT, JUDGEMENTS, REPLIES, GUIDE = "winrate.json", "judgements.jsonl", "replies.jsonl", "guide.txt"


class Judged(NamedTuple):
    """All that people or a judge said, by which rule, and what was set aside."""

    rule: str
    judgements: Sequence[Judgement]
    flags: Sequence[str]


def add_to(app: typer.Typer) -> None:
    """Adds the verb to the command."""
    app.command(rich_help_panel="Pipeline")(winrate)


def winrate(
    models: Annotated[list[str], typer.Argument(help="Two or more: answers or an eval folder, PATH or NAME=PATH.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; nothing is overwritten.")],
    votes: Annotated[list[Path] | None, typer.Option("--votes", help="Filled-in table; may be repeated.")] = None,
    votes_key: Annotated[
        Path | None, typer.Option("--votes-key", help="Which pair is what; default beside it.")
    ] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="Address of an OpenAI-compatible endpoint.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="The judge's name at the endpoint.")] = None,
    rubric: Annotated[Path | None, typer.Option("--rubric", help="YAML file of what answers are judged by.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Folder of pictures to show the judge.")] = None,
    key_variable: Annotated[
        str, typer.Option("--key-variable", help="Environment variable with the endpoint's key.")
    ] = "MMDPO_JUDGE_KEY",
    timeout: Annotated[float, typer.Option(help="Seconds that one call may take.")] = 60.0,
    attempts: Annotated[int, typer.Option(help="Calls for one question before it counts as failed.")] = 5,
    at_once: Annotated[int, typer.Option("--at-once", help="Calls at the same time.")] = 4,
    per_minute: Annotated[float | None, typer.Option("--per-minute", help="Most calls in a minute.")] = None,
    replies: Annotated[
        Path | None, typer.Option("--replies", help="Kept replies; default replies.jsonl in --out.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first N questions.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the table's order.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Which model's answers are better: a blind table for people, or win rates from their votes or from a judge.

    Without `--votes` and `--judge` the table to fill in is written. With both, their agreement is measured.

    Example: `mmdpo winrate runs/base runs/tuned --judge http://localhost:8000/v1 --model NAME --out runs/won`
    """
    from mmdpo.evals.judging.answer_pairs import answer_pairs
    from mmdpo.evals.judging.endpoint import Endpoint
    from mmdpo.evals.judging.rubric import load_rubric

    criteria = load_rubric(rubric)
    pairs, flags = answer_pairs(_named(models), limit=limit)
    if judge is None and not votes:
        _write_table(pairs, criteria, out, seed)
        return
    free_to_write(out / JUDGEMENTS, out / RESULT)
    endpoint = None
    if judge is not None:
        if model is None:
            raise ConfigError(
                "--judge needs --model",
                why="An endpoint can hold several models, and the result names the one that judged.",
                fix="Add --model NAME, as the endpoint calls it.",
            )
        endpoint = Endpoint(
            judge, model, key_variable, timeout=timeout, attempts=attempts, at_once=at_once, per_minute=per_minute
        )
    by_people = None if not votes else _by_people(pairs, votes, votes_key)
    by_judge = None if endpoint is None else _by_judge(pairs, criteria, endpoint, replies or out / REPLIES, images)
    summary, judgements = _summary(by_people, by_judge)
    _write(out, {"models": list(_named(models)), "flags": flags, **summary}, judgements)
    if as_json:
        typer.echo((out / RESULT).read_text(encoding="utf-8"), nl=False)
    else:
        _print(summary)
    closing("win rates and judgements written", out / RESULT, f"read the reasons in {out / JUDGEMENTS}")


def _named(models: Sequence[str]) -> dict[str, Path]:
    """Name -> path, of ``PATH`` or ``NAME=PATH``."""
    named = {}
    for word in models:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            name, path = Path(word).name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json"), word
        named[name] = Path(path)
    if len(named) < len(models) or len(named) < 2:
        raise ConfigError(
            f"{' '.join(models)!r} does not name two or more different models",
            why="Results name the models; by default a model's name is the end of its path.",
            fix="Write NAME=PATH for each.",
        )
    return named


def _write_table(pairs: Sequence[AnswerPair], criteria: Rubric, out: Path, seed: int) -> None:
    from mmdpo.evals.judging.votes import KEY, SHEET, write_sheet

    free_to_write(out / KEY, out / SHEET)
    sheet = write_sheet(pairs, out, seed=seed)
    (out / GUIDE).write_text(f"{criteria.task}\n\n{criteria.guide()}\n", encoding="utf-8")
    say(f"{GUIDE} says what to judge by; {KEY} says which answer is whose: keep it from those who vote")
    closing("table for people written", sheet, "fill in the column vote (1, 2 or tie); same command with --votes FILE")


def _by_people(pairs: Sequence[AnswerPair], votes: Sequence[Path], key: Path | None) -> Judged:
    from mmdpo.evals.judging.votes import judged_by_people, read_votes

    given, flags = read_votes(votes, key=key)
    judgements, further = judged_by_people(pairs, given)
    raters = {rater for those in given.values() for rater in those}
    return Judged(f"mean of the votes of {len(raters)} people", judgements, [*flags, *further])


def _by_judge(
    pairs: Sequence[AnswerPair], criteria: Rubric, endpoint: Endpoint, replies: Path, images: Path | None
) -> Judged:
    from mmdpo.evals.judging.judge import ChatJudge
    from mmdpo.evals.winrate import judge_pairs

    judge = ChatJudge(endpoint, replies=replies, media_root=images)
    say(f"asking {endpoint.model} about {len(pairs)} pairs, in both orders")
    judgements = judge_pairs(pairs, criteria, judge.ask_all, images=images is not None, progress=progress)
    seen = "without" if images is None else "with"
    rule = f"{endpoint.model} {seen} pictures, rubric {criteria.fingerprint}, both orders, a win only where both agree"
    return Judged(rule, judgements, [])


def _summary(by_people: Judged | None, by_judge: Judged | None) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """What is told, and the rows of the audit file."""
    from mmdpo.evals.judging.votes import agreement
    from mmdpo.evals.winrate import JUDGE, PEOPLE, standing

    summary: dict[str, Any] = {}
    rows: list[Mapping[str, Any]] = []
    for by, judged in ((PEOPLE, by_people), (JUDGE, by_judge)):
        if judged is not None:
            told = standing(judged.judgements, by)
            summary[by] = {"rule": judged.rule, **told, "flags": [*judged.flags, *told["flags"]]}
            rows += [{"by": by, **said.to_json()} for said in judged.judgements]
    if by_people is not None and by_judge is not None:
        summary["agreement"] = agreement(by_judge.judgements, by_people.judgements)
    return summary, rows


def _write(out: Path, summary: Mapping[str, Any], judgements: Sequence[Mapping[str, Any]]) -> None:
    from mmdpo.jsonfiles import write_json, write_json_lines

    out.mkdir(parents=True, exist_ok=True)
    write_json_lines(out / JUDGEMENTS, judgements)
    write_json(out / RESULT, summary)


def _print(summary: Mapping[str, Any]) -> None:
    for by in ("people", "judge"):
        if by not in summary:
            continue
        results.print(f"{by}: {summary[by]['rule']}", highlight=False)
        for pair in summary[by]["pairs"]:
            results.print(_numbers(pair["metrics"], f"{pair['first']} against {pair['second']}"))
        if summary[by]["ranking"]:
            results.print(_ranking(summary[by]["ranking"]))
        for flag in summary[by]["flags"]:
            results.print(flag, highlight=False)
    if summary.get("agreement"):
        results.print(_numbers(summary["agreement"], "judge and people"))


def _numbers(metrics: Mapping[str, Any], title: str) -> Table:
    table = Table(title, "%", "95% interval", "n", box=None, header_style="bold")
    for name, value in metrics.items():
        limits = f"{percent(value['low'])} to {percent(value['high'])}"
        table.add_row(name, percent(value["value"]), limits, str(value["n"]))
    return table


def _ranking(ranking: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("model", "strength", "95% interval", "n", box=None, header_style="bold")
    for entry in ranking:
        value = entry["strength"]
        table.add_row(
            entry["model"], f"{value['value']:+.2f}", f"{value['low']:+.2f} to {value['high']:+.2f}", str(value["n"])
        )
    return table
