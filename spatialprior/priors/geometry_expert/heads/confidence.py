"""How far a pixel's point is to be trusted."""

from __future__ import annotations

from torch import Tensor, nn

from spatialprior.priors.geometry_expert.heads.config import HeadsConfig
from spatialprior.priors.geometry_expert.heads.decoder import PatchDecoder
from spatialprior.priors.geometry_expert.heads.output import PixelHead


class ConfidenceHead(nn.Module):
    """The point head's decoder once more, with one logit a pixel (``g2vlm.md`` section 2). Starts near 0.

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
        self.pixels = PixelHead(config.point_width, (0.0,), patch)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """``N P D`` of a grid ``(rows, cols)`` to logits ``N H W`` float32."""
        return self.pixels.on_grid(self.decoder(tokens, grid), grid).squeeze(-1)
