"""The experiment behind the demo: several seeds, 2,000 held-out scenes each, with controls.

    python examples/playground/experiment.py --out runs/experiment --seeds 0 1 2 --scenes 2000

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
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_builders.base import build
from mmdpo.evals.result import Item, Result
from mmdpo.evals.runner import compare
from mmdpo.evaluation import evaluate_run
from mmdpo.pipeline import train
from mmdpo.playground.demo import Plan, add_usual_object, demo_config, make_heldout, make_ratings, ratings_config

METRICS = {
    "usual_object": {"usual_object_rate": "usual object"},
    "chair": {"chair_i": "CHAIR_i", "chair_s": "CHAIR_s", "recall": "recall"},
    "pope": {
        "adversarial_f1": "POPE adv. F1",
        "adversarial_accuracy": "POPE adv. acc.",
        "random_f1": "POPE random F1",
        "popular_f1": "POPE popular F1",
    },
}


def variants(seed: int, scenes: int, preference_scenes: int) -> dict[str, Plan]:
    """The rows of the table as plans."""
    main = Plan(seed=seed, heldout_scenes=scenes, preference_scenes=preference_scenes)
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
    build("ratings", ratings_config(data, plan.seed), out / "pairs")
    if not (folder / "heldout").is_dir():
        make_heldout(plan, folder / "heldout")
    config = demo_config(plan, out, heldout=folder / "heldout")
    run = train(config, out / "run", command=["experiment", name, str(plan.seed)])
    measured = folder / "main" / "run" / "base_eval"
    if measured.is_dir() and name != "main":
        shutil.copytree(measured, run / "base_eval")  # the same base model on the same scenes
    evaluate_run(run, config, batch_size=128)
    add_usual_object(run, folder / "heldout")
    return run


def pooled(runs: dict[int, Path], stage: str, benchmark: str) -> Result:
    """One result of the items of all seeds, told apart by seed."""
    parts = {seed: Result.load(run / stage / benchmark) for seed, run in runs.items()}
    first = next(iter(parts.values()))
    items = [
        Item(**{**vars(item), "id": f"{seed}/{item.id}", "group": f"{seed}/{item.group}"})
        for seed, part in parts.items()
        for item in part.items
    ]
    return Result(first.benchmark, first.rule, len(items), 0, [], first.metrics, items)


def row(runs: dict[int, Path]) -> dict[str, Any]:
    """Every metric of one row: means of the seeds before and after, the pooled paired difference, its range."""
    result: dict[str, Any] = {}
    for benchmark, names in METRICS.items():
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


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown, in percent; differences with their 95% interval and the range over seeds."""
    names = {name: label for group in METRICS.values() for name, label in group.items()}
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


def main() -> None:
    """Runs everything that is not there yet, then prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/experiment"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--preference-scenes", type=int, default=1200)
    parser.add_argument("--only", nargs="*", default=None, help="names of rows")
    arguments = parser.parse_args()
    runs: dict[str, dict[int, Path]] = {}
    for seed in arguments.seeds:
        for name, plan in variants(seed, arguments.scenes, arguments.preference_scenes).items():
            if arguments.only is None or name in arguments.only:
                started = time.monotonic()
                runs.setdefault(name, {})[seed] = run_variant(name, plan, arguments.out / f"seed{seed}")
                print(f"seed {seed} {name}: {time.monotonic() - started:.0f} s", flush=True)
    rows = {name: row(of_seeds) for name, of_seeds in runs.items()}
    (arguments.out / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "results.md").write_text(table(rows) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
