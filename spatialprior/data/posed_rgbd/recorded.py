"""A recorded RGB-D sequence: image files with poses, decoded frame by frame."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spatialprior.data.posed_rgbd.register import register_depth
from spatialprior.data.sequence import BadFrameError, Frame
from spatialprior.geometry.cameras import compose
from spatialprior.geometry.matching import grid_points, sample_depth


@dataclass(frozen=True)
class Calibration:
    """Cameras and units of a recording.

    Attributes:
        color: ``3 3`` float64 colour intrinsics, pixel centres at +0.5.
        depth_scale: Metres of one unit in the depth files.
        invalid: Depth units that mean "no measurement".
        depth: ``3 3`` depth intrinsics, or ``None`` where depth is already registered to colour.
        depth_to_color: ``4 4``, used with ``depth``.
    """

    color: Tensor
    depth_scale: float = 0.001
    invalid: tuple[int, ...] = (0, 65535)
    depth: Tensor | None = None
    depth_to_color: Tensor | None = None


@dataclass(frozen=True)
class FrameRecord:
    """Where one frame lies on disk.

    Attributes:
        frame_id: Time index.
        color: Colour image.
        depth: Depth image.
        world_to_cam: ``4 4`` float64 pose of the tracked camera: the depth camera, where the two differ.
        problem: (file, reason) when the frame is already known to be unusable.
    """

    frame_id: int
    color: Path
    depth: Path
    world_to_cam: Tensor | None
    problem: tuple[str, str] | None = None


def intrinsics_matrix(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    """Intrinsics as data sets state them (pixel centres at integers), in this package's convention (+0.5)."""
    return torch.tensor([[fx, 0, cx + 0.5], [0, fy, cy + 0.5], [0, 0, 1]], dtype=torch.float64)


def listed_path(folder: Path, name: str) -> Path:
    """A file named inside a listing; it must stay inside ``folder``.

    Raises:
        ValueError: It does not.
    """
    base = os.path.normpath(folder.absolute())
    path = os.path.normpath(os.path.join(base, name))
    if os.path.commonpath([base, path]) != base:
        raise ValueError(f"{folder}: listed file {name!r} lies outside the folder")
    return Path(path)


