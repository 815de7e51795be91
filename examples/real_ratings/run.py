"""Do the real ratings reach the weights? DPO with the true labels, beside the same with swapped and shuffled ones.

    python examples/real_ratings/run.py --ratings RATINGS.json --out runs/real

Everything goes through what `mmdpo build ratings` and `mmdpo train` call. Read README.md first.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from model import save_random_llava
from rich.console import Console
from rich.table import Table as Printed

from data_builders.base import build
from mmdpo.collate import Collator, table_of
from mmdpo.config import RunConfig, load_config, read_yaml
from mmdpo.diagnostics import pair_statistics, reward_beta
from mmdpo.encoding import Encoder
from mmdpo.evals.stats import Interval, Table, interval, ratio
from mmdpo.objectives import make_objective
from mmdpo.pipeline import load_policy, train
from mmdpo.records import Record, Records, save_records
from mmdpo.scoring import score
from mmdpo.views import CHOSEN, CLEAN, REJECTED, View

HERE = Path(__file__).parent
LABELS = ("true", "swapped", "shuffled")
BLANK = "blank"
ACCURACY = ratio("accuracy", "right", "pairs")


@dataclass(frozen=True)
class Judged:
    """Whether the trained model's rewards order one pair as its labels do; a tie counts one half."""

    group: str
    right: float

    @property
    def counts(self) -> Mapping[str, float]:
        """What it adds to the sums of its photo."""
        return {"right": self.right, "pairs": 1.0}


