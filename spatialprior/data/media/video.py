"""Frames of a video, by torchcodec where it works and by PyAV where it does not."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from spatialprior.data.media.errors import BadMediaError
from spatialprior.data.media.frame_times import frame_indices
from spatialprior.data.media.images import as_view, frame_files, read_image

BackendName = Literal["torchcodec", "pyav"]

_COMPLETE = 0.9
"""A file with less than this share of the frames that its header promises is cut off."""

_EXACT_HEADERS = (".mp4", ".m4v", ".mov", ".3gp")
"""Containers whose header counts the frames; others guess, or count time slots."""


class Decoded(NamedTuple):
    """What a backend found.

    Attributes:
        images: RGB pictures ``H W 3`` uint8, one per wanted moment, each frame once.
        times: When each of them starts, seconds from the first frame.
    """

    images: list[NDArray[np.uint8]]
    times: list[float]


class VideoBackend(Protocol):
    """A module that decodes. It raises whatever its library raises for a broken file."""

    def read(
        self, path: Path, count: int, fps: float | None, threads: int, complete: float
    ) -> Decoded:
        """Decode up to ``count`` frames; ``complete`` is the share of promised frames that must be there."""


class VideoFrames(NamedTuple):
    """Frames of one video.

    Attributes:
        views: ``3 H W`` uint8 each, in the order of time.
        times: When each starts, seconds from the first frame; indices where a video is a folder of pictures.
    """

    views: list[Tensor]
    times: list[float]


def read_video_frames(
    path: Path,
    count: int,
    *,
    fps: float | None = None,
    max_side: int | None = None,
    threads: int = 1,
    backend: BackendName | None = None,
) -> VideoFrames:
    """Read up to ``count`` frames, chosen by time: see :func:`frame_times`.

    A frame that several moments fall on is given once, so a short video gives fewer than ``count``.

    Args:
        path: A video file, or a folder of pictures, one a frame.
        count: Most frames.
        fps: Frames a second, or ``None`` to spread ``count`` over the whole video.
        max_side: Longest side of the views, pixels.
        threads: Decoder threads; loader processes work side by side, so one each is best.
        backend: ``torchcodec``, ``pyav``, or ``None`` for torchcodec, and PyAV where that is not installed or
            cannot read the file (it is pickier about where it can seek). Both give the same frames.

    Raises:
        BadMediaError: The file is missing, corrupt, cut off, or holds no video.
        RuntimeError: Neither backend is installed.
    """
    if not path.exists():
        raise BadMediaError(path, "no such file")
    if path.is_dir():
        files = frame_files(path)
        chosen = frame_indices(len(files), count)
        return VideoFrames(
            [read_image(files[i], max_side) for i in chosen], [float(i) for i in chosen]
        )
    complete = _COMPLETE if path.suffix.lower() in _EXACT_HEADERS else 0.0
    reasons: list[str] = []
    for name in (backend,) if backend else video_backends():
        try:
            found = _module(name).read(path, count, fps, threads, complete)
        except BadMediaError:
            raise
        except Exception as error:  # the two libraries do not agree on what they raise
            reasons.append(_first_line(error))
            continue
        views = [as_view(Image.fromarray(image), max_side) for image in found.images]
        return VideoFrames(views, found.times)
    raise BadMediaError(path, f"cannot be decoded ({reasons[0]})")


@cache
def video_backends() -> tuple[BackendName, ...]:
    """The backends that work here, the preferred one first.

    Raises:
        RuntimeError: There is none; one line that says what to install.
    """
    working, reasons = [], []
    for name in get_args(BackendName):
        try:
            _module(name)
        except (ImportError, OSError, RuntimeError) as error:  # torchcodec: no FFmpeg libraries
            reasons.append(f"{name}: {_first_line(error)}")
        else:
            working.append(name)
    if not working:
        raise RuntimeError(
            'reading videos needs torchcodec or PyAV; type: pip install "spatialprior[video]" '
            f"({'; '.join(reasons)})"
        )
    return tuple(working)


def _module(name: str) -> VideoBackend:
    return cast(VideoBackend, importlib.import_module(f"spatialprior.data.media.{name}_backend"))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
