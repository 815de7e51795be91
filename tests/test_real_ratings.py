"""The real-ratings example: its builds, its controls, and three training steps on real photos at LLaVA's real shape."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from typer.testing import CliRunner

from data_builders.running.build import build
from mmdpo.cli import app
from mmdpo.config import load_config, read_yaml
from mmdpo.errors import DataError
from mmdpo.jsonfiles import read_json
from mmdpo.records import Candidate, Media, Record, Records, user_message

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "real_ratings"
DATA = ROOT.parent / "shared" / "data"
RATED = DATA / "real_rated_with_media.json"
FLICKR = DATA / "flickr8k_expert" / "flickr8k.json"
PHOTOS = DATA / "flickr8k_images100" / "images"

real = pytest.mark.skipif(not RATED.is_file(), reason=f"real ratings are not at {DATA}")


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """The example's script as a module."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield importlib.import_module("run")
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in ("run", "random_llava"):
            sys.modules.pop(name, None)


def pair(better: str, worse: str, photo: str = "a") -> Record:
    return Record(
        id=f"{photo}: {better} > {worse}",
        prompt=(user_message("Describe the image.", images=1),),
        candidates=(Candidate(better, score=2.0), Candidate(worse, score=1.0)),
        media={"images": (Media(f"{photo}.png"),)},
        higher_is_better=True,
    )


def test_swapping_exchanges_the_captions_and_keeps_the_scores_in_order(example: ModuleType) -> None:
    records = Records([pair("x", "y"), pair("u", "v")])
    swapped, flips = example.relabelled(records, "swapped", seed=0)
    assert flips == [True, True]
    assert [(r.chosen.text, r.chosen.score, r.rejected.text, r.rejected.score) for r in swapped] == [
        ("y", 2.0, "x", 1.0),
        ("v", 2.0, "u", 1.0),
    ]


def test_the_coin_flips_about_half_and_is_the_same_every_time(example: ModuleType) -> None:
    records = Records([pair(f"x{n}", f"y{n}") for n in range(400)])
    _, flips = example.relabelled(records, "shuffled", seed=1)
    assert 160 < sum(flips) < 240
    assert flips == example.relabelled(records, "shuffled", seed=1)[1]
    assert flips != example.relabelled(records, "shuffled", seed=2)[1]


def test_best_possible_of_an_order_is_everything_and_of_a_circle_two_of_three(example: ModuleType) -> None:
    order = [pair("x", "y"), pair("y", "z"), pair("x", "z")]
    circle = [pair("x", "y", "b"), pair("y", "z", "b"), pair("z", "x", "b")]
    items = example.best_possible([*order, *circle])
    assert {photo: sum(i.right for i in items if i.group == photo) for photo in ("path:a.png", "path:b.png")} == {
        "path:a.png": 3,
        "path:b.png": 2,
    }
    assert len(items) == 6


@real
def test_ratings_of_two_sources_become_the_pairs_that_the_readme_counts(tmp_path: Path) -> None:
    result = build("ratings", read_yaml(EXAMPLE / "ratings.yaml", [f"data={RATED}"]), tmp_path / "pairs")
    assert result.quality["rows"] == {"read": 87, "used": 57, "set_aside": 30}
    assert result.quality["set_aside"] == {"no_rating": 30}
    assert result.quality["records"]["media"] == {"images": 10}
    assert (len(result.records), result.quality["possible_pairs"]["ties"]) == (99, 39)


@real
@pytest.mark.parametrize(
    ("extra", "rows", "pairs"),
    [
        ([], "16992 rows read: 63 used, 16929 set aside", "13 train records, 4 distinct media"),
        pytest.param(
            ["media=optional"],
            "16992 rows read: 9192 used, 7800 set aside",
            "2359 train records, 677 distinct media",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["photos required", "photos optional"],
)
def test_the_command_counts_what_became_of_flickr8k_expert(
    tmp_path: Path, extra: list[str], rows: str, pairs: str
) -> None:
    settings = ["build_flickr8k_expert", f"data={FLICKR}", f"media_root={PHOTOS}", *extra]
    answer = CliRunner().invoke(app, ["build", "ratings", *settings, "--out", str(tmp_path / "pairs")])
    assert answer.exit_code == 0, answer.output
    assert rows in answer.stdout and pairs in answer.stdout
    assert ("708 of 713 images are absent" in answer.stdout) == bool(extra)
    assert (tmp_path / "pairs" / "quality.html").is_file()


@pytest.mark.slow
@real
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_three_steps_on_real_photos_move_the_rewards(example: ModuleType, tmp_path: Path) -> None:
    splits = example.build_pairs(RATED, None, tmp_path / "pairs", 0)
    few = Records(splits["train"][:8], splits["train"].media_root)
    model = example.save_random_llava((c.text for r in few for c in r.candidates), tmp_path / "model", 0)
    data = example.save_records(few, tmp_path / "few")
    overrides = [f"model.path={model}", f"data.path={data}", "train.max_steps=3", "train.disable_tqdm=true"]
    config = load_config(EXAMPLE / "train.yaml", [*overrides, "train.per_device_train_batch_size=4"])
    assert example.reward_margins(config, None, few, few.media_root) == {"clean": [0.0] * 8}

    run = example.train(config, tmp_path / "run")
    manifest = read_json(run / "manifest.json")
    assert manifest["decisions"]["layout"]["value"] == "shared"
    assert manifest["counts"] == {"train": 8, "validation": 0} and manifest["set_aside"] == {}
    margins = example.reward_margins(config, run / "adapter", few, few.media_root)
    assert sum(margins["clean"]) > 0 and torch.tensor(margins["clean"]).isfinite().all()

    loaded = example.load_policy(config, torch.device("cpu"))
    encoder = example.Encoder(loaded.processor, loaded.facts, loaded.eos_ids, few.media_root)
    prompt = encoder.prompt(few[0]).input_ids
    assert int((prompt == loaded.inner.config.image_token_id).sum()) == 576


def test_a_build_that_made_nothing_names_the_folder_and_can_be_repeated_there(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("image,caption,rating,rater\na.png,x,1,r\na.png,y,2,r\n", encoding="utf-8")
    words = ["build", "ratings", f"data={tmp_path / 'ratings.csv'}", "scale.min=1", "scale.max=4"]
    words += ["higher_is_better=true", "--out", str(tmp_path / "out")]
    failed = CliRunner().invoke(app, words)
    assert isinstance(failed.exception, DataError)
    assert (
        failed.exception.why == "Rows set aside: 2 missing_media. The first missing_media is row 1: "
        f"the media file 'a.png' is not under {str(tmp_path)!r}."
    )
    again = CliRunner().invoke(app, [*words, "media=optional"])
    assert again.exit_code == 0 and "1 of 1 images are absent" in again.stdout
