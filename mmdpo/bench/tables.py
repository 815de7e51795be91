"""Measurements as tables for people: ratios first, then times, memory and shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

MIB = 2**20


def train_tables(found: Mapping[str, Any]) -> list[Table]:
    """One table for each comparison of ``mmdpo bench train``."""
    return [_comparison(entry) for entry in found["comparisons"]]


def _comparison(entry: Mapping[str, Any]) -> Table:
    """Sides as columns: narrow enough for 80 characters."""
    recomputed = ", activations recomputed" if entry["checkpointing"] else ""
    threads = f" with {entry['threads']} thread{'s' * (entry['threads'] > 1)}" if entry["device"] == "cpu" else ""
    title = (
        f"{entry['shape']}, K = {entry['candidates']}, answers of {entry['answer']} tokens, batch {entry['batch']}"
        f"{recomputed}\n{entry['device']}{threads}, n = {entry['repeats']} turns, against {entry['against']}"
    )
    table = Table("", title=escape(title), box=None, header_style="bold", pad_edge=False)
    for name in entry["sides"]:
        table.add_column(name, justify="right")
    columns = [_column(side) for side in entry["sides"].values()]
    for name in columns[0]:
        table.add_row(name, *(column.get(name, "") for column in columns))
    return table


def _column(side: Mapping[str, Any]) -> dict[str, str]:
    ratio, seconds = side.get("ratio"), side["seconds"]
    gains = (
        {"times faster": "1", "ceiling by tokens": "", "ceiling by operations": ""}
        if ratio is None
        else {
            "times faster": f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f})",
            "ceiling by tokens": f"{side['ceiling']:.2f}, {100 * side['reached']:.0f}%",
            "ceiling by operations": f"{side['ceiling_operations']:.2f}",
        }
    )
    return gains | {
        "peak memory": f"{100 * side['memory_share']:.0f}%, {side['peak_bytes'] / MIB:.0f} MiB",
        "seconds a step": f"{seconds['median']:.2f} ({seconds['least']:.2f}-{seconds['most']:.2f})",
        "records a second": f"{side['pairs_per_second']:.3g}",
        "answer tokens a second": f"{side['answer_tokens_per_second']:.4g}",
        "encoder, times an image": f"{side['encoder_passes']:.0f}",
        "share of matrix rate": f"{100 * side['flops_share']:.0f}%",
        "ms to build the batch": f"{1000 * side['collate_seconds']:.0f}",
    }


def batch_table(found: Mapping[str, Any]) -> Table:
    """The largest batch of each side that fits."""
    table = Table("", "largest batch", title=escape(found["title"]), box=None, header_style="bold")
    for name, size in found["sides"].items():
        table.add_row(name, str(size) + ("+" if size >= found["limit"] else ""))
    return table


def eval_table(found: Mapping[str, Any]) -> Table:
    """Ways to answer yes/no questions."""
    title = (
        f"{found['questions']} questions about {found['photos']} photos of {found['shape']['image_tokens']} tokens, "
        f"{found['device']}, n = {found['repeats']} turns\n{found['says_yes']} answers are yes; "
        f"{found['not_shared'] or 'prefixes were shared'}; "
        f"once for a model, and in no time below: {found['check_seconds']:.1f} s to compare logits with its own"
    )
    table = Table("", title=escape(title), box=None, header_style="bold", pad_edge=False)
    for name in ("times one at a time", "times the best batch", "ms a question", "other answers"):
        table.add_column(name, justify="right")
    for name, row in found["ways"].items():
        times = (f"{row[key]:.1f}" for key in ("times_one_at_a_time", "times_best_batch", "ms_per_question"))
        table.add_row(name, *times, str(row["other_answers"]))
    return table


def build_table(found: Mapping[str, Any]) -> Table:
    """Time and memory of builds by their size."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("ratings", "microseconds a rating", "seconds", "peak memory, MiB", "pairs"):
        table.add_column(name, justify="right")
    for row in found["builds"]:
        table.add_row(
            f"{row['ratings']:,}",
            f"{row['microseconds_per_rating']:.0f}",
            f"{row['seconds']:.1f}",
            f"{row['peak_mib']:,.0f}",
            f"{row['pairs']:,}",
        )
    return table


def growth_table(found: Mapping[str, Any]) -> Table:
    """Seconds and memory by everything that grows; time and memory are times those of our side."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("what grows")
    table.add_column("", justify="right")
    table.add_column("side")
    for name in ("time", "memory", "s a step", "peak MiB"):
        table.add_column(name, justify="right")
    ours = {(p["axis"], p["value"]): p for p in found["points"] if p["side"] == "mmdpo"}
    for point in found["points"]:
        base = ours[point["axis"], point["value"]]
        ratios = (f"{point[what] / base[what]:.2f}" for what in ("seconds", "peak_bytes"))
        sizes = (f"{point['seconds']:.3g}", f"{point['peak_bytes'] / MIB:.0f}")
        table.add_row(point["axis"], str(point["value"]), point["side"], *ratios, *sizes)
    return table


def ceiling_table(found: Mapping[str, Any]) -> Table:
    """Ceilings by shape and length of answers; ``again`` says whether activations are recomputed."""
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for name in ("shape", "against", "again", "K", "answer", "fresh, cached, +features", "TFLOP"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("shape", "against") else "right")
    for row in found["ceilings"]:
        times = " / ".join(f"{row[name]:.2f}" for name in ("fresh", "cached", "features"))
        against = "TRL" if row["against"] == "trl" else "plain rows"
        sizes = ("yes" if row["checkpointing"] else "no", str(row["candidates"]), str(row["answer"]))
        table.add_row(row["shape"], against, *sizes, times, f"{row['needed_flops'] / 1e12:.3g}")
    return table


def settings_lines(found: Mapping[str, Any]) -> list[str]:
    """What TRL ran with, once."""
    for entry in found["comparisons"]:
        settings = entry["sides"].get("trl", {}).get("settings")
        if settings:
            return [f"TRL's settings: {', '.join(f'{key} {value}' for key, value in settings.items())}"]
    return []
