"""Pictures and videos of instruction data, as ``3 H W`` uint8 views."""

from spatialprior.data.media.errors import BadMediaError, MediaPathError
from spatialprior.data.media.images import read_image
from spatialprior.data.media.paths import find_media
from spatialprior.data.media.video import read_video_frames

__all__ = ["BadMediaError", "MediaPathError", "find_media", "read_image", "read_video_frames"]