class RecordedSequence:
    """Frames of one recording at working size, kept in memory once decoded."""

    def __init__(
        self,
        sequence_id: str,
        records: Items[FrameRecord],
        calibration: Calibration,
        *,
        default_window: int = 48,
        max_side: int | None = None,
        size_multiple: int = 1,
        cache_frames: int = 512,
    ) -> None:
        """Args:
        sequence_id: Stable name.
        records: Frames in the order of time.
        calibration: Cameras and units.
        default_window: Clip window that suits the recording's frame rate, in time-index units.
        max_side: Longest image side after shrinking; ``None`` keeps the size.
        size_multiple: Both sides are rounded to a multiple of this (intrinsics follow).
        cache_frames: Decoded frames to keep.
        """
        self.sequence_id = sequence_id
        self.records = tuple(records)
        self.calibration = calibration
        self.default_window = default_window
        self._max_side = max_side
        self._multiple = size_multiple
        self._cache: OrderedDict[int, Frame] = OrderedDict()
        self._cache_frames = cache_frames
        self._size: tuple[int, int] | None = None  # colour (height, width), the same for all frames

    @property
    def frame_ids(self) -> tuple[int, ...]:
        return tuple(record.frame_id for record in self.records)

    def __len__(self) -> int:
        return len(self.records)

    def resized(
        self, max_side: int | None, size_multiple: int, cache_frames: int
    ) -> RecordedSequence:
        """The same recording at another working size."""
        return RecordedSequence(
            self.sequence_id,
            self.records,
            self.calibration,
            default_window=self.default_window,
            max_side=max_side,
            size_multiple=size_multiple,
            cache_frames=cache_frames,
        )

    def with_calibration(self, calibration: Calibration) -> RecordedSequence:
        return RecordedSequence(
            self.sequence_id, self.records, calibration, default_window=self.default_window
        ).resized(self._max_side, self._multiple, self._cache_frames)

    def frame(self, index: int) -> Frame:
        """Decode frame ``index``, register its depth, shrink it.

        Raises:
            BadFrameError: A file is missing, truncated or of the wrong kind, or the pose is unusable.
        """
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        frame = self._shrink(self._decode(self.records[index]))
        self._cache[index] = frame
        if len(self._cache) > self._cache_frames:
            self._cache.popitem(last=False)
        return frame

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict()}  # loader workers fill their own

    def _decode(self, record: FrameRecord) -> Frame:
        if record.problem is not None:
            raise BadFrameError(*record.problem)
        world_to_cam = record.world_to_cam
        assert world_to_cam is not None  # a record without a pose carries its problem
        image = torch.from_numpy(_read_color(record.color)).permute(2, 0, 1).contiguous()
        height, width = image.shape[-2:]
        self._check_size(record, height, width)
        units = _read_depth(record.depth)
        usable = torch.from_numpy(~np.isin(units, self.calibration.invalid))
        depth = torch.from_numpy(units.astype(np.float32)) * self.calibration.depth_scale
        if self.calibration.depth is not None:
            to_color = self.calibration.depth_to_color
            to_color = torch.eye(4, dtype=torch.float64) if to_color is None else to_color
            world_to_cam = compose(to_color, world_to_cam)
            registered, valid = register_depth(
                depth.unsqueeze(0),
                usable.unsqueeze(0),
                self.calibration.depth,
                self.calibration.color,
                to_color,
                (height, width),
            )
            depth, usable = registered[0], valid[0]
        elif depth.shape != (height, width):
            raise BadFrameError(
                record.depth,
                f"depth is {depth.shape[1]}x{depth.shape[0]} but colour is {width}x{height}",
            )
        if not bool(usable.any()):
            raise BadFrameError(record.depth, "no valid depth in the whole image")
        return Frame(
            image=image,
            intrinsics=self.calibration.color.float(),
            world_to_cam=world_to_cam.float(),
            depth=depth,
            depth_valid=usable,
        )

    def _check_size(self, record: FrameRecord, height: int, width: int) -> None:
        """One recording, one image size. The first frame's header decides, whichever frame is read first."""
        if self._size is None:
            for first in self.records:
                try:
                    with Image.open(first.color) as header:
                        self._size = (header.height, header.width)
                    break
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                    continue
        if self._size is not None and self._size != (height, width):
            raise BadFrameError(
                record.color,
                f"image is {width}x{height}, the sequence's are {self._size[1]}x{self._size[0]}",
            )

    def _shrink(self, frame: Frame) -> Frame:
        height, width = frame.image.shape[-2:]
        factor = min(1.0, self._max_side / max(height, width)) if self._max_side else 1.0
        new_h, new_w = (
            max(1, round(s * factor / self._multiple)) * self._multiple for s in (height, width)
        )
        if (new_h, new_w) == (height, width):
            return frame
        assert frame.intrinsics is not None  # _decode fills every field
        assert frame.depth is not None and frame.depth_valid is not None
        picture = Image.fromarray(frame.image.permute(1, 2, 0).numpy())
        small = np.array(
            picture.resize((new_w, new_h), Image.Resampling.BILINEAR)
        )  # PIL anti-aliases
        scale = torch.tensor([new_w / width, new_h / height, 1.0])
        # Depth is measured anew at the new pixel centres, between the old ones but never across an edge.
        centres = grid_points(new_h, new_w, height, width).unsqueeze(0)
        depth, known, _ = sample_depth(
            frame.depth.unsqueeze(0), frame.depth_valid.unsqueeze(0), centres
        )
        return replace(
            frame,
            image=torch.from_numpy(small).permute(2, 0, 1).contiguous(),
            intrinsics=frame.intrinsics * scale.unsqueeze(-1),
            depth=depth.reshape(new_h, new_w),
            depth_valid=known.reshape(new_h, new_w),
        )


def _read_color(path: Path) -> np.ndarray:
    with _Decoding(path) as image:
        return np.array(image.convert("RGB"))


def _read_depth(path: Path) -> np.ndarray:
    """``H W`` unsigned integers, in the file's units."""
    with _Decoding(path) as image:
        units = np.array(image)
    if units.ndim != 2 or units.dtype.kind not in "ui" or units.dtype.itemsize < 2:
        raise BadFrameError(path, f"not a 16-bit depth image ({units.dtype}, {units.ndim} axes)")
    return units


class _Decoding:
    """``with _Decoding(path) as image``: every way in which a picture can fail becomes a BadFrameError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._image: Image.Image | None = None

    def __enter__(self) -> Image.Image:
        try:
            self._image = Image.open(self._path)
            self._image.load()
        except FileNotFoundError:
            raise BadFrameError(self._path, "file is missing") from None
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise BadFrameError(self._path, f"cannot be decoded ({error})") from None
        return self._image

    def __exit__(self, *_: object) -> None:
        if self._image is not None:
            self._image.close()
