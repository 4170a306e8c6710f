"""What a dataset hands to the rest of the framework: views with geometry, and questions about them.

Conventions, everywhere in this package: OpenCV camera axes (x right, y down, z forward), metres,
pixel coordinates ``(x, y)`` with pixel centres at +0.5, so an image spans ``[0, W] x [0, H]``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

IMAGE_MARK = "\ufffc"
"""Where a view stands in the text of a question: Unicode's object replacement character."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a clip, with the answer that counts as correct.

    Attributes:
        task: Name of the question type, the row under which it is scored.
        text: The question as the user would type it, options included. Each :data:`IMAGE_MARK` in it stands
            for the next view; in a clip whose questions have none, all views come before the first question.
        answer: The expected reply, verbatim.
        options: The admissible replies (empty when the reply is free text).
    """

    task: str
    text: str
    answer: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MultiViewClip:
    """V views of one static scene. Absent fields are ``None``, never zeros.

    Attributes:
        clip_id: Unique and stable; names the clip in logs and error messages.
        source_id: The scene or sequence it comes from: the unit of splits and of clustered intervals.
        images: ``V 3 H W`` uint8, RGB; or a tuple of ``3 H W`` where the views differ in size (such clips
            carry no geometry). Without views, a tensor ``0 3 H W`` or an empty tuple: text alone.
        frame_ids: Time index of each view within its sequence (a frame distance is a difference of these).
        intrinsics: ``V 3 3`` pinhole matrices, pixels.
        world_to_cam: ``V 4 4`` rigid transforms, metres.
        depth: ``V H W`` depth along the camera's z axis, metres; meaningless where not valid.
        depth_valid: ``V H W`` bool.
        questions: Questions about these views, possibly none.
        dialogue: The questions are turns of one conversation, each seeing those before it; otherwise they
            are independent of each other.
    """

    clip_id: str
    source_id: str
    images: Tensor | tuple[Tensor, ...]
    frame_ids: tuple[int, ...]
    intrinsics: Tensor | None = None
    world_to_cam: Tensor | None = None
    depth: Tensor | None = None
    depth_valid: Tensor | None = None
    questions: tuple[Question, ...] = ()
    dialogue: bool = False

    def __post_init__(self) -> None:
        for view in (self.images,) if isinstance(self.images, Tensor) else self.images:
            wanted = 4 if view is self.images else 3
            if view.ndim != wanted or view.shape[-3] != 3 or view.dtype != torch.uint8:
                raise ValueError(
                    f"clip {self.clip_id}: images must be uint8 of shape V 3 H W (or a tuple of 3 H W), "
                    f"got {view.dtype} {tuple(view.shape)}"
                )
        if len(self.frame_ids) != self.num_views:
            raise ValueError(
                f"clip {self.clip_id}: {len(self.frame_ids)} frame ids for {self.num_views} views"
            )

    @property
    def num_views(self) -> int:
        return len(self.images)

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """``(height, width)`` of every view, pixels."""
        return [(int(view.shape[-2]), int(view.shape[-1])) for view in self.images]

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)`` that all views share, pixels.

        Raises:
            ValueError: The views differ in size, or there is none.
        """
        sizes = set(self.image_sizes)
        if len(sizes) != 1:
            raise ValueError(f"clip {self.clip_id} has views of {len(sizes)} sizes, not of one")
        return sizes.pop()

    @property
    def has_geometry(self) -> bool:
        """Whether depth, intrinsics and poses are all present."""
        return not (self.depth is None or self.intrinsics is None or self.world_to_cam is None)

    def with_questions(self, questions: tuple[Question, ...]) -> MultiViewClip:
        return replace(self, questions=questions)
