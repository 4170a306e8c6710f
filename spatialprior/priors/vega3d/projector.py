"""P_gen: features of the generative model into the width of the language model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """``Linear(C->D), GELU, Linear(D->D)`` (the notes on the method, section 3).

    Args:
        channels: C of the generative features.
        width: D of the semantic tokens.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, width)
        self.mix = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """``... C`` to ``... D``."""
        projected: Tensor = self.mix(F.gelu(self.expand(features)))
        return projected


def draw_as_released(module: nn.Module) -> None:
    """Draw every linear map of ``module`` as upstream does: weights from N(0, 0.02), biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def silence(linear: nn.Linear) -> None:
    """Make ``linear`` give zero, whatever it is given; its weights still learn."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
