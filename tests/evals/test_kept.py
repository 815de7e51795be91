"""What alignment cost: habits of answers, what counts as kept, two parts in comparisons, and the page that shows it."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mmdpo.answering.answers import judged
from mmdpo.cli import app
from mmdpo.errors import MMDPOError
from mmdpo.evals.base import Result, Sample
from mmdpo.evals.comparing.conclusion import concluded
from mmdpo.evals.comparing.folders import compare_folders, require
from mmdpo.evals.comparing.kept import kept, outcome, worst
from mmdpo.evals.result import Item
from mmdpo.evals.runner import compare, make_benchmark
from mmdpo.evals.shared.habits import NOT_WRITTEN, habit_counts, habits
from mmdpo.jsonfiles import read_json, write_json
from mmdpo.playground.files import write_annotations, write_scene_images, write_synonyms
from mmdpo.playground.world import scenes
from mmdpo.records import Candidate, Media, Record, Records, save_records, user_message
from mmdpo.verbs.terminal import print_comparison, print_run_comparison

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kept.md"
REFUSAL = "I'm sorry, but I can't help with that."


@pytest.mark.parametrize(
    ("text", "words", "refused", "empty"),
    [
        ("A dog on a beach.", 5, 0, 0),
        (REFUSAL, 8, 1, 0),
        ("I am unable to answer questions about people.", 8, 1, 0),
        ("No, there is no dog.", 5, 0, 0),
        (" \n", 0, 0, 1),
        ("", 0, 0, 1),
        ("well-known  words\nhere", 3, 0, 0),
    ],
)
def test_what_an_answer_adds(text: str, words: int, refused: int, empty: int) -> None:
    assert habit_counts(text) == {"answers": 1, "words": words, "refusals": refused, "empty": empty}


def item(name: str, text: str, group: str = "", **details: Any) -> Item:
    return Item(name, group or name, text, None, None, None, {}, details)


def test_the_habits_of_some_answers() -> None:
    items = [
        item("1", "A dog.", "a"),
        item("2", REFUSAL, "a"),
        item("3", "", "b"),
        item("4", "Yes", "b", **NOT_WRITTEN),
    ]
    found = habits(items)
    assert {name: (one.value, one.n) for name, one in found.items()} == {
        "words_per_answer": (10 / 3, 3),
        "refusal_rate": (1 / 3, 3),
        "empty_rate": (1 / 3, 3),
    }
    assert not found["words_per_answer"].percent and found["refusal_rate"].percent
    assert set(habits(items, known=["refusal_rate"])) == {"words_per_answer", "empty_rate"}
    assert habits([item("1", "Yes", **NOT_WRITTEN)]) == {}


QUESTIONS = [
    Sample(str(n), "Is it?", {"images": [f"{n // 2}.png"]}, "yes", f"{n // 2}.png", {"kind": ""}) for n in range(8)
]


def pope(*texts: str, answer_by: Any = "generation") -> Result:
    """Answers to eight questions about four images; the last one stands for all that are left."""
    said = [*texts, *[texts[-1]] * (8 - len(texts))]
    read = {} if answer_by == "generation" else {"yes": -0.1, "no": -3.0, "p_yes": 0.95}
    rows = [{"question_id": str(n), "answer": text, **read} for n, text in enumerate(said)]
    return judged(make_benchmark("pope"), QUESTIONS, rows, answer_by)


def test_every_benchmark_that_a_model_answered_has_habits(tmp_path: Path) -> None:
    result = pope(REFUSAL, "Yes")
    assert result.habits["refusal_rate"].value == 1 / 8
    result.save(tmp_path / "pope")
    assert Result.load(tmp_path / "pope").habits == result.habits
    assert set(read_json(tmp_path / "pope" / "metrics.json")["habits"]) == set(result.habits)
    assert "habits" not in result.to_json()  # what mmdpo score prints stays as it is
    assert pope("Yes", answer_by="both").habits.keys() == result.habits.keys()
    assert pope("Yes", answer_by="logits").habits == {}


def test_in_safety_a_refusal_is_neither_better_nor_worse() -> None:
    from mmdpo.evals.shared.habits import habit_metrics

    def better(name: str) -> str:
        found = habit_metrics(make_benchmark(name).refusals_wanted)
        return next(metric.better for metric in found if metric.name == "refusal_rate")

    assert (better("safety"), better("pope")) == ("neither", "lower")


def entry(
    low: float | None,
    high: float | None,
    better: str = "higher",
    verdict: str = "no difference shown (...)",
    **more: Any,
) -> dict[str, Any]:
    value = None if low is None or high is None else (low + high) / 2
    gap = {"value": value, "low": low, "high": high, "verdict": verdict}
    return {"before": {"value": 2.0}, "difference": gap, "better": better, "role": "capability", **more}


@pytest.mark.parametrize(
    ("one", "became"),
    [
        (entry(-0.08, -0.02, verdict="worse"), "lost"),
        (entry(0.02, 0.08, verdict="better"), "gained"),
        (entry(0.02, 0.08, "neither", "higher"), "changed"),
        (entry(-0.04, 0.08), "kept"),
        (entry(-0.06, 0.01), "open"),
        (entry(-0.3, 0.04, "lower"), "kept"),
        (entry(-0.01, 0.06, "lower"), "open"),
        (entry(-0.04, 0.04, "neither"), "kept"),
        (entry(-0.01, 0.06, "neither"), "open"),
        (entry(-0.09, 0.5, percent=False), "kept"),  # 5% of the value before, which is 2
        (entry(-0.11, 0.5, percent=False), "open"),
        (entry(-0.08, -0.01, verdict="worse (not confirmed: corrected p 0.2)"), "open"),
        (entry(-0.04, -0.01, verdict="worse (not confirmed: corrected p 0.2)"), "kept"),
        (entry(None, None), "open"),
        (entry(0, 0, verdict="undefined for A"), "undefined"),
    ],
)
def test_what_became_of_a_measure(one: Mapping[str, Any], became: str) -> None:
    assert outcome(one) == became


def test_the_largest_loss_that_is_possible() -> None:
    limits = (-0.04, 0.01)
    assert [worst(entry(*limits, better)) for better in ("higher", "lower", "neither")] == [0.04, 0.01, 0.04]
    assert worst(entry(None, 0.1)) == float("inf")


def test_the_verdict_in_words() -> None:
    metrics = {
        "vqa_accuracy": entry(-0.05, -0.012, verdict="worse"),
        "text_checks_accuracy": entry(-0.02, 0.02),
        "chair_i": {**entry(-0.1, -0.05, "lower", "better"), "role": "hallucination"},
    }
    told = kept(metrics, {"pope_words_per_answer": entry(-3.0, -2.0, "neither", "lower", percent=False)})
    assert told["lost"] == ["vqa_accuracy"] and told["kept"] == ["text_checks_accuracy"]
    assert told["changed"] == ["pope_words_per_answer"] and told["within"] == 0.05
    assert told["sentences"] == [
        "Lost: vqa_accuracy -3.1 points [-5.0, -1.2].",
        "Changed, neither better nor worse by itself: pope_words_per_answer -2.50 [-3.00, -2.00].",
        "Kept (a loss of more than 5 points, or 5% of the value, is excluded): text_checks_accuracy +0.0 points "
        "[-2.0, +2.0].",
    ]
    without = {"chair_i": metrics["chair_i"], "pope_yes_ratio": entry(-0.02, 0.02, "neither")}
    assert "No benchmark of capability is compared" in kept(without, {})["sentences"][-1]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two models: the second answers POPE with refusals, and fewer questions of VQA."""
    annotations = [
        {"question_id": n, "image_id": n, "answers": [{"answer": "red", "answer_id": k} for k in range(10)]}
        for n in range(40)
    ]
    (tmp_path / "vqa.json").write_text(json.dumps({"annotations": annotations}), encoding="utf-8")
    vqa = make_benchmark("vqa")
    samples = vqa.samples(tmp_path / "vqa.json")
    for name, texts, right in (("a", ("Yes",), 40), ("b", ("Yes", REFUSAL), 20)):
        pope(*texts).save(tmp_path / name / "pope")
        rows = [{"question_id": str(n), "answer": "red" if n < right else "a blue one"} for n in range(40)]
        judged(vqa, samples, rows, "generation").save(tmp_path / name / "vqa")
    return tmp_path / "a", tmp_path / "b"