def main() -> None:
    """Builds, trains three times for each seed, prints the table and writes results.json."""
    options = _options()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    began = time.perf_counter()
    judged: dict[str, dict[str, list[Judged]]] = {labels: defaultdict(list) for labels in LABELS}
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        folder = options.out / f"seed-{seed}"
        splits = build_pairs(options.ratings, options.photos, folder / "pairs", seed)
        texts = [candidate.text for record in splits["train"] for candidate in record.candidates]
        model = save_random_llava(texts, folder / "model", seed)
        for labels in LABELS:
            started = time.perf_counter()
            found = run_once(model, splits, labels, folder / labels, seed, options.steps)
            for name, items in found.items():
                judged[labels][name] += items
            seconds = time.perf_counter() - started
            values = {name: interval(Table.of(items), ACCURACY).value for name, items in found.items()}
            runs.append({"seed": seed, "labels": labels, "seconds": round(seconds, 1), **values})
            print(f"seed {seed}, {labels} labels: {seconds:.0f} s")
    results = {
        labels: {name: interval(Table.of(items), ACCURACY) for name, items in by_name.items()}
        for labels, by_name in judged.items()
    }
    Console().print(printed(results))
    summary = {
        "seconds": round(time.perf_counter() - began),
        "steps": options.steps,
        "seeds": options.seeds,
        "results": {l: {name: value.to_json() for name, value in row.items()} for l, row in results.items()},
        "runs": runs,
    }
    (options.out / "results.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"{summary['seconds']} s; written {options.out / 'results.json'}")


def build_pairs(ratings: Path, photos: Path | None, out: Path, seed: int) -> Mapping[str, Records]:
    """The pairs of `mmdpo build ratings`, by split; other photos are held out for every seed."""
    settings = read_yaml(HERE / "ratings.yaml", [f"data={ratings}", f"seed={seed}"])
    if photos is not None:
        settings["media_root"] = photos
    return build("ratings", settings, out).splits


def relabelled(records: Records, labels: str, seed: int) -> tuple[Records, list[bool]]:
    """The pairs with their ratings exchanged (always, never, or by a coin), and which of them were."""
    coin = random.Random(f"labels-{seed}")
    flips = [labels == "swapped" or (labels == "shuffled" and coin.random() < 0.5) for _ in records]
    pairs = [_exchanged(record) if flip else record for record, flip in zip(records, flips, strict=True)]
    return Records(pairs, records.media_root), flips


def _exchanged(record: Record) -> Record:
    chosen, rejected = record.candidates
    return replace(record, candidates=(replace(rejected, score=chosen.score), replace(chosen, score=rejected.score)))


def run_once(
    model: Path, splits: Mapping[str, Records], labels: str, folder: Path, seed: int, steps: int
) -> dict[str, list[Judged]]:
    """Trains with one kind of labels and judges the result by its own labels and by the true ones."""
    records, flips = relabelled(splits["train"], labels, seed)
    pairs = save_records(records, folder / "pairs")
    overrides = [f"seed={seed}", f"model.path={model}", f"data.path={pairs}", f"train.max_steps={steps}"]
    config = load_config(HERE / "train.yaml", [*overrides, "train.disable_tqdm=true"])
    run = train(config, folder / "run")
    true = splits["train"]
    margins = reward_margins(config, run / "adapter", [*true, *splits["validation"]], true.media_root)
    seen = {variant: values[: len(true)] for variant, values in margins.items()}
    own = [-margin if flip else margin for margin, flip in zip(seen[CLEAN], flips, strict=True)]
    return {
        "own labels": judge(true, own),
        "true ratings": judge(true, seen[CLEAN]),
        "true ratings, blank photo": judge(true, seen[BLANK]),
        "held-out photos": judge(splits["validation"], margins[CLEAN][len(true) :]),
    }


@torch.no_grad()
def reward_margins(
    config: RunConfig, adapter: Path, records: Sequence[Record], root: Path | None, batch_size: int = 8
) -> dict[str, list[float]]:
    """Reward of the chosen minus reward of the rejected answer of every record, with its photo and with a blank one.

    The reward is `beta * (log p(answer) - log p_reference(answer))`, the reference being the model without adapter.
    """
    trained = config.model.model_copy(update={"adapter": str(adapter)})
    loaded = load_policy(config.model_copy(update={"model": trained}), torch.device("cpu"))
    loaded.model.eval()
    encoder = Encoder(loaded.processor, loaded.facts, loaded.eos_ids, root)
    collate = Collator(encoder, [View(k, media) for media in (CLEAN, BLANK) for k in (CHOSEN, REJECTED)])
    beta = reward_beta(make_objective(config.loss))
    margins: dict[str, list[float]] = {CLEAN: [], BLANK: []}
    for start in range(0, len(records), batch_size):
        batch = collate(list(enumerate(records[start : start + batch_size])))
        policy = score(loaded.model, batch)
        with loaded.model.disable_adapter():
            reference = score(loaded.model, batch)
        loaded.inner.mmdpo_scoring.features.clear()
        table = table_of(batch, collate.media_names, policy, reference)
        for variant, values in margins.items():
            values += pair_statistics(table, beta, variant).margin.tolist()
    return margins


def judge(records: Iterable[Record], margins: Iterable[float]) -> list[Judged]:
    """One item for each pair, grouped by photo."""
    return [
        Judged(record.media["images"][0].identity, 0.5 if margin == 0 else float(margin > 0))
        for record, margin in zip(records, margins, strict=True)
    ]


def printed(results: Mapping[str, Mapping[str, Interval]]) -> Printed:
    """The table: reward accuracy in percent with 95% intervals over photos."""
    names = list(next(iter(results.values())))
    table = Printed("labels", "before", *names, title="reward accuracy after training, % (95% interval over photos)")
    for labels, row in results.items():
        cells = [f"{100 * v.value:.1f} ({100 * v.low:.0f} to {100 * v.high:.0f})" for v in row.values()]
        table.add_row(labels, "50.0", *cells)
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=Path, required=True, help="JSON file with the ratings")
    parser.add_argument("--photos", type=Path, help="folder that its paths start from; default: that of the file")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="folder to make")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of 8 pairs")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions: other weights, photos held out and coins")
    return parser.parse_args()


if __name__ == "__main__":
    main()
