"""`mmdpo prefer` and `mmdpo calibrate`: the page's commands run; scores are those of the model; what is set aside."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import mmdpo
from data_builders.running.build import build
from mmdpo.cli import app
from mmdpo.config import read_yaml
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.result import Result
from mmdpo.evals.runner import score
from mmdpo.evals.shared.pope_questions import write_questions
from mmdpo.models.clip_score import PROMPT, ClipScore
from mmdpo.playground.files import write_ratings_table, write_scene_images
from mmdpo.playground.questions import pope_questions
from mmdpo.playground.raters import rate_captions, raters
from mmdpo.playground.world import scenes
from mmdpo.preferences.origins import origin_of
from mmdpo.preferences.rated_lists import joined, rated_lists
from mmdpo.preferences.scored import evaluate_preferences
from mmdpo.records import Candidate, Media, Record, Records, user_message

FENSE = Path(__file__).resolve().parents[3] / "shared" / "data" / "fense"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "preferences.md"


def rated(name: str, photo: str, *candidates: Candidate, better: bool | None = True) -> Record:
    prompt = (user_message("Describe the image.", images=1),)
    return Record(name, prompt, candidates, {"images": (Media(photo),)}, higher_is_better=better)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command of the page was run, on the tiny world."""
    folder = tmp_path_factory.mktemp("page")
    seen, unseen = scenes(12, 0, "preference"), scenes(12, 1, "preference")
    captions = ["A red circle and a boat on a lake.", "A star in a meadow.", "A yellow tree in a night sky."]
    write_scene_images(folder / "photos", [*seen, *unseen])
    for name, part in (("train", seen), ("heldout", unseen)):
        rows = [row for scene in part for row in rate_captions(scene, captions, raters(0))]
        write_ratings_table(folder / f"{name}.csv", rows)
    write_questions(pope_questions(unseen, "adversarial", 0), folder / "questions.jsonl")
    settings = {
        "model": {"path": "playground", "lora": {"r": 4, "alpha": 8}},
        "data": {"path": "runs/pairs", "validation": 0},
        "loss": {"dpo": {"beta": 0.2}},
        "train": {"max_steps": 2, "learning_rate": 0.01, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"},
    }
    (folder / "start.yaml").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in commands():
            result = CliRunner().invoke(app, shlex.split(line)[1:])
            assert result.exit_code == 0, (line, result.output, result.exception)
    return folder


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("mmdpo ") and "--clip" not in line]


def answers(folder: Path) -> dict[str, Any]:
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return {str(row.get("id", row.get("question_id"))): row for row in map(json.loads, lines)}


@pytest.mark.slow
def test_the_pages_commands_leave_results_of_both_stages(page: Path) -> None:
    run = page / "runs" / "first"
    for stage in ("eval", "base_eval"):
        for name in ("preferences", "yes_no"):
            assert Result.load(run / stage / name).n > 0
    comparison = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    assert {"preferences_likelihood_pair_accuracy", "yes_no_accuracy"} <= set(comparison["metrics"])
    assert (run / "figures" / "reliability.svg").is_file()
    calibration = json.loads((run / "eval" / "preferences" / "calibration.json").read_text(encoding="utf-8"))
    assert calibration["beta"] == 0.2 and set(calibration["calibration"]) == {"reward", "reward_mean"}
    flags = Result.load(run / "eval" / "preferences").flags
    assert not [flag for flag in flags if flag.startswith(("trained_on", "training_data_unknown"))]


