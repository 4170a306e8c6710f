"""What the Qwen-VL families share: three-axis positions, and images and videos on ``(t, h, w)`` grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spatialprior.backbones.branches import place_in_branch, place_in_row
from spatialprior.backbones.chat_encoder import FPS, ChatEncoder
from spatialprior.backbones.hf import HFBackbone
from spatialprior.backbones.settings import HFConfig
from spatialprior.backbones.visuals import ViewGrid, full_box
from spatialprior.core.backbone import Frames
from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip

_GRIDS = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")


class QwenVLEncoder(ChatEncoder):
    """Every view an image, or two consecutive views a step of one video."""

    min_video_frames: ClassVar[int] = 2
    token_types: ClassVar[bool] = True

    @property
    def merge(self) -> int:
        """Patches a side that are folded into one token."""
        return int(self.processor.image_processor.merge_size)

    @property
    def view_markers(self) -> tuple[list[int], list[int]]:
        names = ("<|vision_start|>", "<|vision_end|>")
        start, end = self.tokenizer.convert_tokens_to_ids(list(names))
        return [start], [end]

    def image_grid(
        self, out: Any, index: int, frame: int, size: tuple[int, int], alone: bool
    ) -> ViewGrid:
        _, rows, cols = out["image_grid_thw"][index].tolist()
        return ViewGrid(frame, 0, rows // self.merge, cols // self.merge, full_box(size))

    def video_options(self, clip: MultiViewClip) -> dict[str, Any]:
        count = clip.num_views
        told = {"total_num_frames": count, "fps": FPS, "frames_indices": list(range(count))}
        return {"video_metadata": [told], **self._video_size(count)}

    def _video_size(self, num_frames: int) -> dict[str, Any]:
        """The bound on pixels, as the video processor wants it."""
        if self.max_pixels is None:
            return {}
        size = self.processor.video_processor.size
        return {"size": {"shortest_edge": size["shortest_edge"], "longest_edge": self.max_pixels}}

    def video_grids(self, out: Any, clip: MultiViewClip) -> tuple[ViewGrid, ...]:
        steps, rows, cols = out["video_grid_thw"][0].tolist()
        rows, cols = rows // self.merge, cols // self.merge
        merged = self.processor.video_processor.temporal_patch_size
        box = full_box(clip.image_size)
        return tuple(
            ViewGrid(merged * step, step * rows * cols, rows, cols, box) for step in range(steps)
        )

    def join_videos(self, outs: Sequence[Any], clips: Sequence[MultiViewClip]) -> dict[str, Tensor]:
        return {name: torch.cat([torch.as_tensor(out[name]) for out in outs]) for name in outs[0]}


class QwenVL(HFBackbone):
    """Shared adapter of the Qwen-VL classes."""

    @dataclass
    class Config(HFConfig):
        """What a recipe may set.

        Attributes:
            frames: ``images``, or ``video``: two consecutive views then share their tokens, which stand for the
                first of the two.
        """

        frames: Frames = "images"

    encoder_class = QwenVLEncoder

    @classmethod
    def limit_pixels(cls, processor: Any, max_pixels: int) -> None:
        processor.image_processor.size["longest_edge"] = max_pixels

    @property
    def decoder(self) -> nn.Module:
        return self.hf.get_submodule("model.language_model")

    @property
    def vision(self) -> tuple[nn.Module, ...]:
        return (self.hf.get_submodule("model.visual"),)

    @property
    def vision_blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self.hf.get_submodule("model.visual.blocks")
        return blocks

    def stock_positions(self, batch: ClipBatch) -> Tensor:
        """``3 B S``: stock positions of the prefix; every branch goes on from the prefix's end."""
        inputs = batch.inputs
        grids = {name: inputs[name] for name in _GRIDS if name in inputs}
        if not grids and batch.branches is None:
            return place_in_row(batch).expand(3, -1, -1)
        mask = inputs["attention_mask"]
        if batch.branches is not None:
            # One token of a branch too: where text goes on behind a video, its largest position does not say.
            first = (batch.branches > 0).long().cumsum(1).eq(1) & (batch.branches > 0)
            mask = ((batch.branches == 0) | first).long()
        positions: Tensor
        positions, _ = self.hf.model.get_rope_index(
            input_ids=inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            attention_mask=mask,
            **grids,
        )
        if batch.branches is None:
            return positions
        start = (positions[0] * first).amax(1, keepdim=True)
        return torch.where(batch.branches > 0, start + place_in_branch(batch.branches), positions)

    def rotary(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        hidden = torch.zeros(1, dtype=self.hf.dtype, device=batch.labels.device)
        rotary = self.decoder.get_submodule("rotary_emb")
        cos, sin = rotary(hidden, self.position_ids(batch))
        if cos.ndim == 3:
            return cos, sin
        # Older releases leave the three axes apart and select the sections when they rotate.
        sections = self.hf.config.get_text_config().rope_parameters["mrope_section"] * 2
        pick = [(table.split(sections, dim=-1)) for table in (cos, sin)]
        joined = [
            torch.cat([part[i % 3] for i, part in enumerate(parts)], dim=-1) for parts in pick
        ]
        return joined[0], joined[1]
