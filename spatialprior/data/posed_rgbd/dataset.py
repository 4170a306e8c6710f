"""``data=posed_rgbd``: clips from a folder of posed RGB-D recordings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch

from spatialprior.data.clip_sampler import ClipSampler, ClipSampling
from spatialprior.data.dataset import Split
from spatialprior.data.posed_rgbd.detect import read_sequences
from spatialprior.data.posed_rgbd.recorded import RecordedSequence, intrinsics_matrix
from spatialprior.data.scenes import Scenes, scene_ids
from spatialprior.data.sequence import BadFrameError, SequencePart

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


class PosedRgbd:
    """Real (or rendered) RGB-D recordings with poses, in any of the supported layouts.

    Each recording is cut into contiguous parts, train first and test last, with a gap between them, so that no
    part shows the views of another.
    """

    has_geometry: ClassVar[bool] = True
    has_questions: ClassVar[bool] = False

    @dataclass
    class Config:
        """What recipes may set.

        Attributes:
            root: Folder of a recording, or of several.
            layout: ``auto``, or one of ``seven_scenes``, ``tum``, ``open3d_log``, ``hololens``.
            min_frames, max_frames: Views of a clip, uniform between the two.
            window: R, time-index units either side of the anchor; ``None`` takes that of each recording's
                layout (48 for video, 4 for keyframes).
            order: Order of the views in a clip (see :class:`ClipSampling`).
            parts: Shares of each recording for train, val and test.
            held_out: Recordings, by the names of their folders, that are for testing as a whole; of the others
                nothing is then tested.
            gap: Share of the recording left out between two parts.
            max_side: Longest side of the images handed out, pixels; ``None`` keeps the recorded size.
            size_multiple: Both sides become multiples of this.
            intrinsics: ``[fx, fy, cx, cy]`` of the colour camera at recorded size, as data sets state them
                (pixel centres at integers); ``None`` takes the recording's.
            depth_intrinsics: The same of the depth camera; setting it has depth registered into colour.
            depth_to_color: ``[x, y, z]`` metres added when going from the depth camera's frame to the colour
                camera's; ``None`` takes the layout's (7-Scenes: -2 cm in x).
            depth_scale: Metres per unit of the depth files; ``None`` takes the layout's.
            on_bad: ``skip`` bad frames (named and counted) or ``fail`` at the first.
            cache_frames: Decoded frames kept in memory per recording.
        """

        root: str = ""
        layout: str = "auto"
        min_frames: int = 3
        max_frames: int = 3
        window: int | None = None
        order: Literal["time", "anchor_first"] = "time"
        parts: tuple[float, float, float] = (0.7, 0.1, 0.2)
        gap: float = 0.03
        held_out: list[str] = field(default_factory=list)
        max_side: int | None = 128
        size_multiple: int = 8
        intrinsics: tuple[float, float, float, float] | None = None
        depth_intrinsics: tuple[float, float, float, float] | None = None
        depth_to_color: tuple[float, float, float] | None = None
        depth_scale: float | None = None
        on_bad: Literal["skip", "fail"] = "skip"
        cache_frames: int = 512

    def __init__(self, config: Config) -> None:
        """List the recordings (pictures are read later).

        Raises:
            ValueError: No recording there, or settings that contradict each other.
        """
        if not config.root:
            raise ValueError(
                "data=posed_rgbd needs data.root=PATH, a folder with posed RGB-D frames"
            )
        parts, gap = list(config.parts), config.gap
        if len(parts) != 3 or min(parts) < 0 or sum(parts) > 1 + 1e-6 or not 0 <= gap < 0.5:
            raise ValueError(
                f"data.parts={parts}, data.gap={gap}: write three shares (train, val, test) that sum to "
                "at most 1, and a gap from 0 to 0.5"
            )
        self.config = config
        self.sequences = [
            self._calibrated(sequence).resized(
                config.max_side, config.size_multiple, config.cache_frames
            )
            for sequence in read_sequences(Path(config.root).expanduser(), config.layout)
        ]
        self._check_held_out()

    def split(self, name: Split, seed: int) -> ClipSampler:
        """Clips from the named part of every recording.

        Raises:
            ValueError: No such split, or the part is too short for a clip.
        """
        if name not in _SPLITS:
            raise ValueError(f"split {name!r}: there are {', '.join(_SPLITS)}")
        config = self.config
        sequences = self._of_split(name)
        sampling = ClipSampling(
            min_frames=config.min_frames,
            max_frames=config.max_frames,
            window=tuple(config.window or s.default_window for s in sequences),
            order=config.order,
            on_bad=config.on_bad,
        )
        return ClipSampler([self._part(sequence, name) for sequence in sequences], sampling, seed)

    def scenes(self, name: Split) -> Scenes:
        """Recordings of a split; the parts of one are scenes apart, unless its name is of a known form."""
        known: set[str] = set()
        for recording in self._of_split(name):
            own = f"{self.config.root}/{recording.sequence_id}"
            known |= scene_ids(own) or {f"{own}/{name}"}
        return Scenes(frozenset(known))

    def check(self) -> dict[str, str]:
        """Read every frame once: bad file -> reason. For users who want to know before they train."""
        bad: dict[str, str] = {}
        for sequence in self.sequences:
            for index in range(len(sequence)):
                try:
                    sequence.frame(index)
                except BadFrameError as error:
                    bad[error.path] = error.reason
        return bad

    def _of_split(self, name: Split) -> list[RecordedSequence]:
        """The recordings that a split takes clips from."""
        held_out = set(self.config.held_out)
        if name == "test" and held_out:
            return [s for s in self.sequences if s.sequence_id in held_out]
        return [s for s in self.sequences if s.sequence_id not in held_out]

    def _check_held_out(self) -> None:
        known = [s.sequence_id for s in self.sequences]
        for name in self.config.held_out:
            if name not in known:
                raise ValueError(
                    f"data.held_out={list(self.config.held_out)}: {name} is no recording in "
                    f"{self.config.root}; it has {', '.join(known)}"
                )
        if self.config.held_out and set(known) <= set(self.config.held_out):
            raise ValueError(
                f"data.held_out={list(self.config.held_out)} leaves no recording to train on"
            )

    def _part(self, sequence: RecordedSequence, name: Split) -> SequencePart:
        if sequence.sequence_id in self.config.held_out:
            return SequencePart(sequence, range(len(sequence)), name)
        length, which = len(sequence), _SPLITS.index(name)
        start = sum(self.config.parts[:which])
        # The gap is taken from the start of every part but the first.
        first = round((start + (self.config.gap if which else 0)) * length)
        last = round((start + self.config.parts[which]) * length)
        return SequencePart(sequence, range(first, max(first, last)), name)

    def _calibrated(self, sequence: RecordedSequence) -> RecordedSequence:
        config, calibration = self.config, sequence.calibration
        if config.intrinsics is not None:
            calibration = replace(calibration, color=intrinsics_matrix(*config.intrinsics))
        if config.depth_intrinsics is not None:
            calibration = replace(calibration, depth=intrinsics_matrix(*config.depth_intrinsics))
        if config.depth_scale is not None:
            calibration = replace(calibration, depth_scale=config.depth_scale)
        if config.depth_to_color is not None:
            rigid = torch.eye(4, dtype=torch.float64)
            rigid[:3, 3] = torch.tensor(config.depth_to_color, dtype=torch.float64)
            calibration = replace(calibration, depth_to_color=rigid)
        return sequence.with_calibration(calibration)
