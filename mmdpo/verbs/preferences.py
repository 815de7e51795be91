"""The verbs ``mmdpo prefer`` and ``mmdpo calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmdpo.verbs.commandline import Out, Plugins, use_plugins
from mmdpo.verbs.terminal import closing, metric_table, progress, results, say

if TYPE_CHECKING:
    from mmdpo.evals.base import Result

Model = Annotated[str, typer.Argument(help="A run folder, a model folder or a hub name.")]
Reference = Annotated[
    str | None, typer.Option("--reference", help="The model that it started from; a run knows its own.")
]
Limit = Annotated[int | None, typer.Option(help="Use the first N images or clips, with all about each.", min=1)]
STAGES = {"base_eval": "before", "eval": "after"}


def add_to(app: typer.Typer) -> None:
    """Adds the verbs to the command."""
    app.command("prefer", rich_help_panel="Pipeline")(prefer)
    app.command("calibrate", rich_help_panel="Pipeline")(calibrate)


def prefer(
    model: Model,
    data: Annotated[Path, typer.Argument(help="Folder of held-out records.")],
    out: Out = Path("runs/preferences"),
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
    media_root: Annotated[Path | None, typer.Option(help="Folder of the media, if the records lack it.")] = None,
    reference: Reference = None,
    beta: Annotated[float | None, typer.Option(help="Factor of the reward; a run knows its own.")] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Pairs of one prompt and media, rated on one scale, as one list.")
    ] = False,
    clip: Annotated[str | None, typer.Option(help="A CLIP of open_clip as baseline, ViT-B-32 for instance.")] = None,
    clip_weights: Annotated[Path | None, typer.Option(help="Its weights, a safetensors file.")] = None,
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(help="Records at a time.", min=1)] = 8,
    plugin: Plugins = None,
) -> None:
    """Do likelihood, implicit reward and CLIP score order held-out answers as people did? And are rewards calibrated?

    Example: `mmdpo prefer runs/first runs/heldout --out runs/first-preferences`
    """
    from mmdpo.errors import ConfigError
    from mmdpo.preferences.rated_lists import joined
    from mmdpo.preferences.scored import evaluate_preferences
    from mmdpo.records import load_records

    if (clip is None) != (clip_weights is None):
        raise ConfigError(
            "--clip and --clip-weights belong together",
            why="The one says what the CLIP looks like, the other where its weights are.",
            fix="Give both, or none: then there is no CLIP score.",
        )
    use_plugins(plugin)
    records = load_records(data, split=split, media_root=media_root)
    image_score = None
    if clip is not None and clip_weights is not None:
        from mmdpo.models.clip_score import ClipScore

        image_score = ClipScore.load(clip, clip_weights)
    found = evaluate_preferences(
        model,
        joined(records) if join else records,
        out,
        reference=reference,
        beta=beta,
        image_score=image_score,
        limit=limit,
        batch_size=batch_size,
        progress=progress,
    )
    _show(found, out)


def calibrate(
    model: Model,
    questions: Annotated[Path, typer.Argument(help="Yes/no questions in the form of POPE.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the media; default that of the questions.")] = None,
    out: Out = Path("runs/calibration"),
    reference: Reference = None,
    media: Annotated[str, typer.Option(help="What the questions are about: images or audios.")] = "images",
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(help="Questions at a time.", min=1)] = 16,
    plugin: Plugins = None,
) -> None:
    """Do the probabilities of yes and no come true?

    Example: `mmdpo calibrate runs/first questions.jsonl --images photos --out runs/first-calibration`
    """
    from mmdpo.preferences.scored import evaluate_yes_no

    use_plugins(plugin)
    root = images or (questions if questions.is_dir() else questions.parent)
    found = evaluate_yes_no(
        model,
        questions,
        root,
        out,
        reference=reference,
        media=media,
        limit=limit,
        batch_size=batch_size,
        progress=progress,
    )
    _show(found, out)


def _show(found: dict[str, Result], out: Path) -> None:
    for stage in (stage for stage in STAGES if stage in found):
        table = metric_table(found[stage].to_json())
        table.title = f"{table.title}, {STAGES[stage]}" if len(found) > 1 else table.title
        results.print(table)
        for flag in found[stage].flags:
            say(flag)
    closing("scores, metrics and reliability diagram written", out, f"mmdpo compare OTHER {out}")
