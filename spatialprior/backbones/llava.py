"""What the LLaVA families share: a projector into a plain text decoder, and images cut into tiles.

An image goes in twice: whole, scaled to a square (its *base* grid), then as tiles of a larger version, with
a line break after every row. The token map describes the base grid only: one token for each place. The tiles
and line breaks behind it are visual tokens that no grid holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from spatialprior.backbones.branches import place_in_branch, place_in_row
from spatialprior.backbones.chat_encoder import ChatEncoder
from spatialprior.backbones.hf import HFBackbone
from spatialprior.backbones.visuals import ViewGrid
from spatialprior.core.batch import ClipBatch

Box = tuple[float, float, float, float]


def share_of_box(box: Box, share: float) -> Box:
    """The upper left part of a box: patches of a vision tower may not reach its right and lower rim."""
    x0, y0, x1, y1 = box
    return x0, y0, x0 + share * (x1 - x0), y0 + share * (y1 - y0)


def middle_square(size: tuple[int, int], settings: Any) -> Box:
    """What an image or video processor keeps that scales the shorter side and crops around the centre.

    Args:
        size: ``(height, width)`` of the view.
        settings: The processor, with ``size`` and ``crop_size``.
    """
    height, width = size
    side = settings.crop_size["height"] * min(size) / settings.size["shortest_edge"]
    x0, y0 = (width - side) / 2, (height - side) / 2
    return x0, y0, x0 + side, y0 + side


def square_grids(count: int, cells: int, box: Box) -> tuple[ViewGrid, ...]:
    """A video's frames one after the other, each of ``cells`` by ``cells`` tokens over ``box``."""
    return tuple(ViewGrid(frame, frame * cells**2, cells, cells, box) for frame in range(count))


class LlavaEncoder(ChatEncoder):
    """Puts images of unlike numbers of tiles and videos of one length together."""

    def join_videos(self, outs: Sequence[Any], clips: Sequence[Any]) -> dict[str, Tensor]:
        videos = [torch.as_tensor(out["pixel_values_videos"]) for out in outs]
        return {"pixel_values_videos": torch.cat(videos)}


class Llava(HFBackbone):
    """Shared adapter of the LLaVA classes."""

    @property
    def decoder(self) -> nn.Module:
        return self.hf.get_submodule("model.language_model")

    @property
    def vision(self) -> tuple[nn.Module, ...]:
        names = ("model.vision_tower", "model.multi_modal_projector")
        return tuple(self.hf.get_submodule(name) for name in names)

    @property
    def vision_blocks(self) -> nn.ModuleList:
        tower = self.hf.get_submodule("model.vision_tower")
        return next(m for m in tower.modules() if isinstance(m, nn.ModuleList))

    def _prepared(self) -> Self:
        if self.settings.freeze_vision and hasattr(self.hf.model, "image_newline"):
            self.hf.model.image_newline.requires_grad_(False)
        return super()._prepared()

    def stock_positions(self, batch: ClipBatch) -> Tensor:
        """``B S``: the place in the sequence, padding not counted; every branch goes on from the prefix."""
        positions = place_in_row(batch)
        if batch.branches is None:
            return positions
        start = (batch.branches == 0).sum(1, keepdim=True)
        return torch.where(batch.branches > 0, start + place_in_branch(batch.branches), positions)

    def rotary(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        hidden = torch.zeros(1, dtype=self.hf.dtype, device=batch.labels.device)
        cos, sin = self.decoder.get_submodule("rotary_emb")(hidden, self.position_ids(batch))
        return cos, sin