def test_a_comparison_tells_capability_and_habits_apart(folders: tuple[Path, Path]) -> None:
    before, after = folders
    told = compare_folders(before, after)
    roles = {name: one.get("role") for name, one in told["metrics"].items()}
    assert roles["vqa_accuracy"] == "capability" and roles["pope_accuracy"] is None
    assert roles["pope_yes_ratio"] == "capability"  # a habit, whatever the questions measure
    assert list(told["habits"])[:3] == ["pope_words_per_answer", "pope_refusal_rate", "pope_empty_rate"]
    refusals = told["habits"]["pope_refusal_rate"]
    assert (refusals["before"]["value"], refusals["after"]["value"]) == (0.0, 7 / 8)
    assert refusals["role"] == "capability" and refusals["better"] == "lower"
    assert told["kept"]["lost"] == ["vqa_accuracy"]
    assert told["habits"]["vqa_words_per_answer"]["difference"]["value"] == 1.0
    assert told["kept"]["changed"] == ["vqa_words_per_answer"]
    assert "pope_refusal_rate" in told["kept"]["open"]  # four images do not confirm it
    # the habits are corrected among themselves: nothing else changes by their being there
    metrics = {}
    for name in ("pope", "vqa"):
        for metric, one in compare(Result.load(before / name), Result.load(after / name)).items():
            metrics[f"{name}_{metric}"] = one
    alone = concluded(metrics)
    for name, one in alone["metrics"].items():
        able = name.startswith("vqa") or name == "pope_yes_ratio"
        assert told["metrics"][name] == one | ({"role": "capability"} if able else {})
    assert {key: told[key] for key in ("correction", "conclusion")} == {
        key: alone[key] for key in ("correction", "conclusion")
    }


