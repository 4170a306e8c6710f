"""Points of every pixel in the first view's frame: an aid of training, unused afterwards."""

from __future__ import annotations

from torch import Tensor, nn

from spatialprior.priors.geometry_expert.heads.config import HeadsConfig
from spatialprior.priors.geometry_expert.heads.decoder import PatchDecoder
from spatialprior.priors.geometry_expert.heads.output import PixelHead


class GlobalPointHead(nn.Module):
    """Decodes an image while looking at its clip's first view; puts out raw x, y, z (``g2vlm.md`` section 2).

    Starts with every point near (0, 0, 1), where the local points start.

    Args:
        width_in: Channels of the tokens.
        patch: Side of a patch in pixels.
        config: Sizes.
    """

    def __init__(self, width_in: int, patch: int, config: HeadsConfig) -> None:
        super().__init__()
        self.decoder = PatchDecoder(
            width_in,
            config.width,
            config.point_width,
            config.blocks,
            config.heads,
            context=True,
        )
        self.pixels = PixelHead(config.point_width, (0.0, 0.0, 1.0), patch)

    def forward(self, tokens: Tensor, first: Tensor, grid: tuple[int, int]) -> Tensor:
        """``N P D``, and the first view's ``N P D`` for each, to ``N H W 3`` float32 in that view's frame."""
        return self.pixels.on_grid(self.decoder(tokens, grid, first), grid)
