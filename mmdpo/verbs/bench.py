"""The verb ``mmdpo bench``: how fast training, evaluation and building are on this machine, beside other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import RenderableType

from mmdpo.verbs.commandline import free_to_write
from mmdpo.verbs.terminal import closing, progress, results, say

bench = typer.Typer(no_args_is_help=True, help="How fast training, evaluation and building are, beside other tools.")

Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to run; auto takes a GPU if there is one.")]
Out = Annotated[Path | None, typer.Option("--out", help="Also write the numbers, as JSON.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Seed = Annotated[int, typer.Option(help="Seed of weights and data.")]


def add_to(app: typer.Typer) -> None:
    """Adds the verb to the command."""
    app.add_typer(bench, name="bench", rich_help_panel="Helpers")


@bench.command()
def train(
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Model, may be repeated: small-2k, small-32k; on a GPU llava-1.5-7b, ..."),
    ] = None,
    answers: Annotated[list[int] | None, typer.Option("--answers", help="Tokens of an answer; default 90.")] = None,
    k: Annotated[list[int] | None, typer.Option("--k", help="Answers to a record; default 2 and 8.")] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            help="fresh, cached, or features (cached, and the images' features too); default the first two.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Records in a step.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed steps of each side, by turns.")] = 3,
    device: Device = "auto",
    checkpointing: Annotated[
        bool | None,
        typer.Option("--checkpointing/--no-checkpointing", help="Recompute activations; default by shape."),
    ] = None,
    attention: Annotated[str, typer.Option(help="Attention kernel of both sides.")] = "sdpa",
    trl: Annotated[bool, typer.Option("--trl/--no-trl", help="Also TRL's trainer (an extra package).")] = True,
    largest: Annotated[bool, typer.Option("--largest-batch", help="Find the largest batch that fits instead.")] = False,
    seed: Seed = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """One optimizer step of our trainer and of TRL's, on the same weights, data, precision and kernels, by turns.

    K beyond 2 compares one prefix for all answers with a row for each.

    Example: `mmdpo bench train --shape small-2k --answers 40 --answers 90 --k 2`
    """
    from mmdpo.bench.batches import largest_batches
    from mmdpo.bench.plans import Plan, references
    from mmdpo.bench.shapes import SHAPES
    from mmdpo.bench.tables import batch_table, settings_lines, train_tables
    from mmdpo.bench.train import run

    where = _device(device)
    default = [name for name, known in SHAPES.items() if known.device == where and name != "tiny"]
    plan = Plan(
        shapes=shape or default,
        answers=answers or (90,),
        candidates=k or (2, 8),
        references=references(reference or ["fresh", "cached"]),
        batch=batch,
        repeats=repeats,
        device=where,
        checkpointing=checkpointing,
        attention=attention,
        trl=trl,
        seed=seed,
    )
    _free(out)
    if largest:
        found = largest_batches(plan, say)
        _tell(found, [batch_table(entry) for entry in found["batches"]], out, as_json)
    else:
        found = run(plan, progress, say)
        _tell(found, [*train_tables(found), *settings_lines(found)], out, as_json)


@bench.command()
def ceilings(
    shape: Annotated[list[str] | None, typer.Option("--shape", help="Model, may be repeated; default all.")] = None,
    answers: Annotated[
        list[int] | None, typer.Option("--answers", help="Tokens of an answer; default 40, 90, 150 and 400.")
    ] = None,
    k: Annotated[list[int] | None, typer.Option("--k", help="Answers to a record; default 2.")] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option("--checkpointing/--no-checkpointing", help="Recompute activations; default by shape."),
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """How many times faster a step can be, from token counts alone: nothing is measured.

    Example: `mmdpo bench ceilings --shape qwen2.5-vl-7b --answers 90`
    """
    from mmdpo.bench.ceilings import run
    from mmdpo.bench.shapes import SHAPES
    from mmdpo.bench.tables import ceiling_table

    _free(out)
    names = shape or [name for name in SHAPES if name != "tiny"]
    found = run(names, answers or (40, 90, 150, 400), k or (2,), checkpointing)
    _tell(found, [ceiling_table(found)], out, as_json)


@bench.command("eval")
def evaluation(
    photos: Annotated[
        Path | None, typer.Option(help="Folder of JPEG files; default: some are drawn.", show_default=False)
    ] = None,
    images: Annotated[int, typer.Option(help="How many photos.")] = 4,
    pixels: Annotated[int, typer.Option(help="A side of the model's images.")] = 336,
    width: Annotated[int, typer.Option(help="Of tower and language model; a multiple of 64.")] = 256,
    layers: Annotated[int, typer.Option(help="Of tower and language model.")] = 6,
    tokens: Annotated[int, typer.Option(help="Length of the written answers.")] = 1,
    batches: Annotated[
        list[int] | None, typer.Option("--batches", help="Of transformers alone; default 4, 8, 16 and 32.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="By turns; the median counts.")] = 3,
    device: Device = "auto",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Yes/no questions, 18 to a photo, with transformers alone and as `mmdpo eval` answers them.

    Example: `mmdpo bench eval --images 2 --tokens 16 --batches 16`
    """
    from mmdpo.bench.eval import EvalPlan, run
    from mmdpo.bench.tables import eval_table

    _free(out)
    sizes = {"images": images, "pixels": pixels, "width": width, "layers": layers, "tokens": tokens}
    plan = EvalPlan(photos=photos, batches=batches or (4, 8, 16, 32), repeats=repeats, device=_device(device), **sizes)
    found = run(plan)
    _tell(found, [eval_table(found)], out, as_json)


