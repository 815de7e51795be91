"""From the outcomes of the matrix to `verified.json`, which ships, and from that to `docs/families.md`."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from families.notes import NOTES
from families.specs import EVERY, SPECS

TABLE = Path("mmdpo/models/verified.json")
PAGE = Path("docs/families.md")
COMMAND = "make families"
PACKAGES = ("transformers", "torch", "peft", "accelerate")

COLUMNS = {
    "logprobs": (
        "log-probs",
        "The log-probabilities of all answers, laid out as one prefix with branches, are those of the model's own "
        "`logits` on one unpadded row at a time. Both padding sides, both attention functions (sdpa, eager), and the "
        "plain layout too; with clean and with blanked media, which must differ. The number is the largest difference "
        "of one token, in nats.",
    ),
    "gradients": (
        "gradients",
        "The gradients of a weighted sum of them by every parameter of the model are those of the plain rows. The "
        "number is the largest difference of a parameter's gradient, relative to its norm.",
    ),
    "once": (
        "once",
        "Every distinct item passes its encoder once a step: in two records, two candidates, clean and blank, policy "
        "and reference. Counted at the first layer of the encoder.",
    ),
    "several": (
        "several",
        "Two and three items in a prompt, items shared between records, and their order counts.",
    ),
    "mixed": (
        "mixed",
        "Records with and without media in one batch and in one row; text alone; the same numbers as alone.",
    ),
    "checkpointing": (
        "checkpointing",
        "Activation checkpointing of language model and encoders changes neither log-probabilities nor gradients.",
    ),
    "parts": (
        "parts",
        "`trainable: llm`, `projector`, `llm+projector` and `all`, with LoRA and with `lora: null`, train exactly the "
        "parts that they name, as the model's class names its modules, but for what the class itself freezes "
        "(sinusoids); gradients reach those parts and no other.",
    ),
    "saved": (
        "saved",
        "After `mmdpo train`, the live model, its adapter loaded again and the model of `mmdpo merge` generate the "
        "same ids and give the same log-probabilities (float32).",
    ),
    "learns": ("learns", "Eight steps of DPO on four pairs: the loss falls from ln 2 below 0.5 and the margin grows."),
    "startup": (
        "start-up",
        "The check at the start of a run takes the layout of this table, and refuses when it is told a wrong fact.",
    ),
    "video": (
        "video",
        "As log-probs, with one and two videos in a prompt, given as frames, beside images and text.",
    ),
    "text": (
        "text",
        "What becomes of a question that contains the text of a placeholder: it is kept as text, or its record is "
        "refused (with some families that depends on which placeholder). Answers keep theirs as text unless it is "
        "said. Text never takes the place of media.",
    ),
}
"""The checks in the order of the table: heading and meaning."""


def make_table(outcomes: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept of a run.

    Args:
        outcomes: What each cell found, by check and family.

    Raises:
        ValueError: A cell did not run: a table with holes would look like one without them.
    """
    families: dict[str, Any] = {}
    missing = []
    for family in EVERY:
        cells: dict[str, Any] = {}
        for name in COLUMNS:
            if name == "video" and not SPECS[family].video:
                cells[name] = {"ok": None, "reason": "takes no video"}
            elif (name, family) in outcomes:
                cells[name] = _cell(outcomes[name, family])
            else:
                missing.append(f"{name} of {family}")
        model = outcomes.get(("logprobs", family), {}).get("model", "")
        families[family] = {"model": model, "takes": list(SPECS[family].takes), "checks": cells}
    if missing:
        raise ValueError(f"nothing is written: {len(missing)} cells did not run ({', '.join(missing[:8])})")
    return {
        "command": COMMAND,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "families": families,
    }


def _cell(found: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"ok": found["ok"]}
    for name in ("layout", "reason"):
        if found.get(name):
            kept[name] = found[name]
    if "difference" in found:
        kept["difference"] = float(f"{found['difference']:.1e}")
    return kept


