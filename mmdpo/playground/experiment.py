"""The experiment behind a demo: several seeds, many held-out scenes each, with controls.

Rows of the table:
    main           DPO and the likelihood of the chosen answer, on rated captions and yes/no answers
    dpo            DPO alone
    captions_only  as main, without yes/no answers
    shuffled       as main, with the ratings dealt out at random: must show none of the effect

A seed draws its own scenes, captions, raters, adapter and order. Differences are paired by scene; intervals resample
scenes of all seeds, and the range over seeds stands beside them.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_builders.running.build import build
from mmdpo.answering.evaluation import evaluate_run
from mmdpo.evals.result import Item, Result
from mmdpo.evals.runner import compare
from mmdpo.jsonfiles import write_json
from mmdpo.playground.demo import Plan, add_usual, demo_config, make_heldout, make_ratings, ratings_config
from mmdpo.playground.worlds import World
from mmdpo.runs.training import train


def metrics(world: World) -> dict[str, dict[str, str]]:
    """Columns of the table: names and headings of metrics by benchmark."""
    return {
        world.usual: {f"{world.usual}_rate": world.usual.replace("_", " ")},
        "chair": {"chair_i": "CHAIR_i", "chair_s": "CHAIR_s", "recall": "recall"},
        "pope": {
            "adversarial_f1": "POPE adv. F1",
            "adversarial_accuracy": "POPE adv. acc.",
            "random_f1": "POPE random F1",
            "popular_f1": "POPE popular F1",
        },
    }


def variants(world: World, seed: int, scenes: int, preference_scenes: int) -> dict[str, Plan]:
    """The rows of the table as plans."""
    main = Plan(world=world, seed=seed, heldout_scenes=scenes, preference_scenes=preference_scenes)
    return {
        "main": main,
        "dpo": replace(main, loss={"nll": None}),
        "captions_only": replace(main, yes_no=False),
        "shuffled": replace(main, shuffle_ratings=True),
    }


def run_variant(name: str, plan: Plan, folder: Path) -> Path:
    """Builds, trains and evaluates one row for one seed; what stands already is not done again."""
    out = folder / name
    if (out / "run" / "comparison.json").is_file():
        return out / "run"
    shutil.rmtree(out, ignore_errors=True)
    data = folder / ("main" if name == "dpo" else name) / "data"  # dpo alone sees the very same ratings
    if not data.is_dir():
        make_ratings(plan, data)
    build("ratings", ratings_config(plan, data), out / "pairs")
    if not (folder / "heldout").is_dir():
        make_heldout(plan, folder / "heldout")
    config = demo_config(plan, out, heldout=folder / "heldout")
    run = train(config, out / "run", command=["experiment", name, str(plan.seed)])
    measured = folder / "main" / "run" / "base_eval"
    if measured.is_dir() and name != "main":
        shutil.copytree(measured, run / "base_eval")  # the same base model on the same scenes
    evaluate_run(run, config, batch_size=128)
    add_usual(plan.world, run, folder / "heldout")
    return run


def pooled(runs: Mapping[int, Path], stage: str, benchmark: str) -> Result:
    """One result of the items of all seeds, told apart by seed."""
    parts = {seed: Result.load(run / stage / benchmark) for seed, run in runs.items()}
    first = next(iter(parts.values()))
    items = [
        Item(**{**vars(item), "id": f"{seed}/{item.id}", "group": f"{seed}/{item.group}"})
        for seed, part in parts.items()
        for item in part.items
    ]
    return Result(first.benchmark, first.rule, len(items), 0, [], first.metrics, items)


def row(world: World, runs: Mapping[int, Path]) -> dict[str, Any]:
    """Every metric of one row: means of the seeds before and after, the pooled paired difference, its range."""
    result: dict[str, Any] = {}
    for benchmark, names in metrics(world).items():
        gaps = compare(pooled(runs, "base_eval", benchmark), pooled(runs, "eval", benchmark))
        loaded = {s: [Result.load(run / st / benchmark) for st in ("base_eval", "eval")] for s, run in runs.items()}
        for name in names:
            before = [pair[0].metrics[name].value for pair in loaded.values()]
            after = [pair[1].metrics[name].value for pair in loaded.values()]
            changes = [b - a for a, b in zip(before, after, strict=True)]
            result[name] = {
                "before": sum(before) / len(before),
                "after": sum(after) / len(after),
                "difference": gaps[name]["difference"],
                "seeds": {"low": min(changes), "high": max(changes)},
            }
    return result


def table(world: World, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as Markdown, in percent; differences with their 95% interval and the range over seeds."""
    names = {name: label for group in metrics(world).values() for name, label in group.items()}
    lines = ["| | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    first = next(iter(rows.values()))
    lines.append("| before | " + " | ".join(f"{100 * first[name]['before']:.1f}" for name in names) + " |")
    for label, entries in rows.items():
        lines.append(f"| {label} | " + " | ".join(f"{100 * entries[name]['after']:.1f}" for name in names) + " |")
    lines += ["", "| difference | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    for label, entries in rows.items():
        cells = []
        for name in names:
            gap, seeds = entries[name]["difference"], entries[name]["seeds"]
            interval = f"{100 * gap['value']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
            cells.append(f"{interval} ({100 * seeds['low']:+.1f} to {100 * seeds['high']:+.1f})")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(
    world: World,
    out: Path,
    seeds: Sequence[int],
    *,
    scenes: int,
    preference_scenes: int,
    only: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> str:
    """Runs everything that is not there yet; writes ``results.json`` and ``results.md``.

    Args:
        world: Whose experiment it is.
        out: Folder of all runs.
        seeds: A run of every row for each of them.
        scenes: Held-out scenes of each seed.
        preference_scenes: Rated scenes of each seed.
        only: Names of rows; by default all.
        say: Told what is done, line by line.

    Returns:
        The table as Markdown.
    """
    runs: dict[str, dict[int, Path]] = {}
    for seed in seeds:
        for name, plan in variants(world, seed, scenes, preference_scenes).items():
            if only is None or name in only:
                started = time.monotonic()
                runs.setdefault(name, {})[seed] = run_variant(name, plan, out / f"seed{seed}")
                say(f"seed {seed} {name}: {time.monotonic() - started:.0f} s")
    rows = {name: row(world, of_seeds) for name, of_seeds in runs.items()}
    written = table(world, rows)
    write_json(out / "results.json", rows)
    (out / "results.md").write_text(written + "\n", encoding="utf-8")
    return written


def main(world: World, out: Path, say: Callable[[str], None]) -> None:
    """Command line of the experiment of a world; `out` is the default folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--preference-scenes", type=int, default=1200)
    parser.add_argument("--only", nargs="*", default=None, help="names of rows")
    given = parser.parse_args()
    say(
        run(
            world,
            given.out,
            given.seeds,
            scenes=given.scenes,
            preference_scenes=given.preference_scenes,
            only=given.only,
            say=say,
        )
    )