@bench.command()
def build(
    ratings: Annotated[
        list[int] | None,
        typer.Option("--ratings", help="Rows of the table, 12 or more; default 10,000, 100,000 and 1,000,000."),
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Time and memory of `mmdpo build ratings`, by the number of ratings.

    Example: `mmdpo bench build --ratings 10000 --ratings 100000`
    """
    from mmdpo.bench.build import SIZES, run
    from mmdpo.bench.tables import build_table

    _free(out)
    found = run(ratings or SIZES, progress)
    _tell(found, [build_table(found)], out, as_json)


@bench.command()
def growth(
    shape: Annotated[str, typer.Option(help="Model, of the llava family.")] = "small-2k",
    answer: Annotated[int, typer.Option(help="Tokens of an answer where something else grows.")] = 90,
    repeats: Annotated[int, typer.Option(help="Timed steps of each side, by turns.")] = 3,
    device: Device = "auto",
    trl: Annotated[bool, typer.Option("--trl/--no-trl", help="Also TRL's trainer (an extra package).")] = True,
    seed: Seed = 0,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw: the file's name, .png and .svg are written.", show_default=False)
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Time and memory of a step against pairs, image tokens, answers to a record and their length.

    Example: `mmdpo bench growth --figure docs/figures/growth.png --out runs/growth.json`
    """
    from mmdpo.bench.growth import draw, run
    from mmdpo.bench.plans import Plan
    from mmdpo.bench.tables import growth_table

    _free(out, figure)
    found = run(
        Plan(
            shapes=(shape,),
            answers=(answer,),
            candidates=(2,),
            references=("fresh",),
            repeats=repeats,
            device=_device(device),
            trl=trl,
            seed=seed,
        ),
        progress,
    )
    _tell(found, [growth_table(found)], out, as_json)
    if figure is not None:
        drawn = draw(found, figure.parent, figure.stem)
        closing("drawn", drawn[-1], "docs/performance.md says what it shows")


def _device(wanted: str) -> str:
    """The device that is meant.

    Raises:
        ConfigError: It is a GPU, and there is none.
    """
    import torch

    from mmdpo.bench.machine import checked_device

    return (
        checked_device("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else checked_device(wanted)
    )


def _free(out: Path | None, figure: Path | None = None) -> None:
    """Makes sure that what is measured can be kept.

    Raises:
        ConfigError: The file exists, or a folder cannot be written to.
    """
    from mmdpo.runs.places import check_place

    if out is not None:
        check_place(free_to_write(out).parent, "the folder of --out")
    if figure is not None:
        check_place(figure.parent, "the folder of --figure")


def _tell(found: dict[str, Any], blocks: list[RenderableType], out: Path | None, as_json: bool) -> None:
    """Prints tables or JSON, and keeps the JSON where it was asked for."""
    from mmdpo.jsonfiles import write_json

    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for block in blocks:
            results.print(block, "")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, found)
        closing("measured", out, "docs/performance.md says what the columns mean")
