"""Output layers of the heads: float32 whatever autocast and whatever the weights' dtype."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_START = 1e-3  # standard deviation of a last map's weights: what is put out at first is its bias


class Float32Linear(nn.Linear):
    """A linear map computed in float32 (``g2vlm.md`` section 2)."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(input.float(), self.weight.float(), bias)


def start_at(module: nn.Linear, output: Tensor) -> None:
    """Let a last map put out about ``output``, whatever comes in: small weights, the output as bias."""
    nn.init.normal_(module.weight, std=_START)
    with torch.no_grad():
        module.bias.copy_(output)


class PixelHead(Float32Linear):
    """From a patch's features to the channels of each of its pixels.

    Output channel ``(c, y, x)`` of the map, in this order, is channel c of the patch's pixel (y, x).

    Args:
        width: Channels of the features.
        start: What every pixel starts at, one number a channel.
        patch: Side of a patch in pixels.
    """

    def __init__(self, width: int, start: tuple[float, ...], patch: int) -> None:
        if patch < 1:
            raise ValueError(f"geometry heads: patch={patch} must be at least 1")
        super().__init__(width, len(start) * patch**2)
        self.patch = patch
        start_at(self, torch.tensor(start).repeat_interleave(patch**2))

    def on_grid(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """``N P width`` to ``N H W channels`` float32, with H = rows * patch and W = cols * patch."""
        cells = self(features).unflatten(-1, (-1, self.patch, self.patch)).unflatten(1, grid)
        # N rows cols C y x
        pixels: Tensor = cells.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2)
        return pixels