@pytest.mark.slow
def test_rewards_are_beta_times_what_mmdpo_score_gives_for_policy_and_base(page: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(page)
        records = mmdpo.load_records("runs/heldout")
        policy = mmdpo.score(*mmdpo.load("runs/first"), records)
        base = mmdpo.score(*mmdpo.load("playground"), records)
    found = answers(page / "runs" / "first" / "eval" / "preferences")
    for record, own, before in zip(records, policy, base, strict=True):
        scores = found[record.id]["scores"]
        assert scores["likelihood"] == pytest.approx(own, abs=1e-4)
        rewards = [0.2 * (one - other) for one, other in zip(own, before, strict=True)]
        assert scores["reward"] == pytest.approx(rewards, abs=1e-4)
        tokens = [total / mean for total, mean in zip(scores["likelihood"], scores["likelihood_mean"], strict=True)]
        assert tokens == pytest.approx([round(count) for count in tokens])
        assert scores["reward_mean"] == pytest.approx([r / n for r, n in zip(scores["reward"], tokens, strict=True)])


@pytest.mark.slow
def test_results_are_scored_again_without_a_model(page: Path) -> None:
    folder = page / "runs" / "first" / "eval" / "preferences"
    again = score("preferences", folder / "preferences.jsonl", folder / "answers.jsonl")
    assert again.metrics == Result.load(folder).metrics


@pytest.mark.slow
def test_nothing_is_overwritten_and_training_media_are_told(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(page)
    again = CliRunner().invoke(app, shlex.split("prefer runs/first runs/heldout --out runs/first"))
    assert isinstance(again.exception, ConfigError)
    origin = origin_of("runs/first", None, None)
    assert (origin.reference, origin.beta) == ("playground", 0.2)
    trained = mmdpo.load_records("runs/pairs")
    assert origin.overlap(trained) == [
        f"trained_on: {len(trained)} of {len(trained)} records show media that the model was trained on"
    ]
    assert origin.overlap(mmdpo.load_records("runs/heldout")) == []
    monkeypatch.chdir(page.parent)
    assert origin.overlap(trained)[0].startswith("training_data_unknown")


def test_what_has_no_two_ratings_or_no_file_is_set_aside(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    records = [
        rated("pair", "a.png", Candidate("x"), Candidate("y"), better=None),
        rated(
            "list",
            "a.png",
            Candidate("x", score=1.0),
            Candidate("y", score=3.0),
            Candidate("z", score=2.0),
            better=False,
        ),
        rated("half", "a.png", Candidate("x", score=1.0), Candidate("y"), Candidate("z")),
        rated("one", "a.png", Candidate("x", label=True)),
        rated("gone", "b.png", Candidate("x"), Candidate("y")),
    ]
    found = rated_lists(Records(records, tmp_path))
    assert [(row["id"], row["ratings"]) for row in found.rows] == [("pair", [1.0, 0.0]), ("list", [-1.0, -3.0, -2.0])]
    assert found.flags == [
        "unrated: 2 records without two rated answers are set aside",
        "absent_media: 1 records are set aside",
    ]
    assert len({row["group"] for row in found.rows}) == 1, "both are about the same photo"
    with pytest.raises(DataError, match="1 lack a file"):
        rated_lists(Records(records[3:], tmp_path))


def test_pairs_of_one_scale_are_joined_and_others_are_not() -> None:
    a, b, c = (Candidate(text, score=score) for text, score in (("a", 3.0), ("b", 2.0), ("c", 1.0)))
    votes = (
        [Candidate("a", score=0.8), Candidate("b", score=0.2)],
        [Candidate("a", score=0.6), Candidate("c", score=0.4)],
    )
    records = [rated(f"p{n}", "p.png", *pair) for n, pair in enumerate([(a, b), (b, c), (a, c)])]
    records += [rated(f"q{n}", "q.png", *pair) for n, pair in enumerate(votes)]
    records += [rated(f"r{n}", "r.png", Candidate("a"), Candidate(text)) for n, text in enumerate("bc")]
    found = joined(Records(records))
    assert [(record.id, [one.text for one in record.candidates]) for record in found] == [
        ("p0", ["a", "b", "c"]),
        *(
            (name, texts)
            for name, texts in (("q0", ["a", "b"]), ("q1", ["a", "c"]), ("r0", ["a", "b"]), ("r1", ["a", "c"]))
        ),
    ]


def test_real_votes_of_listeners_are_rated_lists_of_their_clips(tmp_path: Path) -> None:
    if not FENSE.is_dir():
        pytest.skip(f"real votes and clips are not at {FENSE}")
    words = [f"source={FENSE / 'clotho_eval.json'}", f"file_names={FENSE / 'clotho_eval.csv'}"]
    words += [f"audio={FENSE / 'audio'}", "min_margin=0", "validation=0"]
    config = PAGE.parents[1] / "configs" / "build_audio_votes.yaml"
    votes = build("audio_votes", read_yaml(config, words), tmp_path / "votes").splits["train"]
    found = rated_lists(votes)
    assert (len(found.rows), len({row["group"] for row in found.rows}), found.flags) == (12, 2, [])
    assert all(row["ratings"] == [1.0, 0.0] for row in found.rows)
    assert len(joined(votes)) == 12, "votes on single pairs are no ratings of one answer"


def test_beta_must_be_above_0() -> None:
    with pytest.raises(ConfigError, match="beta is 0"):
        origin_of("playground", None, 0.0)
    assert origin_of("playground", None, None).beta == 0.1


@pytest.fixture
def tiny_clip(tmp_path: Path) -> Iterator[Path]:
    """Weights of a CLIP that `open_clip` knows by the name tiny-clip-score."""
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 24, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-clip-score.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-clip-score.json")
    torch.manual_seed(1)
    weights = tmp_path / "clip.safetensors"
    save_file(open_clip.create_model("tiny-clip-score").state_dict(), weights)
    yield weights
    del open_clip.factory._MODEL_CONFIGS["tiny-clip-score"]


@torch.no_grad()
def test_clip_score_is_that_of_the_paper(tiny_clip: Path, images: list[Image.Image]) -> None:
    texts = ["A dog on a lake.", "Two cats.", "word " * 100]
    found = ClipScore.load("tiny-clip-score", tiny_clip)(images[1], texts)
    model, _, transform = open_clip.create_model_and_transforms("tiny-clip-score", pretrained=str(tiny_clip))
    model.eval()
    seen = model.encode_image(transform(images[1])[None])[0]
    said = model.encode_text(open_clip.get_tokenizer("tiny-clip-score")([PROMPT + text for text in texts]))
    cosines = torch.nn.functional.cosine_similarity(said, seen[None])
    assert found == pytest.approx([2.5 * max(0.0, float(cosine)) for cosine in cosines], abs=1e-6)
    assert len(set(found)) == 3 or min(found) == 0.0


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [("no-such-clip", "a.safetensors", "does not know"), ("ViT-B-32", "a.pt", "safetensors")],
)
def test_a_clip_without_its_weights_is_refused(name: str, weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipScore.load(name, weights)


def test_a_model_against_itself_has_no_reward_and_clip_score_is_a_source(tmp_path: Path) -> None:
    seen = scenes(4, 0, "preference")
    write_scene_images(tmp_path / "photos", seen)
    texts = ["A red circle and a boat on a lake.", "A star in a meadow.", "A star."]
    candidates = [Candidate(text, score=float(n)) for n, text in enumerate(texts)]
    records = Records([rated(scene.file_name, scene.file_name, *candidates) for scene in seen], tmp_path / "photos")
    found = evaluate_preferences(
        "playground",
        records,
        tmp_path / "out",
        reference="playground",
        image_score=lambda image, words: [-len(text) for text in words],
        limit=3,
    )
    after, before = found["eval"], found["base_eval"]
    assert [item.parsed["clip"] for item in after.items] == [[-len(text) for text in texts]] * 3
    assert after.metrics["clip_pair_accuracy"].value == 1.0, "the shorter is the better-rated here"
    assert [item.parsed["reward"] for item in after.items] == [[0.0] * 3] * 3
    assert (after.metrics["reward_pair_accuracy"].value, after.metrics["reward_brier"].value) == (0.5, 0.25)
    assert any(flag.startswith("reward_not_over_clip: the pair accuracy of reward is") for flag in after.flags)
    assert "reward_pair_accuracy" not in before.metrics
    assert before.metrics["likelihood_kendall_tau"] == after.metrics["likelihood_kendall_tau"]
