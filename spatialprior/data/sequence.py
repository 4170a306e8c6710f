"""A posed sequence of frames, as every reader and renderer hands it to the clip sampler."""

from __future__ import annotations

from collections.abc import Sequence as Indices
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Frame:
    """One view. Absent fields are ``None``, never zeros.

    Attributes:
        image: ``3 H W`` uint8, RGB.
        intrinsics: ``3 3`` float32, pixels (pixel centres at +0.5).
        world_to_cam: ``4 4`` float32, metres.
        depth: ``H W`` float32, metres along z; meaningless where not valid.
        depth_valid: ``H W`` bool.
        instances: ``H W`` long, instance ids.
    """

    image: Tensor
    intrinsics: Tensor | None = None
    world_to_cam: Tensor | None = None
    depth: Tensor | None = None
    depth_valid: Tensor | None = None
    instances: Tensor | None = None


class Sequence(Protocol):
    """Frames of one static scene in the order of time.

    Attributes:
        sequence_id: Unique and stable; becomes the clips' ``source_id``.
        frame_ids: Time index of each frame, strictly increasing.
    """

    sequence_id: str

    @property
    def frame_ids(self) -> Indices[int]: ...

    def __len__(self) -> int: ...

    def frame(self, index: int) -> Frame:
        """Read frame ``index``.

        Raises:
            BadFrameError: The frame's files are missing or corrupt.
        """


class BadFrameError(ValueError):
    """A frame that cannot be used.

    Attributes:
        path: The file (or file and line) at fault.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(str(path), reason)  # both, so that it survives pickling by a loader worker
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class SequencePart:
    """Some frames of a sequence as a sequence of its own (the unit of train / val / test splits)."""

    def __init__(self, sequence: Sequence, indices: Indices[int], name: str) -> None:
        self._sequence = sequence
        self._indices = tuple(indices)
        self.sequence_id = f"{sequence.sequence_id}/{name}"
        self._frame_ids = tuple(sequence.frame_ids[i] for i in self._indices)

    @property
    def frame_ids(self) -> Indices[int]:
        return self._frame_ids

    def __len__(self) -> int:
        return len(self._indices)

    def frame(self, index: int) -> Frame:
        return self._sequence.frame(self._indices[index])
