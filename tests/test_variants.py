"""Media variants: what they do to an item, that they are the same for everybody and every time, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from transformers import CLIPImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from core.oracle import picture, record, setup
from mmdpo import registry
from mmdpo.corruptions import (
    Corruption,
    Graded,
    ItemCache,
    Strength,
    at_extremes,
    generator_for,
    size_of,
    split_variant,
    summary,
)
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError, DataError, ModelError
from mmdpo.media.audio import Audio
from mmdpo.media.video import Video
from mmdpo.modalities.audio import low_pass, noise, time_shuffle
from mmdpo.modalities.base import check_variant, corruption_of, modality_of
from mmdpo.modalities.image import ImageModality
from mmdpo.modalities.image_variants import (
    CLIP_MEAN,
    CLIP_STD,
    blank,
    blur,
    crop,
    diffusion,
    grayscale,
    patch_mask,
    remaining_signal,
)
from mmdpo.modalities.video import VideoModality
from mmdpo.records import Candidate, Media, Record, user_message
from tiny import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
IMAGE_VARIANTS = at_extremes(ImageModality.corruptions)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noisy(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(rng(1).integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA").convert(mode)


# Names and strengths


@pytest.mark.parametrize(
    ("plural", "variant"),
    [
        *(("images", name) for name in ("clean", "none", "swap", "crop", "crop:0.01", "diffusion:999", "blur:50")),
        *(
            ("audios", name)
            for name in ("clean", "none", "swap", "noise:-5", "noise:1e1", "low_pass", "time_shuffle:1")
        ),
        *(("videos", name) for name in ("clean", "none", "swap", "patch_mask:0", "time_shuffle", "blank")),
    ],
)
def test_variants_that_are_known(plural: str, variant: str) -> None:
    check_variant(plural, variant)


@pytest.mark.parametrize(
    ("plural", "variant", "told"),
    [
        ("images", "diffusion:1200", "a whole number from 0 to 999: step of the noise schedule"),
        ("images", "diffusion:-1", "strength '-1'"),
        ("images", "diffusion:250.5", "a whole number"),
        ("images", "crop:0", "a number from 0.01 to 1: largest share of the area"),
        ("images", "crop:nan", "strength 'nan'"),
        ("images", "crop:inf", "strength 'inf'"),
        ("images", "crop:", "strength ''"),
        ("images", "crop:0.1:0.2", "strength '0.1:0.2'"),
        ("images", "blank:3", "'blank' takes none"),
        ("images", "none:3", "unknown for images"),
        ("images", "corp", "Did you mean 'crop'"),
        ("images", "swp:2", "Did you mean 'swap'"),
        ("audios", "crop", "unknown for audios"),
        ("videos", "time_shuffle:2", "takes none"),
        ("smells", "blank", "no modality is registered"),
    ],
)
def test_variants_that_are_refused(plural: str, variant: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        check_variant(plural, variant)
    assert caught.value.why and caught.value.fix


def test_a_strength_is_given_on_and_the_usual_one_is_the_same_as_none() -> None:
    graded = Graded(lambda item, generator, strength: item * strength, Strength(2, 1, 4, "factor"))
    assert (graded(3, rng()), graded.at(4)(3, rng())) == (6, 12)
    plain = at_extremes({"twice": graded, "same": lambda item, generator: item})
    assert {name: corrupt(3, rng()) for name, corrupt in plain.items()} == {
        "twice": 6,
        "twice:1": 3,
        "twice:4": 12,
        "same": 3,
    }
    photo = noisy(40, 30)
    images = ImageModality()
    for short, long in [("crop", "crop:0.2"), ("diffusion", "diffusion:500"), ("blur", "blur:3.0")]:
        assert corruption_of(images, short)(photo, rng()) == corruption_of(images, long)(photo, rng())


# Pictures


@pytest.mark.parametrize("variant", IMAGE_VARIANTS)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "CMYK"])
def test_size_and_mode_stay_and_so_does_the_picture_itself(variant: str, mode: str) -> None:
    corrupt = IMAGE_VARIANTS[variant]
    for size in [(1, 1), (1, 9), (13, 5), (64, 48)]:
        photo = noisy(*size, mode)
        before = photo.tobytes()
        found = corrupt(photo, rng())
        assert (found.size, found.mode) == (photo.size, photo.mode)
        assert found.tobytes() == corrupt(photo, rng()).tobytes()
        assert photo.tobytes() == before and photo.mode == mode


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in image.getcolors()}


def test_blank_and_grayscale() -> None:
    assert colours(blank(noisy(5, 3), rng())) == {(127, 127, 127)}
    assert colours(blank(noisy(5, 3, "RGBA"), rng())) == {(127, 127, 127, 255)}, "nor does the outline show"
    assert colours(grayscale(Image.new("RGB", (2, 2), (255, 0, 0)), rng())) == {(76, 76, 76)}  # 0.299 of red
    hidden = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert colours(grayscale(hidden, rng())) == {(255, 255, 255, 255)}, "transparency lies over white"


def gradient(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row."""
    rows, columns = np.indices((height, width), dtype=np.uint8)
    return Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], axis=-1))


