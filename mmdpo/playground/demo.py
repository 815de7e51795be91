"""The whole story on a CPU: sample, rate, build, train, evaluate, report, with the code that a user runs.

DIR/data/         pictures (or clips) and the ratings table of three simulated people
DIR/pairs/        what ``mmdpo build ratings`` makes of them
DIR/heldout/      pictures to measure on, their annotations and questions
DIR/tiny-llava/   the run folder of ``mmdpo train``; DIR/tiny-whisper/ for sounds
DIR/report.html   before and after
DIR/summary.json  the numbers of the before/after table
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_builders.running.build import build
from mmdpo.answering.evaluation import evaluate_run
from mmdpo.answering.loading import encoder_of
from mmdpo.config import RunConfig, parse_config, shipped_configs
from mmdpo.errors import ConfigError
from mmdpo.evals.comparing.folders import compare_stages
from mmdpo.evals.pope import KINDS
from mmdpo.evals.runner import make_benchmark
from mmdpo.evals.shared.pope_questions import write_questions
from mmdpo.generate import GenerationSettings, generate
from mmdpo.jsonfiles import write_json
from mmdpo.models.load import load_pretrained
from mmdpo.playground.files import write_annotations, write_ratings_table, write_synonyms
from mmdpo.playground.language import Scene
from mmdpo.playground.questions import pope_questions
from mmdpo.playground.raters import SCALE, Rating, rate_captions, rate_yes_no, raters
from mmdpo.playground.worlds import PICTURES, World
from mmdpo.progress import Progress
from mmdpo.records import Media, Record
from mmdpo.report import write_quality_page, write_run_pages
from mmdpo.runs.training import train

RUN = PICTURES.run
"""Name of the run folder of the world of pictures, and so the title of its report."""


@dataclass(frozen=True)
class Plan:
    """How big the demo is and what it trains with.

    Args:
        world: Whose scenes they are.
        seed: Seed of scenes, sampling, raters and training.
        preference_scenes: Scenes whose captions are rated.
        captions: Captions sampled for each of them, at temperature 1.
        heldout_scenes: Scenes to measure on.
        yes_no: Whether answers to yes/no questions are rated too.
        shuffle_ratings: Control: give every rating to another caption, which must undo the whole effect.
        loss: Overrides of the configuration's ``loss:`` section.
        train: Overrides of its ``train:`` section.
    """

    world: World = PICTURES
    seed: int = 0
    preference_scenes: int = 1200
    captions: int = 5
    heldout_scenes: int = 500
    yes_no: bool = True
    shuffle_ratings: bool = False
    loss: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


def run_demo(
    out: Path,
    *,
    plan: Plan | None = None,
    say: Callable[[str], None] = lambda message: None,
    progress: Progress = iter,
) -> dict[str, Any]:
    """Runs the demo.

    Args:
        out: Folder to make.
        plan: World, size and settings.
        say: Told what happens, line by line.
        progress: Wraps long loops for a progress bar.

    Returns:
        The summary that is written to ``summary.json``.

    Raises:
        ConfigError: The folder is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(
            f"{str(out)!r} is not empty",
            why="The demo never overwrites a run.",
            fix=f"Remove it, or choose another folder: mmdpo demo --out {out}-2",
        )
    plan = plan or Plan()
    started = time.monotonic()
    say(f"1/5 the base model captions {plan.preference_scenes} scenes, {plan.captions} times each; three people rate")
    make_ratings(plan, out / "data", progress)
    say("2/5 ratings become preference pairs")
    made = build("ratings", ratings_config(plan, out / "data"), out / "pairs")
    write_quality_page(made.quality, out / "pairs" / "quality.html", media_root=made.records.media_root)
    say(f"    {len(made.records)} pairs; see {out / 'pairs' / 'quality.html'}")
    say("3/5 DPO with LoRA, and the likelihood of the chosen answer beside it")
    make_heldout(plan, out / "heldout")
    config = demo_config(plan, out)
    run = train(config, out / plan.world.run, command=command(plan, out), progress=progress)
    say(f"4/5 before and after on {plan.heldout_scenes} scenes that nobody has seen")
    evaluate_run(run, config, batch_size=64, progress=progress)
    add_usual(plan.world, run, out / "heldout")
    summary = summarise(plan.world, run, time.monotonic() - started)
    say("5/5 the report")
    write_run_pages([run], out / "report.html")
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_json(out / "summary.json", summary)
    return summary


def command(plan: Plan, out: Path) -> list[str]:
    """What a user types for the demo of this plan."""
    audio = ["--audio"] if plan.world.modality == "audio" else []
    return ["mmdpo", "demo", *audio, "--out", str(out), "--seed", str(plan.seed)]


def make_ratings(plan: Plan, folder: Path, progress: Progress = iter) -> Path:
    """Samples captions from the base model, has them rated, writes the media and ``ratings.csv``."""
    world = plan.world
    rated = world.scenes(plan.preference_scenes, plan.seed, "preference")
    world.write_media(folder / world.plural, rated)
    people = raters(plan.seed, world.language)
    rows: list[Rating] = []
    for scene, captions in zip(rated, sample_captions(plan, rated, folder / world.plural, progress), strict=True):
        rows += rate_captions(scene, captions, people)
        if plan.yes_no:
            asked = world.language.ask(scene, random.Random(f"question {plan.seed} {scene.number}"))
            rows += rate_yes_no(scene, asked, people)
    if plan.shuffle_ratings:
        rows = shuffled(rows, plan.seed)
    write_ratings_table(folder / "ratings.csv", rows, world.modality)
    return folder / "ratings.csv"


