"""LLaVA-OneVision: one image in tiles, several images whole, or a video of pooled frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from spatialprior.backbones.llava import Llava, LlavaEncoder, share_of_box, square_grids
from spatialprior.backbones.nano.twin import cached_twin
from spatialprior.backbones.settings import HFConfig
from spatialprior.backbones.visuals import ViewGrid, full_box
from spatialprior.core.backbone import Frames
from spatialprior.core.clip import MultiViewClip


class LlavaOnevisionEncoder(LlavaEncoder):
    """A clip's only view is cut into tiles; several are padded to squares, one grid and a line break each.

    A video's frames are stretched to squares and pooled to half as many tokens a side (rounded up); one line
    break ends the video.
    """

    @property
    def _cells(self) -> int:
        return math.isqrt(self.processor.num_image_tokens)

    def _under_patches(self, settings: Any) -> float:
        """Share of a side that whole patches cover: 27 patches of 14 pixels are 378 of 384."""
        side = settings.size["height"]
        return float(side // self._cells * self._cells / side)

    def image_grid(
        self, out: Any, index: int, frame: int, size: tuple[int, int], alone: bool
    ) -> ViewGrid:
        box = full_box(size)
        if not alone:
            height, width = size
            side = max(size)
            left, top = (side - width) // 2, (side - height) // 2
            box = (-left, -top, side - left, side - top)
        box = share_of_box(box, self._under_patches(self.processor.image_processor))
        return ViewGrid(frame, 0, self._cells, self._cells, box)

    def video_grids(self, out: Any, clip: MultiViewClip) -> tuple[ViewGrid, ...]:
        cells = math.ceil(self._cells / 2)
        share = self._under_patches(self.processor.video_processor)
        box = share_of_box(full_box(clip.image_size), share)
        return square_grids(clip.num_views, cells, box)

    def join_videos(self, outs: Sequence[Any], clips: Sequence[MultiViewClip]) -> dict[str, Tensor]:
        first = clips[0]
        for clip in clips:
            if clip.num_views != first.num_views:
                raise ValueError(
                    f"videos of LLaVA-OneVision in one batch must be of one length, but clip {first.clip_id} "
                    f"has {first.num_views} views and clip {clip.clip_id} {clip.num_views}; set "
                    "backbone.frames=images, or give all clips as many views"
                )
        return super().join_videos(outs, clips)


class LlavaOnevision(Llava):
    """Adapter of ``LlavaOnevisionForConditionalGeneration``."""

    @dataclass
    class Config(HFConfig):
        """What a recipe may set.

        Attributes:
            frames: ``images``, or ``video``: a quarter of the tokens a view, and as many views in every clip.
        """

        frames: Frames = "images"

    model_class = LlavaOnevisionForConditionalGeneration
    encoder_class = LlavaOnevisionEncoder

    @classmethod
    def nano_folder(cls) -> Path:
        return cached_twin("llava_onevision")
