"""Do real ratings reach the weights? DPO with the true labels, beside the same run with swapped and shuffled ones.

    python examples/real_ratings/run.py --ratings RATINGS.json --out runs/real

Everything goes through what `mmdpo build ratings` and `mmdpo train` call. README.md says what to expect.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from random_llava import save_random_llava
from rich.console import Console
from rich.table import Table as Printed

from data_builders.running.build import build
from mmdpo.collate import Collator, table_of
from mmdpo.config import RunConfig, load_config, read_yaml
from mmdpo.diagnostics import pair_statistics, reward_of
from mmdpo.encoding.example import Encoder
from mmdpo.evals.comparing.paired import paired_difference
from mmdpo.evals.stats import Interval, Table, interval, ratio
from mmdpo.objectives import make_objective
from mmdpo.records import Record, Records, save_records
from mmdpo.runs.model import load_policy
from mmdpo.runs.training import train
from mmdpo.scoring import score
from mmdpo.training.validation import BLIND
from mmdpo.views import CHOSEN, CLEAN, REJECTED, View

HERE = Path(__file__).parent
LABELS = ("true", "swapped", "shuffled")
ACCURACY = ratio("accuracy", "right", "pairs")
BEFORE, OWN, BEST = "before training", "its own labels", "its own labels, at best"
TRUE, BLANK, HELD_OUT = "true ratings", "true ratings, blank photo", "true ratings, held out"


@dataclass(frozen=True)
class Judged:
    """Whether the rewards of one pair's answers are in the order that labels say; a tie counts one half."""

    group: str
    right: float

    @property
    def counts(self) -> Mapping[str, float]:
        """What it adds to the sums of its photo."""
        return {"right": self.right, "pairs": 1.0}


def main() -> None:
    """Builds pairs and trains three times for each seed; prints the table and writes results.json."""
    options = _options()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
    began = time.perf_counter()
    judged: dict[str, dict[str, list[Judged]]] = {labels: defaultdict(list) for labels in LABELS}
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        folder = options.out / f"seed-{seed}"
        splits = build_pairs(options.ratings, options.photos, folder / "pairs", seed)
        texts = [candidate.text for record in splits["train"] for candidate in record.candidates]
        model = save_random_llava(texts, folder / "model", seed)
        before = judge_untrained(model, splits["train"], seed)
        for labels in LABELS:
            started = time.perf_counter()
            found = {BEFORE: before, **train_and_judge(model, splits, labels, folder, seed, options.steps)}
            seconds = time.perf_counter() - started
            for name, items in found.items():
                judged[labels][name] += items
            accuracies = {name: interval(Table.of(items), ACCURACY).value for name, items in found.items()}
            runs.append({"seed": seed, "labels": labels, "seconds": round(seconds, 1), **accuracies})
            print(f"seed {seed}, {labels} labels: {100 * accuracies[OWN]:.0f}% of its own labels, {seconds:.0f} s")
    report(judged, {"steps": options.steps, "seeds": options.seeds, "runs": runs}, began, options.out)


def build_pairs(ratings: Path, photos: Path | None, out: Path, seed: int) -> Mapping[str, Records]:
    """The pairs of `mmdpo build ratings` by split; every seed holds out other photos."""
    settings = read_yaml(HERE / "ratings.yaml", [f"data={ratings}", f"seed={seed}"])
    return build("ratings", settings | ({} if photos is None else {"media_root": photos}), out).splits


def relabelled(records: Records, labels: str, seed: int) -> tuple[Records, list[bool]]:
    """The pairs with their ratings exchanged (never, always, or where a coin says so), and which of them were."""
    coin = random.Random(seed)
    flips = [labels == "swapped" or (labels == "shuffled" and coin.random() < 0.5) for _ in records]
    pairs = [_exchanged(record) if flip else record for record, flip in zip(records, flips, strict=True)]
    return Records(pairs, records.media_root), flips


def _exchanged(record: Record) -> Record:
    chosen, rejected = record.candidates
    return replace(record, candidates=(replace(rejected, score=chosen.score), replace(chosen, score=rejected.score)))


def judge_untrained(model: Path, records: Records, seed: int) -> list[Judged]:
    """The rewards before the first step, from which every kind of labels starts."""
    config = load_config(HERE / "train.yaml", [f"seed={seed}", f"model.path={model}"])
    return judge(records, reward_margins(config, None, records, records.media_root)[CLEAN])


def train_and_judge(
    model: Path, splits: Mapping[str, Records], labels: str, folder: Path, seed: int, steps: int
) -> dict[str, list[Judged]]:
    """Trains with one kind of labels; judges the rewards by these labels and by the true ones."""
    true, held_out = splits["train"], splits["validation"]
    records, flips = relabelled(true, labels, seed)
    pairs = save_records(records, folder / f"pairs-{labels}")
    overrides = [f"seed={seed}", f"model.path={model}", f"data.path={pairs}", f"train.max_steps={steps}"]
    config = load_config(HERE / "train.yaml", [*overrides, "train.disable_tqdm=true"])
    run = train(config, folder / labels)
    margins = reward_margins(config, run / "adapter", [*true, *held_out], true.media_root)
    seen = margins[CLEAN][: len(true)]
    return {
        OWN: judge(true, [-margin if flip else margin for margin, flip in zip(seen, flips, strict=True)]),
        BEST: best_possible(records),
        TRUE: judge(true, seen),
        BLANK: judge(true, margins[BLIND][: len(true)]),
        HELD_OUT: judge(held_out, margins[CLEAN][len(true) :]),
    }