def write(table: Mapping[str, Any], root: Path) -> None:
    """Writes both files."""
    (root / TABLE).write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (root / PAGE).write_text(page_of(table), encoding="utf-8")


def read(root: Path) -> dict[str, Any]:
    """The committed table."""
    table: dict[str, Any] = json.loads((root / TABLE).read_text(encoding="utf-8"))
    return table


# --- the page -------------------------------------------------------------------------------------------------------


def page_of(table: Mapping[str, Any]) -> str:
    """The page that is made of a table."""
    families = table["families"]
    failing = [
        f"* `{family}`, {COLUMNS[name][0]}: {cell['reason']}"
        for family, entry in families.items()
        for name, cell in entry["checks"].items()
        if cell["ok"] is False
    ]
    cells = [cell for entry in families.values() for cell in entry["checks"].values()]
    passed, applied = sum(cell["ok"] is True for cell in cells), sum(cell["ok"] is not None for cell in cells)
    versions = ", ".join(f"{name} {version}" for name, version in table["versions"].items())
    heads = ["family", "takes", "layout", *(title for title, _ in COLUMNS.values())]
    lines = [
        "# Model families",
        "",
        f"This page is made by `{table['command']}` from the outcomes of the tests in `tests/families`; a test "
        "compares it with them. `mmdpo ls families` shows the same.",
        "",
        f"{passed} of {applied} checks pass, with {versions}.",
        "",
        "Each family is a small model of its real class, with random weights, built from its configuration, and its "
        "real processor class with the published template. Computed in float64 where nothing else is said, so that a "
        "difference above 1e-9 is an error and no rounding. What size and training add (memory, speed, quality) is not "
        "tested here. At the start of every run the same comparison is made on the real weights and records, and "
        "decides the layout (`docs/architecture.md`). A family that is not listed goes through that check, too: it is "
        "trained when it passes and refused when not.",
        "",
        _row(heads),
        _row(["---"] * len(heads)),
        *(_row(_cells(family, entry)) for family, entry in families.items()),
        "",
        "ok: passed; a number: passed, with this largest difference; -: does not apply, see the notes; **fails**: see "
        "below.",
        "",
        "## What the columns mean",
        "",
        "* **layout**: `shared` is one prefix with all answers as its branches; `plain` gives every answer a row of "
        "its own (slower, the same numbers).",
        *(f"* **{title}**: {meaning}" for title, meaning in COLUMNS.values()),
        "",
        "## What fails",
        "",
        *(failing or ["Nothing."]),
        "",
        "## Notes",
        "",
        *(f"* **{family}**, `{entry['model']}`{_note(family, entry)}" for family, entry in families.items()),
        "",
    ]
    return "\n".join(lines)


def _row(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"


def _cells(family: str, entry: Mapping[str, Any]) -> list[str]:
    checks = entry["checks"]
    shown = [_shown(name, checks[name]) for name in COLUMNS]
    return [family, ", ".join(entry["takes"]), checks["logprobs"].get("layout", "?"), *shown]


def _shown(name: str, cell: Mapping[str, Any]) -> str:
    if cell["ok"] is None:
        return "-"
    if not cell["ok"]:
        return "**fails**"
    if name == "text":
        return str(cell.get("reason", "ok"))
    return f"{cell['difference']:.0e}" if name in ("logprobs", "gradients") and "difference" in cell else "ok"


def _note(family: str, entry: Mapping[str, Any]) -> str:
    """What was measured, then what was written down."""
    checks = entry["checks"]
    parts = [
        f"plain rows: {checks['logprobs']['reason']}" if checks["logprobs"].get("layout") == "plain" else "",
        checks["once"].get("reason", "") if checks["once"]["ok"] else "",
        *(
            checks[name].get("reason", "")
            for name in ("several", "mixed", "checkpointing", "parts", "video")
            if checks[name]["ok"] or (checks[name]["ok"] is None and name != "video")
        ),
        NOTES.get(family, ""),
    ]
    told = ". ".join(part[0].upper() + part[1:] for part in parts if part).rstrip(".")
    return f": {told}." if told else "."