def test_folders_without_habits_are_compared_as_before(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "pope" / "metrics.json"
    write_json(path, {name: value for name, value in read_json(path).items() if name != "habits"})
    told = compare_folders(*folders)
    assert not any(name.startswith("pope") for name in told["habits"])
    assert any(name.startswith("vqa") for name in told["habits"])


def test_a_check_can_ask_for_a_habit(folders: tuple[Path, Path]) -> None:
    told = compare_folders(*folders)
    require(told, ["pope_empty_rate=0.1"])
    with pytest.raises(MMDPOError, match=r"pope_refusal_rate is 0\.8750, above 0\.1"):
        require(told, ["pope_refusal_rate=0.1"])


def test_what_it_cost_is_printed_beside_what_changed(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from mmdpo.verbs import terminal

    monkeypatch.setattr(terminal, "results", Console(soft_wrap=True, width=80))
    told = compare_folders(*folders)
    print_comparison(told)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    change, cost = lines.index("What changed in hallucination"), lines.index("What it cost")
    assert change < cost
    assert any(line.startswith("pope_accuracy") for line in lines[change:cost])
    assert not any(line.startswith(("vqa", "pope_refusal")) for line in lines[change:cost])
    assert any(line.startswith("vqa_accuracy") for line in lines[cost:])
    assert any(line.startswith("pope_refusal_rate") for line in lines[cost:])
    assert any(line.startswith("Lost: vqa_accuracy -50.0 points") for line in lines)
    assert not any("…" in line for line in lines)
    metrics = {"m": {key: value for key, value in told["metrics"]["pope_accuracy"].items() if key != "role"}}
    print_comparison({"metrics": metrics, "conclusion": "So it is."})
    assert "What it cost" not in capsys.readouterr().out


def test_a_run_that_was_evaluated_is_shown(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_run_comparison(tmp_path)
    assert capsys.readouterr().out == ""
    write_json(tmp_path / "comparison.json", compare_folders(*folders))
    print_run_comparison(tmp_path)
    assert "What it cost" in capsys.readouterr().out


def test_a_kind_that_few_questions_ask_for_is_not_kept_for_the_others_sake() -> None:
    """Both models are wrong in all 18 questions of arithmetic: that leaves open what 18 questions leave open."""
    benchmark = make_benchmark("text_checks")
    samples = benchmark.samples(Path("own"))
    rows = [{"question_id": sample.id, "answer": "?"} for sample in samples]
    result = judged(benchmark, samples, rows, "generation")
    gap = compare(result, result)["accuracy/arithmetic"]["difference"]
    squared = 1.96**2
    assert gap["high"] == pytest.approx(squared / (18 + squared), rel=0.05)


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.startswith("mmdpo ")]


def world(folder: Path) -> None:
    """What `mmdpo demo` leaves, as far as the page reads it; the trained model is the base with a louder head."""
    from mmdpo.answering.loading import load_any

    seen = scenes(3, 0, "heldout")
    heldout = folder / "runs" / "demo" / "heldout"
    write_scene_images(heldout / "images", seen)
    write_annotations(heldout / "objects.json", seen)
    write_synonyms(heldout / "synonyms.txt")
    prompt = (user_message("Describe the image.", images=1),)
    pairs = [
        Record(
            scene.file_name,
            prompt,
            (Candidate("A red star on a lake."), Candidate("A boat on a lake.")),
            {"images": (Media(path=scene.file_name),)},
        )
        for scene in seen
    ]
    splits = {name: Records(pairs, media_root=heldout / "images") for name in ("train", "validation")}
    save_records(splits, folder / "runs" / "demo" / "pairs")
    model, processor = load_any("playground")
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    for part in (model, processor):
        part.save_pretrained(folder / "runs" / "demo" / "tiny-llava")
    row = {"image": seen[0].file_name, "caption": "A boat."}
    (folder / "captions.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    answer = {"question_id": "1", "answer": "A boat.", "logp": -3.5, "tokens": 4, "tokenizer": "any"}
    (folder / "answers.jsonl").write_text(json.dumps(answer) + "\n", encoding="utf-8")
    own = re.search(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert own is not None
    (folder / "shop.yaml").write_text(own[1], encoding="utf-8")


@pytest.mark.slow
def test_the_commands_of_the_page_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On three pictures; the demo, which the tests of the playground run, left them."""
    world(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("text_checks", "diversity"):  # short answers take less time
        monkeypatch.setattr(type(make_benchmark(name)), "max_new_tokens", 6)
    lines = commands()
    assert [line.split()[1] for line in lines] == ["demo", *["eval"] * 4, "compare", "eval", "score"]
    told = {}
    for line in lines[1:]:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, (line, done.output, done.exception)
        told[line] = done.stdout
    shown = next(text for line, text in told.items() if "compare" in line)
    assert shown.index("What changed in hallucination") < shown.index("chair_s") < shown.index("What it cost")
    assert shown.index("What it cost") < shown.index("diversity_dist") < shown.index("perplexity")
    comparison = compare_folders(tmp_path / "runs/kept-base", tmp_path / "runs/kept-tuned")
    roles = {name.split("_")[0]: one.get("role") for name, one in comparison["metrics"].items()}
    assert {roles[name] for name in ("text", "perplexity", "diversity")} == {"capability"}
    score = json.loads(told[lines[-1]])
    assert score["metrics"]["nats_per_character"]["value"] == 0.5 and score["rule"].startswith("nats per character")
