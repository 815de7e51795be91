"""What of docs/objectives.md is computed: the table of losses, the worked record, the messages.

    python tests/objectives_page.py

writes it anew; a test says when that is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmdpo.errors import ConfigError
from mmdpo.extensions.loss_catalogue import LossEntry, catalogue
from mmdpo.objectives import Objective, make_objective
from mmdpo.objectives.explanations import in_yaml
from mmdpo.objectives.presets import PRESETS
from mmdpo.verbs.loss_listing import SYMBOLS, markdown_tables
from mmdpo.views import CLEAN, EVERY, ScoreTable, View
from objectives.tables import Answer, loss_of, table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "objectives.md"

TOTALS: Mapping[tuple[str, bool], tuple[float, float, int]] = {
    ("chosen", True): (-1.0, -1.5, 4),
    ("rejected", True): (-2.0, -1.8, 5),
    ("2", True): (-2.5, -2.2, 3),
    ("partner", True): (-2.4, -2.3, 4),
    ("mismatched", True): (-3.0, -3.2, 4),
    ("chosen", False): (-1.6, -1.7, 4),
    ("rejected", False): (-2.1, -2.0, 5),
    ("partner", False): (-1.2, -1.3, 4),
}
"""The worked record: (answer, whether its media are clean) to log-probability under policy and reference, tokens."""
SCORES = {"chosen": 3.0, "rejected": 1.0, "2": 0.0}
SEVERITIES = {"chosen": 0.5, "rejected": 2.0, "2": 3.0}
LABELS = {"chosen": 1, "rejected": -1}
TOKEN_KL = {"chosen": 0.02, "rejected": 0.03}
SQUARES, LOGIT, HIDDEN_LOGIT, MARKED = 0.9, 3.0, 2.5, 2

MISTAKES: tuple[Any, ...] = (
    "dpoo",
    {"dpo": {"betta": 0.1}},
    {"dpo": {"beta": 0}},
    {"dpo": {"link": "hing"}},
    {"ipo": {"tau": -1}},
    {"mdpo": {"visul": {"weight": 2.0}}},
    {"mdpo": {"weight": {"name": "warmup"}}},
    {"visual": {"worse": "chosn/crop"}},
    {"vdpo": {"gamma": 0.0}},
    {"cond_pref": {"media": "clean"}},
    {"pair": {"transform": "log_odds"}},
    {"dpo": {"weight": -1}},
    {"dpo": {"weight": 0}},
    {"dpo": {"marked": 0, "unmarked": 0}},
    {"infonca": {"order": ["chosen", "rejected"]}},
    {"dpo": None},
)
"""Configurations of which the page shows what is said."""


def answer(view: View, at_start: bool, severity: bool) -> Answer:
    """One row of the worked record; at the start the policy is the reference."""
    name = str(View(view.candidate))
    clean = view.media == CLEAN
    policy, reference, length = TOTALS[name, clean]
    policy = reference if at_start else policy
    ratings = {key: -value for key, value in SEVERITIES.items()} if severity else SCORES
    logit = LOGIT if clean else HIDDEN_LOGIT
    statistics = {
        "token_kl": [0.0 if at_start else TOKEN_KL.get(name, 0.0)] * length,
        "sum_squared_probability": [SQUARES] * length,
        "logit": [logit] * length,
    }
    return Answer(
        0,
        str(view),
        [policy / length] * length,
        [reference / length] * length,
        marks=[place < MARKED for place in range(length)],
        score=ratings.get(name, float("nan")) if clean else float("nan"),
        label=LABELS.get(name, 0) if clean else 0,
        statistics=statistics,
        ref_statistics={"logit": [HIDDEN_LOGIT] * length},
    )


def worked(entry: LossEntry) -> tuple[float, float, float, float]:
    """Value at the start, value, and its derivatives by the log-probabilities of chosen and rejected answer."""
    objective = make_objective(entry.name)
    severity = any("severity" in need for need in entry.needs)
    values = [loss_of(objective, _table(objective, at_start, severity)).item() for at_start in (True, False)]
    of = _table(objective, False, severity)
    (gradient,) = torch.autograd.grad(loss_of(objective, of), of.logp)
    chosen, rejected = (of.aligned(View.parse(side))[0].item() for side in ("chosen", "rejected"))
    by_side = [float(gradient[row][of.mask[row]].mean()) for row in (chosen, rejected)]
    return values[0], values[1], by_side[0], by_side[1]


def _table(objective: Objective, at_start: bool, severity: bool) -> ScoreTable:
    named = [*SCORES] if any(view.candidate == EVERY for view in objective.views) else ["chosen", "rejected"]
    wanted = {view for view in objective.views if view.candidate != EVERY} | {View.parse(name) for name in named}
    of = table(answer(view, at_start, severity) for view in sorted(wanted))
    if not at_start:
        return of
    return replace(of, ref_statistics={"logit": of.statistics["logit"]})


def losses_section() -> str:
    """The tables of all losses that ship."""
    entries = [entry for entry in catalogue() if entry.name in PRESETS or entry.group == "building blocks"]
    published = sum(entry.name in PRESETS for entry in entries)
    head = f"{published} published losses and the {len(entries) - published} terms that they are made of. {SYMBOLS}"
    return f"{head}\n\n{markdown_tables(entries)}"


def worked_section() -> str:
    """The value of every published loss on the worked record."""
    lines = ["| loss | at the start | worked record | by p(yw) | by p(yl) |", "|---|---|---|---|---|"]
    for entry in catalogue():
        if entry.name in PRESETS:
            numbers = " | ".join(_number(value) for value in worked(entry))
            lines.append(f"| `{entry.name}` | {numbers} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "0" if abs(value) < 5e-9 else f"{value:.6g}"


def messages_section() -> str:
    """What is said of each mistake."""
    lines = ["| written | said |", "|---|---|"]
    for mistake in MISTAKES:
        try:
            make_objective(mistake)
        except ConfigError as error:
            said = " ".join(part for part in (f"{error.what}.", error.why) if part)
            lines.append(f"| `loss: {in_yaml(mistake)}` | {said.replace('|', chr(92) + '|')} |")
        else:
            raise ValueError(f"{mistake} is no mistake")
    return "\n".join(lines)


SECTIONS = {"losses": losses_section, "worked": worked_section, "messages": messages_section}


def sections(page: str) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of what lies between each pair of markers."""
    for name in SECTIONS:
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        yield name, page.index(start) + len(start), page.index(end)


def rewritten(page: str) -> str:
    """The page with its computed sections as they should be."""
    for name in SECTIONS:
        start, end = next((first, last) for found, first, last in sections(page) if found == name)
        page = f"{page[:start]}\n{SECTIONS[name]().strip()}\n\n{page[end:]}"
    return page


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    after = rewritten(before)
    PAGE.write_text(after, encoding="utf-8")
    sys.stderr.write(f"{PAGE}: {'as it was' if after == before else 'written'}\n")
