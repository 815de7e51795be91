"""Images: opened with Pillow, encoded by the model's vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mmdpo import registry
from mmdpo.corruptions import Corruption
from mmdpo.media import open_image
from mmdpo.modalities.base import Modality
from mmdpo.records import Media


def blank(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A mid-grey image of the same size: what the answer's likelihood is without anything to see."""
    del generator  # nothing random
    return Image.new("RGB", image.size, (127, 127, 127))


@registry.modalities.register("image")
class ImageModality(Modality):
    """Still images."""

    name: ClassVar[str] = "image"
    plural: ClassVar[str] = "images"
    inputs: ClassVar[tuple[str, ...]] = (
        "pixel_values",
        "image_grid_thw",
        "image_sizes",
        "pixel_attention_mask",
        "image_position_ids",
        "batch_num_images",
        "aspect_ratio_ids",
        "aspect_ratio_mask",
    )
    grid: ClassVar[str | None] = "image_grid_thw"
    corruptions: ClassVar[Mapping[str, Corruption]] = {"blank": blank}

    def load(self, media: Media, root: Path | None) -> Any:
        """An RGB image."""
        return open_image(media, root)
