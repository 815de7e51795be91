"""People's votes on pairs of answers: a table to fill in, the table read back, and how well a judge agrees with it.

The table is blind: a row holds two answers without their models, in an order that is drawn for each pair; a second file
says which is which. A table from elsewhere needs no second file if it names the question and both models in each row.
"""

from __future__ import annotations

import csv
import io
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.errors import DataError
from mmdpo.evals.judging.answer_pairs import AnswerPair
from mmdpo.evals.shared.audio_files import read_any_rows
from mmdpo.evals.shared.files import write_text
from mmdpo.evals.stats import Array, Metric, Sums, Table, divide, interval, ratio
from mmdpo.evals.winrate import Judgement, identical
from mmdpo.jsonfiles import read_json, write_json

SHEET, KEY = "votes.csv", "votes_key.json"
COLUMNS = ("pair", "prompt", "images", "reference", "answer_1", "answer_2", "vote", "rater", "comment")
_NAMED = {"item", "first", "second"}
_WORDS = {"1": 1.0, "2": 0.0, "tie": 0.5}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SHOWN = 10

Votes = dict[tuple[str, tuple[str, str]], dict[str, float]]
"""(question, both models) -> rater -> 1 where the first model's answer is better, 0 or 0.5."""


def write_sheet(pairs: Sequence[AnswerPair], folder: Path, *, seed: int = 0) -> Path:
    """Writes the table to fill in, and beside it which answer is whose; returns the table.

    Args:
        pairs: The answers; equal ones are left out.
        folder: Where to.
        seed: Of the order of the rows, and of the two answers in each.
    """
    generator = random.Random(seed)
    shown = [pair for pair in pairs if not identical(pair)]
    generator.shuffle(shown)
    key, text = {}, io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    for number, pair in enumerate(shown, 1):
        order = generator.sample((0, 1), 2)
        name = f"p{number:05d}"
        key[name] = {"item": pair.item, "first": pair.models[order[0]], "second": pair.models[order[1]]}
        cells = {
            "pair": name,
            "prompt": pair.prompt,
            "images": " ".join(pair.images),
            "reference": pair.reference or "",
            "answer_1": pair.answers[order[0]],
            "answer_2": pair.answers[order[1]],
        }
        writer.writerow({column: _harmless(cell) for column, cell in cells.items()})
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / KEY, key)
    # With a byte-order mark, without which spreadsheets take UTF-8 for something else.
    write_text(folder / SHEET, "\ufeff" + text.getvalue())
    return folder / SHEET


def _harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: a model's answer must not run anything."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


@dataclass(frozen=True)
class _Row:
    """One vote, as a table has it."""

    item: str
    first: str
    second: str
    rater: str
    vote: float


def read_votes(files: Iterable[Path], *, key: Path | None = None) -> tuple[Votes, list[str]]:
    """The votes in tables that people filled in.

    Args:
        files: Tables with the columns ``pair`` and ``vote``, or ``item``, ``first``, ``second`` (names of models) and
            ``vote``; ``rater`` is the file's name where it is not filled in, or its path where two files have one
            name. A vote is 1, 2 or tie.
        key: The file that says which pair is what; by default the one beside each table.

    Returns:
        The votes, and flags for what was set aside.

    Raises:
        DataError: Listing every row that cannot be read.
    """
    votes: Votes = defaultdict(dict)
    rows: list[_Row] = []
    blank = 0
    files = list(files)
    stems = Counter(path.stem for path in files)
    for path in files:
        # Two people's files may both be called votes.csv.
        read, empty = _rows(path, key, path.stem if stems[path.stem] == 1 else str(path))
        rows, blank = rows + read, blank + empty
    given: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        swap = row.first > row.second
        first, second = (row.second, row.first) if swap else (row.first, row.second)
        given[row.item, first, second, row.rater].append(1 - row.vote if swap else row.vote)
    contradicted = repeated = 0
    for (item, first, second, rater), values in given.items():
        repeated += len(values) - 1
        if len(set(values)) > 1:
            contradicted += 1
            continue
        votes[item, (first, second)][rater] = values[0]
        votes[item, (second, first)][rater] = 1 - values[0]
    flags = [
        (blank, "blank_votes: {} rows have no vote yet"),
        (repeated, "repeated_votes: {} rows repeat a pair that the same person voted on"),
        (contradicted, "contradicting_votes: {} times one person voted both ways on a pair; set aside"),
    ]
    return dict(votes), [sentence.format(count) for count, sentence in flags if count]