@torch.no_grad()
def reward_margins(
    config: RunConfig, adapter: Path | None, records: Sequence[Record], root: Path | None, batch_size: int = 8
) -> dict[str, list[float]]:
    """Reward of the chosen minus reward of the rejected answer of every record, with its photo and with a blank one.

    The reward is `beta * (log p(answer) - log p_reference(answer))`, the reference being the model without adapter.
    Without an `adapter` it is that of a fresh one. The blank photo is left out then: nothing can depend on it.
    """
    section = config.model if adapter is None else config.model.model_copy(update={"adapter": str(adapter)})
    loaded = load_policy(config.model_copy(update={"model": section}), torch.device("cpu"))
    loaded.model.eval()
    encoder = Encoder(loaded.processor, loaded.facts, loaded.eos_ids, root)
    variants = (CLEAN,) if adapter is None else (CLEAN, BLIND)
    collate = Collator(encoder, [View(answer, media) for media in variants for answer in (CHOSEN, REJECTED)])
    reward = reward_of(make_objective(config.loss))
    margins: dict[str, list[float]] = {variant: [] for variant in variants}
    for start in range(0, len(records), batch_size):
        batch = collate(list(enumerate(records[start : start + batch_size])))
        policy = score(loaded.model, batch)
        with loaded.model.disable_adapter():
            reference = score(loaded.model, batch)
        loaded.inner.mmdpo_scoring.features.clear()
        table = table_of(batch, collate.media_names, {"logp": policy}, {"logp": reference})
        for variant, values in margins.items():
            values += pair_statistics(table, reward, variant).margin.tolist()
    return margins


def judge(records: Iterable[Record], margins: Iterable[float]) -> list[Judged]:
    """One item for each pair, grouped by photo."""
    return [
        Judged(_photo(record), 0.5 if margin == 0 else float(margin > 0))
        for record, margin in zip(records, margins, strict=True)
    ]


def best_possible(records: Sequence[Record]) -> list[Judged]:
    """The items of a model that orders the captions of each photo as well as their labels allow.

    Rewards order the captions of a photo, while a coin for each pair makes circles (A over B over C over A), of which
    no order gets every pair right.
    """
    wins: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for record in records:
        wins[_photo(record)].add((record.chosen.text, record.rejected.text))
    items = []
    for photo, pairs in wins.items():

        @cache
        def most(rest: frozenset[str], pairs: frozenset[tuple[str, str]] = frozenset(pairs)) -> int:
            # whichever caption comes first wins all its pairs with the rest
            return max(
                (sum((top, other) in pairs for other in rest) + most(rest - {top}, pairs) for top in rest), default=0
            )

        right = most(frozenset(text for pair in pairs for text in pair))
        items += [Judged(photo, float(place < right)) for place in range(len(pairs))]
    return items


def _photo(record: Record) -> str:
    return next(item.identity for _, item in record.media_items())


def report(
    judged: Mapping[str, Mapping[str, Sequence[Judged]]], summary: dict[str, Any], began: float, out: Path
) -> None:
    """Prints the table (percent, 95% intervals over photos, all seeds together) and writes results.json."""
    found = {
        labels: {name: interval(Table.of(items), ACCURACY) for name, items in rows.items()}
        for labels, rows in judged.items()
    }
    gaps = {
        f"true minus {other}": paired_difference(judged[other][TRUE], judged["true"][TRUE], ACCURACY)
        for other in LABELS[1:]
    }
    table = Printed("agreement with", *(f"{labels} labels" for labels in LABELS), box=None, header_style="bold")
    for name in found["true"]:
        table.add_row(name, *(written(found[labels][name], name in (BEFORE, BEST)) for labels in LABELS))
    console = Console(soft_wrap=True, highlight=False)
    console.print("\nReward accuracy, % of the pairs (95% interval over photos)", table, "", sep="\n")
    for name, gap in gaps.items():
        limits = f"{100 * gap.low:+.0f} to {100 * gap.high:+.0f}"
        console.print(f"{name}, on the true ratings: {100 * gap.value:+.1f} points ({limits}), p = {gap.p_value:.2g}")
    summary["seconds"] = round(time.perf_counter() - began)
    summary["results"] = {
        labels: {name: value.to_json() for name, value in rows.items()} for labels, rows in found.items()
    }
    summary["differences"] = {name: gap.to_json() for name, gap in gaps.items()}
    (out / "results.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    console.print(f"{summary['seconds']} s; written {out / 'results.json'}")


def written(value: Interval, exact: bool) -> str:
    """A rate in percent, with its interval unless it is exact."""
    if exact or value.low is None or value.high is None:
        return f"{100 * value.value:.1f}"
    return f"{100 * value.value:.1f} ({100 * value.low:.0f} to {100 * value.high:.0f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=Path, required=True, help="JSON file with the ratings")
    parser.add_argument("--photos", type=Path, help="folder that its paths start from; default: that of the file")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="folder to make")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of 8 pairs (default 20)")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions: weights, photos held out, coins (default 3)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
