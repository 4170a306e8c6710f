"""Which moments of a video are looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TIME_MARGIN = 1e-4
"""Seconds added to a moment before its frame is looked up. A moment that falls exactly on the start of a
frame would otherwise be decided by rounding, and differently by two decoders."""


def frame_times(
    first: float, last: float, count: int, fps: float | None = None
) -> NDArray[np.float64]:
    """Moments of up to ``count`` frames, seconds.

    Without ``fps``: ``count`` moments, evenly from the first frame to the last (LLaVA-Video trains this way:
    ``--frames_upbound 64 --force_sample True``). With it: one each ``1 / fps`` seconds from the first frame on,
    unless these are more than ``count``, in which case they are spread evenly again.

    Args:
        first, last: When the first and the last frame start, seconds.
        count: Most frames.
        fps: Frames a second, or ``None``.
    """
    if fps is not None:
        num = int((last - first) * fps + 1e-6) + 1
        if num <= count:
            return first + np.arange(num) / fps
    return np.linspace(first, last, count)


def frame_indices(length: int, count: int) -> list[int]:
    """Up to ``count`` frames of a video kept as ``length`` pictures (no times), evenly from first to last."""
    return np.unique(np.linspace(0, length - 1, count).astype(np.int64)).tolist()
