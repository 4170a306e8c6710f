"""A clip with views taken away or put in another order, and the text that goes with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from spatialprior.core.clip import IMAGE_MARK, MultiViewClip


def with_views(clip: MultiViewClip, places: Sequence[int]) -> MultiViewClip:
    """The clip with the views at ``places`` alone, in that order, each with its own geometry."""
    chosen = list(places)
    images = clip.images

    def rows(whole: Tensor | None) -> Tensor | None:
        return whole[chosen] if whole is not None and chosen else None  # no view, no geometry

    return replace(
        clip,
        images=images[chosen] if isinstance(images, Tensor) else tuple(images[i] for i in chosen),
        frame_ids=tuple(clip.frame_ids[i] for i in chosen),
        intrinsics=rows(clip.intrinsics),
        world_to_cam=rows(clip.world_to_cam),
        depth=rows(clip.depth),
        depth_valid=rows(clip.depth_valid),
    )


def kept_view(num_views: int, *, video: bool) -> int:
    """The view that stands for all: of a video the middle one, of pictures the first."""
    return num_views // 2 if video else 0


def another_order(clip_id: str, num_views: int) -> list[int]:
    """Places in an order drawn from the clip's id; never the one that they are in, where there are two."""
    if num_views < 2:
        return list(range(num_views))
    digest = hashlib.blake2b(clip_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    while True:
        order: list[int] = rng.permutation(num_views).tolist()
        if order != list(range(num_views)):
            return order


def without_marks(text: str, kept: int | None = None) -> str:
    """The text without the marks of views, but for mark number ``kept``; all else as it was."""
    parts = text.split(IMAGE_MARK)
    marks = [IMAGE_MARK if number == kept else "" for number in range(len(parts) - 1)]
    return parts[0] + "".join(mark + part for mark, part in zip(marks, parts[1:], strict=True))
