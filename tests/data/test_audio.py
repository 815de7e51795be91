"""Sounds of every kind are read as people hear them, or refused with a stable reason; nothing is cut silently."""

import importlib
import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, VoxtralProcessor, WhisperFeatureExtractor
from transformers.audio_utils import load_audio

from mmdpo import registry
from mmdpo.corruptions import generator_for
from mmdpo.media import Media, MediaError
from mmdpo.media.audio import MAX_CHANNELS, Audio, audio_info, open_audio, resample, resampled_length
from mmdpo.modalities.audio import AudioModality, blank, longest_clip, noise, time_shuffle
from mmdpo.records import Candidate, Record, Records
from mmdpo.records.checks import validate_records

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT.parent / "shared" / "data" / "fense" / "audio"

RATES = (8_000, 11_025, 22_050, 44_100, 48_000)
SECONDS = (0.1, 29.99, 30, 30.01, 95)
FORMATS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("FLAC", "PCM_16"), ("MP3", None)]
FORMATS += [("OGG", "VORBIS"), ("OGG", "OPUS")]


def sine(seconds: float, rate: int = 16_000, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode(samples: np.ndarray, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def opened(data: bytes, **options: Any) -> Audio:
    audio = open_audio(Media("x", data=data), None, **options)
    assert audio.samples.dtype == np.float32 and audio.samples.ndim == 1
    return audio


def kind_of(data: bytes, **options: Any) -> str:
    with pytest.raises(MediaError) as caught:
        open_audio(Media("x.wav", data=data), None, **options)
    assert "x.wav" in caught.value.what
    return caught.value.kind


def noise_to_signal(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sum((result - expected) ** 2) / np.sum(expected**2))


# What decoding gives


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_a_sine_survives_every_format(kind: str, subtype: str | None):
    expected = sine(2.0, hertz=441.0)
    audio = opened(encode(expected, kind=kind, subtype=subtype))
    assert audio.rate == 16_000 and len(audio.samples) == 32_000 and audio.seconds == 2.0
    # 16-bit steps are 3e-5 of full scale; the lossy codecs keep a pure tone to better than 20 dB
    limit = 1e-8 if kind not in ("MP3", "OGG") else 1e-2
    assert noise_to_signal(audio.samples, expected) < limit


def test_content_decides_not_the_name(tmp_path: Path):
    (tmp_path / "sound.wav").write_bytes(encode(sine(0.5), kind="FLAC"))
    assert open_audio(Media("sound.wav"), tmp_path).seconds == 0.5


def test_stereo_becomes_the_mean_of_its_channels():
    left, right = sine(0.5), sine(0.5, hertz=1000)
    audio = opened(encode(np.stack([left, right], axis=1), subtype="FLOAT"))
    np.testing.assert_allclose(audio.samples, (left + right) / 2, atol=1e-7)


def test_blocks_are_joined_where_a_file_is_longer_than_one():
    samples = np.random.default_rng(0).uniform(-1, 1, (600_001, 2)).astype(np.float32)
    audio = opened(encode(samples, 44_100, subtype="FLOAT"))
    np.testing.assert_allclose(audio.samples, samples.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("rate", RATES)
def test_resampling_is_what_transformers_does(rate: int, tmp_path: Path):
    samples = np.stack([sine(1.2345, rate), sine(1.2345, rate, 700)], axis=1)
    (tmp_path / "a.flac").write_bytes(encode(samples, rate, "FLAC"))
    audio = open_audio(Media("a.flac"), tmp_path, rate=16_000)
    np.testing.assert_array_equal(
        audio.samples, load_audio(str(tmp_path / "a.flac"), sampling_rate=16_000, backend="soundfile")
    )


def test_a_resampled_tone_keeps_its_pitch():
    audio = opened(encode(sine(1.0, 44_100, 1000), 44_100), rate=16_000)
    assert audio.rate == 16_000
    spectrum = np.abs(np.fft.rfft(audio.samples))
    assert int(spectrum.argmax()) == 1000  # one second: a bin is one hertz


# Lengths: known from the header, equal to what decoding gives


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", SECONDS)
def test_length_at_16_khz_is_known_from_the_header(rate: int, seconds: float):
    media = Media("x", data=encode(np.zeros(round(seconds * rate), np.float32), rate, "FLAC"))
    info = audio_info(media, None)
    assert (info.rate, info.frames, info.channels) == (rate, round(seconds * rate), 1)
    audio = open_audio(media, None, rate=16_000)
    assert len(audio.samples) == resampled_length(info.frames, rate, 16_000)
    assert 0 <= audio.seconds - info.seconds < 1 / 16_000


@pytest.mark.parametrize(
    ("frames", "rate", "expected"),
    [(4_410, 44_100, 1_600), (4_411, 44_100, 1_601), (1, 48_000, 1), (3, 48_000, 1), (4, 48_000, 2), (100, 8_000, 200)],
)
def test_resampled_length_by_hand(frames: int, rate: int, expected: int):
    assert resampled_length(frames, rate, 16_000) == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 5_000), st.integers(1_000, 192_000), st.sampled_from((8_000, 16_000, 24_000, 44_100)))
def test_resampled_length_is_that_of_the_result(frames: int, from_rate: int, to_rate: int):
    audio = resample(Audio(np.ones(frames, np.float32), from_rate), to_rate)
    assert (len(audio.samples), audio.rate) == (resampled_length(frames, from_rate, to_rate), to_rate)


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
@pytest.mark.parametrize("seconds", [0.1, 1.0, 2.999])
def test_header_and_decoded_lengths_agree(kind: str, subtype: str | None, seconds: float):
    for rate in (16_000, 48_000):
        media = Media("x", data=encode(sine(seconds, rate), rate, kind, subtype))
        assert audio_info(media, None).frames == len(open_audio(media, None).samples) == round(seconds * rate)


# What is refused


@pytest.mark.parametrize("data", [b"", b"not a sound", b"\xff\xd8\xff\xe0" + b"x" * 200, b"%!PS" * 50])
def test_not_audio(data: bytes):
    assert kind_of(data) == "not_audio"


def test_other_formats_of_libsndfile_are_not_read():
    assert kind_of(encode(sine(0.1), kind="AIFF")) == "not_audio"
    assert kind_of(encode(sine(0.1), kind="MAT5")) == "not_audio"


@pytest.mark.parametrize("kind", ["WAV", "OGG"])
def test_empty_audio(kind: str):
    assert kind_of(encode(np.zeros(0, np.float32), kind=kind)) == "empty_audio"


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_cut_off_file_is_noticed(kind: str, subtype: str | None, share: float):
    data = encode(sine(5.0) + 0.1 * np.random.default_rng(0).standard_normal(80_000), kind=kind, subtype=subtype)
    assert kind_of(data[: int(share * len(data))]) == "truncated_audio"


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_every_cut_is_a_foreseen_error(kind: str, subtype: str | None):
    data = encode(sine(0.3), kind=kind, subtype=subtype)
    kinds = {kind_of(data[:length]) for length in range(0, len(data) - 1, max(1, len(data) // 60))}
    assert kinds <= {"truncated_audio", "not_audio", "unsupported_audio"}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(FORMATS), st.integers(0, 2**31), st.integers(1, 30))
def test_damage_is_a_foreseen_error_or_a_sound(form: tuple[str, str | None], seed: int, hits: int):
    data = bytearray(encode(sine(0.2), kind=form[0], subtype=form[1]))
    generator = np.random.default_rng(seed)
    for place in generator.integers(0, min(len(data), 4000), hits):
        data[place] = generator.integers(256)
    try:
        audio = opened(bytes(data))
    except MediaError as error:
        assert error.what and error.kind.endswith("_audio")
    else:
        assert np.isfinite(audio.samples).all() and len(audio.samples)


def test_an_ogg_that_ends_between_two_pages():
    data = encode(sine(8.0), kind="OGG", subtype="OPUS")
    last_page = data.rfind(b"OggS")
    assert kind_of(data[:last_page]) == "truncated_audio"


def test_recordings_laid_end_to_end_would_lose_the_second():
    for kind, subtype in (("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)):
        data = encode(sine(1.0), kind=kind, subtype=subtype)
        assert kind_of(data + data) == "unsupported_audio"


def test_an_mp3_without_a_length_would_be_guessed():
    data = encode(sine(3.0, 44_100), 44_100, "MP3")
    tag = max(data.find(b"Xing"), data.find(b"Info"))
    assert kind_of(data[:tag] + b"none" + data[tag + 4 :]) == "unsupported_audio"


def test_tags_before_and_after_an_mp3():
    data = encode(sine(1.0), kind="MP3")
    tagged = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 44]) + b"\xff\xfbX" * 100 + data + b"TAG" + bytes(125)  # 2 * 128 + 44
    assert len(opened(tagged).samples) == 16_000


def test_a_wav_written_to_a_pipe_does_not_know_its_length():
    data = bytearray(encode(sine(0.5)))
    at = data.find(b"data") + 4
    data[at : at + 4] = b"\xff" * 4
    assert opened(bytes(data)).seconds == 0.5


def test_a_flac_that_does_not_say_how_long_it_is():
    data = bytearray(encode(sine(0.5), kind="FLAC"))
    data[21] &= 0xF0  # the 36 bits of the number of samples in the first block
    data[22:26] = bytes(4)
    assert kind_of(bytes(data)) == "unsupported_audio"


def test_a_bomb_is_refused_from_its_header():
    data = bytearray(encode(sine(0.5), kind="FLAC"))
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4  # 2**36 - 1 samples: 49 days at 16 kHz, 256 GiB
    assert kind_of(bytes(data)) == "too_long_audio"
    hour = encode(np.zeros(3_600 * 1_000 + 1, np.float32), 1_000, "FLAC")
    assert len(hour) < 100_000 and kind_of(hour) == "too_long_audio"
    assert kind_of(encode(sine(1.1)), max_seconds=1) == "too_long_audio"
    assert opened(encode(sine(1.0)), max_seconds=1).seconds == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(value: float):
    samples = sine(0.1)
    samples[100] = value
    assert kind_of(encode(samples, subtype="FLOAT")) == "not_finite_audio"


def test_a_float_file_of_another_scale():
    assert kind_of(encode(32_768 * sine(0.1), subtype="FLOAT")) == "unsupported_audio"
    assert np.abs(opened(encode(3 * sine(0.1), subtype="FLOAT")).samples).max() == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize("rate", [1, 999, 192_001, 2**31 - 1])
def test_unbelievable_rates(rate: int):
    data = bytearray(encode(sine(0.1)))
    data[24:28] = struct.pack("<I", rate)
    assert kind_of(bytes(data)) == "unsupported_audio"


def test_unbelievable_channels():
    assert kind_of(encode(np.zeros((10, MAX_CHANNELS + 1), np.float32))) == "unsupported_audio"
    assert opened(encode(np.zeros((10, MAX_CHANNELS), np.float32))).seconds == 10 / 16_000


def test_paths_and_content_hashes_are_guarded(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(encode(sine(0.1)))
    for media, kind in (
        (Media("../a.wav"), "outside_root"),
        (Media("http://x/a.wav"), "remote_url"),
        (Media("b.wav"), "missing_media"),
        (Media("a.wav", sha256="0" * 64), "changed_media"),
    ):
        with pytest.raises(MediaError) as caught:
            open_audio(media, tmp_path)
        assert caught.value.kind == kind


def test_checking_records_decodes_their_sounds():
    good, bad = encode(sine(0.1)), encode(sine(0.1), kind="FLAC")[:-50]
    places = [{"type": "audio"}, {"type": "audio"}, {"type": "text", "text": "What are they?"}]
    prompt = ({"role": "user", "content": places},)
    candidates = (Candidate("A tone."), Candidate("A dog."))
    record = Record("r", prompt, candidates, {"audios": (Media(data=good), Media("cut.flac", data=bad))})
    problems = validate_records(Records([record]), check_media=True)
    assert [problem.kind for problem in problems] == ["truncated_audio"]


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"real clips are not at {CLIPS}")
def test_real_clips():
    files = sorted(CLIPS.glob("*.wav"))
    assert len(files) == 5
    for file in files:
        info = audio_info(Media(file.name), CLIPS)
        assert info.rate == 44_100 and 19 < info.seconds < 25
        audio = open_audio(Media(file.name), CLIPS, rate=16_000)
        assert len(audio.samples) == resampled_length(info.frames, 44_100, 16_000)
        assert 0.01 < np.abs(audio.samples).max() <= 1.1


# Corruptions

clips = st.builds(
    lambda seed, length, rate: Audio(np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32), rate),
    st.integers(0, 1000),
    st.integers(1, 20_000),
    st.sampled_from((8_000, 16_000)),
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(clips, st.sampled_from(sorted(AudioModality.corruptions)), st.integers(0, 100))
def test_corruptions_keep_length_and_rate_and_are_seeded(clip: Audio, variant: str, seed: int):
    before = clip.samples.copy()
    corrupt = AudioModality.corruptions[variant]
    first, again = (corrupt(clip, generator_for("r", variant, 0, seed)) for _ in range(2))
    assert first.samples.shape == clip.samples.shape and first.samples.dtype == np.float32 and first.rate == clip.rate
    np.testing.assert_array_equal(first.samples, again.samples)
    np.testing.assert_array_equal(clip.samples, before)


def test_blank_is_silence():
    assert not blank(Audio(sine(0.1), 16_000), np.random.default_rng(0)).samples.any()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 100), st.floats(0.01, 1.0), st.integers(100, 20_000))
def test_noise_has_the_power_of_the_sound(seed: int, loudness: float, length: int):
    clip = Audio((loudness * np.sin(np.arange(length))).astype(np.float32), 16_000)
    added = noise(clip, np.random.default_rng(seed)).samples - clip.samples
    decibels = 10 * np.log10(np.mean(clip.samples**2) / np.mean(added**2))
    assert decibels == pytest.approx(0.0, abs=0.01)


def test_noise_is_white_and_silence_stays_silence():
    clip = Audio(sine(4.0), 16_000)
    spectrum = np.abs(np.fft.rfft(noise(clip, np.random.default_rng(0)).samples - clip.samples)) ** 2
    low, high = spectrum[: len(spectrum) // 2].mean(), spectrum[len(spectrum) // 2 :].mean()
    assert low == pytest.approx(high, rel=0.05)
    silence = Audio(np.zeros(100, np.float32), 16_000)
    assert not noise(silence, np.random.default_rng(0)).samples.any()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(clips, st.integers(0, 100))
def test_time_shuffle_permutes_quarters_of_a_second(clip: Audio, seed: int):
    shuffled = time_shuffle(clip, np.random.default_rng(seed)).samples
    np.testing.assert_array_equal(np.sort(shuffled), np.sort(clip.samples))
    segment = clip.rate // 4
    pieces = [clip.samples[n : n + segment] for n in range(0, len(clip.samples), segment)]
    assert (shuffled != clip.samples).any() == (len(pieces) > 1), "it is another order where there is one"
    # every piece is somewhere in the result, whole
    starts = {piece[0]: piece for piece in pieces}
    position = 0
    while position < len(shuffled):
        piece = starts[shuffled[position]]
        np.testing.assert_array_equal(shuffled[position : position + len(piece)], piece)
        position += len(piece)


# What a processor is given


LIMITS = {
    "qwen2_audio": 2,
    "qwen2_5_omni": 2,
    "audioflamingo3": 3,
    "gemma4": 30,
    "qwen3_omni_moe": None,
    "granite_speech": None,
}
"""Seconds that the processors of the tiny families take; their windows are far shorter than the published ones."""


def make_processor(name: str) -> Any:
    """A processor of the installed library."""
    return importlib.import_module(f"tiny.{name}").build().processor


def encoded(processor: Any, samples: np.ndarray) -> Any:
    part = {"type": "audio", "audio": samples}
    return processor.apply_chat_template(
        [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def sees_the_end(processor: Any, length: int) -> bool:
    """Whether the last 50 ms of a clip change what the processor makes of it."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(length).astype(np.float32)
    other = samples.copy()
    other[-800:] = 0.0
    first, second = (encoded(processor, clip)["input_features"] for clip in (samples, other))
    return first.shape != second.shape or bool((first != second).any())


@pytest.mark.parametrize(("name", "seconds"), LIMITS.items())
def test_a_clip_that_the_processor_would_cut_is_refused(name: str, seconds: int | None):
    processor = make_processor(name)
    limit = longest_clip(processor)
    assert limit == (None if seconds is None else seconds * 16_000)
    modality = AudioModality()
    if limit is None:
        assert sees_the_end(processor, 5 * 16_000)
        assert len(modality.for_processor(Audio(sine(5.0), 16_000), processor)) == 5 * 16_000
        return
    assert sees_the_end(processor, limit) and not sees_the_end(processor, limit + 800)
    assert len(modality.for_processor(Audio(sine(seconds, 44_100), 44_100), processor)) == limit
    with pytest.raises(MediaError, match=type(processor).__name__) as caught:
        modality.for_processor(Audio(sine(seconds + 0.001, 44_100), 44_100), processor)
    assert caught.value.kind == "too_long_audio"


@pytest.mark.parametrize("name", LIMITS)
def test_no_clip_vanishes_from_the_prompt(name: str):
    processor, modality = make_processor(name), AudioModality()
    given = modality.for_processor(Audio(sine(0.025), 16_000), processor)
    placeholder = processor.tokenizer.convert_tokens_to_ids(processor.audio_token)
    assert (encoded(processor, given)["input_ids"] == placeholder).any()
    with pytest.raises(MediaError) as caught:
        modality.for_processor(Audio(sine(0.0249), 16_000), processor)
    assert caught.value.kind == "too_short_audio"


def test_voxtral_cuts_clips_into_windows():
    words = {f"word{n}": n for n in range(24)} | {"[AUDIO]": 24}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="word0")))
    processor = VoxtralProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer)
    assert longest_clip(processor) is None
    windows = processor._retrieve_input_features([sine(31.0)], **processor.audio_kwargs)
    assert windows.shape == (2, 8, 3000)


def test_a_processor_gets_float32_samples_at_its_rate():
    given = AudioModality().for_processor(Audio(sine(1.0, 44_100), 44_100), make_processor("qwen2_audio"))
    assert given.dtype == np.float32 and given.shape == (16_000,)


def test_a_processor_without_audio_gets_the_item():
    clip = Audio(sine(0.1), 16_000)
    assert AudioModality().for_processor(clip, object()) is clip


def test_every_reason_is_documented():
    page = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("data.md", "records.md"))
    for file in ("media/files.py", "media/audio.py", "media/video.py", "modalities/audio.py"):
        reasons = re.findall(r'MediaError\(\s*"(\w+)"', (ROOT / "mmdpo" / file).read_text(encoding="utf-8"))
        assert reasons and all(f"`{reason}`" in page for reason in reasons)


def test_audio_is_registered():
    assert registry.modalities.get("audio") is AudioModality
    assert AudioModality().load(Media(data=encode(sine(0.1, 8_000), 8_000)), None).rate == 8_000


def test_channels_that_cancel_infinity_are_not_finite():
    samples = np.tile(np.array([[np.inf, -np.inf]], dtype=np.float32), (100, 1))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="WAV", subtype="FLOAT")
    assert kind_of(buffer.getvalue()) == "not_finite_audio"
