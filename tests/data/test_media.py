"""Images of every odd kind are read as people see them, or refused with a stable reason."""

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdpo.media import Media, MediaError, content_hash, image_size, open_image, read_bytes
from mmdpo.report.exhibits import Exhibits

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = open_image(Media("x", data=data), None)
    assert image.mode == "RGB"
    return image


def kind_of(data: bytes, **options) -> str:
    with pytest.raises(MediaError) as caught:
        open_image(Media("x.jpg", data=data), None, **options)
    assert "x.jpg" in caught.value.what
    return caught.value.kind


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_common_formats(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert opened(encode(Image.new("RGB", (4, 3), RED), kind, **options)).getpixel((2, 2)) == RED


def test_one_pixel():
    assert opened(encode(Image.new("RGB", (1, 1), RED))).size == (1, 1)


def test_exif_orientation_turns_the_picture_and_its_size():
    image = Image.new("RGB", (4, 2), WHITE)
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the top left corner goes to the top right
    data = encode(image, exif=exif)
    upright = opened(data)
    assert upright.size == (2, 4) == image_size(Media("x", data=data), None)
    assert upright.getpixel((1, 0)) == RED


def test_cmyk():
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(np.array(opened(data).getpixel((4, 4))) - RED).max() < 10


def test_palette_and_palette_with_transparency():
    palette = Image.new("RGB", (4, 4), RED).convert("P")
    assert opened(encode(palette)).getpixel((1, 1)) == RED
    index = palette.getpixel((0, 0))
    assert opened(encode(palette, transparency=index)).getpixel((1, 1)) == WHITE


def test_alpha_is_laid_over_white():
    half = opened(encode(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))).getpixel((0, 0))
    assert half == (127, 127, 127)  # 255 * (1 - 128/255)
    assert opened(encode(Image.new("LA", (2, 2), (0, 0)))).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_sixteen_bits_keep_black_grey_and_white(kind: str):
    levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    pixels = np.asarray(opened(encode(Image.fromarray(levels), kind)))
    assert pixels[0, :, 0].tolist() == [0, 100, 255]


def test_numbers_without_a_range_are_refused():
    assert kind_of(encode(Image.new("F", (2, 2), 0.5), "TIFF")) == "unsupported_image"
    assert kind_of(encode(Image.new("I", (2, 2), 70000), "TIFF")) == "unsupported_image"


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, WHITE, (0, 0, 255))]
    assert opened(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((1, 1)) == RED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_cut_off_file(kind: str):
    data = encode(noise(64, 64), kind)
    assert kind_of(data[: len(data) // 2]) == "truncated_image"
    if kind != "WEBP":  # whose decoder looks at the whole file before it tells the size
        assert image_size(Media("x", data=data[: len(data) // 2]), None) == (64, 64), "the header is whole"


def test_every_cut_of_a_jpeg_is_a_foreseen_error():
    data = encode(noise(16, 16), "JPEG")
    for length in range(0, len(data) - 2, 7):
        assert kind_of(data[:length]) in {"truncated_image", "not_an_image"}


@pytest.mark.parametrize("data", [b"", b"not a picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_no_image(data: bytes):
    assert kind_of(data) == "not_an_image"


def test_postscript_is_never_started():
    assert kind_of(encode(Image.new("RGB", (4, 4)), "EPS")) == "not_an_image"


def test_decompression_bomb_is_refused_from_its_header():
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert kind_of(bomb) == "decompression_bomb"
    small = encode(Image.new("RGB", (10, 11)))
    assert kind_of(small, max_pixels=109) == "decompression_bomb"
    assert open_image(Media("x", data=small), None, max_pixels=110).size == (10, 11)


def test_paths_stay_inside_the_root(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(encode(Image.new("RGB", (1, 1))))
    (root / "link.png").symlink_to(secret)
    (root / "inside.png").write_bytes(secret.read_bytes())
    for path in ("../secret.png", str(secret), "link.png"):
        with pytest.raises(MediaError, match="outside the media root") as caught:
            read_bytes(Media(path), root)
        assert caught.value.kind == "outside_root"
    assert read_bytes(Media("inside.png"), root) == read_bytes(Media(str(root / "inside.png")), root)


@pytest.mark.parametrize("path", ["http://example.org/a.png", "s3://bucket/a.png", "file:///etc/passwd", "data:,x"])
def test_urls_are_refused(tmp_path: Path, path: str):
    with pytest.raises(MediaError, match="is a URL") as caught:
        read_bytes(Media(path), tmp_path)
    assert caught.value.kind == "remote_url"


@pytest.mark.parametrize("path", ["absent.png", "", "a\0b", "x" * 5000])
def test_missing_files(tmp_path: Path, path: str):
    with pytest.raises(MediaError) as caught:
        read_bytes(Media(path), tmp_path)
    assert caught.value.kind == "missing_media"


def test_no_root_and_nothing_at_all(tmp_path: Path):
    for media, root in ((Media("a.png"), None), (Media(), tmp_path)):
        with pytest.raises(MediaError) as caught:
            read_bytes(media, root)
        assert caught.value.kind == "missing_media"


def test_a_changed_file_is_noticed(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (1, 1), RED)))
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    media = Media("a.png", sha256=digest)
    assert content_hash(media, tmp_path) == digest
    (tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (1, 1), WHITE)))
    with pytest.raises(MediaError) as caught:
        open_image(media, tmp_path)
    assert caught.value.kind == "changed_media"


def test_a_report_shows_pictures_of_its_folder_alone(tmp_path: Path):
    folder = tmp_path / "run" / "photos"
    folder.mkdir(parents=True)
    for file in (folder / "inside.png", tmp_path / "private.png"):
        Image.new("RGB", (4, 4)).save(file)
    (folder / "link.png").symlink_to(tmp_path / "private.png")
    page = Exhibits()
    assert page.show("images", Media("inside.png"), folder).pictures
    for name in (str(tmp_path / "private.png"), "../../private.png", "link.png"):
        assert page.show("images", Media(name), folder).missing == "outside root"
    assert page.show("images", Media(str(tmp_path / "private.png")), Path("/")).missing == "outside root"
