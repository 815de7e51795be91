"""The playground of sounds: a world whose truth is known, made audible, described by careless people, and rated."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from mmdpo.media import Media
from mmdpo.media.audio import open_audio
from mmdpo.playground.audio.sounds import EVENTS, SAMPLES, render
from mmdpo.playground.audio.text import LANGUAGE
from mmdpo.playground.audio.usual import UsualSound
from mmdpo.playground.audio.world import PLACES, RATE, SOUNDS, Event, Scene, scenes
from mmdpo.playground.audio.worlds import SOUNDS as WORLD
from mmdpo.playground.files import write_ratings_table, write_synonyms
from mmdpo.playground.language import CAPTION_HABIT, Asked
from mmdpo.playground.measure import measure_captions
from mmdpo.playground.questions import pope_questions
from mmdpo.playground.raters import Rater, rate_captions, rate_yes_no, raters
from mmdpo.playground.world import USUAL_IS_PRESENT

SLOT = RATE // 2


def scene_of(place: str, *sounds: str, manner: str = "loud", number: int = 7, pitch: float = 1.0) -> Scene:
    """A scene with exactly these sounds, one in each half second."""
    events = (Event(sound, manner, 0.5 * slot + 0.02, 0.4, pitch) for slot, sound in enumerate(sounds))
    return Scene(number, place, tuple(events))


# --- the world ---------------------------------------------------------------------------------------------------


def test_a_scene_is_a_function_of_its_number() -> None:
    assert scenes(50, 3, "heldout") == scenes(50, 3, "heldout")
    assert scenes(50, 3, "heldout")[:20] == scenes(20, 3, "heldout")
    parts = [scenes(9, seed, split) for seed in (0, 1) for split in ("train", "preference", "heldout")]
    assert len({scene.number for part in parts for scene in part}) == 6 * 9, "splits and seeds are disjoint"


def test_scenes_hold_one_to_three_different_sounds_that_never_overlap() -> None:
    for scene in scenes(500, 0, "heldout"):
        assert 1 <= len(set(scene.objects)) == len(scene.objects) <= 3
        assert set(scene.objects) <= set(SOUNDS)
        ends = [0.0]
        for event in scene.events:
            assert event.start >= ends[-1]
            ends.append(event.start + event.duration)
        assert ends[-1] <= 2.0


def test_the_usual_sound_is_usual_and_not_always_there() -> None:
    many = scenes(4000, 0, "heldout")
    present = sum(not scene.usual_is_absent for scene in many) / len(many)
    assert present == pytest.approx(USUAL_IS_PRESENT, abs=0.03)
    for name, place in PLACES.items():
        here = Counter(noun for scene in many if scene.background == name for noun in scene.objects)
        assert here.most_common(1)[0][0] == place.usual
        assert {noun for noun, _ in here.most_common(3)} == {place.usual, *place.natives}
        assert set(here) == set(SOUNDS), "everything can be met everywhere"


@pytest.mark.parametrize("kind", ["random", "popular", "adversarial"])
def test_pope_questions_name_the_clip_and_are_balanced_and_true(kind: str) -> None:
    few = scenes(50, 0, "heldout")
    rows = pope_questions(few, kind, 0, LANGUAGE, "audio")
    for scene, pair in zip(few, zip(rows[::2], rows[1::2], strict=True), strict=True):
        assert [row["audio"] for row in pair] == [scene.file_name] * 2
        assert [row["label"] for row in pair] == ["yes", "no"]
        assert [LANGUAGE.named_objects(row["text"])[0] in scene.objects for row in pair] == [True, False]
        if kind == "adversarial" and scene.usual_is_absent:
            assert scene.usual in pair[1]["text"].split()


# --- making it audible -------------------------------------------------------------------------------------------


def test_a_clip_is_two_seconds_of_float32_and_always_the_same() -> None:
    for scene in scenes(20, 0, "heldout"):
        clip = render(scene)
        assert clip.dtype == np.float32
        assert clip.shape == (SAMPLES,) == (32_000,)
        assert np.abs(clip).max() <= 1
        assert np.array_equal(clip, render(scene))


def test_the_file_holds_exactly_the_clip() -> None:
    scene = scenes(1, 0, "heldout")[0]
    read = open_audio(Media(data=WORLD.file(scene)), None)
    assert read.rate == RATE
    assert np.array_equal(read.samples, render(scene))


@pytest.mark.parametrize("manner", ["loud", "soft"])
@pytest.mark.parametrize("sound", SOUNDS)
def test_every_sound_stands_out_at_every_place_and_stays_in_its_slot(sound: str, manner: str) -> None:
    for place in PLACES:
        without = render(scene_of(place))
        added = render(scene_of(place, sound, manner=manner)) - without
        assert np.sum(added[:SLOT] ** 2) > 2 * np.sum(without[:SLOT] ** 2) * (0.1 if manner == "soft" else 1)
        assert not added[SLOT:].any()


def test_loud_is_louder_than_soft() -> None:
    for sound in SOUNDS:
        loud, soft = (np.abs(render(scene_of("forest", sound, manner=manner))).max() for manner in ("loud", "soft"))
        assert loud > 2.5 * soft


def test_sounds_can_be_told_apart_by_ear() -> None:
    """The oracle knows no training: the nearest mean log-mel of other clips names the sound and its place."""
    extractor = WhisperFeatureExtractor()

    def heard(sound: str, place: str, seed: int) -> np.ndarray:
        rng = random.Random(f"{sound} {place} {seed}")
        clip = render(scene_of(place, sound, number=seed, pitch=rng.uniform(0.92, 1.08)))[:SLOT]
        mel = extractor(clip, sampling_rate=RATE, padding="max_length", max_length=SLOT, return_tensors="np")
        return mel["input_features"][0].astype(np.float64)

    cases = [(sound, place) for sound in SOUNDS for place in PLACES]
    means = {case: np.mean([heard(*case, seed) for seed in range(4)], axis=0) for case in cases}
    unseen = {case: heard(*case, 99) for case in cases}
    guesses = {
        case: cases[int(np.argmin([np.mean((means[other] - mel) ** 2) for other in cases]))]
        for case, mel in unseen.items()
    }
    assert sum(guess[0] == case[0] for case, guess in guesses.items()) >= 0.85 * len(cases)
    assert sum(guess[1] == case[1] for case, guess in guesses.items()) >= 0.85 * len(cases)


# --- text and raters ---------------------------------------------------------------------------------------------


def test_captions_and_questions_speak_of_sounds() -> None:
    scene = scene_of("shore", "beep", "clap")
    honest = {1: 0.0, 2: 0.0, 3: 0.0}
    written = {LANGUAGE.caption(scene, random.Random(seed), honest) for seed in range(200)}
    assert "A loud beep and a loud clap on a shore." in written
    assert "The recording holds a beep and a clap on a shore." in written
    assert LANGUAGE.caption_prompt == "Describe the recording."
    assert LANGUAGE.question("siren") == "Is there a siren in the recording?"
    assert not [text for text in written if "image" in text or "shows" in text]


def test_the_habit_is_that_of_the_world_of_pictures() -> None:
    rng = random.Random(0)
    absent = [scene for scene in scenes(6000, 0, "heldout") if scene.usual_is_absent]
    named = [scene.usual in LANGUAGE.named_objects(LANGUAGE.caption(scene, rng)) for scene in absent]
    for count, probability in CAPTION_HABIT.items():
        of_this_size = [was for was, scene in zip(named, absent, strict=True) if len(scene.events) == count]
        assert sum(of_this_size) / len(of_this_size) == pytest.approx(probability, abs=0.05)
    captions = [LANGUAGE.caption(scene, rng) for scene in absent]
    assert measure_captions(absent, captions, LANGUAGE).other_absent_rate == 0.0


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("A beep and a clap on a shore.", 5),
        ("A beep, a clap and a horn on a shore.", 4),
        ("A beep on a shore.", 4),
        ("A beep and a horn on a shore.", 2),
        ("A horn, a buzz and a zap on a shore.", 1),
    ],
)
def test_ratings_by_hand(text: str, points: int) -> None:
    """2 + 3 * share of what is there - 1.5 * absent sounds, rounded half to even and kept on the scale."""
    exact = Rater("exact", 0, leniency=0.0, noise=0.0, language=LANGUAGE)
    rated = exact.rate_caption(scene_of("shore", "beep", "clap"), text)
    assert (rated.rating, rated.prompt) == (points, "Describe the recording.")


def test_right_answers_are_rated_above_wrong_ones() -> None:
    rows = [
        row
        for seed in range(60)
        for row in rate_yes_no(scene_of("shore", "beep"), Asked("horn", False), raters(seed, LANGUAGE))
    ]
    assert {row.prompt for row in rows} == {"Is there a horn in the recording?"}
    margin = np.mean([row.rating for row in rows if row.caption == "No"])
    assert margin - np.mean([row.rating for row in rows if row.caption == "Yes"]) == pytest.approx(3.0, abs=0.4)


def test_files_and_records_are_what_a_user_would_have(tmp_path: Path) -> None:
    few = scenes(3, 0, "preference")
    paths = WORLD.write_media(tmp_path / "audios", few)
    assert all(path.read_bytes()[:4] == b"RIFF" and path.suffix == ".wav" for path in paths)
    ratings = [row for scene in few for row in rate_captions(scene, ["A beep on a shore."], raters(0, LANGUAGE))]
    write_ratings_table(tmp_path / "ratings.csv", ratings, "audio")
    lines = (tmp_path / "ratings.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "audio,prompt,caption,rating,rater"
    assert len(lines) == 1 + 9
    write_synonyms(tmp_path / "synonyms.txt", LANGUAGE.nouns)
    assert (tmp_path / "synonyms.txt").read_text(encoding="utf-8").split() == list(SOUNDS) == sorted(EVENTS)


def test_the_usual_sound_is_counted_by_hand(tmp_path: Path) -> None:
    (tmp_path / "usual.json").write_text('{"a.wav": "horn", "b.wav": null, "c.wav": "buzz"}', encoding="utf-8")
    benchmark = UsualSound()
    samples = benchmark.samples(tmp_path / "usual.json")
    assert samples[0].media == {"audios": ["a.wav"]}
    captions = {"a": "A horn and a beep on a shore.", "b": "A horn on a shore.", "c": "A beep in a workshop."}
    answers = benchmark.answers([{"image_id": name, "caption": text} for name, text in captions.items()])
    assert benchmark.score(samples, answers).metrics["usual_sound_rate"].value == pytest.approx(1 / 3)
