"""Clips from sequences: an anchor frame and further frames around it (GASP section 4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from spatialprior.core.clip import MultiViewClip
from spatialprior.data.sequence import BadFrameError, Frame, Sequence

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 50  # anchors tried for one clip before the data is called unusable


@dataclass
class ClipSampling:
    """How clips are drawn.

    Attributes:
        min_frames: Fewest frames of a clip.
        max_frames: Most frames of a clip; the number is uniform between the two.
        window: R: frames come from ``[t - R, t + R]`` around the anchor's time index t. Sequences that differ
            in how close their frames are may have one each (in their order).
        order: ``time`` sorts the views; ``anchor_first`` puts the anchor in front, the rest sorted.
        on_bad: ``skip`` draws another frame in place of an unreadable one, names and counts it;
            ``fail`` raises.
    """

    min_frames: int = 8
    max_frames: int = 24
    window: int | tuple[int, ...] = 48
    order: Literal["time", "anchor_first"] = "time"
    on_bad: Literal["skip", "fail"] = "skip"


def make_clip(sequence: Sequence, frame_indices: Items[int], clip_id: str) -> MultiViewClip:
    """Read the frames and stack them.

    Raises:
        BadFrameError: A frame cannot be read.
        ValueError: The frames differ in size.
    """
    return _stack(sequence, [(i, sequence.frame(i)) for i in frame_indices], clip_id)


class ClipSampler:
    """Random access to an endless, deterministic stream of clips.

    Clip ``index`` depends on (seed, index) and on the files only: not on the worker, nor on which clips were
    read before. A bad frame is drawn, found bad and replaced from the same random stream each time.

    Attributes:
        bad_frames: Bad file -> reason, as met by this process.
    """

    def __init__(self, sequences: Items[Sequence], sampling: ClipSampling, seed: int) -> None:
        """Check that clips can be drawn at all.

        Raises:
            ValueError: The settings contradict each other, or no window holds ``min_frames`` frames.
        """
        if not 1 <= sampling.min_frames <= sampling.max_frames:
            raise ValueError(
                f"min_frames={sampling.min_frames}, max_frames={sampling.max_frames}: "
                "choose 1 <= min_frames <= max_frames"
            )
        self.sampling = sampling
        self.bad_frames: dict[str, str] = {}
        self._seed = seed
        self._sequences = tuple(sequences)
        window = sampling.window
        count = len(self._sequences)
        self._windows = [window] * count if isinstance(window, int) else list(window)
        # Anchors are the frames whose window is rich enough, so that a draw rarely has to be repeated.
        self._anchors = [
            (s, i) for s in range(len(self._sequences)) for i in self._possible_anchors(s)
        ]
        if not self._anchors:
            some = [f"{seq.sequence_id} ({len(seq)} frames)" for seq in self._sequences[:3]]
            raise ValueError(
                f"no {sampling.min_frames} frames within a window of +-{self._windows[0]} in "
                f"{', '.join(some) or 'no sequence'}; lower min_frames or widen window"
            )

    def __len__(self) -> int:
        """One clip per possible anchor frame."""
        return len(self._anchors)

    def clip(self, index: int) -> MultiViewClip:
        """Clip ``index``, any non-negative integer.

        Raises:
            BadFrameError: With ``on_bad="fail"``, a drawn frame is bad.
            ValueError: So many frames are bad that no clip could be made.
        """
        if index < 0:
            raise IndexError(f"clip index {index} is negative")
        rng = np.random.default_rng([self._seed, index])
        for _ in range(_MAX_ATTEMPTS):
            s, anchor = self._anchors[int(rng.integers(len(self._anchors)))]
            count = int(rng.integers(self.sampling.min_frames, self.sampling.max_frames + 1))
            frames = self._read(s, anchor, count, rng)
            if len(frames) >= self.sampling.min_frames:
                sequence = self._sequences[s]
                return _stack(
                    sequence, self._ordered(frames), f"{sequence.sequence_id}#{self._seed}-{index}"
                )
        path, reason = next(iter(self.bad_frames.items()))
        raise ValueError(
            f"clip {index}: {_MAX_ATTEMPTS} draws met too many bad frames, {len(self.bad_frames)} so far "
            f"(first {path}: {reason}); mend the files, or use on_bad=fail to stop at the first"
        )

    def _possible_anchors(self, s: int) -> list[int]:
        ids = np.asarray(self._sequences[s].frame_ids, dtype=np.int64)
        low = np.searchsorted(ids, ids - self._windows[s], side="left")
        high = np.searchsorted(ids, ids + self._windows[s], side="right")
        return np.flatnonzero(high - low >= self.sampling.min_frames).tolist()

    def _read(
        self, s: int, anchor: int, count: int, rng: np.random.Generator
    ) -> list[tuple[int, Frame]]:
        """The anchor and up to ``count - 1`` others, in drawing order; empty when the anchor is bad."""
        sequence = self._sequences[s]
        ids = np.asarray(sequence.frame_ids, dtype=np.int64)
        near = np.flatnonzero(np.abs(ids - ids[anchor]) <= self._windows[s])
        others = rng.permutation(near[near != anchor]).tolist()
        frames: list[tuple[int, Frame]] = []
        for i in [anchor, *others]:
            if len(frames) == count:
                break
            try:
                frames.append((i, sequence.frame(i)))
            except BadFrameError as error:
                if self.sampling.on_bad == "fail":
                    raise
                if error.path not in self.bad_frames:
                    self.bad_frames[error.path] = error.reason
                    log.warning("skipped bad frame %d: %s", len(self.bad_frames), error)
                if i == anchor:
                    return []
        return frames

    def _ordered(self, frames: list[tuple[int, Frame]]) -> list[tuple[int, Frame]]:
        if self.sampling.order == "time":
            return sorted(frames, key=lambda item: item[0])
        return [frames[0], *sorted(frames[1:], key=lambda item: item[0])]


def _stack(sequence: Sequence, frames: list[tuple[int, Frame]], clip_id: str) -> MultiViewClip:
    sizes = {tuple(frame.image.shape[-2:]) for _, frame in frames}
    if len(sizes) != 1:
        raise ValueError(
            f"clip {clip_id}: frames of different sizes (height, width): {sorted(sizes)}"
        )

    def field(name: str) -> torch.Tensor | None:
        values = [getattr(frame, name) for _, frame in frames]
        return None if any(value is None for value in values) else torch.stack(values)

    return MultiViewClip(
        clip_id=clip_id,
        source_id=sequence.sequence_id,
        images=torch.stack([frame.image for _, frame in frames]),
        frame_ids=tuple(int(sequence.frame_ids[i]) for i, _ in frames),
        intrinsics=field("intrinsics"),
        world_to_cam=field("world_to_cam"),
        depth=field("depth"),
        depth_valid=field("depth_valid"),
    )
