"""Video: a few frames of each, decoded here, so that processors need no library for it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmdpo import registry
from mmdpo.corruptions import Corruption, Graded
from mmdpo.media.video import Video, open_video
from mmdpo.modalities import image_variants
from mmdpo.modalities.audio import another_order
from mmdpo.modalities.base import Modality
from mmdpo.records import Media


def blank(video: Video, generator: np.random.Generator) -> Video:
    """Mid-grey frames of the same size and number: what the answer's likelihood is without anything to see."""
    return replace(video, frames=tuple(image_variants.blank(frame, generator) for frame in video.frames))


def time_shuffle(video: Video, generator: np.random.Generator) -> Video:
    """The same frames in another order, at the times of the original ones."""
    order = another_order(len(video.frames), generator)
    return replace(video, frames=tuple(video.frames[n] for n in order))


def of_frames(corruption: Corruption) -> Corruption:
    """A variant of pictures as one of videos: every frame with the same draw, so that the same window is cut out."""
    if isinstance(corruption, Graded):
        return replace(corruption, apply=_of_frames(corruption.apply))
    return _of_frames(corruption)


def _of_frames(corrupt: Callable[..., Any]) -> Callable[..., Video]:
    @functools.wraps(corrupt)
    def wrapped(video: Video, generator: np.random.Generator, *strength: float) -> Video:
        frames = (corrupt(frame, copy.deepcopy(generator), *strength) for frame in video.frames)
        return replace(video, frames=tuple(frames))

    return wrapped


@registry.modalities.register("video")
class VideoModality(Modality):
    """Moving pictures, without their sound."""

    name: ClassVar[str] = "video"
    plural: ClassVar[str] = "videos"
    inputs: ClassVar[tuple[str, ...]] = (
        "pixel_values_videos",
        "video_grid_thw",
        "second_per_grid_ts",
        "video_second_per_grid",
        "image_sizes_videos",
        "video_position_ids",
        "num_frames_per_video",
    )
    grid: ClassVar[str | None] = "video_grid_thw"
    corruptions: ClassVar[Mapping[str, Corruption]] = {
        **{name: of_frames(corruption) for name, corruption in image_variants.IMAGE_VARIANTS.items()},
        "blank": blank,
        "time_shuffle": time_shuffle,
    }

    def load(self, media: Media, root: Path | None) -> Any:
        """A :class:`~mmdpo.media.video.Video`."""
        return open_video(media, root)

    def for_processor(self, item: Any, processor: Any) -> Any:
        """[frames, height, width, 3] uint8, which every video processor takes without decoding anything.

        A processor without a video part gets the item as it is.
        """
        if not hasattr(processor, "video_processor"):
            return item
        return np.stack([np.asarray(frame) for frame in item.frames])

    def processor_options(self, items: Sequence[Video]) -> dict[str, Any]:
        """Keywords of the processor's call for all videos of a prompt: what a block of frames does not say.

        Without them (transformers 5.23), a processor samples the frames once more (Qwen3-VL's takes 4 of 8) and tells
        times as if 24 frames were a second. The omni processors do not read the metadata but one ``fps`` of the taken
        frames for all videos, and believe in 2 a second where the videos do not agree on another.
        """
        metadata = [
            {
                "total_num_frames": video.total,
                "fps": video.fps,
                "duration": video.seconds,
                "frames_indices": list(video.indices),
            }
            for video in items
        ]
        options: dict[str, Any] = {"do_sample_frames": False, "video_metadata": metadata}
        rates = {len(video.indices) / video.seconds if video.seconds else None for video in items}
        if len(rates) == 1 and None not in rates:
            options["fps"] = rates.pop()
        return options
