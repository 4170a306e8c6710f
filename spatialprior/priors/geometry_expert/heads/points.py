"""Points of every pixel in its own camera's frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spatialprior.priors.geometry_expert.heads.config import HeadsConfig
from spatialprior.priors.geometry_expert.heads.decoder import PatchDecoder
from spatialprior.priors.geometry_expert.heads.output import PixelHead

LOG_DEPTH = 15.0  # c is held in [-15, 15]: depth stays in [3e-7, 3e6], far from float32's limits


class PointHead(nn.Module):
    """Puts out (a, b, c) a pixel, read as depth z = exp(c) and point (a z, b z, z) (``g2vlm.md`` section 2).

    Starts with every point near (0, 0, 1).

    Args:
        width_in: Channels of the tokens.
        patch: Side of a patch in pixels.
        config: Sizes.
    """

    def __init__(self, width_in: int, patch: int, config: HeadsConfig) -> None:
        super().__init__()
        self.decoder = PatchDecoder(
            width_in, config.width, config.point_width, config.blocks, config.heads
        )
        self.pixels = PixelHead(config.point_width, (0.0, 0.0, 0.0), patch)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """``N P D`` of a grid ``(rows, cols)`` to ``points_cam``, ``N H W 3`` float32, z > 0, scale unknown."""
        raw = self.pixels.on_grid(self.decoder(tokens, grid), grid)
        depth = raw[..., 2:].clamp(-LOG_DEPTH, LOG_DEPTH).exp()
        return torch.cat([raw[..., :2] * depth, depth], dim=-1)
