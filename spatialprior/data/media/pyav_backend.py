"""PyAV: a pass over the packets lists the frames, then the wanted ones are decoded from their key frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from spatialprior.data.media.errors import BadMediaError
from spatialprior.data.media.frame_times import TIME_MARGIN, frame_times
from spatialprior.data.media.video import Decoded

_CONVERTS_IN_THREADS = (
    int(av.__version__.partition(".")[0]) >= 17
)  # lmms-eval 0.7.3 asks for one below 16


def read(path: Path, count: int, fps: float | None, threads: int, complete: float) -> Decoded:
    """Decode up to ``count`` frames; see :func:`~spatialprior.data.media.video.read_video_frames`."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.best("video")
        if stream is None:
            raise BadMediaError(path, "holds no video stream")
        stream.codec_context.thread_count = threads
        ticks, keys = _scan(container, stream)
        if len(ticks) < complete * stream.frames:
            raise BadMediaError(path, f"cut off: {len(ticks)} of {stream.frames} frames are there")
        if not len(ticks):
            raise BadMediaError(path, "holds no frame")
        starts = ticks * float(stream.time_base)
        wanted = frame_times(starts[0], starts[-1], count, fps) + TIME_MARGIN
        chosen = np.unique(np.searchsorted(starts, wanted, side="right") - 1)
        images = _decode(container, stream, ticks[chosen].tolist(), keys, threads)
        missing = [tick for tick in ticks[chosen].tolist() if tick not in images]
        if missing:
            at = float(missing[0] * stream.time_base)
            raise BadMediaError(path, f"the frame at {at:.2f} s cannot be decoded")
    return Decoded(
        [images[tick] for tick in ticks[chosen].tolist()], (starts[chosen] - starts[0]).tolist()
    )


def _scan(container: Any, stream: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Presentation times of all frames and of the key frames, sorted, in the stream's ticks."""
    ticks, keys = [], []
    for packet in container.demux(stream):
        tick = packet.dts if packet.pts is None else packet.pts
        if packet.size == 0 or tick is None or packet.is_discard:
            continue
        ticks.append(tick)
        if packet.is_keyframe:
            keys.append(tick)
    return np.unique(np.array(ticks, np.int64)), np.unique(np.array(keys, np.int64))


def _decode(
    container: Any, stream: Any, wanted: list[int], keys: NDArray[np.int64], threads: int
) -> dict[int, NDArray[np.uint8]]:
    """Wanted tick -> RGB picture, for those that can be decoded."""
    found: dict[int, NDArray[np.uint8]] = {}
    reformatter = VideoReformatter()
    for group in _by_key_frame(wanted, keys):
        container.seek(group[0][0], stream=stream)
        _run(container, stream, [tick for _, tick in group], found, reformatter, threads)
    left = [tick for tick in wanted if tick not in found]
    if left:  # a container that cannot seek there: once through from the start
        container.seek(min(int(keys[0]) if len(keys) else 0, 0), stream=stream)
        _run(container, stream, left, found, reformatter, threads)
    return found


def _by_key_frame(wanted: list[int], keys: NDArray[np.int64]) -> list[list[tuple[int, int]]]:
    """Wanted ticks in groups ``(key frame, tick)`` that are decoded in one go."""
    groups: list[list[tuple[int, int]]] = []
    for tick in wanted:
        place = int(np.searchsorted(keys, tick, side="right")) - 1
        key = int(keys[place]) if place >= 0 else tick
        if groups and groups[-1][0][0] == key:
            groups[-1].append((key, tick))
        else:
            groups.append([(key, tick)])
    return groups


def _run(
    container: Any,
    stream: Any,
    wanted: list[int],
    found: dict[int, NDArray[np.uint8]],
    reformatter: VideoReformatter,
    threads: int,
) -> None:
    """Decode from where the container stands until the last wanted tick is past."""
    left = set(wanted) - found.keys()
    options = {"threads": threads} if _CONVERTS_IN_THREADS else {}
    for frame in container.decode(stream):
        tick = frame.dts if frame.pts is None else frame.pts
        if tick in left:
            left.discard(tick)
            rgb = reformatter.reformat(frame, format="rgb24", **options).to_ndarray()
            found[tick] = np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90))
        if not left or (tick is not None and tick > wanted[-1]):
            return