def _rows(path: Path, key: Path | None, unnamed: str) -> tuple[list[_Row], int]:
    """The votes in one table, and how many rows have none; ``unnamed`` is who voted where no row says so."""
    table = read_any_rows(path)
    named = table[0].keys() >= _NAMED
    if "vote" not in table[0] or not (named or "pair" in table[0]):
        raise DataError(
            f"{str(path)!r} has the columns {sorted(map(str, table[0]))}",
            why="A vote needs the columns pair and vote, or item, first, second and vote.",
            fix="Save the table as CSV with commas, with its first line as it was.",
        )
    keys = {} if named else read_json(key or path.parent / KEY)
    rows, problems, blank = [], [], 0
    for number, cells in enumerate(table, 2):
        what = cells if named else keys.get(str(cells.get("pair")))
        word = str(cells.get("vote") or "").strip().lower()
        if not isinstance(what, Mapping) or not what.keys() >= _NAMED:
            told = "item, first or second is missing" if named else f"pair {cells.get('pair')!r} is not in the key"
            problems.append(f"line {number}: {told}")
        elif word and word not in _WORDS:
            problems.append(f"line {number}: vote {cells['vote']!r}")
        elif word:
            rater = str(cells.get("rater") or "").strip() or unnamed
            rows.append(_Row(str(what["item"]), str(what["first"]), str(what["second"]), rater, _WORDS[word]))
        else:
            blank += 1
    if problems:
        more = "" if len(problems) <= _SHOWN else f"\n  and {len(problems) - _SHOWN} more"
        raise DataError(
            f"{str(path)!r} has rows that cannot be read:\n  " + "\n  ".join(problems[:_SHOWN]) + more,
            why="A vote that is guessed is no vote.",
            fix="A vote is 1 (the first answer is better), 2 or tie, or nothing where there is none yet.",
        )
    return rows, blank


def judged_by_people(pairs: Sequence[AnswerPair], votes: Votes) -> tuple[list[Judgement], list[str]]:
    """What people said of each pair, and flags for votes on pairs that are not there and pairs without votes."""
    judgements = []
    for pair in pairs:
        given = list(votes.get((pair.item, pair.models), {}).values())
        if given:
            judgements.append(Judgement(pair, float(np.mean(given)), "votes", votes=given))
        elif identical(pair):
            judgements.append(Judgement(pair, 0.5, "identical"))
    known = {(pair.item, frozenset(pair.models)) for pair in pairs}
    unknown = {(item, frozenset(models)) for item, models in votes} - known
    if not any(judgement.votes for judgement in judgements):
        raise DataError(
            f"none of the votes is on one of the {len(pairs)} pairs",
            why="The votes belong to other answers, or name the models otherwise.",
            fix="Name the models as when the table was written: NAME=PATH.",
        )
    flags = [
        (len(unknown), "unknown_pairs: votes on {} pairs that are not there; set aside"),
        (len(pairs) - len(judgements), "without_votes: {} pairs have no vote; set aside"),
    ]
    return judgements, [sentence.format(count) for count, sentence in flags if count]


@dataclass(frozen=True)
class _Compared:
    """One pair that both a judge and people decided."""

    group: str
    counts: Mapping[str, float]


def agreement(by_judge: Sequence[Judgement], by_people: Sequence[Judgement]) -> dict[str, Any]:
    """How well a judge agrees with people, on the pairs that both decided and whose answers differ.

    Returns:
        Name -> value, low, high, n: ``with_majority`` (win, tie, loss against the people's majority),
        ``without_ties`` (the same where neither says tie), ``kappa`` (Cohen 1960, of win, tie and loss),
        ``with_one_person`` (against each single vote), ``between_people`` (two people on the same pair: what a judge
        can be measured against).
    """
    voted = {(said.pair.item, said.pair.models): said for said in by_people if said.votes}
    compared = [
        _compared(said, voted[said.pair.item, said.pair.models])
        for said in by_judge
        if said.outcome is not None and (said.pair.item, said.pair.models) in voted and said.status != "identical"
    ]
    if not compared:
        return {}
    table = Table.of(compared)
    metrics = [
        ratio("with_majority", "same", "pairs"),
        ratio("without_ties", "same_decided", "decided"),
        Metric("kappa", _kappa, lambda sums: np.asarray(sums["pairs"]), bounds=(-1.0, 1.0)),
        ratio("with_one_person", "votes_same", "votes"),
        ratio("between_people", "people_same", "people"),
    ]
    return {metric.name: interval(table, metric).to_json() for metric in metrics}


def _compared(judge: Judgement, people: Judgement) -> _Compared:
    judge_says, people_say = _word(judge.outcome), _word(people.outcome)
    decided = "tie" not in (judge_says, people_say)
    words = Counter(_word(vote) for vote in people.votes)
    counts = {
        "pairs": 1.0,
        "same": float(judge_says == people_say),
        "decided": float(decided),
        "same_decided": float(decided and judge_says == people_say),
        "votes": float(len(people.votes)),
        "votes_same": float(words[judge_says]),
        "people": float(len(people.votes) * (len(people.votes) - 1) // 2),
        "people_same": float(sum(one == other for one, other in combinations(people.votes, 2))),
    }
    for word in ("win", "tie", "loss"):
        counts |= {f"judge_{word}": float(judge_says == word), f"people_{word}": float(people_say == word)}
    return _Compared(judge.group, counts)


def _word(outcome: float | None) -> str:
    value = 0.5 if outcome is None else outcome
    return "tie" if value == 0.5 else "win" if value > 0.5 else "loss"


def _kappa(sums: Sums) -> Array:
    pairs = sums["pairs"]
    chance = sum(sums[f"judge_{word}"] * sums[f"people_{word}"] for word in ("win", "tie", "loss"))
    chance = divide(np.asarray(chance), pairs**2)
    return divide(divide(sums["same"], pairs) - chance, 1 - chance)
