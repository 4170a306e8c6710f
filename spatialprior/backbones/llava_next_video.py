"""LLaVA-NeXT-Video-7B: each frame's 24x24 patches pooled to 12x12 tokens, frames one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaNextVideoForConditionalGeneration

from spatialprior.backbones.llava import (
    Llava,
    LlavaEncoder,
    middle_square,
    share_of_box,
    square_grids,
)
from spatialprior.backbones.nano.twin import cached_twin
from spatialprior.backbones.settings import HFConfig
from spatialprior.backbones.visuals import ViewGrid, full_box
from spatialprior.core.backbone import Frames
from spatialprior.core.clip import MultiViewClip

_POOL = 2  # patches a side of one video token; the family's processor counts with it too


class LlavaNextVideoEncoder(LlavaEncoder):
    """Frames of a video are never merged over time, so a token stands for one frame.

    The video processor keeps a square in the middle of each frame (``do_center_crop``): a token map of frames
    that are not square covers that square only. Images are stretched instead, and covered wholly.
    """

    def image_grid(
        self, out: Any, index: int, frame: int, size: tuple[int, int], alone: bool
    ) -> ViewGrid:
        side, patch = self.processor.image_processor.crop_size["height"], self.processor.patch_size
        cells = side // patch
        box = share_of_box(full_box(size), cells * patch / side)
        return ViewGrid(frame, 0, cells, cells, box)

    def video_grids(self, out: Any, clip: MultiViewClip) -> tuple[ViewGrid, ...]:
        settings, patch = self.processor.video_processor, self.processor.patch_size
        side = settings.crop_size["height"]
        cells = side // patch // _POOL
        kept = middle_square(clip.image_size, settings)
        box = share_of_box(kept, cells * _POOL * patch / side)
        return square_grids(clip.num_views, cells, box)

    def join_videos(self, outs: Sequence[Any], clips: Sequence[MultiViewClip]) -> dict[str, Tensor]:
        """Every frame as a video of its own: the same features, and videos may differ in length."""
        frames = [torch.as_tensor(out["pixel_values_videos"]).flatten(0, 1) for out in outs]
        return {"pixel_values_videos": torch.cat(frames).unsqueeze(1)}


class LlavaNextVideo(Llava):
    """Adapter of ``LlavaNextVideoForConditionalGeneration``."""

    @dataclass
    class Config(HFConfig):
        """What a recipe may set.

        Attributes:
            frames: ``video``, the family's own way; or ``images``, each view in tiles (thousands of tokens).
        """

        frames: Frames = "video"

    model_class = LlavaNextVideoForConditionalGeneration
    encoder_class = LlavaNextVideoEncoder

    @classmethod
    def nano_folder(cls) -> Path:
        return cached_twin("llava_next_video")

    @property
    def vision(self) -> tuple[nn.Module, ...]:
        return (*super().vision, self.hf.get_submodule("model.vision_resampler"))
