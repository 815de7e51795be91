"""Files of strangers opened safely: images here, clips in `audio`, frames in `video`."""

from mmdpo.media.files import (
    MAX_PIXELS,
    Media,
    MediaError,
    content_hash,
    frame_paths,
    image_size,
    open_image,
    read_bytes,
    resolve_path,
    to_rgb,
)

__all__ = [
    "MAX_PIXELS",
    "Media",
    "MediaError",
    "content_hash",
    "frame_paths",
    "image_size",
    "open_image",
    "read_bytes",
    "resolve_path",
    "to_rgb",
]
