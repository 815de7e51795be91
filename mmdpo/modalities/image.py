"""Images: opened with Pillow, encoded by the model's vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mmdpo import registry
from mmdpo.corruptions import Corruption
from mmdpo.media import open_image
from mmdpo.modalities.base import Modality
from mmdpo.modalities.image_variants import IMAGE_VARIANTS
from mmdpo.records import Media


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
    corruptions: ClassVar[Mapping[str, Corruption]] = IMAGE_VARIANTS

    def load(self, media: Media, root: Path | None) -> Any:
        """An RGB image."""
        return open_image(media, root)
