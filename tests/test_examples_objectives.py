"""The comparison of objectives: every arm's records and configuration fit, and the numbers are what they say."""

from __future__ import annotations

import csv
import importlib
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmdpo.encoding.companions import Companions
from mmdpo.errors import ConfigError
from mmdpo.evals.stats import Table, interval
from mmdpo.jsonfiles import read_json, write_json
from mmdpo.records import load_records
from mmdpo.runs.data import read_sources
from mmdpo.runs.settings import check_config
from mmdpo.training.objective_checks import usage
from mmdpo.views import PARTNER

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "objectives"
PAGE = ROOT / "docs" / "objectives_measured.md"
NAMES = ("rated", "arms", "measures", "summary", "experiment")
ARMS = re.findall(r'^    "(\w+)": Arm\(', (EXAMPLE / "arms.py").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def example() -> Iterator[SimpleNamespace]:
    """The example's modules; the search path and the imported modules are as they were afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(sys, "path", [str(EXAMPLE), *sys.path])
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    for name in NAMES:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def size(example: SimpleNamespace) -> Any:
    return example.rated.Size(scenes=10, test=6, rated_test=6, prompts=4, steps=2)


@pytest.fixture(scope="module")
def out(example: SimpleNamespace, size: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of seed 0 with the base model's measurements."""
    folder = tmp_path_factory.mktemp("objectives")
    example.experiment.prepare(folder, size, 0)
    return folder


def test_every_arm_is_there(example: SimpleNamespace) -> None:
    wanted = {"dpo", "rpo_nll", "ipo", "simpo", "kto", "plackett_luce", "mpo", "mdpo", "ddpo", "shuffled"}
    assert wanted <= set(ARMS) and list(example.arms.ARMS) == ARMS
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE) == ARMS


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_an_arm_can_use_its_records(name: str, example: SimpleNamespace, size: Any, out: Path) -> None:
    arm = example.arms.ARMS[name]
    config = example.arms.configuration(arm, out / "seed-0", 0, 1e-3, size)
    objective, arguments = check_config(config, Path(), out / "run")
    train = read_sources(config, objective).train
    used = usage(objective, train, Companions(train, 0))
    for term, count in used.counts.items():
        # every term uses every record, but for one whose question no other scene was asked
        reads_partner = any(view.candidate == PARTNER for view in objective.terms[term].views())
        assert 0 < count <= len(train) if reads_partner else count == len(train)
    assert (arguments.max_steps, arguments.learning_rate) == (2, 1e-3)
    assert arguments.per_device_train_batch_size == (12 if arm.form == "answers" else 4)


