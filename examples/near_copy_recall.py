"""How many changed copies of your photos are found as near copies, and how many different photos are taken for such.

    python examples/near_copy_recall.py PHOTOS [PHOTOS ...]

Every photo is copied in each of the ways of `CHANGES`. A copy counts as found when it is a near copy of its original;
two photos count as a false match when they are taken for near copies of each other.
"""

from __future__ import annotations

import argparse
import io
import random
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from data_builders.care.near_copies import Look, NearCopies, are_alike
from mmdpo.media import Media, open_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def jpeg(picture: Image.Image) -> Image.Image:
    """A poor JPEG of it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def cropped(share: float, left: float = 0.5, top: float = 0.5) -> Callable[[Image.Image], Image.Image]:
    """Takes a share of width and height away, from the left and from the top as much of it as is said."""

    def crop(picture: Image.Image) -> Image.Image:
        width, height = picture.width * (1 - share), picture.height * (1 - share)
        x, y = (picture.width - width) * left, (picture.height - height) * top
        return picture.crop((round(x), round(y), round(x + width), round(y + height)))

    return crop


def cropped_anyhow(picture: Image.Image) -> Image.Image:
    """Up to a fifth of width and of height away, each by chance and from anywhere."""
    generator = random.Random(picture.tobytes()[:1000])
    wide, high = (1 - generator.uniform(0, 0.2) for _ in range(2))
    x, y = generator.uniform(0, 1 - wide) * picture.width, generator.uniform(0, 1 - high) * picture.height
    return picture.crop((round(x), round(y), round(x + wide * picture.width), round(y + high * picture.height)))


def with_text(picture: Image.Image) -> Image.Image:
    """A dark strip with a sentence over its lowest eighth."""
    copy, top = picture.copy(), picture.height * 7 // 8
    draw = ImageDraw.Draw(copy)
    draw.rectangle((0, top, copy.width, copy.height), fill="black")
    draw.text((10, top), "A sentence about what it shows", fill="white", font_size=picture.height // 12)
    return copy


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 30": jpeg,
    "half the size": lambda picture: picture.reduce(2),
    "in grey": lambda picture: picture.convert("L").convert("RGB"),
    "brighter (x 1.2)": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "darker (x 0.8)": lambda picture: ImageEnhance.Brightness(picture).enhance(0.8),
    "more contrast (x 1.3)": lambda picture: ImageEnhance.Contrast(picture).enhance(1.3),
    "cropped by 5% to the middle": cropped(0.05),
    "cropped by 10% to the middle": cropped(0.1),
    "cropped by 20% to the middle": cropped(0.2),
    "cropped by 7% to a corner": cropped(0.07, 0, 1),
    "cropped by 10% to a corner": cropped(0.1, 1, 0),
    "cropped by 20% to a corner": cropped(0.2, 0, 0),
    "cropped by 0 to 20% anyhow": cropped_anyhow,
    "text over the lowest eighth": with_text,
    "mirrored": ImageOps.mirror,
}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="+", help="folders of different photos")
    folders = parser.parse_args().photos
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    found, originals, seconds = dict.fromkeys(CHANGES, 0), list[Look](), 0.0
    for file in files:
        picture = open_image(Media(file.name), file.parent)
        begun = time.perf_counter()
        original = Look.of(picture)
        seconds += time.perf_counter() - begun
        for name, change in CHANGES.items():
            found[name] += are_alike(original, Look.of(change(picture)))
        originals.append(original)
    index, matches = NearCopies(), 0
    for look in originals:
        matches += len(index.all_near(look))
        index.add(look)
    print(f"| copy | found of {len(files)} |\n|---|---|")
    print("\n".join(f"| {name} | {count} |" for name, count in found.items()))
    pairs = len(files) * (len(files) - 1) // 2
    print(f"\n{matches} of {pairs:,} pairs of different photos match; {seconds / len(files) * 1000:.1f} ms a photo")


if __name__ == "__main__":
    main()
