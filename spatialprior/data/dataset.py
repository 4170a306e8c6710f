"""What training, probing and scoring see of any dataset."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from spatialprior.core.clip import MultiViewClip

Split = Literal["train", "val", "test"]


class ClipDataset(Protocol):
    """Clips of one split. Random access, so that a resumed run sees exactly the clips it would have seen."""

    def __len__(self) -> int:
        """Clips of one pass, for progress bars and full evaluations."""

    def clip(self, index: int) -> MultiViewClip:
        """Clip ``index`` (any non-negative integer, also beyond ``len``), the same in every process."""


class SplittableDataset(Protocol):
    """A registered dataset: built from its ``Config``, handed out split by split.

    Attributes:
        has_geometry: Whether clips carry depth, intrinsics and poses.
        has_questions: Whether clips carry questions.

    A class may also set ``free_form = True``: its answers are prose, which no benchmark compares word by word;
    and have ``scenes(name: Split) -> Scenes | None`` for the leak audit, which decodes and renders nothing.
    """

    has_geometry: ClassVar[bool]
    has_questions: ClassVar[bool]

    def split(self, name: Split, seed: int) -> ClipDataset:
        """The named split; ``seed`` decides which clips are drawn from it, never which frames belong to it."""