def test_the_forms_are_made_of_the_same_ratings(example: SimpleNamespace, out: Path) -> None:
    folder = out / "seed-0"
    with (folder / "pairs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    points: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        points[row["image"], row["prompt"]][row["caption"]].append(int(row["rating"]))
    assert all(len(given) == 3 for texts in points.values() for given in texts.values())  # three people rated each
    sizes = Counter(len(texts) for (_, prompt), texts in points.items() if prompt == "Describe the image.")
    assert sizes[4] >= 8 and max(sizes) == 4

    def key(record: Any) -> tuple[str, str]:
        return record.media["images"][0].path, record.prompt[-1]["content"][-1]["text"]

    answers = load_records(folder / "answers")
    assert Counter((*key(r), r.candidates[0].text) for r in answers) == Counter(
        (*prompt, text) for prompt, texts in points.items() for text in texts
    )
    for record in answers:
        given = points[key(record)][record.candidates[0].text]
        assert record.candidates[0].label is (sum(given) >= 12)  # a mean of 4

    pairs = {key(record): record for record in load_records(folder / "pairs")}
    lists = {key(record): record for record in load_records(folder / "lists")}
    assert pairs.keys() == lists.keys() and len(pairs) < len(points)
    for prompt, record in lists.items():
        scores = [candidate.score for candidate in record.candidates]
        assert scores == sorted(scores, reverse=True) and len(scores) == len(points[prompt])
        assert scores[0] - scores[-1] >= 1 - 1e-9
        assert (pairs[prompt].chosen.score, pairs[prompt].rejected.score) == pytest.approx((scores[0], scores[-1]))

    with (folder / "shuffled.csv").open(encoding="utf-8") as file:
        dealt = list(csv.DictReader(file))
    assert Counter(row["rating"] for row in dealt) == Counter(row["rating"] for row in rows)
    assert [row["rating"] for row in dealt] != [row["rating"] for row in rows]
    made = read_json(folder / "results" / "base.json")["made"]
    desirable = sum(record.candidates[0].label is True for record in answers)
    assert made == {
        "pairs": len(pairs),
        "lists": len(lists),
        "answers": len(answers),
        "desirable": desirable,
        "shuffled": len(load_records(folder / "shuffled")),
    }


@pytest.mark.slow
def test_an_arm_trains_and_is_measured_once(example: SimpleNamespace, size: Any, out: Path) -> None:
    job = example.experiment.Job(out, size, 0, "kto", 1e-3)
    assert "CPU seconds" in example.experiment.run_job(job)
    assert example.experiment.run_job(job) == "seed 0 kto-0.001: is there"
    base, found = (read_json(path)["rows"] for path in (job.folder / "results" / "base.json", job.result))
    assert base.keys() == found.keys() and len(found) == 6
    for scene, counts in found.items():
        assert counts.keys() == base[scene].keys()
        assert (counts["captions"], counts["questions"]) == (1, 2)
    pairs = [scene for scene in found if "pairs" in found[scene]]
    assert any(found[scene]["chosen"] != base[scene]["chosen"] for scene in pairs)  # two steps moved it
    for scene in pairs:
        assert found[scene]["chosen"] == pytest.approx(base[scene]["chosen"], abs=1.0)


def test_an_experiment_of_another_size_is_not_mixed_in(example: SimpleNamespace, size: Any, tmp_path: Path) -> None:
    example.experiment.keep_size(tmp_path, size)
    example.experiment.keep_size(tmp_path, size)
    with pytest.raises(ConfigError, match="another size"):
        example.experiment.keep_size(tmp_path, replace(size, steps=3))


CAPTION = {"captions": 1.0, "wrong_captions": 0.0, "mentions": 2.0, "wrong_mentions": 0.0, "present": 2.0, "found": 2.0}
QUESTION = {"questions": 2.0, "correct": 2.0, "yes": 1.0, "true_yes": 1.0, "false_yes": 0.0, "false_no": 0.0}
PAIR = {"pairs": 1.0, "tokens": 5.0, "chosen": -10.0, "rejected": -12.0, "blind_chosen": -30.0, "blind_rejected": -31.0}
FAITHFUL = {**CAPTION, **QUESTION, **PAIR, "made_up": 0.0, "words": 8.0}
MADE_UP = FAITHFUL | {"wrong_captions": 1.0, "wrong_mentions": 1.0, "made_up": 1.0, "mentions": 3.0}


def test_numbers_of_pairs(example: SimpleNamespace) -> None:
    """One pair of which both fell and the margin grew, one of which only the blind chosen answer fell."""
    base = {"a": FAITHFUL, "b": FAITHFUL}
    after = {
        "a": FAITHFUL | {"chosen": -11.0, "rejected": -15.0},
        "b": FAITHFUL | {"chosen": -8.0, "blind_chosen": -34.0},
    }
    table = Table.of(example.measures.against(base, after, 0))
    values = {name: interval(table, metric).value for name, metric in example.measures.METRICS.items()}
    assert values["displacement"] == 0.5
    assert values["accuracy"] == 1.0
    assert values["blind"] == 0.25  # a tie and a loss
    assert values["chosen"] == pytest.approx(-19 / 10)
    assert values["media"] == pytest.approx((19 + 26) / 2)
    untrained = Table.of(example.measures.against(base, base, 0))
    assert interval(untrained, example.measures.METRICS["accuracy"]).value == 0.5


def test_learning_rates_are_chosen_by_captions_and_answers(example: SimpleNamespace) -> None:
    wrong = MADE_UP | {"found": 1.0, "correct": 1.0}
    precision, recall, accuracy = 1 - 1 / 5, 3 / 4, 3 / 4
    f1 = 2 * precision * recall / (precision + recall)
    assert example.measures.selection_score([FAITHFUL, wrong]) == pytest.approx((f1 + accuracy) / 2)
    silent = dict.fromkeys(FAITHFUL, 0.0) | {"present": 2.0, "questions": 2.0, "correct": 1.0}
    assert example.measures.selection_score([silent]) == 0.25


def results_of(example: SimpleNamespace, folder: Path) -> dict[str, Any]:
    """Two seeds of two scenes: the base makes up 3 of 4 usual objects, dpo 2, mpo 0."""
    rows = {
        "base": ({"a": MADE_UP, "b": MADE_UP}, {"a": MADE_UP, "b": FAITHFUL}),
        "dpo": ({"a": MADE_UP, "b": FAITHFUL}, {"a": MADE_UP, "b": FAITHFUL}),
        "mpo": ({"a": FAITHFUL, "b": FAITHFUL}, {"a": FAITHFUL, "b": FAITHFUL}),
    }
    paths: dict[str, dict[int, Path]] = defaultdict(dict)
    for name, of_seeds in rows.items():
        for seed, of_seed in enumerate(of_seeds):
            paths[name][seed] = folder / f"{name}-{seed}.json"
            write_json(paths[name][seed], {"rows": of_seed})
    tuning = {arm: {"0.001": 0.9, "0.002": 0.95} for arm in ("dpo", "mpo")}
    return {"tuning": tuning, **example.summary.summarise(paths.pop("base"), paths)}


def test_differences_are_paired_over_the_scenes_of_all_seeds(example: SimpleNamespace, tmp_path: Path) -> None:
    found = results_of(example, tmp_path)
    usual = {arm: entry["values"]["usual"] for arm, entry in found["arms"].items()}
    assert [found["base"]["usual"]["value"], usual["dpo"]["value"], usual["mpo"]["value"]] == [0.75, 0.5, 0.0]
    against_base = found["arms"]["dpo"]["against_base"]["usual"]
    assert (against_base["value"], against_base["seeds"]) == (-0.25, [-0.5, 0.0])
    assert "against_dpo" not in found["arms"]["dpo"]
    against_dpo = found["arms"]["mpo"]["against_dpo"]["usual"]
    assert (against_dpo["value"], against_dpo["seeds"]) == (-0.5, [-0.5, -0.5])
    assert against_dpo["low"] < -0.5 < against_dpo["high"]


def test_results_are_written_into_the_page(example: SimpleNamespace, tmp_path: Path) -> None:
    found = results_of(example, tmp_path)
    page = tmp_path / "page.md"
    summary = example.summary
    page.write_text(f"Before.\n\n{summary.BEGIN}\n\nold\n\n{summary.END}\n\nAfter.\n", encoding="utf-8")
    for _ in range(2):  # again gives the same
        summary.write_docs(found, page)
        text = page.read_text(encoding="utf-8")
        assert text.startswith("Before.\n\n") and text.endswith("\n\nAfter.\n") and "old" not in text
        assert text.count("### What the models say") == 1
    assert re.search(r"^\| `dpo` \| 50\.0 \[", text, re.MULTILINE)
    assert re.search(r"^\| `mpo` \| -50\.0 \[.*?\] \(-50\.0 to -50\.0\)", text, re.MULTILINE)
    assert "| `mpo` | 90.0 | **95.0** |" in text
    assert (tmp_path / "figures" / "objectives.png").stat().st_size < 150_000


def test_the_page_has_places_for_results(example: SimpleNamespace) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.index(example.summary.BEGIN) < text.index(example.summary.END)


@pytest.mark.slow
def test_the_script_runs_and_goes_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(EXAMPLE / "experiment.py"),
        "--quick",
        "--arms",
        "dpo",
        "kto",
        "--out",
        str(tmp_path),
    ]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert read_json(tmp_path / "results.json")["arms"].keys() == {"dpo", "kto"}
    assert second.returncode == 0 and "CPU seconds" not in second.stdout
    assert second.stdout.count("is there") == 4
