"""Variants of pictures: what a picture may be replaced by, so that a model learns to look at it.

Every function gives a picture of the same size and mode. Frames of videos are pictures, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mmdpo.corruptions import Corruption, Graded, Strength
from mmdpo.media import Media, to_rgb

GREY = (127, 127, 127)
SMALLEST_CROP = 0.01
"""Share of the picture's area that a crop has at least (mDPO)."""
CROP = 0.2
"""Share of the picture's area that a crop has at most (mDPO)."""
STEPS = 1000
"""Steps of the diffusion schedule."""
STEP = 500
"""The step that CHiP, MFPO and POVID use: the noise has half the spread of the pictures that CLIP was trained on."""
NOISE_GRID = 336
"""Longest side, in cells, of the grid on which noise is drawn: what CLIP's larger tower takes.

A processor shrinks a photo to about that. Of noise that is drawn for every pixel it averages much away, the more the
larger the photo: at CLIP's tower for 336 pixels, 0.73 of the spread arrive from a photo of 500 x 375, 0.57 from one of
640 x 480 and 0.14 from one of 3000 x 2000. From this grid 0.78 to 0.85 arrive, whatever the size of the photo.
"""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and spread of red, green and blue, with full brightness 1, by which CLIP normalises (Radford et al., 2021)."""
BLUR = 3.0
"""Spread of the blur in percent of the longer side: 19 pixels of a photo of 640 x 480."""
CELLS = 14
"""Rows and columns of the grid of patches that are masked."""
MASKED = 0.5
"""Share of the patches that are masked."""


def _in_rgb(corrupt: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
    """Lets a function of RGB pictures take any: laid over white where it is transparent, given back in its mode."""

    @functools.wraps(corrupt)
    def wrapped(image: Image.Image, *rest: Any) -> Image.Image:
        result = corrupt(to_rgb(image, Media("in memory")), *rest)
        if image.mode == "P":
            return result.quantize()  # convert() would take a fixed palette, which lacks most colours
        return result if image.mode == "RGB" else result.convert(image.mode)

    return wrapped


@_in_rgb
def blank(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A mid-grey image of the same size: what the answer's likelihood is without anything to see."""
    del generator  # nothing random
    return Image.new("RGB", image.size, GREY)


@_in_rgb
def crop(image: Image.Image, generator: np.random.Generator, largest: float = CROP) -> Image.Image:
    """A random small part of the image, enlarged to the image's size.

    Its area is drawn evenly between :data:`SMALLEST_CROP` and ``largest`` of the image's, the logarithm of its width
    over its height between those of 3/4 and 4/3, as in torchvision's ``RandomResizedCrop``. A part that is longer than
    the image in one direction is made smaller, so that its form stays.

    Source: mDPO (2406.11839), whose code draws it for policy and reference anew; here it is the same.
    """
    area, form, left, top = generator.random(4)
    area = SMALLEST_CROP + area * (largest - SMALLEST_CROP)
    ratio = np.exp((2 * form - 1) * np.log(4 / 3))
    pixels = area * image.width * image.height
    width, height = np.sqrt(pixels * ratio), np.sqrt(pixels / ratio)
    fit = min(1.0, image.width / width, image.height / height)
    width, height = max(1, round(width * fit)), max(1, round(height * fit))
    x, y = int(left * (image.width - width + 1)), int(top * (image.height - height + 1))
    return image.resize(image.size, Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))


@functools.cache
def remaining_signal() -> NDArray[np.floating[Any]]:
    """[1000] share of the picture's variance that is left after each step of the schedule (alpha bar).

    Source: the noise of VCD (2311.16922), which POVID, CHiP, SeVa and TPO use.
    """
    betas = (0.5e-2 - 1e-5) / (1 + np.exp(-np.linspace(-6, 6, STEPS))) + 1e-5
    return np.cumprod(1 - betas)


@_in_rgb
def diffusion(image: Image.Image, generator: np.random.Generator, step: float = STEP) -> Image.Image:
    """The image after some steps of forward diffusion: towards grey, under Gaussian noise.

    On the picture x as CLIP normalises it: sqrt(a) x + sqrt(1 - a) e with a of :func:`remaining_signal`, e from the
    normal distribution. The result is brought back to bytes, so that what is darker than black or brighter than white
    is cut off. Noise is drawn on a grid of :data:`NOISE_GRID`, every cell of which covers a few pixels of a larger
    picture.

    Source: VCD (2311.16922), equation 2.
    """
    signal = float(np.sqrt(remaining_signal()[int(step)]))
    spread = float(np.sqrt(1 - remaining_signal()[int(step)]))
    pixels = np.asarray(image)
    shrink = min(1.0, NOISE_GRID / max(image.size))
    cells = [max(1, round(side * shrink)) for side in pixels.shape[:2]]
    noise = generator.standard_normal((3, *cells), dtype=np.float32)
    rows, columns = (np.arange(side) * count // side for side, count in zip(pixels.shape, cells, strict=False))
    noisy = np.empty_like(pixels)
    for channel, (mean, deviation) in enumerate(zip(CLIP_MEAN, CLIP_STD, strict=True)):
        # the normalisation and its inverse, multiplied out
        grain = (255 * ((1 - signal) * mean + spread * deviation * noise[channel]))[rows][:, columns]
        grain += np.float32(signal) * pixels[..., channel]
        noisy[..., channel] = np.clip(np.rint(grain), 0, 255)
    return Image.fromarray(noisy)


@_in_rgb
def blur(image: Image.Image, generator: np.random.Generator, percent: float = BLUR) -> Image.Image:
    """The image under a Gaussian blur."""
    del generator  # nothing random
    return image.filter(ImageFilter.GaussianBlur(percent / 100 * max(image.size)))


@_in_rgb
def grayscale(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """The image without its colours."""
    del generator  # nothing random
    return image.convert("L").convert("RGB")


@_in_rgb
def patch_mask(image: Image.Image, generator: np.random.Generator, share: float = MASKED) -> Image.Image:
    """The image with random patches of a grid of 14 x 14 in mid-grey.

    The order of the patches is drawn, and the first of them are masked: those that 0.2 masks are among those that 0.4
    masks, so that views with rising shares are a ranking, as LPOI (2505.21061) needs it.
    """
    columns, rows = (min(CELLS, side) for side in image.size)
    order = generator.permutation(columns * rows)
    masked = image.copy()
    for cell in order[: round(share * len(order))].tolist():
        row, column = divmod(cell, columns)
        left, right = (at * image.width // columns for at in (column, column + 1))
        top, bottom = (at * image.height // rows for at in (row, row + 1))
        masked.paste(GREY, (left, top, right, bottom))
    return masked


IMAGE_VARIANTS: dict[str, Corruption] = {
    "blank": blank,
    "crop": Graded(crop, Strength(CROP, SMALLEST_CROP, 1, "largest share of the area")),
    "diffusion": Graded(diffusion, Strength(STEP, 0, STEPS - 1, "step of the noise schedule", whole=True)),
    "blur": Graded(blur, Strength(BLUR, 0.1, 50, "standard deviation in percent of the longer side")),
    "grayscale": grayscale,
    "patch_mask": Graded(patch_mask, Strength(MASKED, 0, 1, "share of the patches")),
}
"""Variants of one picture by name."""
