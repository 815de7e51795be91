"""`counterfactual`: who becomes whose partner and why not, what the losses make of it; worked by hand."""

from __future__ import annotations

import errno
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from data_builders.partners.likeness import Alike, bags, codes, matched, most_similar
from data_builders.partners.scenes import Scene, Truth, linked
from data_builders.running.build import BuildResult, build
from data_builders.splits import media_groups
from mmdpo.errors import ConfigError, DataError
from mmdpo.media import Media
from mmdpo.models.clip_score import ClipScore
from mmdpo.objectives import make_objective
from mmdpo.records import Candidate, Record, Records, load_records, save_records, user_message
from mmdpo.records.files import read_rows
from mmdpo.records.staging import Staging
from mmdpo.training.screening import screen
from training.common import encoder_of, loaded_model

TOWERS = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
DOGS = [
    "A brown dog runs across wet grass",
    "A brown dog sleeps on a couch",
    "A red bus waits near a bridge",
    "A red bus burns under the trees",
]
LOSSES = ["mdpo", "rdpo_realign", "symmpo", "svco"]


def picture(path: Path, number: int) -> None:
    """Noise: no two of them look alike."""
    cells = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(cells).resize((48, 48), Image.Resampling.NEAREST).save(path)


def record(number: int, answer: str, prompt: str = "Describe the image.", image: int | None = None) -> Record:
    shown = number if image is None else image
    return Record(
        id=f"r{number}",
        prompt=(user_message(prompt, images=1),),
        candidates=(Candidate(answer, source="person"), Candidate(f"{answer} not")),
        media={"images": (Media(path=f"{shown}.png"),)},
        meta={"builder": "ratings", "margin": 1.0},
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for number in range(8):
        picture(folder / f"{number}.png", number)
    return folder


def run(root: Path, records: Sequence[Record], out: str = "out", embed: bool = False, **config: Any) -> BuildResult:
    pairs = root.parent / f"pairs of {out}"
    save_records(Records(records, root), pairs, embed=embed)
    base = {"data": pairs, "validation": 0.0, "min_similarity": 0.01}
    return build("counterfactual", {**base, **config}, root.parent / out)


def partners(result: BuildResult) -> dict[str, str]:
    return {one.id: one.meta["partner"] for one in result.records}


def reasons(result: BuildResult) -> dict[str, int]:
    return dict(Counter(entry.reason for entry in result.set_aside))


def test_the_most_similar_are_each_others_partner(root: Path) -> None:
    result = run(root, [record(number, text) for number, text in enumerate(DOGS)])
    assert partners(result) == {"r0": "r1", "r1": "r0", "r2": "r3", "r3": "r2"}
    assert result.quality["rows"] == {"read": 4, "used": 4, "set_aside": 0}
    first = result.records[0]
    assert first.chosen.text == DOGS[0] and first.chosen.source == "person"
    # "brown" and "dog" are in two of four scenes: log(5/2); "a" in all: log(5/4); the other words in one: log(5)
    two, every, one = math.log(5 / 2), math.log(5 / 4), math.log(5)
    shared = (2 * two + every) / (2 * two + every + 4 * one)
    assert first.meta["shared"] == pytest.approx(shared, abs=1e-4)
    both = 2 * two**2 + every**2
    cosine = both / math.sqrt((both + 4 * one**2) * (both + 3 * one**2))
    assert first.meta["similarity"] == pytest.approx(cosine, abs=1e-4)
    told = {"builder": "counterfactual", "of": "ratings", "margin": 1.0, "rows": [1], "similar": "words"}
    assert told.items() <= first.meta.items()
    numbers = result.quality["partners"]
    assert (numbers["scenes"], numbers["with_partner"]) == (4, 4)
    assert numbers["similarity"]["max"] == max(one.meta["similarity"] for one in result.records)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_use_every_record(root: Path, loss: str) -> None:
    result = run(root, [record(number, text) for number, text in enumerate(DOGS)], embed=True)
    objective = make_objective(loss)
    found = screen(result.records, encoder_of(loaded_model(num_hidden_layers=1)), objective)
    assert found.reasons() == {} and found.kept == [0, 1, 2, 3]
    assert found.terms == dict.fromkeys(objective.terms, 4)


def test_partners_stand_in_one_split(root: Path) -> None:
    records = [record(number, text) for number, text in enumerate(DOGS)]
    for seed in range(4):
        splits = run(root, records, f"out{seed}", validation=0.5, seed=seed).splits
        assert [len(part) for part in splits.values()] == [2, 2]
        for part in splits.values():
            assert {one.meta["partner"] for one in part} == {one.id for one in part}


def test_a_partner_that_names_none_stands_in_the_same_group() -> None:
    first, second, third = (record(number, DOGS[number]) for number in range(3))
    named = Record(**{**vars(first), "meta": {"partner": "r2"}})
    groups = media_groups([named, second, third])
    assert groups[0] == groups[2] != groups[1]
    assert all(not name.startswith("record:") for name in groups)


def test_an_answer_that_is_true_of_the_other_picture_is_no_negative(root: Path) -> None:
    texts = [DOGS[0], "A brown dog runs", *DOGS[2:]]  # every word of the second is said of the first
    result = run(root, [record(number, text) for number, text in enumerate(texts)], min_similarity=0.1)
    assert partners(result) == {"r2": "r3", "r3": "r2"}
    assert reasons(result) == {"answer_holds": 2}
    assert result.quality["partners"]["refused_pairs"]["answer_holds"] >= 1


def test_objects_decide_where_they_are_known(root: Path) -> None:
    """By their words alone both could be partners; the annotations know that there is a dog in picture 1, too."""
    table = {"0": ["dog", "couch"], "1": ["dog", "couch", "cat"], "2": ["dog", "couch", "car"]}
    (root.parent / "objects.json").write_text(json.dumps(table), encoding="utf-8")
    records = [record(0, "A dog near the window"), record(1, "One cat, fast asleep"), record(2, "Some car outside")]
    config: dict[str, Any] = {"annotations": root.parent / "objects.json", "similar": "objects", "min_similarity": -1}
    result = run(root, records, **config)
    assert partners(result) == {"r1": "r2", "r2": "r1"}
    assert reasons(result) == {"answer_holds": 1}


def test_questions_go_with_questions(root: Path) -> None:
    """As in VQA v2: the same question about two pictures, with another answer."""
    asked = "Is there a dog?"
    records = [
        record(0, "yes", asked, image=0),
        record(1, "no", asked, image=1),
        record(2, "blue", "Which colour has the sky?", image=0),
        record(3, "yes", "Is it night?", image=2),
    ]
    result = run(root, records, min_similarity=-1)
    assert partners(result) == {"r0": "r1", "r1": "r0"}
    assert reasons(result) == {"other_question": 1, "not_similar": 1}


def test_near_copies_are_no_partners(root: Path) -> None:
    Image.open(root / "0.png").resize((64, 64)).save(root / "1.png")
    result = run(root, [record(0, DOGS[0]), record(1, DOGS[1]), record(2, DOGS[2]), record(3, DOGS[3])])
    assert partners(result) == {"r2": "r3", "r3": "r2"}
    assert result.quality["partners"]["refused_pairs"]["near_copy"] == 1


def test_who_is_left_over_may_take_one_that_has_another(root: Path) -> None:
    records = [record(number, text) for number, text in enumerate(DOGS[:2])]
    records.append(record(4, "A brown dog swims after ducks"))
    alone = run(root, records)
    assert len(alone.records) == 2 and reasons(alone) == {"partner_taken": 1}
    joined = run(root, records, "joined", one_way=True, validation=0.5)
    assert len(partners(joined)) == 3 and len(joined.splits) == 1
    left = next(entry.value for entry in alone.set_aside)
    assert left in partners(joined) and left not in partners(joined).values()


def test_given_pairs(root: Path) -> None:
    lines = ["image,partner", "0.png,2", "my/1.png,r3", "0.png,0.png", "9.png,1.png", "3.png,r1"]
    (root.parent / "pairs.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    records = [record(number, text) for number, text in enumerate(DOGS)]
    result = run(root, records, similar="given", pairs=root.parent / "pairs.csv")
    assert partners(result) == {"r0": "r2", "r2": "r0", "r1": "r3", "r3": "r1"}
    (note,) = result.quality["notes"]
    assert note.startswith(
        "3 of 5 rows"
    )  # a folder that there is not, a picture with itself, a picture that is not there
    with pytest.raises(ConfigError, match="'sibling'"):
        run(root, records, "other", similar="given", pairs=root.parent / "pairs.csv", pair_columns=["image", "sibling"])


@pytest.mark.parametrize(("higher", "bound"), [(True, 2.0), (False, 3.0)])
def test_the_lesser_evil_is_no_right_answer(root: Path, higher: bool, bound: float) -> None:
    rated = []
    for number, text in enumerate(DOGS[:3]):
        one = record(number, text)
        scores = (number + 1.0, 0.5) if higher else (4.0 - number, 5.0)
        answers = tuple(Candidate(c.text, score=score) for c, score in zip(one.candidates, scores, strict=True))
        rated.append(Record(**{**vars(one), "candidates": answers, "higher_is_better": higher}))
    result = run(root, rated, min_rating=bound)
    assert partners(result) == {"r1": "r2", "r2": "r1"} and reasons(result) == {"not_right": 1}


@pytest.mark.parametrize("embed", [False, True])
def test_looks(root: Path, embed: bool) -> None:
    """The mean of a picture and its mirror image is nearer to both than two pictures of noise are to each other."""
    one, other = (np.asarray(Image.open(root / f"{number}.png"), np.float64) for number in (0, 1))
    Image.fromarray((0.55 * one + 0.45 * other).astype(np.uint8)).save(root / "2.png")
    records = [record(0, DOGS[0]), record(2, DOGS[2]), record(5, DOGS[1]), record(6, DOGS[3])]
    result = run(root, records, similar="look", embed=embed, min_similarity=-1)
    assert partners(result)["r0"] == "r2" and len(result.records) == 4
    assert all((one.media["images"][0].data is not None) is embed for one in result.records)


def test_clip(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny CLIP: the partner is the picture with the nearest embedding, and none is encoded twice."""
    (root.parent / "tiny-clip-cf.json").write_text(json.dumps(TOWERS))
    open_clip.add_model_config(root.parent / "tiny-clip-cf.json")
    torch.manual_seed(1)
    weights = root.parent / "clip.safetensors"
    save_file(open_clip.create_model("tiny-clip-cf").state_dict(), weights)
    try:
        model, _, transform = open_clip.create_model_and_transforms("tiny-clip-cf", pretrained=str(weights))
        with torch.no_grad():
            seen = [model.eval().encode_image(transform(Image.open(root / f"{n}.png"))[None])[0] for n in range(4)]
        cosines = {(a, b): float(torch.cosine_similarity(seen[a], seen[b], 0)) for a in range(4) for b in range(a)}
        nearest = max(cosines, key=lambda pair: cosines[pair])
        settings = {"similar": "clip", "model": "tiny-clip-cf", "weights": weights, "min_similarity": -1}
        encoded: list[int] = []
        picture_of = ClipScore.picture

        def counted(self: ClipScore, image: Image.Image) -> list[float]:
            encoded.append(1)
            if len(encoded) == 3:
                raise KeyboardInterrupt
            return picture_of(self, image)

        monkeypatch.setattr(ClipScore, "picture", counted)
        records = [record(number, text) for number, text in enumerate(["A dog", "One cat", "Some bus", "The sea"])]
        with pytest.raises(KeyboardInterrupt):
            run(root, records, **settings)
        base = {"data": root.parent / "pairs of out", "validation": 0.0}
        result = build("counterfactual", {**base, **settings}, root.parent / "out", resume=True)
    finally:
        del open_clip.factory._MODEL_CONFIGS["tiny-clip-cf"]
    assert len(encoded) == 5  # two before, the one that was cut off, two after
    found = partners(result)
    assert len(found) == 4 and found[f"r{nearest[0]}"] == f"r{nearest[1]}"
    (similarity,) = {one.meta["similarity"] for one in result.records if one.id == f"r{nearest[0]}"}
    assert similarity == pytest.approx(cosines[nearest], abs=2e-4)


def test_bad_records_are_set_aside(root: Path) -> None:
    good = [record(number, text) for number, text in enumerate(DOGS)]
    text = Record("text", (user_message("Why?"),), good[0].candidates)
    liked, disliked = (
        Record(f"k{label}", good[0].prompt, (Candidate(DOGS[2], label=label),), good[2].media)
        for label in (True, False)
    )
    save_records(Records([*good, text, liked, disliked], root), root.parent / "pairs")
    (root / "3.png").unlink()
    picture(root / "0.png", 77)
    config = {"data": root.parent / "pairs", "validation": 0.0, "min_similarity": -1}
    result = build("counterfactual", config, root.parent / "out")
    assert reasons(result) == {"missing_media": 1, "changed_media": 1, "no_media": 1, "not_right": 1}
    assert result.quality["rows"] == {"read": 7, "used": 3, "set_aside": 4}
    with pytest.raises(DataError, match="missing_media"):
        build("counterfactual", config, root.parent / "strict", strict=True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"similar": "objects"}, "similar=objects needs annotations"),
        ({"similar": "clip"}, "similar=clip needs weights"),
        ({"similar": "given"}, "similar=given needs pairs"),
        ({"mode": "corrupted", "variant": "swap"}, "mode=partner"),
        ({"max_shared": 1.0}, "max_shared"),
        ({"mode": "corrupted", "variant": "crp"}, "crop"),
        ({"split": "test"}, "test"),
    ],
)
def test_what_cannot_be(root: Path, config: Mapping[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        run(root, [record(0, DOGS[0]), record(1, DOGS[1])], **config)
    assert not (root.parent / "out").exists()


def test_what_a_variant_does_not_change_is_no_negative(root: Path) -> None:
    Image.new("RGB", (48, 48), (90, 90, 90)).save(root / "1.png")
    grey = Image.open(root / "2.png").convert("L").convert("RGB")
    grey.save(root / "2.png")
    records = [record(number, DOGS[number]) for number in range(3)]
    result = run(root, records, mode="corrupted", variant="grayscale")
    assert [one.id for one in result.records] == ["r0"] and reasons(result) == {"unchanged": 2}
    kept = result.records[0]
    before = np.asarray(Image.open(root / "0.png"), np.float64)
    after = np.asarray(Image.open(root / "0.png").convert("L").convert("RGB"), np.float64)
    change = np.abs(before - after).mean() / np.ptp(before)
    assert kept.meta["variant"] == "grayscale" and kept.meta["change"] == pytest.approx(change, abs=2e-3)
    assert "loss.mdpo.media=grayscale" in result.quality["notes"][0]
    cropped = run(root, records, "cropped", mode="corrupted", variant="crop")
    assert [one.id for one in cropped.records] == ["r0", "r2"]  # nothing changes in a picture of one colour


def test_an_interrupted_build_leaves_nothing_half_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(number, text) for number, text in enumerate(DOGS)]
    whole = load_records(run(root, records, "whole").out).fingerprint()

    def full(self: Staging, made: Record) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Staging, "add", full)
        with pytest.raises(DataError, match="--resume"):
            build("counterfactual", config(root), root.parent / "out")

    def stopped(files: Any) -> Any:
        yield next(read_rows(files))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("data_builders.counterfactual.read_rows", stopped)
        with pytest.raises(KeyboardInterrupt):
            build("counterfactual", config(root), root.parent / "out", resume=True)
    assert {path.name for path in (root.parent / "out").iterdir()} == {".building"}
    result = build("counterfactual", config(root), root.parent / "out", resume=True)
    assert load_records(result.out).fingerprint() == whole


def config(root: Path) -> dict[str, Any]:
    return {"data": root.parent / "pairs of whole", "validation": 0.0, "min_similarity": 0.01}


def test_similarities_are_those_of_all_pairs() -> None:
    drawn = np.random.default_rng(0)
    words = [{f"w{n}" for n in drawn.integers(0, 40, 12)} for _ in range(300)]
    features = bags(words)
    every = (features @ features.T).todense()
    assert np.diag(every) == pytest.approx(1.0)
    found = {(one.first, one.second): one.similarity for one in most_similar(features, [range(300)], 5, -1.0)}
    for row in range(300):
        nearest = np.sort(np.delete(every[row], row))[-5:]
        listed = sorted(value for pair, value in found.items() if row in pair and value is not None)[-5:]
        assert listed == pytest.approx(nearest, abs=2e-5)


def test_look_similarity_counts_bits() -> None:
    from data_builders.care.near_copies import Look

    grey = np.zeros((32, 32), np.uint8)
    looks = [[Look(np.array([code], np.uint64), grey)] for code in (0, 0b111, 2**64 - 1)]
    cosines = codes([*looks, None]) @ codes([*looks, None]).T
    assert cosines[0, :3] == pytest.approx([1.0, 1 - 3 / 32, -1.0]) and cosines[3, 0] == 0


def test_matching_takes_the_most_similar_first() -> None:
    alike = [Alike(0.9, 0, 1), Alike(0.8, 1, 2), Alike(0.7, 0, 3), Alike(0.6, 2, 3), Alike(0.5, 3, 4)]
    assert [one for one, _ in matched(alike, lambda _: True, one_way=False)] == [alike[0], alike[3]]
    both = list(matched(alike, lambda _: True, one_way=True))
    assert both == [(alike[0], None), (alike[3], None), (alike[4], 4)]
    assert [one for one, _ in matched(alike, lambda one: one.first != 0, one_way=False)] == [alike[1], alike[4]]


def test_records_of_two_scenes_are_linked_by_question() -> None:
    scenes = [Scene({}), Scene({})]
    for row, (scene, question) in enumerate([(0, 1), (0, 1), (0, 2), (1, 1), (1, 3)]):
        scenes[scene].add(row, f"r{row}", question, f"word{row}", None)
    found = [(one.id, other.id) for one, other in linked(scenes[0].entries, scenes[1].entries)]
    assert found == [("r0", "r3"), ("r1", "r3"), ("r3", "r0")]


def test_equal_answers_hold_however_common() -> None:
    scenes = [Scene({}) for _ in range(3)]
    for row, (scene, answer) in enumerate(zip(scenes, ["yes", "yes", "no"], strict=True)):
        scene.add(row, f"r{row}", 0, answer, None)
    truth = Truth(scenes, 0.5)
    assert truth.may_hold(scenes[0].entries[0], scenes[1])
    assert not truth.may_hold(scenes[0].entries[0], scenes[2])
    scenes[2].add(3, "r3", 0, "?!", None)
    assert truth.may_hold(scenes[2].entries[1], scenes[0])  # of no words: nothing is known to be false
