"""Which objective removes hallucinations, and at what price? The same ratings, thirteen ways to train on them.

    OMP_NUM_THREADS=1 python examples/objectives/experiment.py --out runs/objectives

A first seed chooses the learning rate of each arm, by scenes that nothing else is measured on; then every arm trains on
the ratings of three other seeds and is measured on their held-out scenes. What stands in the folder is not done again.
`--write-docs` writes the results into docs/objectives_measured.md. README.md says what the arms are.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; the pool's processes inherit it
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import transformers  # noqa: E402
from arms import ARMS, LEARNING_RATES, configuration  # noqa: E402
from measures import measure, selection_score  # noqa: E402
from rated import Size, make_data  # noqa: E402
from summary import summarise, tables, write_docs  # noqa: E402

from mmdpo.errors import ConfigError  # noqa: E402
from mmdpo.jsonfiles import read_json, write_json  # noqa: E402
from mmdpo.playground.worlds import PICTURES  # noqa: E402
from mmdpo.runs.training import train  # noqa: E402

TUNING_SEED = 3
SEEDS = (0, 1, 2)
QUICK = Size(scenes=24, test=24, rated_test=24, prompts=8, steps=2)
PAGE = HERE.parents[1] / "docs" / "objectives_measured.md"


@dataclass(frozen=True)
class Job:
    """One arm, trained and measured on one seed."""

    out: Path
    size: Size
    seed: int
    arm: str
    learning_rate: float

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.learning_rate:g}"

    @property
    def folder(self) -> Path:
        return seed_folder(self.out, self.seed)

    @property
    def result(self) -> Path:
        return self.folder / "results" / f"{self.name}.json"


def seed_folder(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def prepare(out: Path, size: Size, seed: int) -> str:
    """Makes the ratings of a seed and measures the base model on its held-out scenes."""
    folder = seed_folder(out, seed)
    result = folder / "results" / "base.json"
    if result.is_file():
        return f"seed {seed}: data are there"
    started = time.process_time()
    shutil.rmtree(folder, ignore_errors=True)
    made = make_data(folder, seed, size)
    rows = measure(PICTURES.model, folder / "heldout", folder / "base")
    _write(result, {"made": made, "rows": rows})
    return f"seed {seed}: data in {time.process_time() - started:.0f} CPU seconds"


def run_job(job: Job) -> str:
    """Trains and measures; what stands already is not done again."""
    if job.result.is_file():
        return f"seed {job.seed} {job.name}: is there"
    run = job.folder / "runs" / job.name
    shutil.rmtree(run, ignore_errors=True)
    started = time.process_time()
    config = configuration(ARMS[job.arm], job.folder, job.seed, job.learning_rate, job.size)
    train(config, run, command=["experiment", job.name, str(job.seed)])
    trained = time.process_time()
    rows = measure(str(run), job.folder / "heldout", run / "eval")
    seconds = {"training": round(trained - started, 1), "measuring": round(time.process_time() - trained, 1)}
    _write(job.result, {"cpu_seconds": seconds, "score": selection_score(rows.values()), "rows": rows})
    return f"seed {job.seed} {job.name}: {seconds['training']:.0f} + {seconds['measuring']:.0f} CPU seconds"


def _write(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)


def quiet() -> None:
    """What a process of the pool does first."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("mmdpo").setLevel(logging.ERROR)  # its advice on single runs: here the tables say it
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it


def in_processes(tasks: Iterable[Callable[[], str]], processes: int) -> bool:
    """Does all tasks and prints what they return; whether none failed."""
    fine = True
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=quiet) as pool:
        for done in as_completed([pool.submit(task) for task in tasks]):
            error = done.exception()
            if error is not None:
                fine = False
                traceback.print_exception(error)
            else:
                print(done.result(), flush=True)
    return fine


def best_rates(out: Path, size: Size, arms: Sequence[str], rates: Sequence[float]) -> dict[str, dict[float, float]]:
    """Score of each learning rate of each arm on the validation scenes, for the arms that have all of them."""
    jobs = {arm: [Job(out, size, TUNING_SEED, arm, rate) for rate in rates] for arm in arms}
    return {
        arm: {job.learning_rate: read_json(job.result)["score"] for job in of_arm}
        for arm, of_arm in jobs.items()
        if all(job.result.is_file() for job in of_arm)
    }


def keep_size(out: Path, size: Size) -> None:
    """Remembers how large the experiment in a folder is.

    Raises:
        ConfigError: Another one is there.
    """
    path = out / "size.json"
    if path.is_file() and read_json(path) != asdict(size):
        raise ConfigError(
            f"{str(out)!r} holds an experiment of another size: {read_json(path)}",
            why="Its runs would be compared with other ones.",
            fix="Choose another --out, or remove the folder.",
        )
    _write(path, asdict(size))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is not there yet; writes results.json and prints the tables."""
    options = _options().parse_args(arguments)
    size, rates, seeds = (QUICK, LEARNING_RATES[1:2], SEEDS[:1]) if options.quick else (Size(), LEARNING_RATES, SEEDS)
    started = time.monotonic()
    keep_size(options.out, size)
    pool = partial(in_processes, processes=options.processes)
    fine = pool(partial(prepare, options.out, size, seed) for seed in (TUNING_SEED, *seeds))
    if not fine:
        return 1
    tried = [Job(options.out, size, TUNING_SEED, arm, rate) for arm in options.arms for rate in rates]
    fine &= pool(partial(run_job, job) for job in tried)
    scores = best_rates(options.out, size, options.arms, rates)
    best = {arm: max(of_arm, key=of_arm.__getitem__) for arm, of_arm in scores.items()}
    jobs = [Job(options.out, size, seed, arm, rate) for arm, rate in best.items() for seed in seeds]
    fine &= pool(partial(run_job, job) for job in jobs)
    done = [arm for arm in best if all(job.result.is_file() for job in jobs if job.arm == arm)]
    found = {arm: {job.seed: job.result for job in jobs if job.arm == arm} for arm in done}
    base = {seed: seed_folder(options.out, seed) / "results" / "base.json" for seed in seeds}
    made = {seed: read_json(path)["made"] for seed, path in base.items()}
    tuning = {arm: {f"{rate:g}": score for rate, score in scores[arm].items()} for arm in done}
    results = {"size": asdict(size), "made": made, "tuning": tuning, **summarise(base, found)}
    _write(options.out / "results.json", results)
    print(f"\n{tables(results)}\n\n{time.monotonic() - started:.0f} s; written {options.out / 'results.json'}")
    if options.write_docs:
        write_docs(results, PAGE)
        print(f"written {PAGE}")
    return 0 if fine else 1


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"), help="folder of all runs")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, one core each (default 2)")
    parser.add_argument("--quick", action="store_true", help="a few scenes and two steps: does everything run?")
    parser.add_argument("--write-docs", action="store_true", help="write tables and figure into docs/")
    return parser


if __name__ == "__main__":
    sys.exit(main())