@pytest.mark.parametrize("largest", [0.01, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("size", [(200, 100), (120, 250), (250, 12)])
def test_a_crop_is_a_part_of_the_picture(size: tuple[int, int], largest: float) -> None:
    total = size[0] * size[1]
    corners, shares = set(), []
    for seed in range(60):
        found = np.asarray(crop(gradient(*size), rng(seed), largest)).astype(int)
        columns, rows = found[..., 0], found[..., 1]
        assert (columns == columns[0]).all() and (rows == rows[:, :1]).all()
        assert (np.diff(columns[0]) >= 0).all() and (np.diff(rows[:, 0]) >= 0).all(), "upright"
        width, height = int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
        assert (width - 0.5) * (height - 0.5) <= largest * total
        assert (width + 0.5) / (height - 0.5) >= 3 / 4 and (width - 0.5) / (height + 0.5) <= 4 / 3
        fills = width == size[0] or height == size[1]
        assert fills or (width + 0.5) * (height + 0.5) >= 0.01 * total
        corners.add((columns.min(), rows.min()))
        shares.append(width * height / total)
    assert len(corners) > 40, "everywhere in the picture"
    if largest <= 0.2 and 12 not in size:
        assert np.mean(shares) == pytest.approx((0.01 + largest) / 2, rel=0.2)


def test_the_noise_schedule() -> None:
    """Values by an independent program, from the definition in VCD's code."""
    worked = {
        0: (0.9999888307428481, 0.004726350553182477),
        100: (0.9982929232750309, 0.05840581596890187),
        250: (0.9891338086096557, 0.14701805557603106),
        500: (0.8630171064602814, 0.5051746964733322),
        750: (0.5270096017896815, 0.8498593293136703),
        800: (0.46701370887974486, 0.8842500753284587),
        999: (0.2850424429870048, 0.9585148959176378),
    }
    for step, (signal, spread) in worked.items():
        left = remaining_signal()[step]
        assert (np.sqrt(left), np.sqrt(1 - left)) == pytest.approx((signal, spread), rel=1e-9)
    assert (tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD)) == (CLIP_MEAN, CLIP_STD)


@pytest.mark.parametrize("step", [0, 250, 500, 999])
def test_diffusion_is_the_forward_process_on_the_normalised_picture(step: int) -> None:
    """Against the definition in three steps: normalise, mix with noise, bring back."""
    photo = noisy(31, 20)
    signal, spread = np.sqrt(remaining_signal()[step]), np.sqrt(1 - remaining_signal()[step])
    drawn = np.moveaxis(rng(3).standard_normal((3, 20, 31), dtype=np.float32), 0, -1)
    normalised = (np.asarray(photo) / 255 - CLIP_MEAN) / CLIP_STD
    wanted = ((signal * normalised + spread * drawn) * CLIP_STD + CLIP_MEAN) * 255
    found = np.asarray(diffusion(photo, rng(3), step)).astype(float)
    assert np.abs(found - np.clip(wanted, 0, 255)).max() <= 0.5 + 1e-3


def test_a_larger_picture_gets_the_same_noise_in_larger_grains() -> None:
    small = np.asarray(diffusion(Image.new("RGB", (336, 168), (120, 120, 120)), rng(), 500))
    large = np.asarray(diffusion(Image.new("RGB", (1008, 504), (120, 120, 120)), rng(), 500))
    np.testing.assert_array_equal(large, small.repeat(3, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("size", [(500, 375), (640, 480), (1600, 1200)])
def test_noise_arrives_at_the_vision_tower(size: tuple[int, int]) -> None:
    """Whatever the size of the photo. On its mean colour, where nothing is cut off at black or white."""
    processor = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    plain = Image.new("RGB", size, tuple(round(255 * mean) for mean in CLIP_MEAN))
    before, after = (
        processor(image, return_tensors="np")["pixel_values"][0] for image in (plain, diffusion(plain, rng(), 500))
    )
    assert 0.75 < np.std(after - before) / 0.50517 < 0.90


@pytest.mark.parametrize("side", [100, 300])
def test_blur_means_the_same_for_every_size(side: int) -> None:
    """A line becomes a bell whose standard deviation is so many percent of the picture."""
    pixels = np.zeros((11, side, 3), np.uint8)
    pixels[:, side // 2] = 255
    line = np.asarray(blur(Image.fromarray(pixels), rng(), 3))[5, :, 0].astype(float)
    places = np.arange(side) - side // 2
    assert np.sqrt(np.sum(line * places**2) / np.sum(line)) == pytest.approx(0.03 * side, rel=0.05)


def test_masked_patches_are_exact_and_nested() -> None:
    photo = Image.new("RGB", (140, 70), (255, 255, 255))
    masks = {share: (np.asarray(patch_mask(photo, rng(), share)) == 127).all(-1) for share in (0, 0.2, 0.4, 0.75, 1)}
    for share, mask in masks.items():
        assert mask.sum() == round(share * 196) * 50  # cells of 10 x 5
        cells = mask.reshape(14, 5, 14, 10)
        assert (cells.all((1, 3)) == cells.any((1, 3))).all(), "a patch is masked whole"
    for less, more in zip(list(masks), list(masks)[1:], strict=False):
        assert (masks[less] <= masks[more]).all()
    other = (np.asarray(patch_mask(photo, rng(1), 0.4)) == 127).all(-1)
    assert (other != masks[0.4]).any()
    few = np.asarray(patch_mask(Image.new("RGB", (3, 5)), rng(), 0.4)) == 127
    assert few.all(-1).sum() == 6, "fewer pixels than patches: a patch is a pixel, and 0.4 are 6 of 15"
    assert (np.asarray(patch_mask(Image.new("RGB", (20, 29)), rng(), 1)) == 127).all(), "no pixel between patches"


# Sounds


def sines(*hertz: float, rate: int = 16_000, seconds: float = 2.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    times = np.arange(int(rate * seconds)) / rate
    return np.sum([0.2 * np.sin(2 * np.pi * f * times) for f in hertz], axis=0).astype(np.float32)


@pytest.mark.parametrize("decibels", [-10.0, 0.0, 10.0, 30.0])
def test_noise_has_the_ratio_that_is_asked_for(decibels: float) -> None:
    clip = Audio(sines(440), 16_000)
    added = noise(clip, rng(), decibels).samples - clip.samples
    assert 10 * np.log10(np.mean(clip.samples**2) / np.mean(added**2)) == pytest.approx(decibels, abs=0.1)
    usual, louder = (noise(clip, rng(), level).samples - clip.samples for level in (0.0, -20.0))
    np.testing.assert_allclose(louder, 10 * usual, atol=1e-6)


def test_low_pass_takes_what_is_high() -> None:
    clip = Audio(sines(200, 3000), 16_000)
    np.testing.assert_allclose(low_pass(clip, rng()).samples, sines(200), atol=1e-5)
    np.testing.assert_allclose(low_pass(clip, rng(), 4000).samples, clip.samples, atol=1e-5)
    assert low_pass(Audio(sines(200)[:333], 8_000), rng()).samples.shape == (333,), "odd lengths"


def test_pieces_of_a_sound_are_as_long_as_asked() -> None:
    clip = Audio(np.repeat(np.arange(8, dtype=np.float32), 100), 100)  # eight seconds, each with its number
    for seconds, length in [(1.0, 1), (2.0, 2), (4.0, 4)]:
        order = time_shuffle(clip, rng(), seconds).samples[::100].astype(int)
        assert sorted(order) == list(range(8)) and (order != np.arange(8)).any()
        assert all(np.ptp(piece) == length - 1 for piece in order.reshape(-1, length))


# Videos


@pytest.mark.parametrize("variant", sorted(IMAGE_VARIANTS))
def test_every_frame_gets_the_same_draw(variant: str) -> None:
    film = Video((noisy(40, 30), noisy(40, 30).rotate(180), noisy(40, 30)), (0, 1, 2), 3, 1.0)
    found = corruption_of(VideoModality(), variant)(film, rng(5))
    assert [frame.tobytes() for frame in found.frames] == [
        IMAGE_VARIANTS[variant](frame, rng(5)).tobytes() for frame in film.frames
    ]
    assert (found.indices, found.total, found.seconds) == ((0, 1, 2), 3, 1.0)


# Draws and the cache


def test_a_draw_depends_on_each_of_its_arguments_and_on_nothing_else() -> None:
    usual: dict[str, Any] = {"record_id": "r", "variant": "crop", "item": 0, "seed": 0}
    changes: list[dict[str, Any]] = [
        {},
        {"record_id": "s"},
        {"variant": "blur"},
        {"item": 1},
        {"seed": 1},
        {"epoch": 0},
        {"epoch": 1},
    ]
    drawn = [generator_for(**usual | change).bit_generator.random_raw() for change in changes]
    assert len(set(drawn)) == len(changes)
    assert drawn == [generator_for(**usual | change).bit_generator.random_raw() for change in changes]
    assert drawn[0] == 3678392156209605586, "and the same in every release: a run can be repeated"


def test_the_cache_keeps_to_its_limit_and_what_came_first() -> None:
    cache, made = ItemCache(limit=1000), []

    def get(key: str, size: int = 400) -> None:
        def make() -> Any:
            made.append(key)
            return np.zeros(size, np.uint8)

        assert cache.get(key, make).nbytes == size
        assert cache.used <= 1000

    for key in ["a", "b", "a", "c", "a", "b", "c"]:
        get(key)
    assert made == ["a", "b", "c", "c"], "c does not fit beside a and b"
    get("small", 200)
    get("small", 200)
    assert made[4:] == ["small"] and len(cache) == 3 and cache.used == 1000


def test_sizes_of_items() -> None:
    photo = Image.new("RGB", (20, 10))
    assert size_of(photo) == 600 and size_of(Video((photo, photo), (0, 1), 2)) >= 1200
    assert 4000 <= size_of(Audio(np.zeros(1000, np.float32), 16_000)) < 4100
    assert size_of({"a": np.zeros(3), "b": [np.zeros(2, np.int8)]}) == 26
    assert size_of(b"x" * 5000) >= 5000


# Encoded prompts


def wave(seed: int) -> Media:
    stream = io.BytesIO()
    soundfile.write(stream, 0.3 * rng(seed).uniform(-1, 1, 8_000), 16_000, format="WAV")
    return Media(data=stream.getvalue())


def photo_record(name: str, seed: int = 1) -> Record:
    return record(name, "What is it?", ["x"], picture(seed, 40, 30))


@pytest.fixture(scope="module")
def encoder_maker() -> Callable[..., Encoder]:
    tiny = FAMILIES["llava"]()
    facts = setup(tiny).encoder.facts
    return lambda **options: Encoder(tiny.processor, facts, tiny.stop_ids, **options)


def digest(encoder: Encoder, of: Record, variant: str, partner: Record | None = None) -> str:
    """A hash of all that the model is given."""
    prompt = encoder.prompt(of, variant, partner)
    found = hashlib.sha256(repr(prompt.input_ids.tolist()).encode())
    for unit in prompt.units:
        for name, values in sorted(unit.inputs.items()):
            found.update(name.encode() + values.numpy().tobytes())
    return found.hexdigest()


DRAWN = ("crop", "diffusion:250", "patch_mask")


def test_inputs_are_identical_for_policy_and_reference_and_from_epoch_to_epoch(
    encoder_maker: Callable[..., Encoder],
) -> None:
    encoder, other, seeded = encoder_maker(), encoder_maker(), encoder_maker(seed=1)
    for variant in DRAWN:
        first = digest(encoder, photo_record("r"), variant)
        assert digest(encoder, photo_record("r"), variant) == first, "policy and reference"
        encoder.epoch = 1
        assert digest(encoder, photo_record("r"), variant) == first, "the next epoch"
        assert digest(other, photo_record("r"), variant) == first, "another run"
        assert digest(seeded, photo_record("r"), variant) != first
        assert digest(encoder, photo_record("s"), variant) != first, "another record with the same picture"


def test_two_places_of_a_record_have_two_draws(encoder_maker: Callable[..., Encoder]) -> None:
    """Although it is one picture."""
    twice = record("r", "Which?", ["x"], picture(1, 40, 30), picture(1, 40, 30))
    for variant in DRAWN:
        first, second = encoder_maker().prompt(twice, variant).units
        assert first.key != second.key


def test_fresh_variants_differ_between_epochs_alone(encoder_maker: Callable[..., Encoder]) -> None:
    encoder, other = encoder_maker(fresh=True), encoder_maker(fresh=True)
    for variant in DRAWN:
        found = []
        for encoder.epoch in (0, 1, 0):
            found.append(digest(encoder, photo_record("r"), variant))
            other.epoch = encoder.epoch
            assert digest(other, photo_record("r"), variant) == found[-1]
        assert found[0] == found[2] != found[1]


def test_the_second_epoch_makes_nothing_again(
    encoder_maker: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted(item: Any, generator: np.random.Generator, share: float) -> Any:
        made.append(share)
        return crop(item, generator, share)

    graded = Graded(counted, Strength(0.2, 0.01, 1, "share"))
    monkeypatch.setattr(ImageModality, "corruptions", {"crop": graded})
    encoder = encoder_maker()
    records = [photo_record("a"), photo_record("b"), photo_record("b", 2)]  # the last with another file
    epochs = [[digest(encoder, of, variant) for of in records for variant in ("crop", "crop:0.1")] for _ in range(3)]
    assert made == [0.2, 0.1] * 3 and epochs[0] == epochs[1] == epochs[2] and len(set(epochs[0])) == 6
    encoder.seed = 1
    digest(encoder, records[0], "crop")
    assert len(made) == 7
    encoder.cache = ItemCache(limit=0)
    for _ in range(2):
        digest(encoder, records[0], "crop")
    assert len(made) == 9


def test_strengths_of_a_record_look_at_the_same_draw(encoder_maker: Callable[..., Encoder]) -> None:
    encoder, of = encoder_maker(), record("r", "?", ["x"], picture(1, 28, 28))
    seen = {}
    for share in (0.2, 0.4):
        pixels = encoder.prompt(of, f"patch_mask:{share}").units[0].inputs["pixel_values"]
        clean = encoder.prompt(of).units[0].inputs["pixel_values"]
        seen[share] = (pixels != clean).any(1)
    assert bool((seen[0.2] <= seen[0.4]).all()) and seen[0.2].sum() < seen[0.4].sum()


PROGRAM = """
import sys
from test_variants import DRAWN, Encoder, FAMILIES, digest, photo_record, setup
tiny = FAMILIES["llava"]()
encoder = Encoder(tiny.processor, setup(tiny).encoder.facts, tiny.stop_ids)
print(*(digest(encoder, photo_record("r"), variant) for variant in DRAWN))
"""


@pytest.mark.slow
def test_another_process_makes_the_same(encoder_maker: Callable[..., Encoder]) -> None:
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    encoder = encoder_maker()
    assert found == [digest(encoder, photo_record("r"), variant) for variant in DRAWN]


def test_a_clip_in_the_cache_is_not_changed_by_its_use() -> None:
    tiny = FAMILIES["qwen2_audio"]()
    encoder = Encoder(tiny.processor, setup(tiny).encoder.facts, tiny.stop_ids)
    prompt = (user_message("What is it?", audios=1),)
    of = Record("r", prompt, (Candidate("x"),), {"audios": (wave(0),)})
    for variant in ("noise:10", "time_shuffle", "low_pass"):
        assert digest(encoder, of, variant) == digest(encoder, of, variant) != digest(encoder, of, "clean")
    assert len(encoder.cache) == 3
    alone = replace(of, id="t", prompt=(user_message("What is it?"),), media={})
    assert digest(encoder, of, "none") == digest(encoder, alone, "clean")


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "mllama", "qwen2_5_omni"])
def test_none_is_the_prompt_without_its_media(name: str) -> None:
    tiny = FAMILIES[name]()
    encoder = Encoder(tiny.processor, setup(tiny).encoder.facts, tiny.stop_ids)
    of = record("r", "What is it?", ["x"], picture(1), picture(2))
    if name == "qwen2_5_omni":
        of = replace(
            of, prompt=(user_message("What is it?", images=2, audios=1),), media={**of.media, "audios": (wave(0),)}
        )
    found, wanted = encoder.prompt(of, "none"), encoder.prompt(record("t", "What is it?", ["x"]))
    assert found.input_ids.tolist() == wanted.input_ids.tolist() and not found.units
    assert found.fields.keys() == wanted.fields.keys() and found.extras.keys() == wanted.extras.keys()


def test_a_processor_that_needs_an_image_says_so() -> None:
    tiny = FAMILIES["paligemma"]()
    encoder = Encoder(tiny.processor, setup(tiny).encoder.facts, tiny.stop_ids)
    with pytest.raises(ModelError, match="record 'r': `images` are expected"):
        encoder.prompt(photo_record("r"), "none")


def test_swap_shows_the_media_of_the_partner(encoder_maker: Callable[..., Encoder]) -> None:
    encoder = encoder_maker()
    first, second = record("a", "What is it?", ["x"], picture(1)), record("b", "And this?", ["y"], picture(2))
    swapped, clean, partner = encoder.prompt(first, "swap", second), encoder.prompt(first), encoder.prompt(second)
    assert swapped.input_ids.tolist() == clean.input_ids.tolist()
    assert swapped.units[0].key == partner.units[0].key != clean.units[0].key


def test_a_partner_that_does_not_fit_is_refused(encoder_maker: Callable[..., Encoder]) -> None:
    encoder, of = encoder_maker(), photo_record("a")
    with pytest.raises(DataError, match="record 'a' has no partner"):
        encoder.prompt(of, "swap")
    two = record("b", "Which?", ["y"], picture(1), picture(2))
    with pytest.raises(DataError, match=r"record 'a' has \{'images': 1\} and its partner 'b' \{'images': 2\}"):
        encoder.prompt(of, "swap", two)
    with pytest.raises(DataError, match="its partner 'c' none"):
        encoder.prompt(of, "swap", record("c", "?", ["y"]))
    absent = replace(of, id="d", media={"images": (Media("absent.png"),)})
    with pytest.raises(DataError, match=r"record 'a' with the media of 'd': .*absent\.png"):
        encoder.prompt(of, "swap", absent)


# The page


@pytest.mark.parametrize(("heading", "plural"), [("Images", "images"), ("Audio", "audios"), ("Videos", "videos")])
def test_the_tables_say_what_the_code_does(heading: str, plural: str) -> None:
    page = (ROOT / "docs" / "variants.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line][2:]
    known: dict[str, Corruption] = dict(modality_of(plural).corruptions)
    assert [row[:3] for row in rows] == [
        [f"`{name}`", str(corrupt.strength) if isinstance(corrupt, Graded) else "", summary(corrupt)]
        for name, corrupt in known.items()
    ]


def test_the_example_of_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "variants.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    assert f"This prints `{capsys.readouterr().out.strip()}`" in page


def test_every_variant_says_what_it_does() -> None:
    for name in registry.modalities:
        for variant, corrupt in registry.modalities.get(name).corruptions.items():
            assert split_variant(variant) == (variant, None)
            assert summary(corrupt).endswith("."), f"{name}: {variant}"
