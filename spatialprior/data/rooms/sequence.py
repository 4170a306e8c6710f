"""Rendered rooms as posed sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
import torch

from spatialprior.data.rooms.cache import Arrays
from spatialprior.data.rooms.observed import Observed
from spatialprior.data.rooms.scene import make_room
from spatialprior.data.sequence import Frame


class RenderedRooms:
    """The arrays of one split (``rooms T ...``), opened when first used.

    Copies sent to loader processes carry no pixels: each opens the memory maps itself.
    """

    def __init__(self, seeds: range, num_frames: int, open_arrays: Callable[[], Arrays]) -> None:
        self.seeds = seeds
        self.num_frames = num_frames
        self._open_arrays = open_arrays

    def __len__(self) -> int:
        return len(self.seeds)

    @cached_property
    def arrays(self) -> Arrays:
        return self._open_arrays()

    def sequence(self, row: int) -> RoomSequence:
        return RoomSequence(self, row)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "arrays"}


class RoomSequence:
    """One room's rendered path; see :class:`~spatialprior.data.sequence.Sequence`."""

    def __init__(self, rooms: RenderedRooms, row: int) -> None:
        self._rooms = rooms
        self._row = row
        self.seed = rooms.seeds[row]
        self.sequence_id = f"room{self.seed}"

    def __len__(self) -> int:
        return self._rooms.num_frames

    @property
    def frame_ids(self) -> range:
        return range(self._rooms.num_frames)

    def observed(self, frames: Iterable[int]) -> Observed:
        """The facts about some of the frames, for making (or checking) questions."""
        arrays, index = self._rooms.arrays, list(frames)
        return Observed(
            room=make_room(self.seed),  # cheap: no pixel is rendered
            instances=np.asarray(arrays["instances"][self._row, index], dtype=np.uint8),
            depth=np.asarray(arrays["depth"][self._row, index], dtype=np.float32),
            intrinsics=np.asarray(arrays["intrinsics"][self._row], dtype=np.float64),
            world_to_cam=np.asarray(arrays["world_to_cam"][self._row, index], dtype=np.float64),
        )

    def frame(self, index: int) -> Frame:
        arrays = self._rooms.arrays
        depth = np.array(arrays["depth"][self._row, index])
        return Frame(
            image=torch.from_numpy(np.array(arrays["images"][self._row, index])),
            intrinsics=torch.from_numpy(np.array(arrays["intrinsics"][self._row])),
            world_to_cam=torch.from_numpy(np.array(arrays["world_to_cam"][self._row, index])),
            depth=torch.from_numpy(depth),
            depth_valid=torch.ones(depth.shape, dtype=torch.bool),
            instances=torch.from_numpy(
                np.array(arrays["instances"][self._row, index], dtype=np.int64)
            ),
        )
