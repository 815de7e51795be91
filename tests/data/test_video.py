"""Videos of every kind give the frames that people see, or are refused with a stable reason."""

import builtins
import hashlib
import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmdpo import registry
from mmdpo.corruptions import generator_for
from mmdpo.errors import ConfigError
from mmdpo.media import Media, MediaError, content_hash, frame_paths, read_bytes
from mmdpo.media import video as media_video
from mmdpo.media.video import Video, open_video, sample_indices
from mmdpo.modalities.video import VideoModality, blank, time_shuffle
from mmdpo.records import Candidate, Record, Records, load_records, save_records
from mmdpo.records.checks import validate_records

CODECS = [("mp4", "libx264"), ("mp4", "mpeg4"), ("webm", "libvpx"), ("matroska", "libx264"), ("avi", "mpeg4")]
LEVELS = 12  # grey levels between one frame and the next, so that a frame can be told from its brightness


def film(
    frames: int = 20, size: tuple[int, int] = (64, 48), fps: int = 10, kind: str = "mp4", codec: str = "libx264"
) -> bytes:
    """A video whose frame n is grey of level 12 n."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 5
        for level in range(frames):
            picture = np.full((size[1], size[0], 3), LEVELS * level % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def greys(count: int, size: tuple[int, int] = (8, 6)) -> list[Image.Image]:
    return [Image.new("RGB", size, (LEVELS * n,) * 3) for n in range(count)]


def animation(kind: str, count: int = 10, milliseconds: int = 100) -> bytes:
    first, *rest = greys(count)
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    first.save(buffer, kind, save_all=True, append_images=rest, duration=milliseconds, **options)
    return buffer.getvalue()


def folder(root: Path, names: Sequence[str]) -> Media:
    (root / "clip").mkdir()
    for name, picture in zip(names, greys(len(names)), strict=True):
        picture.save(root / "clip" / name, "PNG")
    return Media("clip")


def shown(video: Video) -> list[int]:
    """Which frames these are, by their brightness."""
    return [round(np.asarray(frame).mean() / LEVELS) for frame in video.frames]


def kind_of(data: bytes, **options: Any) -> str:
    with pytest.raises(MediaError) as caught:
        open_video(Media("x.mp4", data=data), None, **options)
    assert "x.mp4" in caught.value.what
    return caught.value.kind


# Which frames


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (100, 8, (6, 18, 31, 43, 56, 68, 81, 93)),
        (16, 8, (1, 3, 5, 7, 9, 11, 13, 15)),
        (9, 3, (1, 4, 7)),
        (10, 1, (5,)),
        (8, 8, (0, 1, 2, 3, 4, 5, 6, 7)),
        (3, 8, (0, 1, 2)),
        (0, 8, ()),
    ],
)
def test_sample_indices_by_hand(total: int, count: int, expected: tuple[int, ...]):
    assert sample_indices(total, count) == expected


@given(st.integers(1, 10_000), st.integers(1, 64))
def test_sampled_frames_are_spread_evenly(total: int, count: int):
    indices = sample_indices(total, count)
    assert len(indices) == min(total, count) and indices[0] >= 0 and indices[-1] < total
    steps = {later - earlier for earlier, later in itertools.pairwise(indices)}
    assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)


# What decoding gives


@pytest.mark.parametrize(("kind", "codec"), CODECS)
def test_frames_of_every_container(kind: str, codec: str):
    video = open_video(Media("x", data=film(kind=kind, codec=codec)), None)
    assert video.total == 20 and video.indices == sample_indices(20, 8) == (1, 3, 6, 8, 11, 13, 16, 18)
    assert shown(video) == list(video.indices)
    assert {(frame.mode, frame.size) for frame in video.frames} == {("RGB", (64, 48))}
    assert video.seconds == pytest.approx(2.0, abs=0.01) and video.fps == pytest.approx(10, abs=0.05)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_frames_of_an_animation(kind: str):
    video = open_video(Media("x", data=animation(kind)), None, frames=5)
    assert video.total == 10 and shown(video) == list(video.indices) == [1, 3, 5, 7, 9]
    assert video.seconds == pytest.approx(1.0) and video.fps == pytest.approx(10)


def test_frames_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path):
    media = folder(tmp_path, [f"frame{n}.png" for n in range(12)])
    (tmp_path / "clip" / ".hidden").write_bytes(b"x")
    video = open_video(media, tmp_path, frames=4)
    assert shown(video) == list(video.indices) == [1, 4, 7, 10] and video.total == 12
    assert video.seconds is None and video.fps is None
    names = ["2.png", "10.png", "a2.png", "a10.png", "a10b.png", "b1.png"]
    (tmp_path / "other").mkdir()
    for name in names:
        (tmp_path / "other" / name).touch()
    assert frame_paths(Media("other"), tmp_path) == [f"other/{name}" for name in names]


def test_fewer_frames_than_asked_for_are_all_taken():
    assert shown(open_video(Media("x", data=film(frames=3)), None)) == [0, 1, 2]
    assert shown(open_video(Media("x", data=film(frames=1)), None)) == [0]


def test_a_phone_held_upright():
    """Display matrix of a quarter turn clockwise, as phones write it (ISO/IEC 14496-12, 8.3.2)."""
    buffer = io.BytesIO()
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 255  # the left half is white: after the turn, the upper one
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(buffer.getvalue())
    matrix = data.find(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    (frame,) = open_video(Media("x", data=bytes(data)), None).frames
    assert frame.size == (48, 64)
    pixels = np.asarray(frame.convert("L"))
    assert pixels[:28].min() > 200 and pixels[36:].max() < 50


def test_transparency_of_an_animation_is_laid_over_white():
    frames = [Image.new("RGBA", (4, 4), (0, 0, 0, 0)), Image.new("RGBA", (4, 4), (0, 0, 255, 255))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    video = open_video(Media("x", data=buffer.getvalue()), None)
    assert [frame.getpixel((1, 1)) for frame in video.frames] == [(255, 255, 255), (0, 0, 255)]


# Folders as media items


def test_the_content_hash_of_a_folder_is_that_of_its_frames(tmp_path: Path):
    media = folder(tmp_path, ["1.png", "2.png", "10.png"])
    files = [tmp_path / "clip" / name for name in ("1.png", "2.png", "10.png")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert content_hash(media, tmp_path) == digest
    known = Media("clip", sha256=digest)
    assert len(open_video(known, tmp_path).frames) == 3
    files[1].write_bytes(files[0].read_bytes())
    for read in (content_hash, open_video):
        with pytest.raises(MediaError) as caught:
            read(known, tmp_path)
        assert caught.value.kind == "changed_media"


def test_a_folder_has_no_bytes_of_its_own(tmp_path: Path):
    with pytest.raises(MediaError, match="where a frame ends") as caught:
        read_bytes(folder(tmp_path, ["1.png"]), tmp_path)
    assert caught.value.kind == "folder_media"


def test_the_media_root_itself_is_no_item(tmp_path: Path):
    folder(tmp_path, ["1.png"])
    for path in ("", ".", "clip/.."):
        assert frame_paths(Media(path), tmp_path) is None
        with pytest.raises(MediaError) as caught:
            content_hash(Media(path), tmp_path)
        assert caught.value.kind == "missing_media"


def test_a_folder_cannot_lead_out_of_the_root(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    folder(tmp_path, ["secret.png", "more.png"])
    inside = root / "inside"
    inside.mkdir()
    (inside / "link.png").symlink_to(tmp_path / "clip" / "secret.png")
    (root / "link").symlink_to(tmp_path / "clip")
    for path in ("../clip", "link", "inside"):
        with pytest.raises(MediaError) as caught:
            open_video(Media(path), root)
        assert caught.value.kind == "outside_root"


def test_records_with_folders_are_saved_with_their_hash(tmp_path: Path):
    media = folder(tmp_path, ["1.png", "2.png"])
    prompt = ({"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]},)
    record = Record("r", prompt, (Candidate("It darkens."), Candidate("It brightens.")), {"videos": (media,)})
    save_records(Records([record], media_root=tmp_path), tmp_path / "out")
    records = load_records(tmp_path / "out", media_root=tmp_path)
    assert records[0].media["videos"][0] == Media("clip", sha256=content_hash(media, tmp_path))
    assert validate_records(records, check_media=True) == []
    (tmp_path / "clip" / "2.png").write_bytes(b"")
    assert [problem.kind for problem in validate_records(records, check_media=True)] == ["changed_media"]


# What is refused


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("data", [b"", b"not a video", PLAYLIST, b"ffconcat version 1.0\nfile '/etc/hostname'\n"])
def test_not_video(data: bytes):
    assert kind_of(data) == "not_video"


def test_containers_without_a_length_and_still_pictures_are_not_read():
    assert kind_of(film(kind="mpegts")) == "not_video"
    for kind in ("PNG", "JPEG", "GIF"):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4)).save(buffer, kind)
        assert kind_of(buffer.getvalue()) == "not_video"


def test_empty_video(tmp_path: Path):
    (tmp_path / "clip").mkdir()
    with pytest.raises(MediaError) as caught:
        open_video(Media("clip"), tmp_path)
    assert caught.value.kind == "empty_video"
    sound = io.BytesIO()
    with av.open(sound, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert kind_of(sound.getvalue()) == "empty_video"


@pytest.mark.parametrize(("kind", "codec"), CODECS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_cut_off_file_is_noticed(kind: str, codec: str, share: float):
    data = film(frames=40, kind=kind, codec=codec)
    assert kind_of(data[: int(share * len(data))]) == "truncated_video"


def test_a_cut_off_file_whose_index_comes_first(tmp_path: Path):
    file = tmp_path / "a.mp4"
    with av.open(str(file), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for seed in range(40):
            picture = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = file.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")
    assert open_video(Media("a.mp4"), tmp_path).total == 40
    assert kind_of(data[: int(0.7 * len(data))]) == "truncated_video"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_a_cut_off_animation_is_noticed(kind: str, share: float):
    data = animation(kind)
    assert kind_of(data[: int(share * len(data))]) in ("truncated_video", "not_video")


def test_a_gif_that_ends_between_two_frames():
    data = animation("GIF")
    assert data.endswith(b"\0;")
    assert kind_of(data[:-1]) == "truncated_video"


def test_a_damaged_stream_is_noticed():
    data = bytearray(film(frames=40, size=(160, 120), codec="mpeg4"))
    start = data.find(b"mdat") + 200
    data[start : start + 1000] = np.random.default_rng(0).bytes(1000)
    assert kind_of(bytes(data)) == "truncated_video"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from([*CODECS, ("GIF", ""), ("PNG", ""), ("WEBP", "")]), st.integers(0, 2**31), st.integers(1, 20))
def test_damage_is_a_foreseen_error_or_a_video(form: tuple[str, str], seed: int, hits: int):
    data = bytearray(film(8, kind=form[0], codec=form[1]) if form[1] else animation(form[0]))
    generator = np.random.default_rng(seed)
    for place in generator.integers(0, len(data), hits):
        data[place] = generator.integers(256)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's words about damaged headers
            video = open_video(Media("x", data=bytes(data)), None)
    except MediaError as error:
        assert error.what
    else:
        assert 1 <= len(video.frames) <= 8


def test_frames_of_different_sizes(tmp_path: Path):
    media = folder(tmp_path, ["1.png", "2.png"])
    Image.new("RGB", (9, 6)).save(tmp_path / "clip" / "3.png")
    with pytest.raises(MediaError, match=r"\(8, 6\) and \(9, 6\)") as caught:
        open_video(media, tmp_path)
    assert caught.value.kind == "unsupported_video"


def test_other_files_in_a_folder_of_frames(tmp_path: Path):
    media = folder(tmp_path, ["1.png", "2.png"])
    (tmp_path / "clip" / "notes.txt").write_text("taken in May")
    with pytest.raises(MediaError, match=r"notes\.txt") as caught:
        open_video(media, tmp_path)
    assert caught.value.kind == "not_an_image"


def test_bombs_are_refused_from_their_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pixels = 64 * 48
    data = film()
    assert kind_of(data, max_pixels=8 * pixels - 1) == "decompression_bomb"
    assert len(open_video(Media("x", data=data), None, max_pixels=8 * pixels).frames) == 8
    assert kind_of(animation("GIF"), max_pixels=8 * 8 * 6 - 1) == "decompression_bomb"
    with pytest.raises(MediaError) as caught:
        open_video(folder(tmp_path, ["1.png", "2.png"]), tmp_path, max_pixels=2 * 8 * 6 - 1)
    assert caught.value.kind == "decompression_bomb"
    huge = bytearray(animation("PNG"))
    huge[16:24] = struct.pack(">II", 100_000, 100_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    assert kind_of(bytes(huge)) == "decompression_bomb"
    monkeypatch.setattr(media_video, "MAX_FRAMES", 9)
    assert kind_of(data) == kind_of(animation("GIF")) == "too_long_video"


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    plain = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "av":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    data = film()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError) as caught:
        open_video(Media("x", data=data), None)
    assert "pip install mmdpo[video]" in caught.value.fix
    assert open_video(Media("x", data=animation("GIF")), None).total == 10, "animations need only Pillow"


# Corruptions

videos = st.builds(
    lambda count, width, height: Video(tuple(greys(count, (width, height))), tuple(range(count)), count, 1.0),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 9),
)


@given(videos, st.sampled_from(sorted(VideoModality.corruptions)), st.integers(0, 100))
def test_corruptions_keep_the_shape_and_are_seeded(video: Video, variant: str, seed: int):
    corrupt = VideoModality.corruptions[variant]
    first, again = (corrupt(video, generator_for("r", variant, 0, seed)) for _ in range(2))
    assert first.frames == again.frames
    assert [frame.size for frame in first.frames] == [frame.size for frame in video.frames]
    assert (first.indices, first.total, first.seconds) == (video.indices, video.total, video.seconds)
    assert shown(video) == list(range(video.total)), "the original is left alone"


@given(videos, st.integers(0, 100))
def test_blank_and_shuffled_frames(video: Video, seed: int):
    generator = np.random.default_rng(seed)
    assert {frame.getpixel((0, 0)) for frame in blank(video, generator).frames} == {(127, 127, 127)}
    order = shown(time_shuffle(video, generator))
    assert sorted(order) == list(range(video.total))
    assert (order != sorted(order)) == (video.total > 1)


# What a processor is given


def ask(processor: Any, video: Video, **options: Any) -> Any:
    part = {"type": "video", "video": VideoModality().for_processor(video, processor)}
    return processor.apply_chat_template(
        [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=options,
    )


@pytest.fixture(scope="module")
def video() -> Video:
    """8 of the 20 frames of two seconds."""
    return open_video(Media("x", data=film()), None)


def test_a_processor_gets_the_frames_as_one_block(video: Video):
    block = VideoModality().for_processor(video, SimpleNamespace(video_processor=None))
    assert block.shape == (8, 48, 64, 3) and block.dtype == np.uint8
    np.testing.assert_array_equal(block[3], np.asarray(video.frames[3]))


def test_a_processor_without_video_gets_the_item(video: Video):
    assert VideoModality().for_processor(video, object()) is video


def test_no_frame_is_dropped_and_times_are_those_of_the_film(video: Video):
    from tiny import qwen3_vl

    processor = qwen3_vl.build().processor
    encoded = ask(processor, video, **VideoModality().processor_options([video]))
    assert encoded["video_grid_thw"].tolist()[0][0] == 4, "8 frames, two at a time"
    # frames 1, 3 | 6, 8 | 11, 13 | 16, 18 at 10 a second: each pair is at its mean time
    words = processor.tokenizer.decode(encoded["input_ids"][0])
    assert [f"<{time} seconds>" in words for time in ("0.2", "0.7", "1.2", "1.7")] == [True] * 4
    alone = ask(processor, video)
    assert alone["video_grid_thw"].tolist()[0][0] == 2, "what is prevented: every other frame is dropped"


def test_seconds_between_frames_reach_qwen2_5_vl(video: Video):
    from tiny import qwen2_5_vl

    processor = qwen2_5_vl.build().processor
    encoded = ask(processor, video, **VideoModality().processor_options([video]))
    assert encoded["second_per_grid_ts"] == pytest.approx([2 * 2.0 / 8], abs=0.01)  # two frames of every 0.25 s
    assert set(encoded) - {"input_ids", "attention_mask", "mm_token_type_ids"} <= set(VideoModality.inputs)


@pytest.mark.parametrize(("rates", "told"), [((10,), 4.0), ((10, 10), 4.0), ((10, 5), None)])
def test_one_rate_is_told_where_all_videos_have_it(rates: tuple[int, ...], told: float | None):
    items = [open_video(Media("x", data=film(fps=fps)), None) for fps in rates]
    assert VideoModality().processor_options(items).get("fps") == told


def test_seconds_between_frames_reach_the_omni_models(video: Video):
    from tiny import qwen2_5_omni

    encoded = ask(qwen2_5_omni.build().processor, video, **VideoModality().processor_options([video]))
    assert encoded["video_second_per_grid"].tolist() == [0.5]


def test_video_is_registered():
    assert registry.modalities.get("video") is VideoModality
    assert VideoModality().load(Media(data=film()), None).total == 20
