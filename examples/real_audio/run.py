"""Do listeners' votes reach the weights? DPO on real clips, with the true labels, swapped ones and shuffled ones.

    python examples/real_audio/run.py --votes clotho_eval.json --captions clotho_eval.csv --audio CLIPS --out runs/audio

Everything goes through what `mmdpo build audio_votes` and `mmdpo train` call. README.md says what to expect.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import transformers
from rich.console import Console
from rich.table import Table as Printed

from data_builders.running.build import build
from mmdpo.config import load_config, read_yaml
from mmdpo.evals.stats import Table, interval
from mmdpo.records import Candidate, Media, Record, Records, prompt_text, save_records, user_message
from mmdpo.runs.training import train
from mmdpo.training.validation import BLIND
from mmdpo.views import CLEAN

HERE = Path(__file__).resolve().parent


def _sibling(path: Path) -> ModuleType:
    """A script of another example as a module; both are called run.py."""
    sys.path.append(str(path.parent))  # for what it imports itself
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(HERE))
from random_listener import save_random_listener  # noqa: E402

controls = _sibling(HERE.parent / "real_ratings" / "run.py")

BEFORE, OWN = "its own labels, before", "its own labels"
VOTES, VOTES_SILENT = "the votes", "the votes, in silence"
MADE, MADE_SILENT = "the made pairs", "the made pairs, in silence"
WIDTH = 100


def main() -> None:
    """Builds pairs and trains three times for each seed; prints the table and writes results.json."""
    options = _options()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
    began = time.perf_counter()
    voted = build_voted(options.votes, options.captions, options.audio, options.out / "votes")
    made = make_pairs(options.captions, options.audio, prompt_text(voted[0]))
    pairs = Records([*voted, *made], options.audio)
    print(
        f"{len(voted)} pairs with a majority of the votes on {_clips(voted)} clips, {len(made)} made on {_clips(made)}"
    )
    judged: dict[str, dict[str, list[Any]]] = {labels: defaultdict(list) for labels in controls.LABELS}
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        folder = options.out / f"seed-{seed}"
        texts = [candidate.text for record in pairs for candidate in record.candidates]
        model = save_random_listener(texts, folder / "model", seed)
        for labels in controls.LABELS:
            started = time.perf_counter()
            found = train_and_judge(model, pairs, len(voted), labels, folder, seed, options.steps)
            seconds = round(time.perf_counter() - started, 1)
            for name, items in found.items():
                judged[labels][name] += items
            accuracies = {name: interval(Table.of(items), controls.ACCURACY).value for name, items in found.items()}
            runs.append({"seed": seed, "labels": labels, "seconds": seconds, **accuracies})
            print(f"seed {seed}, {labels} labels: {100 * accuracies[OWN]:.0f}% of its own labels, {seconds:.0f} s")
    report(judged, {"steps": options.steps, "seeds": options.seeds, "runs": runs}, began, options.out)


def build_voted(votes: Path, captions: Path, audio: Path, out: Path) -> Records:
    """The pairs of `mmdpo build audio_votes` on the clips that are there; any majority counts."""
    words = [f"source={votes}", f"file_names={captions}", f"audio={audio}", "min_margin=0", "validation=0"]
    settings = read_yaml(HERE.parents[1] / "configs" / "build_audio_votes.yaml", words)
    return build("audio_votes", settings, out).splits["train"]


def make_pairs(captions: Path, audio: Path, prompt: str) -> list[Record]:
    """For each caption of a clip the pair: this caption, before one of another clip.

    Nobody voted on these. Every caption is chosen once, for its own clip, and rejected once, for another, in circles
    over the clips: who does not hear cannot get all of them right.
    """
    with captions.open(encoding="utf-8", newline="") as file:
        texts = {row.pop("file_name"): list(row.values()) for row in csv.DictReader(file)}
    names = sorted(path.name for path in audio.glob("*.wav") if path.name in texts)
    records = []
    for place, name in enumerate(names):
        for number, text in enumerate(texts[name]):
            other = names[(place + 1 + number % (len(names) - 1)) % len(names)]
            records.append(
                Record(
                    id=f"made-{place}-{number}",
                    prompt=(user_message(prompt, audios=1),),
                    candidates=tuple(Candidate(t.strip(), source="reference") for t in (text, texts[other][number])),
                    media={"audios": (Media(name),)},
                    meta={"other_clip": other},
                )
            )
    return records


def train_and_judge(
    model: Path, pairs: Records, voted: int, labels: str, folder: Path, seed: int, steps: int
) -> dict[str, list[Any]]:
    """Trains with one kind of labels; judges the rewards by these labels and by the true ones.

    Args:
        model: The untrained model.
        pairs: The true pairs, those with votes first.
        voted: How many have votes.
        labels: One of `controls.LABELS`.
        folder: Where to write.
        seed: Seed of order, adapter and coins.
        steps: Optimizer steps.
    """
    records, flips = controls.relabelled(pairs, labels, seed)
    data = save_records(records, folder / f"pairs-{labels}")
    overrides = [f"seed={seed}", f"model.path={model}", f"data.path={data}", f"train.max_steps={steps}"]
    config = load_config(HERE / "train.yaml", [*overrides, "train.disable_tqdm=true"])
    before = controls.reward_margins(config, None, pairs, pairs.media_root)[CLEAN]
    run = train(config, folder / labels)
    margins = controls.reward_margins(config, run / "adapter", pairs, pairs.media_root)
    heard, silent = margins[CLEAN], margins[BLIND]
    return {
        BEFORE: judge(pairs, before),
        OWN: judge(pairs, [-margin if flip else margin for margin, flip in zip(heard, flips, strict=True)]),
        VOTES: judge(pairs[:voted], heard[:voted]),
        VOTES_SILENT: judge(pairs[:voted], silent[:voted]),
        MADE: judge(pairs[voted:], heard[voted:]),
        MADE_SILENT: judge(pairs[voted:], silent[voted:]),
    }


def judge(records: Iterable[Record], margins: Iterable[float]) -> list[Any]:
    """One item for each pair, grouped by clip; a tie counts one half."""
    return [
        controls.Judged(str(record.media["audios"][0].path), 0.5 if margin == 0 else float(margin > 0))
        for record, margin in zip(records, margins, strict=True)
    ]


def report(judged: Mapping[str, Mapping[str, Sequence[Any]]], summary: dict[str, Any], began: float, out: Path) -> None:
    """Prints the table (percent, 95% intervals over clips, all seeds together) and writes results.json."""
    found = {
        labels: {name: interval(Table.of(items), controls.ACCURACY) for name, items in rows.items()}
        for labels, rows in judged.items()
    }
    table = Printed(box=None, header_style="bold")
    for heading in ("agreement with", "clips", *controls.LABELS):
        table.add_column(heading, no_wrap=True)
    for name, items in judged["true"].items():
        values = [controls.written(found[labels][name], name == BEFORE) for labels in controls.LABELS]
        table.add_row(name, str(len({item.group for item in items})), *values)
    console = Console(highlight=False, width=WIDTH)  # whatever the terminal: a cut number is no number
    console.print("\nReward accuracy, % of the pairs (95% interval over clips), by labels", table, "", sep="\n")
    summary["seconds"] = round(time.perf_counter() - began)
    summary["results"] = {
        labels: {name: value.to_json() for name, value in rows.items()} for labels, rows in found.items()
    }
    (out / "results.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    console.print(f"{summary['seconds']} s; written {out / 'results.json'}")


def _clips(records: Iterable[Record]) -> int:
    return len({record.media["audios"][0].path for record in records})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=Path, required=True, help="FENSE's clotho_eval.json")
    parser.add_argument("--captions", type=Path, required=True, help="Clotho's table of captions of its clips")
    parser.add_argument("--audio", type=Path, required=True, help="folder of the clips that there are")
    parser.add_argument("--out", type=Path, default=Path("runs/audio"), help="folder to make")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of 8 pairs (default 40)")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions: weights, coins, order (default 3)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
