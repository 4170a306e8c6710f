"""torchcodec: its exact mode scans the file once, then seeks to the frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torchcodec
from numpy.typing import NDArray
from torchcodec.decoders import VideoDecoder

from spatialprior.data.media.errors import BadMediaError
from spatialprior.data.media.frame_times import TIME_MARGIN, frame_times
from spatialprior.data.media.video import Decoded

if (
    getattr(torchcodec, "ffmpeg_major_version", 0) is None
):  # it imports, but would fail at each file
    raise ImportError("torchcodec finds no FFmpeg libraries")


def read(path: Path, count: int, fps: float | None, threads: int, complete: float) -> Decoded:
    """Decode up to ``count`` frames; see :func:`~spatialprior.data.media.video.read_video_frames`."""
    decoder = VideoDecoder(
        str(path),
        dimension_order="NHWC",
        num_ffmpeg_threads=threads,
        device="cpu",
        seek_mode="exact",
    )
    meta = decoder.metadata
    scanned, promised = meta.num_frames_from_content or 0, meta.num_frames_from_header or 0
    if scanned < complete * promised:
        raise BadMediaError(path, f"cut off: {scanned} of {promised} frames are there")
    end = decoder.get_frame_at(len(decoder) - 1)
    first, last = float(meta.begin_stream_seconds or 0.0), float(end.pts_seconds)
    wanted = frame_times(first, last, count, fps) + TIME_MARGIN
    found: dict[float, NDArray[np.uint8]] = {}
    if len(before := wanted[wanted < last]):
        batch = decoder.get_frames_played_at(before.tolist())
        found = dict(zip(batch.pts_seconds.tolist(), batch.data.numpy(), strict=True))
    if len(before) < len(wanted):
        # Not by time: some containers let the stream end where its last frame starts.
        found[last] = end.data.numpy()
    return Decoded(list(found.values()), [time - first for time in found])