def sample_captions(plan: Plan, rated: Sequence[Scene], media: Path, progress: Progress = iter) -> list[list[str]]:
    """Captions of the base model at temperature 1, ``plan.captions`` for each scene."""
    model, processor = load_pretrained(plan.world.model)
    prompts = [
        Record(
            id=scene.file_name,
            prompt=plan.world.prompt(plan.world.language.caption_prompt),
            candidates=(),
            media={plan.world.plural: (Media(path=scene.file_name),)},
        )
        for scene in rated
    ]
    settings = GenerationSettings(
        max_new_tokens=40, temperature=1.0, samples=plan.captions, batch_size=64, seed=plan.seed
    )
    drawn = generate(model, encoder_of(model, processor, media), prompts, settings, progress)
    return [[answer.text for answer in answers if answer.finished and answer.text] for answers in drawn]


def ratings_config(plan: Plan, data: Path) -> dict[str, Any]:
    """What a user would write for ``mmdpo build ratings``."""
    return {
        "data": str(data / "ratings.csv"),
        "media_root": str(data / plan.world.plural),
        "columns": {"prompt": "prompt"},
        "scale": {"min": SCALE[0], "max": SCALE[1]},
        "higher_is_better": True,
        "min_margin": 1.0,
        "validation": 0.03,
        "seed": plan.seed,
        **plan.world.ratings,
    }


def make_heldout(plan: Plan, folder: Path) -> None:
    """Pictures or clips to measure on, with CHAIR annotations and POPE questions of three kinds."""
    world = plan.world
    seen = world.scenes(plan.heldout_scenes, plan.seed, "heldout")
    world.write_media(folder / world.plural, seen)
    write_annotations(folder / "objects.json", seen)
    write_synonyms(folder / "synonyms.txt", world.language.nouns)
    write_json(folder / "usual.json", {s.file_name: s.usual if s.usual_is_absent else None for s in seen})
    for kind in KINDS:
        questions = pope_questions(seen, kind, plan.seed, world.language, world.modality)
        write_questions(questions, folder / "pope" / f"{kind}.json")


def demo_config(plan: Plan, out: Path, heldout: Path | None = None) -> RunConfig:
    """The shipped ``start`` configuration with the demo's paths and the plan's overrides."""
    values: dict[str, Any] = yaml.safe_load(shipped_configs()["start"].read_text(encoding="utf-8"))
    world = plan.world
    values["seed"] = plan.seed
    values["model"]["path"] = world.model
    values["data"]["path"] = str(out / "pairs")
    values["loss"] |= plan.loss
    values["train"] |= plan.train
    heldout = heldout or out / "heldout"
    media = str(heldout / world.plural)
    words = {"synonyms": str(heldout / "synonyms.txt"), "prompt": world.language.caption_prompt}
    values["eval"] = {
        "chair": {
            "data": str(heldout / "objects.json"),
            "images": media,
            "max_new_tokens": 40,
            "options": {**words, **world.options},
        },
        "pope": {
            "data": str(heldout / "pope"),
            "images": media,
            "max_new_tokens": 4,
            "options": dict(world.options),
        },
    }
    return parse_config(values)


def add_usual(world: World, run: Path, heldout: Path) -> None:
    """Scores the captions once more by the tiny world's own benchmark; no model is needed for that."""
    benchmark = make_benchmark(world.usual)
    samples = benchmark.samples(heldout / "usual.json")
    for stage in ("base_eval", "eval"):
        answers = benchmark.read_answers(run / stage / "chair" / "answers.jsonl")
        benchmark.score(samples, answers).save(run / stage / world.usual)
        for name in ("answers.jsonl", "generation.json"):  # the same answers: the report finds their media by them
            shutil.copy(run / stage / "chair" / name, run / stage / world.usual / name)
    write_json(run / "comparison.json", compare_stages(run / "base_eval", run / "eval"))


def summary_metrics(world: World) -> tuple[str, ...]:
    """The metrics that the demo is about."""
    pope = ("pope_random_f1", "pope_popular_f1", "pope_adversarial_f1", "pope_adversarial_accuracy")
    return ("chair_i", "chair_s", "recall", f"{world.usual}_rate", *pope)


SUMMARY_METRICS = summary_metrics(PICTURES)


def summarise(world: World, run: Path, seconds: float) -> dict[str, Any]:
    """``summary.json``: before, after and paired differences of the metrics that the demo is about."""
    compared = json.loads((run / "comparison.json").read_text(encoding="utf-8"))["metrics"]
    short = {"recall" if name == "chair_recall" else name: entry for name, entry in compared.items()}
    summary: dict[str, Any] = {"seconds": round(seconds, 1), "base": {}, "tuned": {}, "difference": {}}
    for name in summary_metrics(world):
        for key, source in (("base", "before"), ("tuned", "after"), ("difference", "difference")):
            summary[key][name] = short[name][source]
    return summary


def shuffled(rows: Sequence[Rating], seed: int) -> list[Rating]:
    """The same rows with their ratings dealt out at random: nobody's opinion is left in them."""
    points = [row.rating for row in rows]
    random.Random(f"shuffle {seed}").shuffle(points)
    return [
        Rating(row.file, row.prompt, row.caption, rating, row.rater) for row, rating in zip(rows, points, strict=True)
    ]
